"""A hash tree over the chunks of an upload or a sum: whoever signs its root has signed every chunk.

* leaf i = SHA-256("usufruct chunk v1" 0x00 | header | i u64 | length u64 | chunk)
* node = SHA-256("usufruct chunk node v1" 0x00 | left | right); an odd node at the end of a level moves up
* root = SHA-256("usufruct chunk root v1" 0x00 | header | chunks u64 | bytes of a full chunk u64 | top)

all integers little endian. The header (:mod:`usufruct.encryption.layout`) names kind, parameters and count. The
three tags keep leaves, nodes and roots apart (RFC 6962, section 2.1, for the same reason), the index keeps a
chunk in its place, and the number of chunks in the root fixes the shape of every proof.

Needs hashlib only: the aggregator, holders, the builder and an auditor all import it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.errors import InvalidInput

DIGEST_BYTES = 32

_LEAF, _NODE, _ROOT = b"usufruct chunk v1\0", b"usufruct chunk node v1\0", b"usufruct chunk root v1\0"
_TWO_U64 = struct.Struct("<QQ")


@dataclass(frozen=True)
class Commitment:
    """The leaves of one upload or sum, and what follows from them.

    Attributes:
        chunking: what was committed to.
        leaves: one digest a chunk, in order.

    *Guarantee*: under collision resistance of SHA-256 two different uploads (bytes, kind, parameters, count or
    order of chunks) never have the same root.
    """

    chunking: Chunking
    leaves: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.leaves) != self.chunking.chunks or any(len(leaf) != DIGEST_BYTES for leaf in self.leaves):
            raise InvalidInput(
                f"A commitment here has {self.chunking.chunks} digests of {DIGEST_BYTES} bytes.",
                reason=self.chunking.reason,
                field="leaves",
            )

    @classmethod
    def received(cls, chunking: Chunking, leaves: Sequence[bytes], root: bytes) -> Commitment:
        """The commitment that another party sent as a list of leaves beside the root it signed.

        Raises:
            InvalidInput: their number or length is wrong, or they have another root.
        """
        commitment = cls(chunking, tuple(bytes(leaf) for leaf in leaves))
        if not hmac.compare_digest(commitment.root, root):
            raise InvalidInput(
                "The chunks' digests do not have the root that was signed.",
                reason=chunking.reason,
                field="root",
            )
        return commitment

    @classmethod
    def over(cls, chunking: Chunking, chunks: Iterable[Bytes]) -> Commitment:
        """The commitment to all ``chunks`` in order, holding one at a time."""
        return cls(chunking, tuple(leaf_of(chunking, index, chunk) for index, chunk in enumerate(chunks)))

    @cached_property
    def root(self) -> bytes:
        """32 bytes to sign."""
        return _root(self.chunking, self._levels[-1][0])

    def check(self, index: int, chunk: Bytes) -> None:
        """Check that ``chunk`` is chunk ``index`` of what was committed to.

        Raises:
            InvalidInput: another length, other bytes, or no such chunk.
        """
        if not hmac.compare_digest(leaf_of(self.chunking, index, chunk), self.leaves[index]):
            raise InvalidInput(
                f"Chunk {index} is not the one that was committed to.",
                reason=self.chunking.reason,
                field="digest",
            )

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings from leaf ``index`` up, for :func:`proves`; at most log2(chunks) + 1 digests."""
        self.chunking.blocks(index)  # refuses an index that is not there
        siblings = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index //= 2
        return tuple(siblings)

    @cached_property
    def _levels(self) -> list[list[bytes]]:
        levels = [list(self.leaves)]
        while len(levels[-1]) > 1:
            below = levels[-1]
            above = [_node(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)]
            levels.append(above + below[2 * len(above) :])
        return levels


def leaf_of(chunking: Chunking, index: int, chunk: Bytes) -> bytes:
    """The leaf of ``chunk`` as chunk ``index``.

    Raises:
        InvalidInput: the chunk has another length, or there is no such chunk.
    """
    chunking.require_length(index, chunk)
    digest = hashlib.sha256(_LEAF + chunking.header + _TWO_U64.pack(index, len(chunk)))
    digest.update(chunk)
    return digest.digest()


def proves(chunking: Chunking, root: bytes, index: int, chunk: Bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that ``chunk`` is chunk ``index`` of what has ``root``; for a party without the
    leaves.

    Raises:
        InvalidInput: the chunk has another length, or there is no such chunk.
    """
    node, width, siblings = leaf_of(chunking, index, chunk), chunking.chunks, list(proof)
    while width > 1:
        if index ^ 1 < width:
            if not siblings:
                return False
            sibling = siblings.pop(0)
            node = _node(sibling, node) if index % 2 else _node(node, sibling)
        index, width = index // 2, (width + 1) // 2
    return not siblings and hmac.compare_digest(_root(chunking, node), root)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _root(chunking: Chunking, top: bytes) -> bytes:
    full = chunking.blocks_per_chunk * chunking.parameters.block_bytes
    return hashlib.sha256(_ROOT + chunking.header + _TWO_U64.pack(chunking.chunks, full) + top).digest()
