"""Replays what happened to legs by the rules of ``ComputeAccess``: states, money and loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from usufruct.audit.books import Books, DatasetBook, LegBook
from usufruct.audit.findings import Finding, at, impossible
from usufruct.chain import ENDED, LegState, bond_units
from usufruct.chain import events as on_chain
from usufruct.chain.events import LegClosed, LegEvent
from usufruct.domain import ids

BPS, HALF_BPS = 10_000, 5_000
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


def replay_leg(books: Books, event: LegEvent) -> Iterator[Finding]:
    """One more event of a leg."""
    if isinstance(event, on_chain.LegLocked):
        yield from _lock(books, event)
        return
    leg = books.legs.get(ids.leg_id(event.job_id, event.dataset_id))
    if leg is None:
        yield impossible(event, "the leg was never opened")
        return
    before, leg.entry = leg.entry, event.after(leg.entry)
    if isinstance(event, on_chain.BondPaid):
        yield from _bond(books, event, leg)
        return
    needed = _BEFORE.get(leg.entry.state, ())
    ends = leg.entry.state in ENDED
    if before.state not in needed or ends != isinstance(event, LegClosed):
        words = " or ".join(state.name.lower() for state in needed)
        text = f"to be {leg.entry.state.name.lower()}, the leg had to be {words}; it was {before.state.name.lower()}"
        yield impossible(event, text, "leg-state")
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
                yield impossible(event, "the bond is a tenth of the price", "payment-differs")
            yield from books.move(event, before.token, before.payer, -event.bond_units)
        case LegClosed():
            leg.closed = event
            yield from _close(books, event, leg, before.loss_micro, before.state)


def _lock(books: Books, event: on_chain.LegLocked) -> Iterator[Finding]:
    entry = event.leg
    leg_id = ids.leg_id(event.job_id, event.dataset_id)
    if leg_id in books.legs:
        yield impossible(event, "the leg had been opened before")
        return
    holder, dataset = books.holders.get(entry.holder_id), books.datasets.get(event.dataset_id)
    uses, loss = books.grant_uses.get(entry.grant_hash, (0, 0))
    granted = books.grant_uses[entry.grant_hash] = (uses + 1, loss + entry.loss_micro)
    leg = books.legs[leg_id] = LegBook(event, entry, holder.operator if holder else "", granted=granted)
    if holder is None or dataset is None or event.job_id not in books.jobs:
        yield impossible(event, "its job, holder or dataset is in no earlier event")
    if holder is not None:
        leg.revocation_epoch = books.grant_epochs[entry.grant_hash] = holder.revocation_epoch
    if entry.grant_hash in books.cancelled:
        yield impossible(event, "its grant had been cancelled", "grant-withdrawn")
    if entry.fee_bps != books.fee_bps:
        text = f"a fee of {entry.fee_bps} ten-thousandths, {books.fee_bps} was in force"
        yield impossible(event, text, "fee-differs")
    if dataset is not None:
        leg.terms = dataset.terms
        yield from _reserve(books, event, dataset)
    yield from books.move(event, entry.token, entry.payer, -entry.price_units)


def _reserve(books: Books, event: on_chain.LegLocked, dataset: DatasetBook) -> Iterator[Finding]:
    """Inside the dataset's terms and budget."""
    entry, terms, job = event.leg, dataset.terms, books.jobs.get(event.job_id)
    if not dataset.active:
        yield impossible(event, "its dataset was retired")
    if job is not None and job.opened.min_legs < terms.min_cohort:
        text = f"{job.opened.min_legs} legs are enough for it, its dataset wants {terms.min_cohort}"
        yield impossible(event, text, "too-few-accepted")
    registered = dataset.registered
    if (entry.holder_id, entry.token) != (registered.holder_id, registered.token):
        yield impossible(event, "holder or token are not its dataset's", "outside-terms")
    if entry.price_units < terms.price_units or not 0 < entry.loss_micro <= terms.max_loss_per_job_micro:
        text = (
            f"a price of {entry.price_units} and a loss of {entry.loss_micro}, the terms were at least "
            f"{terms.price_units} and at most {terms.max_loss_per_job_micro}"
        )
        yield impossible(event, text, "outside-terms")
    dataset.reserved_micro += entry.loss_micro
    used = dataset.reserved_micro + dataset.spent_micro
    if used > dataset.cap_micro:
        text = f"{used} are reserved and spent of a budget of {dataset.cap_micro} (10^-6 nat)"
        yield impossible(event, text, "budget-exceeded")


