"""The ledger's nouns: rows, legs, charges, uploads, usage batches; and the hash that chains the rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ROW_VERSION: Final = 1
CHAIN_START: Final = bytes(32)
"""What the first row of a chain names as its predecessor."""
_ROW_TAG: Final = b"usufruct ledger row v1"
_USAGE_TAG: Final = b"usufruct usage record v1"


class Kind(StrEnum):
    """What a ledger row records."""

    START = "start"
    REGISTER = "register"
    INHERIT = "inherit"
    LOWER_CAP = "lower_cap"
    RESERVE = "reserve"
    CHARGE = "charge"
    COMMIT = "commit"
    RELEASE = "release"


class LegState(StrEnum):
    """Where a leg stands in this ledger."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"


@dataclass(frozen=True)
class LedgerRow:
    """One entry of the chain.

    Attributes:
        seq: gapless, from 0. version: of this layout. time_seconds: UTC, for people; and no server starts
        on a clock that is behind the newest. kind: what happened. dataset_id: the dataset's id on chain. amount_micro: cap (register,
        lower_cap), loss of an earlier version (inherit), whole reservation (reserve), loss charged (charge; commit: beyond the charges before) or
            given back (release), in 10^-6 nat.
        order: Rényi order (register only).
        job_id: 32 bytes; None for register, inherit and lower_cap; random for start.
        attempts: attempts reserved (reserve only).
        round, attempt: what was charged (charge only).
        spec_hash: 32 bytes (reserve only).
        previous_hash: hash of the row before, or 32 zero bytes.
        hash: SHA-256 over all fields above.
    """

    seq: int
    version: int
    time_seconds: int
    kind: Kind
    dataset_id: int
    amount_micro: int
    order: int | None
    job_id: bytes | None
    attempts: int | None
    round: int | None
    attempt: int | None
    spec_hash: bytes | None
    previous_hash: bytes
    hash: bytes

    def computed_hash(self) -> bytes:
        """What :attr:`hash` must be: every field with its length, so that no two rows encode alike."""
        digest = hashlib.sha256()
        for part in (
            _ROW_TAG,
            *(_encoded(value) for value in (self.seq, self.version, self.time_seconds, self.kind.value)),
            *(_encoded(value) for value in (self.dataset_id, self.amount_micro, self.order, self.job_id)),
            *(_encoded(value) for value in (self.attempts, self.round, self.attempt, self.spec_hash)),
            self.previous_hash,
        ):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()

    def as_dict(self) -> dict[str, int | str | None]:
        """For export as JSON: bytes as 0x-prefixed hexadecimal."""
        fields: dict[str, int | str | None] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            fields[name] = "0x" + value.hex() if isinstance(value, bytes) else value
        return fields


@dataclass(frozen=True)
class Leg:
    """One job on one dataset, as this ledger knows it.

    Attributes:
        dataset_id: the dataset's id on chain.
        job_id: 32 bytes.
        spec_hash: 32 bytes.
        loss_per_attempt_micro: what each charge takes.
        attempts: how many charges were reserved.
        charged: how many attempts have been charged.
        state: reserved, committed or released.
    """

    dataset_id: int
    job_id: bytes
    spec_hash: bytes
    loss_per_attempt_micro: int
    attempts: int
    charged: int
    state: LegState

    @property
    def reservation_micro(self) -> int:
        """The whole leg's worst case."""
        return self.attempts * self.loss_per_attempt_micro

    @property
    def charged_micro(self) -> int:
        """What was drawn, at most."""
        return self.charged * self.loss_per_attempt_micro

    @property
    def remaining_micro(self) -> int:
        """Reserved and not yet charged; zero once the leg has ended."""
        if self.state is not LegState.RESERVED:
            return 0
        return (self.attempts - self.charged) * self.loss_per_attempt_micro


@dataclass(frozen=True)
class Charge:
    """A durable charge: the licence to draw once.

    Attributes:
        seq: the ledger row that records it.
        round, attempt: what may be drawn.
        loss_micro: what it cost.
        attempts_charged, attempts_left: of the leg, after this charge.
    """

    seq: int
    round: int
    attempt: int
    loss_micro: int
    attempts_charged: int
    attempts_left: int


@dataclass(frozen=True)
class UsageBatch:
    """Usage records ``first_seq .. first_seq + count - 1`` under one Merkle root.

    Attributes:
        first_seq: first record of the batch.
        count: records in it, at least 1.
        root: 32 bytes.
        previous_root: 32 bytes; root of the batch before, or zero bytes.
        tx_hash: 32 bytes; the transaction that published it, or None.
    """

    first_seq: int
    count: int
    root: bytes
    previous_root: bytes
    tx_hash: bytes | None


def usage_hash(seq: int, record: bytes, previous_hash: bytes) -> bytes:
    """The chain hash of one usage record."""
    digest = hashlib.sha256(_USAGE_TAG)
    digest.update(seq.to_bytes(8, "big"))
    digest.update(previous_hash)
    digest.update(record)
    return digest.digest()


def _encoded(value: int | str | bytes | None) -> bytes:
    if value is None:
        return b"none"
    if isinstance(value, bytes):
        return b"bytes" + value
    if isinstance(value, str):
        return b"text" + value.encode()
    return b"int" + value.to_bytes(16, "big", signed=True)
