"""What a builder asks for, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from usufruct.v1 import rounds_pb2


class RoundProgress(IntEnum):
    """How far an attempt has come; the numbers are those of ``usufruct.v1.RoundState``."""

    CHARGED = 1
    READY = 2
    ENCRYPTED = 3
    SUBMITTED = 4
    CHECKED = 5


@dataclass(frozen=True)
class RoundRequest:
    """The header of a round's attempt, as the builder sent it; the key and the weights follow."""

    job_id: bytes
    dataset_id: int
    round: int
    attempt: int
    public_key_bytes: int
    public_key_digest: bytes
    weights_bytes: int
    weights_digest: bytes
    offer_signature: bytes

    @classmethod
    def from_proto(cls, m: rounds_pb2.RoundHeader) -> RoundRequest:
        """Reads the header; ranges are checked later."""
        return cls(
            m.job_id, m.dataset_id, m.round, m.attempt, m.public_key_bytes, m.public_key_digest, m.weights_bytes,
            m.weights_digest, m.offer_signature,
        )  # fmt: skip


@dataclass(frozen=True)
class RoundStatus:
    """What the builder is told about an attempt: nothing that depends on a row.

    Attributes:
        offer_hash: 32 bytes.
        attempts_charged: of the leg.
        mask_key, ready_signature: from READY on.
        view_hash, upload_root, upload_bytes: from ENCRYPTED on.
        check_values, check_signature: with CHECKED.
    """

    progress: RoundProgress
    offer_hash: bytes
    attempts_charged: int
    mask_key: bytes = b""
    ready_signature: bytes = b""
    view_hash: bytes = b""
    upload_root: bytes = b""
    upload_bytes: int = 0
    check_values: tuple[int, ...] = ()
    check_signature: bytes = b""

    def to_proto(self) -> rounds_pb2.RoundEvent:
        """As the event of the stream."""
        return rounds_pb2.RoundEvent(
            state=rounds_pb2.RoundState.Name(int(self.progress)),
            attempts_charged=self.attempts_charged,
            offer_hash=self.offer_hash,
            mask_key=self.mask_key,
            ready_signature=self.ready_signature,
            view_hash=self.view_hash,
            upload_root=self.upload_root,
            upload_bytes=self.upload_bytes,
            check_values=self.check_values,
            check_signature=self.check_signature,
        )