def _accept(books: Books, event: on_chain.LegAccepted, leg: LegBook) -> Iterator[Finding]:
    job, holder = books.jobs.get(event.job_id), books.holders.get(leg.entry.holder_id)
    if job is not None:
        job.accepted += 1
        if event.accepted != job.accepted:
            yield impossible(event, f"{event.accepted} legs accepted, {job.accepted} by the events")
        if job.accepted == job.opened.min_legs:
            job.started = event
    if holder is not None:
        leg.operator_at_acceptance = holder.operator
        if event.fencing_epoch != holder.fencing_epoch:
            text = f"accepted in fencing epoch {event.fencing_epoch}, {holder.fencing_epoch} was in force"
            yield impossible(event, text, "fencing-epoch")
        if books.grant_epochs.get(leg.entry.grant_hash) != holder.revocation_epoch:
            yield impossible(event, "its grant had been revoked", "grant-withdrawn")
    if leg.entry.grant_hash in books.cancelled:
        yield impossible(event, "its grant had been cancelled", "grant-withdrawn")


def _deliver(
    books: Books, event: on_chain.LegDelivered, leg: LegBook, reserved_micro: int
) -> Iterator[Finding]:
    job, holder = books.jobs.get(event.job_id), books.holders.get(leg.entry.holder_id)
    if job is not None and job.started is None:
        text = f"{job.accepted} legs were accepted, {job.opened.min_legs} are needed"
        yield impossible(event, text, "too-few-accepted")
    if holder is not None:
        leg.operator, leg.fencing_epoch = holder.operator, holder.fencing_epoch
        if event.receipt.fencing_epoch != holder.fencing_epoch:
            text = f"a receipt of fencing epoch {event.receipt.fencing_epoch}, {holder.fencing_epoch} was in force"
            yield impossible(event, text, "fencing-epoch")
    yield from _commit(books, event, reserved_micro, event.receipt.loss_micro)


def _close(
    books: Books, event: LegClosed, leg: LegBook, loss_before_micro: int, before: LegState
) -> Iterator[Finding]:
    entry, job = leg.entry, books.jobs.get(event.job_id)
    holder = books.holders.get(entry.holder_id)
    if holder is not None:
        leg.operator_at_end = holder.operator
        if event.state is LegState.FAILED:
            leg.fencing_epoch = holder.fencing_epoch
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
            yield impossible(event, "released, though enough legs were accepted", "leg-state")
        if event.state is LegState.EXPIRED and job.started is None:
            yield impossible(event, "expired, though too few legs were accepted", "too-few-accepted")
    if before is LegState.DISPUTED:
        yield from _end_of_dispute(event, leg)


def _end_of_dispute(event: LegClosed, leg: LegBook) -> Iterator[Finding]:
    """The bond goes to the holder if it gets more than half of the price, else back."""
    price, whole = leg.entry.price_units, event.holder_units + event.fee_units
    if leg.bond is None:
        yield impossible(event, "the dispute ended, and its bond went nowhere", "payment-differs")
    elif leg.bond.to_holder != (whole > price * HALF_BPS // BPS):
        text = f"{whole} of {price} units were paid, and the bond went to the other side"
        yield impossible(event, text, "payment-differs")


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
    books.earn(entry.token, entry.holder_id, event.holder_units)
    books.earn(entry.token, 0, event.fee_units)
    yield from books.move(event, entry.token, entry.payer, event.payer_units)


def _bond(books: Books, event: on_chain.BondPaid, leg: LegBook) -> Iterator[Finding]:
    bond = leg.disputed.bond_units if leg.disputed and leg.bond is None else 0
    leg.bond = event
    if leg.entry.state is not LegState.DISPUTED or (event.token, event.bond_units) != (leg.entry.token, bond):
        yield impossible(event, f"a bond of {event.bond_units} units, {bond} were put up", "payment-differs")
    if event.to_holder:
        books.earn(event.token, leg.entry.holder_id, event.bond_units)
    else:
        yield from books.move(event, event.token, leg.entry.payer, event.bond_units)


def _commit(books: Books, event: LegEvent, reserved_micro: int, loss_micro: int) -> Iterator[Finding]:
    dataset = books.datasets.get(event.dataset_id)
    if dataset is not None:
        dataset.reserved_micro -= reserved_micro
        dataset.spent_micro += loss_micro
    if loss_micro > reserved_micro:
        yield _loss(event, f"it spends {loss_micro}, {reserved_micro} were reserved (10^-6 nat)")


def _loss(event: LegEvent, text: str) -> Finding:
    place = replace(at(event), dataset_id=event.dataset_id, job_id=event.job_id)
    return Finding("leg-loss", place, text)
