"""What the contracts store, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from usufruct.domain.ids import ZERO_HASH, leg_id

LEG_TYPES = (
    "bytes32", "uint64", "uint32", "address", "address", "bytes32", "bytes32", "address", "uint96", "uint64", "uint40",
    "bytes32", "uint8",
)  # fmt: skip


class LegState(IntEnum):
    """Where a leg stands; the numbers are Solidity's. PAID and REFUNDED are final."""

    LOCKED = 1
    DELIVERED = 2
    PAID = 3
    REFUNDED = 4


@dataclass(frozen=True)
class HolderEntry:
    """A registered data holder.

    Attributes:
        admin, operator, payout: addresses of the cold key, the hot key, and where earnings go.
        endpoint: host:port. fingerprint: SHA-256 of its TLS public key, 32 bytes.
        active: False will mean paused; this form of the contracts cannot pause.
    """

    holder_id: int
    admin: str
    operator: str
    payout: str
    endpoint: str
    fingerprint: bytes
    revocation_epoch: int
    active: bool = True


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset and its privacy budget (10^-6 nat at Rényi order ``order``)."""

    dataset_id: int
    holder_id: int
    card_hash: bytes
    price_units: int
    token: str
    min_cohort: int
    order: int
    cap_micro: int
    reserved_micro: int
    spent_micro: int
    max_loss_per_job_micro: int
    max_grant_term_seconds: int
    active: bool

    @property
    def left_micro(self) -> int:
        """What is neither reserved nor spent."""
        return self.cap_micro - self.reserved_micro - self.spent_micro


@dataclass(frozen=True)
class JobEntry:
    """What is stored of a job."""

    job_id: bytes
    builder: str
    deliver_by_seconds: int
    min_cohort: int
    legs: int


@dataclass(frozen=True)
class LegEntry:
    """One dataset's part of a job, checked against its stored hash.

    Attributes:
        receipt_hash: EIP-712 hash of the receipt; 32 zero bytes until delivered.
    """

    job_id: bytes
    dataset_id: int
    holder_id: int
    builder: str
    payer: str
    spec_hash: bytes
    grant_hash: bytes
    token: str
    price_units: int
    loss_reserved_micro: int
    deliver_by_seconds: int
    receipt_hash: bytes
    state: LegState

    @property
    def leg_id(self) -> bytes:
        """keccak256(abi.encode(job id, dataset id)); 32 bytes."""
        return leg_id(self.job_id, self.dataset_id)

    def to_struct(self) -> tuple[Any, ...]:
        """The Solidity struct ``Leg``."""
        return (
            self.job_id, self.dataset_id, self.holder_id, self.builder, self.payer, self.spec_hash, self.grant_hash,
            self.token, self.price_units, self.loss_reserved_micro, self.deliver_by_seconds, self.receipt_hash,
            int(self.state),
        )  # fmt: skip

    def stored_hash(self) -> bytes:
        """What ``ComputeAccess.legHash`` holds for a leg like this."""
        return keccak(encode(LEG_TYPES, self.to_struct()))

    def at(self, state: LegState, receipt: bytes = ZERO_HASH) -> LegEntry:
        """The same leg in another state."""
        return replace(self, state=state, receipt_hash=receipt)


def leg_from_struct(values: tuple[Any, ...]) -> LegEntry:
    """Reads the Solidity struct ``Leg``."""
    fields: list[Any] = [*values[:-1], LegState(values[-1])]
    return LegEntry(*fields)
