"""What the contracts store, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from usufruct.domain.ids import leg_id

LEG_TYPES = (
    "bytes32", "uint64", "uint32", "address", "address", "address", "bytes32", "bytes32", "address", "uint96", "uint16",
    "uint64", "uint40", "uint32", "uint40", "bytes32", "uint8",
)  # fmt: skip


class LegState(IntEnum):
    """Where a leg stands; the numbers are Solidity's. From ACKNOWLEDGED on nothing changes any more."""

    LOCKED = 1
    ACCEPTED = 2
    DELIVERED = 3
    DISPUTED = 4
    ACKNOWLEDGED = 5
    SETTLED = 6
    RESOLVED = 7
    UNRESOLVED = 8
    CANCELLED = 9
    DECLINED = 10
    RELEASED = 11
    FAILED = 12
    EXPIRED = 13


ENDED = frozenset(state for state in LegState if state >= LegState.ACKNOWLEDGED)
"""Final states."""
UNSPENT = frozenset({LegState.CANCELLED, LegState.DECLINED, LegState.RELEASED})
"""Final states of legs that nobody can have trained: money and loss are free again."""
HANDED_IN = frozenset(
    {LegState.DELIVERED, LegState.DISPUTED, LegState.ACKNOWLEDGED, LegState.SETTLED, LegState.RESOLVED, LegState.UNRESOLVED}
)  # fmt: skip
"""States of legs whose receipt is on chain."""


class CallState(IntEnum):
    """Where an auditor's call for a usage record stands."""

    NONE = 0
    OPEN = 1
    ANSWERED = 2
    SILENT = 3


@dataclass(frozen=True)
class Settings:
    """The guardian's settings; a guardian of zero means that nobody can ever pause or charge a fee."""

    guardian: str
    paused: bool
    fee_bps: int
    next_fee_bps: int
    fee_from_seconds: int


@dataclass(frozen=True)
class HolderEntry:
    """A registered data holder.

    Attributes:
        admin, operator, payout: addresses of the cold key, the hot key, and where earnings go.
        endpoint: host:port. fingerprint: SHA-256 of its TLS public key, 32 bytes.
        revocation_epoch: grants signed for another one are void.
        fencing_epoch: of the one server that may act. ledger_head: hash of its ledger's last row when it took the epoch.
        next_payout, payout_from_seconds: an announced change; zero when there is none.
        next_admin: whom the admin role is offered to; the zero address when to nobody.
    """

    holder_id: int
    admin: str
    operator: str
    payout: str
    endpoint: str
    fingerprint: bytes
    revocation_epoch: int
    fencing_epoch: int
    ledger_head: bytes
    next_payout: str
    payout_from_seconds: int
    next_admin: str


@dataclass(frozen=True)
class DatasetTerms:
    """What a dataset costs, under which policy, and the limits inside which the operator may grant it.

    Attributes:
        price_units: least price of one job. min_cohort: least number of legs that must accept.
        max_loss_per_job_micro, max_loss_per_grant_micro: 10^-6 nat. max_grant_term_seconds: longest life of a grant.
        policy_hash: Keccak-256 of the published policy's bytes.
    """

    price_units: int
    min_cohort: int
    max_loss_per_job_micro: int
    max_loss_per_grant_micro: int
    max_grant_term_seconds: int
    policy_hash: bytes


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset and its privacy budget (10^-6 nat at Rényi order ``order``).

    Attributes:
        next_cap_micro, cap_from_seconds: an announced higher budget; zero when there is none.
        previous_id, next_id: the versions before and after; zero when there is none.
    """

    dataset_id: int
    holder_id: int
    card_hash: bytes
    policy_hash: bytes
    price_units: int
    token: str
    min_cohort: int
    order: int
    cap_micro: int
    reserved_micro: int
    spent_micro: int
    max_loss_per_job_micro: int
    max_loss_per_grant_micro: int
    max_grant_term_seconds: int
    active: bool
    next_cap_micro: int
    cap_from_seconds: int
    previous_id: int
    next_id: int

    @property
    def left_micro(self) -> int:
        """What is neither reserved nor spent."""
        return self.cap_micro - self.reserved_micro - self.spent_micro

    @property
    def terms(self) -> DatasetTerms:
        """The terms of now."""
        return DatasetTerms(**{f.name: getattr(self, f.name) for f in fields(DatasetTerms)})


@dataclass(frozen=True)
class GrantUseEntry:
    """What a grant has been used for; ``revocation_epoch`` is the one it was signed for, once it was used."""

    uses: int
    loss_micro: int
    revocation_epoch: int
    cancelled: bool


@dataclass(frozen=True)
class JobEntry:
    """What is stored of a job; ``accepted`` never falls."""

    job_id: bytes
    builder: str
    accept_by_seconds: int
    min_legs: int
    legs: int
    accepted: int

    @property
    def started(self) -> bool:
        """Whether so many legs are accepted that holders may train."""
        return self.accepted >= self.min_legs


@dataclass(frozen=True)
class LegEntry:
    """One dataset's part of a job, checked against its stored hash: the Solidity struct ``Leg``, field by field.

    Attributes:
        fee_bps: protocol fee, fixed when the price was locked, in ten-thousandths.
        loss_micro: reserved until the leg is delivered or ends, then what was spent; 10^-6 nat.
        until_seconds: end of the challenge window once delivered, of the arbiter's term once disputed.
        receipt_hash: EIP-712 hash of the receipt; 32 zero bytes until delivered.
    """

    job_id: bytes
    dataset_id: int
    holder_id: int
    builder: str
    payer: str
    arbiter: str
    spec_hash: bytes
    grant_hash: bytes
    token: str
    price_units: int
    fee_bps: int
    loss_micro: int
    deliver_by_seconds: int
    challenge_term_seconds: int
    until_seconds: int
    receipt_hash: bytes
    state: LegState

    @property
    def leg_id(self) -> bytes:
        """keccak256(abi.encode(job id, dataset id)); 32 bytes."""
        return leg_id(self.job_id, self.dataset_id)

    def to_struct(self) -> tuple[Any, ...]:
        """The Solidity struct ``Leg``."""
        return (*astuple(self)[:-1], int(self.state))

    def stored_hash(self) -> bytes:
        """What ``ComputeAccess.legHash`` holds for a leg like this."""
        return keccak(encode(LEG_TYPES, self.to_struct()))


@dataclass(frozen=True)
class RecordCall:
    """An auditor's call for a usage record; silence may be recorded after ``answer_by_seconds``."""

    state: CallState
    answer_by_seconds: int


def leg_from_struct(values: tuple[Any, ...]) -> LegEntry:
    """Reads the Solidity struct ``Leg``."""
    fields_: list[Any] = [*values[:-1], LegState(values[-1])]
    return LegEntry(*fields_)


def bond_units(price_units: int) -> int:
    """What a dispute about a price takes from the payer's deposit: a tenth, rounded up."""
    return -(-price_units // 10)
