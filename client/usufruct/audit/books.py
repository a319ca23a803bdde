"""Replays the events into books: what holders, datasets, jobs, legs, deposits and earnings must be after them.

Only the rules of the contracts are known here; whether storage agrees is for :mod:`usufruct.audit.chain_checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from usufruct.audit.findings import Finding, Place
from usufruct.chain import Event, LegEntry, LegState
from usufruct.chain.events import (
    DatasetRegistered,
    DatasetRetired,
    Deposited,
    EarningsWithdrawn,
    EndpointChanged,
    HolderRegistered,
    JobOpened,
    LegDelivered,
    LegLocked,
    LegPaid,
    LegRefunded,
    OperatorChanged,
    UsageBatch,
    Withdrawn,
)
from usufruct.domain import ids


@dataclass
class LegBook:
    """One leg's life in events.

    Attributes:
        locked: how it was opened. delivered, paid, refunded: how it went on; None when it did not.
        entry: the leg after its last event; its hash must be the one stored.
        operator: the holder's operator key when it was delivered; empty before.
        operator_at_lock: the operator key when it was opened, whose signature the grant bears.
    """

    locked: LegLocked
    entry: LegEntry
    operator_at_lock: str
    delivered: LegDelivered | None = None
    paid: LegPaid | None = None
    refunded: LegRefunded | None = None
    operator: str = ""

    @property
    def place(self) -> Place:
        """Dataset and job, for findings."""
        return Place(
            dataset_id=self.locked.dataset_id, job_id=self.locked.job_id, holder_id=self.entry.holder_id
        )


@dataclass
class HolderBook:
    """A holder in events, as of its last one."""

    registered: HolderRegistered
    operator: str
    endpoint: str
    fingerprint: bytes


@dataclass
class DatasetBook:
    """A dataset in events, and the loss that its legs reserved and committed."""

    registered: DatasetRegistered
    active: bool = True
    reserved_micro: int = 0
    spent_micro: int = 0


@dataclass
class Books:
    """All books. Legs by leg id, jobs by job id, money by (token, owner or holder number)."""

    holders: dict[int, HolderBook] = field(default_factory=dict)
    datasets: dict[int, DatasetBook] = field(default_factory=dict)
    jobs: dict[bytes, JobOpened] = field(default_factory=dict)
    legs: dict[bytes, LegBook] = field(default_factory=dict)
    grant_uses: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    deposits: dict[tuple[str, str], int] = field(default_factory=dict)
    earnings: dict[tuple[str, int], int] = field(default_factory=dict)
    withdrawn: dict[tuple[str, int], int] = field(default_factory=dict)
    batches: dict[int, list[UsageBatch]] = field(default_factory=dict)
    operators: dict[bytes, str] = field(default_factory=dict)

    def legs_of(self, job_id: bytes) -> list[LegBook]:
        """The job's legs by dataset."""
        legs = [leg for leg in self.legs.values() if leg.locked.job_id == job_id]
        return sorted(legs, key=lambda leg: leg.locked.dataset_id)


def replay(events: Sequence[Event]) -> tuple[Books, list[Finding]]:
    """Replays all events, oldest first. An event that the contracts could not have emitted is a finding."""
    books, findings = Books(), []
    last = (-1, -1)
    for event in events:
        position = (event.block_number, event.log_index)
        if position <= last:
            findings.append(Finding("event-order", _at(event), "the event comes twice or out of order"))
        last = position
        findings.extend(_apply(books, event))
    return books, findings


def _at(event: Event) -> Place:
    return Place(transaction=event.transaction_hash)


def _apply(books: Books, event: Event) -> list[Finding]:
    match event:
        case HolderRegistered():
            if event.holder_id != len(books.holders) + 1:
                return [_impossible(event, "holders are numbered from 1 without a gap")]
            books.holders[event.holder_id] = HolderBook(
                event, event.operator, event.endpoint, event.fingerprint
            )
        case OperatorChanged() | EndpointChanged():
            holder = books.holders.get(event.holder_id)
            if holder is None:
                return [_impossible(event, f"holder {event.holder_id} was never registered")]
            if isinstance(event, OperatorChanged):
                holder.operator = event.operator
            else:
                holder.endpoint, holder.fingerprint = event.endpoint, event.fingerprint
        case DatasetRegistered():
            if event.dataset_id != len(books.datasets) + 1 or event.holder_id not in books.holders:
                return [_impossible(event, "datasets of known holders are numbered from 1 without a gap")]
            books.datasets[event.dataset_id] = DatasetBook(event)
        case DatasetRetired():
            dataset = books.datasets.get(event.dataset_id)
            if dataset is None or not dataset.active:
                return [_impossible(event, f"dataset {event.dataset_id} was not active")]
            dataset.active = False
        case Deposited():
            return _move(books, event, event.token, event.owner, event.units)
        case Withdrawn():
            return _move(books, event, event.token, event.owner, -event.units)
        case EarningsWithdrawn():
            key = (event.token, event.holder_id)
            earned = books.earnings.get(key, 0)
            books.earnings[key] = 0
            books.withdrawn[key] = books.withdrawn.get(key, 0) + event.units
            if earned != event.units:
                return [_impossible(event, f"{event.units} units left, {earned} had been earned")]
            holder = books.holders.get(event.holder_id)
            if holder is None or event.payout != holder.registered.payout:
                return [_impossible(event, "the earnings went elsewhere than to the holder's payout address")]
        case JobOpened():
            if event.job_id in books.jobs:
                return [_impossible(event, "the job had been opened before")]
            books.jobs[event.job_id] = event
        case LegLocked():
            return _lock(books, event)
        case LegDelivered() | LegPaid() | LegRefunded():
            return _advance(books, event)
        case UsageBatch():
            books.batches.setdefault(event.holder_id, []).append(event)
            if event.holder_id in books.holders:
                books.operators[event.transaction_hash] = books.holders[event.holder_id].operator
    return []


def _lock(books: Books, event: LegLocked) -> list[Finding]:
    entry, findings = event.leg, []
    leg_id = ids.leg_id(event.job_id, event.dataset_id)
    holder, dataset = books.holders.get(entry.holder_id), books.datasets.get(event.dataset_id)
    if leg_id in books.legs:
        return [_impossible(event, "the leg had been opened before")]
    if holder is None or dataset is None or event.job_id not in books.jobs:
        findings.append(_impossible(event, "its job, holder or dataset is in no earlier event"))
    books.legs[leg_id] = LegBook(event, entry, holder.operator if holder else "")
    uses, loss = books.grant_uses.get(entry.grant_hash, (0, 0))
    books.grant_uses[entry.grant_hash] = (uses + 1, loss + entry.loss_reserved_micro)
    if dataset is not None:
        dataset.reserved_micro += entry.loss_reserved_micro
        cap = dataset.registered.cap_micro
        if dataset.reserved_micro + dataset.spent_micro > cap:
            findings.append(
                Finding("budget-exceeded", replace(_at(event), dataset_id=event.dataset_id, job_id=event.job_id),
                        f"{dataset.reserved_micro + dataset.spent_micro} are reserved and spent of a budget of {cap}")
            )  # fmt: skip
    return findings + _move(books, event, entry.token, entry.payer, -entry.price_units)


def _advance(books: Books, event: LegDelivered | LegPaid | LegRefunded) -> list[Finding]:
    leg = books.legs.get(ids.leg_id(event.job_id, event.dataset_id))
    if leg is None:
        return [_impossible(event, "the leg was never opened")]
    needed = LegState.DELIVERED if isinstance(event, LegPaid) else LegState.LOCKED
    if leg.entry.state is not needed:
        return [_impossible(event, f"the leg was {leg.entry.state.name.lower()}, not {needed.name.lower()}")]
    if not isinstance(event, LegPaid):
        dataset = books.datasets.get(event.dataset_id)
        if dataset is not None:
            dataset.reserved_micro -= leg.entry.loss_reserved_micro
            dataset.spent_micro += leg.entry.loss_reserved_micro
    if isinstance(event, LegDelivered):
        leg.delivered = event
        leg.entry = replace(leg.entry, state=LegState.DELIVERED, receipt_hash=event.receipt_hash)
        holder = books.holders.get(leg.entry.holder_id)
        leg.operator = holder.operator if holder else ""
        return []
    if isinstance(event, LegPaid):
        leg.paid = event
        leg.entry = replace(leg.entry, state=LegState.PAID)
        key = (event.token, event.holder_id)
        books.earnings[key] = books.earnings.get(key, 0) + event.units
        return []
    leg.refunded = event
    leg.entry = replace(leg.entry, state=LegState.REFUNDED)
    return _move(books, event, event.token, event.payer, event.units)


def _move(books: Books, event: Event, token: str, owner: str, units: int) -> list[Finding]:
    key = (token, owner)
    books.deposits[key] = books.deposits.get(key, 0) + units
    if books.deposits[key] < 0:
        place = replace(_at(event), account=owner)
        return [
            Finding(
                "deposit-negative",
                place,
                f"more left the deposit than was in it: {books.deposits[key]} units",
            )
        ]
    return []


def _impossible(event: Event, text: str) -> Finding:
    place = replace(
        _at(event),
        holder_id=getattr(event, "holder_id", None),
        dataset_id=getattr(event, "dataset_id", None),
        job_id=getattr(event, "job_id", None),
    )
    return Finding("event-impossible", place, f"{type(event).__name__}: {text}")
