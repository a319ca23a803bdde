"""The contracts' events as frozen dataclasses, in the order of the chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from usufruct.chain.entries import DatasetTerms, LegEntry, LegState, leg_from_struct
from usufruct.domain.leg_receipt import LegReceipt


@dataclass(frozen=True)
class Event:
    """Where an event stands on the chain; ``transaction_hash`` has 32 bytes."""

    block_number: int
    transaction_hash: bytes
    log_index: int


# -- the guardian ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuardianOffered(Event):
    """The guardian's role is offered; to the zero address: the offer is taken back."""

    guardian: str


@dataclass(frozen=True)
class GuardianChanged(Event):
    """Another guardian from here on."""

    guardian: str


@dataclass(frozen=True)
class PausedChanged(Event):
    """New jobs and registrations are stopped, or go on."""

    paused: bool


@dataclass(frozen=True)
class FeeScheduled(Event):
    """Another fee, from ``from_seconds`` on, for jobs opened after that."""

    fee_bps: int
    from_seconds: int


@dataclass(frozen=True)
class FeeChanged(Event):
    """The announced fee holds."""

    fee_bps: int


# -- holders -----------------------------------------------------------------------------------------------------


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
class PayoutScheduled(Event):
    """Another payout address is announced; the zero address and time 0: the announcement is taken back."""

    holder_id: int
    payout: str
    from_seconds: int


@dataclass(frozen=True)
class PayoutChanged(Event):
    """The announced payout address holds."""

    holder_id: int
    payout: str


@dataclass(frozen=True)
class AdminOffered(Event):
    """The admin role is offered; to the zero address: the offer is taken back."""

    holder_id: int
    admin: str


@dataclass(frozen=True)
class AdminChanged(Event):
    """Another admin key from here on."""

    holder_id: int
    admin: str


@dataclass(frozen=True)
class FencingEpochTaken(Event):
    """A server has made itself the only one; every earlier epoch has ended."""

    holder_id: int
    fencing_epoch: int
    ledger_head: bytes


@dataclass(frozen=True)
class GrantsRevoked(Event):
    """Every grant of the holder that was signed for an earlier epoch is void."""

    holder_id: int
    revocation_epoch: int


@dataclass(frozen=True)
class GrantCancelled(Event):
    """One grant is void."""

    grant_hash: bytes
    dataset_id: int


# -- datasets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetRegistered(Event):
    """A dataset with its budget (10^-6 nat at Rényi order ``order``).

    Attributes:
        inherited_micro: the loss of the version before, with which this one starts.
    """

    dataset_id: int
    holder_id: int
    previous_id: int
    disjoint: bool
    card_hash: bytes
    token: str
    order: int
    cap_micro: int
    terms: DatasetTerms
    inherited_micro: int


@dataclass(frozen=True)
class TermsChanged(Event):
    """Other terms for legs that are opened from here on."""

    dataset_id: int
    terms: DatasetTerms


@dataclass(frozen=True)
class CapScheduled(Event):
    """A higher budget is announced."""

    dataset_id: int
    cap_micro: int
    from_seconds: int


@dataclass(frozen=True)
class CapChanged(Event):
    """Another budget holds."""

    dataset_id: int
    cap_micro: int


@dataclass(frozen=True)
class DatasetRetired(Event):
    """No new legs on this dataset."""

    dataset_id: int


# -- money -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deposited(Event):
    """Money came in."""

    token: str
    owner: str
    units: int


@dataclass(frozen=True)
class Withdrawn(Event):
    """Money of a deposit went out; its owner said where to."""

    token: str
    owner: str
    to: str
    units: int


@dataclass(frozen=True)
class EarningsWithdrawn(Event):
    """A holder's earnings went to its payout address; holder 0 is the protocol."""

    token: str
    holder_id: int
    payout: str
    units: int


# -- jobs and legs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobOpened(Event):
    """A job was opened with ``legs`` legs."""

    job_id: bytes
    builder: str
    spec_hash: bytes
    purpose_hash: bytes
    accept_by_seconds: int
    min_legs: int
    legs: int


@dataclass(frozen=True)
class LegEvent(Event):
    """Something that happened to one leg."""

    job_id: bytes
    dataset_id: int

    def after(self, leg: LegEntry) -> LegEntry:
        """The leg as the contract stores it after this event, given how it was before."""
        return leg


@dataclass(frozen=True)
class LegLocked(LegEvent):
    """A leg: its price locked, its loss reserved."""

    leg: LegEntry


@dataclass(frozen=True)
class LegAccepted(LegEvent):
    """The holder will train; ``accepted`` legs of the job are accepted now."""

    fencing_epoch: int
    accepted: int

    def after(self, leg: LegEntry) -> LegEntry:
        return replace(leg, state=LegState.ACCEPTED)


