"""Where the chunks of an upload or a sum begin and end: what travels, is committed to, added and opened at a
time.

A chunk is as many whole ciphertext blocks as fit :data:`MAX_CHUNK_BYTES`; the last one has what is left. The
header of an upload is in no chunk: every party of a round can write it itself, so it is bound by the
commitment and never sent twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from usufruct.encryption.layout import Header, Kind, check_header
from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.errors import InvalidInput

MAX_CHUNK_BYTES = 1 << 20
"""Most bytes of a chunk. Source: gRPC's throughput peaks at messages of 1 MiB and memory grows with them
(research/graph_and_rounds, part B)."""

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Chunking:
    """The chunks of one upload or one sum; the same for every party that knows the round.

    Attributes:
        parameters: what it is encrypted with.
        kind: ``UPLOAD`` or ``SUM``.
        count: values it carries.
    """

    parameters: EncryptionParameters
    kind: Kind
    count: int

    def __post_init__(self) -> None:
        if self.kind not in (Kind.UPLOAD, Kind.SUM):
            raise ValueError("only uploads and sums have chunks")
        self.parameters.blocks_for(self.count)  # refuses a count below 1

    @property
    def reason(self) -> str:
        """Why bytes of this kind are refused, in the words of the error catalogue."""
        return "UPLOAD_INVALID" if self.kind is Kind.UPLOAD else "SUM_INVALID"

    @cached_property
    def header(self) -> bytes:
        """The :data:`HEADER_BYTES` bytes in front of the first chunk."""
        return Header(self.kind, self.parameters.parameter_id, self.count).to_bytes()

    @cached_property
    def blocks_per_chunk(self) -> int:
        """Blocks of every chunk but the last."""
        return max(1, MAX_CHUNK_BYTES // self.parameters.block_bytes)

    @cached_property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.parameters.blocks_for(self.count) // self.blocks_per_chunk)

    def blocks(self, index: int) -> range:
        """Numbers of the blocks in chunk ``index``.

        Raises:
            InvalidInput: there is no such chunk.
        """
        if not 0 <= index < self.chunks:
            raise InvalidInput(
                f"There is no chunk {index}; there are {self.chunks}.", reason=self.reason, field="chunk"
            )
        start = index * self.blocks_per_chunk
        return range(start, min(start + self.blocks_per_chunk, self.parameters.blocks_for(self.count)))

    def values(self, index: int) -> range:
        """Positions of the values in chunk ``index``."""
        blocks, size = self.blocks(index), self.parameters.values_per_block
        return range(blocks.start * size, min(blocks.stop * size, self.count))

    def span(self, index: int) -> range:
        """Positions of the bytes of chunk ``index`` in the whole upload or sum, its header included."""
        blocks, size = self.blocks(index), self.parameters.block_bytes
        return range(HEADER_BYTES + blocks.start * size, HEADER_BYTES + blocks.stop * size)

    def require_length(self, index: int, chunk: Bytes) -> None:
        """Check that ``chunk`` is as long as chunk ``index`` is.

        Raises:
            InvalidInput: it is not, or there is no such chunk.
        """
        expected = len(self.span(index))
        if len(chunk) != expected:
            raise InvalidInput(
                f"{len(chunk)} bytes where chunk {index} has {expected}.", reason=self.reason, field="length"
            )

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        """The chunks of a whole upload or sum in ``file``, from its start; one in memory at a time.

        Raises:
            InvalidInput: another header, or a file that is too short or too long.
        """
        header = Header(self.kind, self.parameters.parameter_id, self.count)
        check_header(file.read(HEADER_BYTES), header, reason=self.reason)
        for index in range(self.chunks):
            chunk = file.read(len(self.span(index)))
            self.require_length(index, chunk)
            yield chunk
        if file.read(1):
            raise InvalidInput("There are bytes after the last chunk.", reason=self.reason, field="length")
