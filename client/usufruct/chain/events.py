"""The contracts' events as frozen dataclasses, in the order of the chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from usufruct.chain.entries import LegEntry, leg_from_struct
from usufruct.domain.leg_receipt import LegReceipt


@dataclass(frozen=True)
class Event:
    """Where an event stands on the chain; ``transaction_hash`` has 32 bytes."""

    block_number: int
    transaction_hash: bytes
    log_index: int


@dataclass(frozen=True)
class HolderRegistered(Event):
    """A data holder registered itself."""

    holder_id: int
    admin: str
    operator: str
    payout: str
    endpoint: str
    fingerprint: bytes


@dataclass(frozen=True)
class OperatorChanged(Event):
    """A holder has another operator key from here on."""

    holder_id: int
    operator: str


@dataclass(frozen=True)
class EndpointChanged(Event):
    """A holder's server is elsewhere, or shows another TLS key."""

    holder_id: int
    endpoint: str
    fingerprint: bytes


@dataclass(frozen=True)
class DatasetRegistered(Event):
    """A dataset with its whole budget (10^-6 nat at Rényi order ``order``)."""

    dataset_id: int
    holder_id: int
    card_hash: bytes
    token: str
    price_units: int
    min_cohort: int
    order: int
    cap_micro: int
    max_loss_per_job_micro: int
    max_grant_term_seconds: int


@dataclass(frozen=True)
class DatasetRetired(Event):
    """No new legs on this dataset."""

    dataset_id: int


@dataclass(frozen=True)
class Deposited(Event):
    """Money came in."""

    token: str
    owner: str
    units: int


@dataclass(frozen=True)
class Withdrawn(Event):
    """Money of a deposit went back to its owner."""

    token: str
    owner: str
    units: int


@dataclass(frozen=True)
class EarningsWithdrawn(Event):
    """A holder's earnings went to its payout address."""

    token: str
    holder_id: int
    payout: str
    units: int


@dataclass(frozen=True)
class JobOpened(Event):
    """A job was opened with ``legs`` legs."""

    job_id: bytes
    builder: str
    nonce: bytes
    spec_hash: bytes
    purpose_hash: bytes
    deliver_by_seconds: int
    min_cohort: int
    legs: int


@dataclass(frozen=True)
class LegLocked(Event):
    """A leg: its price locked, its loss reserved."""

    job_id: bytes
    dataset_id: int
    builder: str
    leg: LegEntry


@dataclass(frozen=True)
class LegDelivered(Event):
    """The holder's receipt of a leg; its whole reservation is spent."""

    job_id: bytes
    dataset_id: int
    leg_id: bytes
    receipt_hash: bytes
    receipt: LegReceipt


@dataclass(frozen=True)
class LegPaid(Event):
    """The builder acknowledged; the price is the holder's."""

    job_id: bytes
    dataset_id: int
    holder_id: int
    token: str
    units: int


@dataclass(frozen=True)
class LegRefunded(Event):
    """Never delivered: the price is back in the payer's deposit, the loss stays spent."""

    job_id: bytes
    dataset_id: int
    payer: str
    token: str
    units: int
    loss_spent_micro: int


@dataclass(frozen=True)
class UsageBatch(Event):
    """A Merkle root over ``count`` usage records from ``first_sequence`` on."""

    holder_id: int
    first_sequence: int
    count: int
    root: bytes
    prev_root: bytes


_Values = dict[str, Any]


def _dataset(v: _Values) -> tuple[Any, ...]:
    return (v["datasetId"], *v["init"])  # the init starts with the holder's number


def _job(v: _Values) -> tuple[Any, ...]:
    return (v["jobId"], v["builder"], *v["init"], v["legs"])


def _locked(v: _Values) -> tuple[Any, ...]:
    return (v["jobId"], v["datasetId"], v["builder"], leg_from_struct(v["leg"]))


def _delivered(v: _Values) -> tuple[Any, ...]:
    return (v["jobId"], v["datasetId"], v["legId"], v["receiptHash"], LegReceipt(*v["receipt"]))


def _in_order(v: _Values) -> tuple[Any, ...]:
    return tuple(v.values())


_KINDS: dict[str, tuple[type[Event], Callable[[_Values], tuple[Any, ...]]]] = {
    "HolderRegistered": (HolderRegistered, _in_order),
    "OperatorChanged": (OperatorChanged, _in_order),
    "EndpointChanged": (EndpointChanged, _in_order),
    "DatasetRegistered": (DatasetRegistered, _dataset),
    "DatasetRetired": (DatasetRetired, _in_order),
    "Deposited": (Deposited, _in_order),
    "Withdrawn": (Withdrawn, _in_order),
    "EarningsWithdrawn": (EarningsWithdrawn, _in_order),
    "JobOpened": (JobOpened, _job),
    "LegLocked": (LegLocked, _locked),
    "LegDelivered": (LegDelivered, _delivered),
    "LegPaid": (LegPaid, _in_order),
    "LegRefunded": (LegRefunded, _in_order),
    "UsageBatch": (UsageBatch, _in_order),
}


def event_from_values(
    name: str, values: _Values, block_number: int, transaction_hash: bytes, log_index: int
) -> Event:
    """The dataclass of a decoded event; ``values`` are in the ABI's order, indexed ones first."""
    kind, fields = _KINDS[name]
    return kind(block_number, transaction_hash, log_index, *fields(values))