@dataclass(frozen=True)
class LegDelivered(LegEvent):
    """The holder's receipt of a leg; its loss is spent."""

    receipt_hash: bytes
    until_seconds: int
    receipt: LegReceipt

    def after(self, leg: LegEntry) -> LegEntry:
        return replace(
            leg,
            state=LegState.DELIVERED,
            receipt_hash=self.receipt_hash,
            until_seconds=self.until_seconds,
            loss_micro=self.receipt.loss_micro,
        )


@dataclass(frozen=True)
class LegDisputed(LegEvent):
    """The payer disputes, with a bond; the arbiter has until ``until_seconds``."""

    token: str
    bond_units: int
    until_seconds: int
    reason_hash: bytes

    def after(self, leg: LegEntry) -> LegEntry:
        return replace(leg, state=LegState.DISPUTED, until_seconds=self.until_seconds)


@dataclass(frozen=True)
class BondPaid(LegEvent):
    """The bond of a dispute went to the side that was right."""

    token: str
    to_holder: bool
    bond_units: int


@dataclass(frozen=True)
class LegClosed(LegEvent):
    """The end of a leg; the three sums add up to its price.

    Attributes:
        state: which end. loss_micro: what it spent of the dataset's budget, 10^-6 nat.
    """

    holder_id: int
    state: LegState
    token: str
    holder_units: int
    fee_units: int
    payer_units: int
    loss_micro: int

    def after(self, leg: LegEntry) -> LegEntry:
        return replace(leg, state=self.state, loss_micro=self.loss_micro)


# -- usage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UsageBatch(Event):
    """A Merkle root over ``count`` usage records from ``first_sequence`` on."""

    holder_id: int
    first_sequence: int
    count: int
    root: bytes
    prev_root: bytes


@dataclass(frozen=True)
class RecordCalled(Event):
    """An auditor calls for a usage record."""

    holder_id: int
    sequence: int
    caller: str
    answer_by_seconds: int


@dataclass(frozen=True)
class RecordShown(Event):
    """A record that was called for; the contract has checked that it is the one that was logged."""

    holder_id: int
    sequence: int
    record: bytes


@dataclass(frozen=True)
class SilenceRecorded(Event):
    """A call for a record was not answered in time."""

    holder_id: int
    sequence: int


_Values = dict[str, Any]


def _dataset(v: _Values) -> tuple[Any, ...]:
    holder_id, previous_id, disjoint, card_hash, token, order, cap, terms = v["init"]
    return (
        v["datasetId"], holder_id, previous_id, disjoint, card_hash, token, order, cap, DatasetTerms(*terms),
        v["inheritedMicro"],
    )  # fmt: skip


def _terms(v: _Values) -> tuple[Any, ...]:
    return (v["datasetId"], DatasetTerms(*v["terms"]))


def _locked(v: _Values) -> tuple[Any, ...]:
    return (v["jobId"], v["datasetId"], leg_from_struct(v["leg"]))


def _delivered(v: _Values) -> tuple[Any, ...]:
    return (v["jobId"], v["datasetId"], v["receiptHash"], v["untilSeconds"], LegReceipt(*v["receipt"]))


def _closed(v: _Values) -> tuple[Any, ...]:
    return tuple(LegState(value) if name == "state" else value for name, value in v.items())


def _in_order(v: _Values) -> tuple[Any, ...]:
    return tuple(v.values())


_KINDS: dict[str, tuple[type[Event], Callable[[_Values], tuple[Any, ...]]]] = {
    **{
        kind.__name__: (kind, _in_order)
        for kind in (
            GuardianOffered, GuardianChanged, PausedChanged, FeeScheduled, FeeChanged, HolderRegistered, OperatorChanged,
            EndpointChanged, PayoutScheduled, PayoutChanged, AdminOffered, AdminChanged, FencingEpochTaken, GrantsRevoked,
            GrantCancelled, CapScheduled, CapChanged, DatasetRetired, Deposited, Withdrawn, EarningsWithdrawn, JobOpened,
            LegAccepted, LegDisputed, BondPaid, UsageBatch, RecordCalled, RecordShown, SilenceRecorded,
        )
    },
    "DatasetRegistered": (DatasetRegistered, _dataset),
    "TermsChanged": (TermsChanged, _terms),
    "LegLocked": (LegLocked, _locked),
    "LegDelivered": (LegDelivered, _delivered),
    "LegClosed": (LegClosed, _closed),
}  # fmt: skip


def event_from_values(
    name: str, values: _Values, block_number: int, transaction_hash: bytes, log_index: int
) -> Event:
    """The dataclass of a decoded event; ``values`` are in the ABI's order, indexed ones first."""
    kind, read = _KINDS[name]
    return kind(block_number, transaction_hash, log_index, *read(values))
