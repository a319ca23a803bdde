"""One line of a holder's usage log, and the Merkle leaf it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from eth_abi.abi import encode
from eth_utils.crypto import keccak

USAGE_RECORD_VERSION = 2


class UsageKind(IntEnum):
    """What a record tells; the numbers are those of ``usufruct.v1.UsageKind``."""

    GRANTED = 1
    REFUSED = 2
    CHARGED = 3
    SUBMITTED = 4
    LOST = 5
    DELIVERED = 6
    CHECKED = 7


@dataclass(frozen=True)
class UsageRecord:
    """Fields of ``usufruct.v1.UsageRecord``. Only hashes, figures and catalogue reasons; never data.

    Attributes:
        sequence: gapless number from 0.
        loss_micro: privacy loss charged or committed, 10^-6 nat.
        view_hash: of the round's view; of a charge and of a lost attempt, of its offer (:mod:`usufruct.domain.round_view`).
        upload_digest: root over the chunks of the encrypted update (:mod:`usufruct.encryption.commitment`).
        document_hash: EIP-712 hash of the grant or the receipt; of a check, Keccak-256 of the challenge's seed.
        sum_digest: root over the chunks of the sum that was checked.
    """

    sequence: int
    kind: UsageKind
    time_seconds: int
    dataset_id: int
    job_id: bytes = b""
    builder: str = ""
    spec_hash: bytes = b""
    reason: str = ""
    round: int = 0
    attempt: int = 0
    loss_micro: int = 0
    view_hash: bytes = b""
    upload_digest: bytes = b""
    document_hash: bytes = b""
    sum_digest: bytes = b""
    version: int = USAGE_RECORD_VERSION


def leaf(sequence: int, record: bytes) -> bytes:
    """Merkle leaf of a record: keccak256(keccak256(abi.encode(sequence, keccak256(record bytes)))).

    Hashed twice, so that no inner node can be passed off as a leaf (OpenZeppelin's standard tree); the sequence
    inside keeps a leaf from answering for another number.
    """
    return keccak(keccak(encode(["uint64", "bytes32"], [sequence, keccak(record)])))


def merkle_root(leaves: list[bytes]) -> bytes:
    """Root over leaves in their order; pairs are hashed sorted, as OpenZeppelin's ``MerkleProof`` expects.

    An odd node at the end of a level moves up unchanged. Raises ``ValueError`` for no leaves.
    """
    return _levels(leaves)[-1][0]


def merkle_proof(leaves: list[bytes], index: int) -> list[bytes]:
    """Siblings from leaf ``index`` up to the root."""
    proof: list[bytes] = []
    for level in _levels(leaves)[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        index //= 2
    return proof


def merkle_verify(proof: list[bytes], root: bytes, leaf_hash: bytes) -> bool:
    """Whether ``proof`` leads from ``leaf_hash`` to ``root``."""
    node = leaf_hash
    for sibling in proof:
        node = _pair(node, sibling)
    return node == root


def _pair(left: bytes, right: bytes) -> bytes:
    return keccak(left + right if left < right else right + left)


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    if not leaves:
        raise ValueError("a Merkle tree needs at least one leaf")
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [_pair(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels
