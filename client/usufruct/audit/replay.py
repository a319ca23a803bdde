"""Replays the events into books by the contracts' own rules: an event that they could not have emitted is a finding.

Times are not known here; that what waits 48 hours or 7 days did wait is held by the storage that the events lead to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from usufruct.audit.books import Books, DatasetBook, HolderBook, JobBook, LegBook, RecordCallBook
from usufruct.audit.findings import Finding, Place
from usufruct.chain import CallState, DatasetTerms, Event, LegState, bond_units
from usufruct.chain import events as on_chain
from usufruct.chain.events import LegClosed, LegEvent
from usufruct.domain import ids

BPS = 10_000
HIGHEST_FEE_BPS = 500
_BEFORE = {
    LegState.ACCEPTED: (LegState.LOCKED,),
    LegState.DELIVERED: (LegState.ACCEPTED,),
    LegState.DISPUTED: (LegState.DELIVERED,),
    LegState.ACKNOWLEDGED: (LegState.DELIVERED,),
    LegState.SETTLED: (LegState.DELIVERED,),
    LegState.RESOLVED: (LegState.DISPUTED,),
    LegState.UNRESOLVED: (LegState.DISPUTED,),
    LegState.CANCELLED: (LegState.LOCKED,),
    LegState.DECLINED: (LegState.LOCKED,),
    LegState.RELEASED: (LegState.LOCKED, LegState.ACCEPTED),
    LegState.FAILED: (LegState.ACCEPTED,),
    LegState.EXPIRED: (LegState.ACCEPTED,),
}
"""From which state each can be reached."""
_PAID_IN_FULL = (LegState.ACKNOWLEDGED, LegState.SETTLED)


def replay(events: Sequence[Event]) -> tuple[Books, list[Finding]]:
    """Replays all events, oldest first."""
    books, findings = Books(), []
    last = (-1, -1)
    for event in events:
        position = (event.block_number, event.log_index)
        if position <= last:
            findings.append(Finding("event-order", _at(event), "the event comes twice or out of order"))
        last = position
        findings.extend(_apply(books, event))
    return books, findings


def _apply(books: Books, event: Event) -> Iterator[Finding]:
    if isinstance(event, LegEvent):
        yield from _leg(books, event)
        return
    for apply in (_guardian, _holder, _dataset, _money, _usage):
        yield from apply(books, event)


def _guardian(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.GuardianChanged():
            books.guardian = event.guardian
        case on_chain.PausedChanged():
            books.paused = event.paused
        case on_chain.FeeScheduled():
            books.next_fee_bps, books.fee_from_seconds = event.fee_bps, event.from_seconds
            if event.fee_bps > HIGHEST_FEE_BPS:
                yield _impossible(event, f"a fee of {event.fee_bps} ten-thousandths; 500 is the most")
        case on_chain.FeeChanged():
            if not books.fee_from_seconds or event.fee_bps != books.next_fee_bps:
                yield _impossible(event, f"a fee of {event.fee_bps} ten-thousandths was not announced")
            books.fee_bps, books.next_fee_bps, books.fee_from_seconds = event.fee_bps, 0, 0


def _holder(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.HolderRegistered():
            if event.holder_id != len(books.holders) + 1:
                yield _impossible(event, "holders are numbered from 1 without a gap")
                return
            if books.paused:
                yield _impossible(event, "registrations were stopped")
            books.holders[event.holder_id] = HolderBook(
                event, event.admin, event.operator, event.payout, event.endpoint, event.fingerprint
            )
            return
        case (
            on_chain.OperatorChanged()
            | on_chain.EndpointChanged()
            | on_chain.PayoutScheduled()
            | on_chain.PayoutChanged()
            | on_chain.AdminOffered()
            | on_chain.AdminChanged()
            | on_chain.FencingEpochTaken()
            | on_chain.GrantsRevoked()
        ):
            holder = books.holders.get(event.holder_id)
        case on_chain.GrantCancelled():
            books.cancelled.add(event.grant_hash)
            return
        case _:
            return
    if holder is None:
        yield _impossible(event, f"holder {event.holder_id} was never registered")
        return
    match event:
        case on_chain.OperatorChanged():
            holder.operator = event.operator
        case on_chain.EndpointChanged():
            holder.endpoint, holder.fingerprint = event.endpoint, event.fingerprint
        case on_chain.PayoutScheduled():
            holder.next_payout = "" if event.payout == ids.ZERO_ADDRESS else event.payout
            holder.payout_from_seconds = event.from_seconds
        case on_chain.PayoutChanged():
            if event.payout != holder.next_payout:
                yield _impossible(event, f"the payout address {event.payout} was not announced")
            holder.payout, holder.next_payout, holder.payout_from_seconds = event.payout, "", 0
        case on_chain.AdminOffered():
            holder.next_admin = "" if event.admin == ids.ZERO_ADDRESS else event.admin
        case on_chain.AdminChanged():
            if event.admin != holder.next_admin:
                yield _impossible(event, f"the admin role was not offered to {event.admin}")
            holder.admin, holder.next_admin = event.admin, ""
        case on_chain.FencingEpochTaken():
            if event.fencing_epoch != holder.fencing_epoch + 1:
                yield _impossible(event, f"fencing epoch {event.fencing_epoch} after {holder.fencing_epoch}")
            holder.fencing = event
        case on_chain.GrantsRevoked():
            if event.revocation_epoch != holder.revocation_epoch + 1:
                text = f"revocation epoch {event.revocation_epoch} after {holder.revocation_epoch}"
                yield _impossible(event, text)
            holder.revocation_epoch = event.revocation_epoch


def _dataset(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.DatasetRegistered():
            if event.dataset_id != len(books.datasets) + 1 or event.holder_id not in books.holders:
                yield _impossible(event, "datasets of known holders are numbered from 1 without a gap")
                return
            if books.paused:
                yield _impossible(event, "registrations were stopped")
            book = DatasetBook(event, event.terms, event.cap_micro, spent_micro=event.inherited_micro)
            books.datasets[event.dataset_id] = book
            yield from _version(books, event)
            return
        case (
            on_chain.TermsChanged()
            | on_chain.CapScheduled()
            | on_chain.CapChanged()
            | on_chain.DatasetRetired()
        ):
            dataset = books.datasets.get(event.dataset_id)
        case _:
            return
    if dataset is None:
        yield _impossible(event, f"dataset {event.dataset_id} was never registered")
        return
    match event:
        case on_chain.TermsChanged():
            dataset.terms = event.terms
        case on_chain.CapScheduled():
            if event.cap_micro <= dataset.cap_micro:
                yield _impossible(event, "only a higher budget is announced")
            dataset.next_cap_micro, dataset.cap_from_seconds = event.cap_micro, event.from_seconds
        case on_chain.CapChanged():
            if event.cap_micro > dataset.cap_micro and event.cap_micro != dataset.next_cap_micro:
                yield _impossible(event, f"a budget of {event.cap_micro} was not announced")
            if event.cap_micro < dataset.reserved_micro + dataset.spent_micro:
                yield _impossible(event, "a budget below what is reserved and spent")
            dataset.cap_micro, dataset.next_cap_micro, dataset.cap_from_seconds = event.cap_micro, 0, 0
        case on_chain.DatasetRetired():
            dataset.active = False


def _version(books: Books, event: on_chain.DatasetRegistered) -> Iterator[Finding]:
    """What a new version starts with: the loss of the one before, unless it is declared disjoint."""
    old = books.datasets.get(event.previous_id) if event.previous_id < event.dataset_id else None
    if event.previous_id and (old is None or old.next_id or old.registered.holder_id != event.holder_id):
        yield _impossible(event, f"dataset {event.previous_id} cannot be its version before")
        return
    inherited = 0
    if old is not None:
        old.next_id = event.dataset_id
        if not event.disjoint:
            inherited = old.reserved_micro + old.spent_micro
            if event.order != old.registered.order or event.cap_micro > old.cap_micro:
                yield _impossible(event, "a version has the order of the one before, and no higher budget")
    if event.inherited_micro != inherited:
        place = replace(_at(event), dataset_id=event.dataset_id, holder_id=event.holder_id)
        text = f"it starts with a loss of {event.inherited_micro}, the version before had {inherited} (10^-6 nat)"
        yield Finding("version-loss", place, text)


def _money(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.Deposited():
            yield from _move(books, event, event.token, event.owner, event.units)
        case on_chain.Withdrawn():
            yield from _move(books, event, event.token, event.owner, -event.units)
        case on_chain.EarningsWithdrawn():
            key = (event.token, event.holder_id)
            earned = books.earnings.get(key, 0)
            books.earnings[key] = 0
            books.withdrawn[key] = books.withdrawn.get(key, 0) + event.units
            if earned != event.units:
                yield _impossible(event, f"{event.units} units left, {earned} had been earned")
            holder = books.holders.get(event.holder_id)
            if event.holder_id == 0:
                books.fee_payouts.append((books.guardian, event))
            elif holder is None or event.payout != holder.payout:
                yield _impossible(event, "the earnings went elsewhere than to the holder's payout address")
        case on_chain.JobOpened():
            if event.job_id in books.jobs:
                yield _impossible(event, "the job had been opened before")
                return
            if books.paused:
                yield _impossible(event, "new jobs were stopped")
            if not 1 <= event.min_legs <= event.legs:
                yield _impossible(event, f"{event.min_legs} of {event.legs} legs")
            books.jobs[event.job_id] = JobBook(event)


def _usage(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.UsageBatch():
            books.batches.setdefault(event.holder_id, []).append(event)
            if event.holder_id in books.holders:
                books.operators[event.transaction_hash] = books.holders[event.holder_id].operator
        case on_chain.RecordCalled():
            key = (event.holder_id, event.sequence)
            if key in books.calls:
                yield _impossible(event, "the record had been called for before")
            books.calls[key] = RecordCallBook(CallState.OPEN, event.answer_by_seconds)
        case on_chain.RecordShown() | on_chain.SilenceRecorded():
            call = books.calls.get((event.holder_id, event.sequence))
            shown = isinstance(event, on_chain.RecordShown)
            if call is None or call.state not in (
                (CallState.OPEN, CallState.SILENT) if shown else (CallState.OPEN,)
            ):
                yield _impossible(event, "nobody was waiting for the record")
                return
            call.state = CallState.ANSWERED if shown else CallState.SILENT
            call.silent = call.silent or not shown
            if isinstance(event, on_chain.RecordShown):
                books.shown[event.holder_id, event.sequence] = event


# -- legs --------------------------------------------------------------------------------------------------------


def _leg(books: Books, event: LegEvent) -> Iterator[Finding]:
    if isinstance(event, on_chain.LegLocked):
        yield from _lock(books, event)
        return
    leg = books.legs.get(ids.leg_id(event.job_id, event.dataset_id))
    if leg is None:
        yield _impossible(event, "the leg was never opened")
        return
    before, leg.entry = leg.entry, event.after(leg.entry)
    if isinstance(event, on_chain.BondPaid):
        leg.bond = event
        yield from _bond(books, event, leg)
        return
    needed = _BEFORE.get(leg.entry.state, ())
    if before.state not in needed:
        words = " or ".join(state.name.lower() for state in needed)
        yield _impossible(event, f"the leg was {before.state.name.lower()}, not {words}")
        leg.entry = before
        return
    match event:
        case on_chain.LegAccepted():
            leg.accepted = event
            yield from _accept(books, event, leg)
        case on_chain.LegDelivered():
            leg.delivered = event
            yield from _deliver(books, event, leg, before.loss_micro)
        case on_chain.LegDisputed():
            leg.disputed = event
            if (event.token, event.bond_units) != (before.token, bond_units(before.price_units)):
                yield _impossible(event, "the bond is a tenth of the price")
            yield from _move(books, event, before.token, before.payer, -event.bond_units)
        case LegClosed():
            leg.closed = event
            yield from _close(books, event, leg, before.loss_micro, before.state)


def _lock(books: Books, event: on_chain.LegLocked) -> Iterator[Finding]:
    entry = event.leg
    leg_id = ids.leg_id(event.job_id, event.dataset_id)
    holder, dataset, job = (
        books.holders.get(entry.holder_id),
        books.datasets.get(event.dataset_id),
        books.jobs.get(event.job_id),
    )
    if leg_id in books.legs:
        yield _impossible(event, "the leg had been opened before")
        return
    if holder is None or dataset is None or job is None:
        yield _impossible(event, "its job, holder or dataset is in no earlier event")
    books.legs[leg_id] = LegBook(event, entry, holder.operator if holder else "")
    uses, loss = books.grant_uses.get(entry.grant_hash, (0, 0))
    books.grant_uses[entry.grant_hash] = (uses + 1, loss + entry.loss_micro)
    if holder is not None:
        books.grant_epochs[entry.grant_hash] = holder.revocation_epoch
    if entry.grant_hash in books.cancelled:
        yield _impossible(event, "its grant had been cancelled")
    if entry.fee_bps != books.fee_bps:
        yield _impossible(event, f"a fee of {entry.fee_bps} ten-thousandths, {books.fee_bps} was in force")
    if dataset is not None:
        terms: DatasetTerms = dataset.terms
        if not dataset.active or (job is not None and job.opened.min_legs < terms.min_cohort):
            yield _impossible(event, "its dataset is retired, or wants a larger cohort")
        dataset.reserved_micro += entry.loss_micro
        used = dataset.reserved_micro + dataset.spent_micro
        if used > dataset.cap_micro:
            place = replace(_at(event), dataset_id=event.dataset_id, job_id=event.job_id)
            text = f"{used} are reserved and spent of a budget of {dataset.cap_micro}"
            yield Finding("budget-exceeded", place, text)
    yield from _move(books, event, entry.token, entry.payer, -entry.price_units)


def _accept(books: Books, event: on_chain.LegAccepted, leg: LegBook) -> Iterator[Finding]:
    job, holder = books.jobs.get(event.job_id), books.holders.get(leg.entry.holder_id)
    if job is not None:
        job.accepted += 1
        if event.accepted != job.accepted:
            yield _impossible(event, f"{event.accepted} legs accepted, {job.accepted} by the events")
        if job.accepted == job.opened.min_legs:
            job.started = event
    if holder is not None:
        leg.operator_at_acceptance = holder.operator
        if event.fencing_epoch != holder.fencing_epoch:
            text = f"accepted in fencing epoch {event.fencing_epoch}, {holder.fencing_epoch} was in force"
            yield _impossible(event, text)
        if books.grant_epochs.get(leg.entry.grant_hash) != holder.revocation_epoch:
            yield _impossible(event, "its grant had been revoked")
    if leg.entry.grant_hash in books.cancelled:
        yield _impossible(event, "its grant had been cancelled")


def _deliver(
    books: Books, event: on_chain.LegDelivered, leg: LegBook, reserved_micro: int
) -> Iterator[Finding]:
    job, holder = books.jobs.get(event.job_id), books.holders.get(leg.entry.holder_id)
    if job is not None and job.started is None:
        text = f"{job.accepted} legs were accepted, {job.opened.min_legs} are needed"
        yield _impossible(event, text)
    if holder is not None:
        leg.operator, leg.fencing_epoch = holder.operator, holder.fencing_epoch
        if event.receipt.fencing_epoch != holder.fencing_epoch:
            text = f"a receipt of fencing epoch {event.receipt.fencing_epoch}, {holder.fencing_epoch} was in force"
            yield _impossible(event, text)
    yield from _commit(books, event, reserved_micro, event.receipt.loss_micro)


def _close(
    books: Books, event: LegClosed, leg: LegBook, loss_before_micro: int, before: LegState
) -> Iterator[Finding]:
    entry, job = leg.entry, books.jobs.get(event.job_id)
    holder = books.holders.get(entry.holder_id)
    leg.operator_at_end = holder.operator if holder else ""
    yield from _pay(books, event, leg)
    if before in (LegState.LOCKED, LegState.ACCEPTED):
        expected = {LegState.FAILED: event.loss_micro, LegState.EXPIRED: loss_before_micro}.get(
            event.state, 0
        )
        if event.loss_micro != expected:
            yield _loss(event, f"it spends {event.loss_micro}, and should {expected} (10^-6 nat)")
        yield from _commit(books, event, loss_before_micro, event.loss_micro)
    elif event.loss_micro != loss_before_micro:
        yield _loss(event, f"it spends {event.loss_micro}, its receipt {loss_before_micro} (10^-6 nat)")
    if job is not None:
        if before is LegState.ACCEPTED and event.state is LegState.RELEASED and job.started is not None:
            yield _impossible(event, "released, though enough legs were accepted")
        if event.state is LegState.EXPIRED and job.started is None:
            yield _impossible(event, "expired, though too few legs were accepted")
    if before is LegState.DISPUTED and leg.bond is None:
        yield _impossible(event, "the dispute ended, and its bond went nowhere")
    if entry.state is LegState.UNRESOLVED and leg.bond is not None and leg.bond.to_holder:
        yield _impossible(event, "the arbiter was silent, and the bond went to the holder")


def _pay(books: Books, event: LegClosed, leg: LegBook) -> Iterator[Finding]:
    """Where the price went."""
    entry = leg.entry
    place = replace(leg.place, transaction=event.transaction_hash)
    whole = event.holder_units + event.fee_units
    if (event.holder_id, event.token) != (entry.holder_id, entry.token):
        text = f"{event.holder_units} units of {event.token} went to holder {event.holder_id}, the leg is another's"
        yield Finding("payment-differs", place, text)
    expected = entry.price_units if event.state in _PAID_IN_FULL else 0
    if whole + event.payer_units != entry.price_units or (
        event.state is not LegState.RESOLVED and whole != expected
    ):
        text = f"{whole} units were paid and {event.payer_units} given back, the price is {entry.price_units}"
        yield Finding("payment-differs", place, text)
    if event.fee_units != whole * entry.fee_bps // BPS:
        text = f"the fee was {event.fee_units} of {whole} units, agreed were {entry.fee_bps} ten-thousandths"
        yield Finding("fee-differs", place, text)
    _earn(books, entry.token, entry.holder_id, event.holder_units)
    _earn(books, entry.token, 0, event.fee_units)
    yield from _move(books, event, entry.token, entry.payer, event.payer_units)


def _bond(books: Books, event: on_chain.BondPaid, leg: LegBook) -> Iterator[Finding]:
    bond = leg.disputed.bond_units if leg.disputed else 0
    if leg.entry.state is not LegState.DISPUTED or (event.token, event.bond_units) != (leg.entry.token, bond):
        yield _impossible(event, f"a bond of {event.bond_units} units, {bond} were put up")
    if event.to_holder:
        _earn(books, event.token, leg.entry.holder_id, event.bond_units)
    else:
        yield from _move(books, event, event.token, leg.entry.payer, event.bond_units)


def _commit(books: Books, event: LegEvent, reserved_micro: int, loss_micro: int) -> Iterator[Finding]:
    dataset = books.datasets.get(event.dataset_id)
    if dataset is not None:
        dataset.reserved_micro -= reserved_micro
        dataset.spent_micro += loss_micro
    if loss_micro > reserved_micro:
        yield _loss(event, f"it spends {loss_micro}, {reserved_micro} were reserved (10^-6 nat)")


def _earn(books: Books, token: str, holder_id: int, units: int) -> None:
    if units:
        books.earnings[token, holder_id] = books.earnings.get((token, holder_id), 0) + units


def _move(books: Books, event: Event, token: str, owner: str, units: int) -> Iterator[Finding]:
    key = (token, owner)
    books.deposits[key] = books.deposits.get(key, 0) + units
    if books.deposits[key] < 0:
        text = f"more left the deposit than was in it: {books.deposits[key]} units"
        yield Finding("deposit-negative", replace(_at(event), account=owner), text)


def _at(event: Event) -> Place:
    return Place(transaction=event.transaction_hash)


def _loss(event: LegEvent, text: str) -> Finding:
    place = replace(_at(event), dataset_id=event.dataset_id, job_id=event.job_id)
    return Finding("leg-loss", place, text)


def _impossible(event: Event, text: str) -> Finding:
    place = replace(
        _at(event),
        holder_id=getattr(event, "holder_id", None),
        dataset_id=getattr(event, "dataset_id", None),
        job_id=getattr(event, "job_id", None),
    )
    return Finding("event-impossible", place, f"{type(event).__name__}: {text}")
