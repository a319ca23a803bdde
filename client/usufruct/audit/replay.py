"""Replays the events into books by the contracts' own rules: an event that they could not have emitted is a finding.

Legs are replayed by :mod:`usufruct.audit.leg_replay`; when things happened is judged by
:mod:`usufruct.audit.time_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from usufruct.audit.books import Books, DatasetBook, HolderBook, JobBook, RecordCallBook
from usufruct.audit.findings import Finding, at, impossible
from usufruct.audit.leg_replay import replay_leg
from usufruct.chain import CallState, DatasetTerms, Event
from usufruct.chain import events as on_chain
from usufruct.chain.events import LegEvent
from usufruct.domain import ids

HIGHEST_FEE_BPS, MOST_LEGS, ORDERS = 500, 64, range(2, 257)


def replay(events: Sequence[Event]) -> tuple[Books, list[Finding]]:
    """Replays all events, oldest first."""
    books, findings = Books(), []
    last = (-1, -1)
    for event in events:
        position = (event.block_number, event.log_index)
        if position <= last:
            findings.append(Finding("event-order", at(event), "the event comes twice or out of order"))
        last = position
        findings.extend(_apply(books, event))
    return books, findings


def _apply(books: Books, event: Event) -> Iterator[Finding]:
    if isinstance(event, LegEvent):
        yield from replay_leg(books, event)
        return
    for apply in (_guardian, _holder, _dataset, _money, _usage):
        yield from apply(books, event)


def _guardian(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.GuardianOffered():
            books.next_guardian = event.guardian
        case on_chain.GuardianChanged():
            if event.guardian != books.next_guardian:
                yield impossible(event, f"the guardian's role, for {event.guardian}", "not-announced")
            books.guardian, books.next_guardian = event.guardian, ""
        case on_chain.PausedChanged():
            books.paused = event.paused
        case on_chain.FeeScheduled():
            books.next_fee_bps, books.fee_from_seconds = event.fee_bps, event.from_seconds
            if event.fee_bps > HIGHEST_FEE_BPS:
                yield impossible(event, f"a fee of {event.fee_bps} ten-thousandths; 500 is the most")
        case on_chain.FeeChanged():
            if not books.fee_from_seconds or event.fee_bps != books.next_fee_bps:
                yield impossible(event, f"a fee of {event.fee_bps} ten-thousandths", "not-announced")
            books.fee_bps, books.next_fee_bps, books.fee_from_seconds = event.fee_bps, 0, 0


def _holder(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.HolderRegistered():
            if event.holder_id != len(books.holders) + 1:
                yield impossible(event, "holders are numbered from 1 without a gap")
                return
            if books.paused:
                yield impossible(event, "registrations were stopped", "while-paused")
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
        yield impossible(event, f"holder {event.holder_id} was never registered")
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
                yield impossible(event, f"the payout address {event.payout}", "not-announced")
            holder.payout, holder.next_payout, holder.payout_from_seconds = event.payout, "", 0
        case on_chain.AdminOffered():
            holder.next_admin = "" if event.admin == ids.ZERO_ADDRESS else event.admin
        case on_chain.AdminChanged():
            if event.admin != holder.next_admin:
                yield impossible(event, f"the admin role, for {event.admin}", "not-announced")
            holder.admin, holder.next_admin = event.admin, ""
        case on_chain.FencingEpochTaken():
            if event.fencing_epoch != holder.fencing_epoch + 1:
                text = f"fencing epoch {event.fencing_epoch} after {holder.fencing_epoch}"
                yield impossible(event, text, "fencing-epoch")
            holder.fencing = event
        case on_chain.GrantsRevoked():
            if event.revocation_epoch != holder.revocation_epoch + 1:
                text = f"revocation epoch {event.revocation_epoch} after {holder.revocation_epoch}"
                yield impossible(event, text, "revocation-epoch")
            holder.revocation_epoch = event.revocation_epoch


def _dataset(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.DatasetRegistered():
            if event.dataset_id != len(books.datasets) + 1 or event.holder_id not in books.holders:
                yield impossible(event, "datasets of known holders are numbered from 1 without a gap")
                return
            if books.paused:
                yield impossible(event, "registrations were stopped", "while-paused")
            book = DatasetBook(event, event.terms, event.cap_micro, spent_micro=event.inherited_micro)
            books.datasets[event.dataset_id] = book
            if event.order not in ORDERS:
                yield impossible(event, f"order {event.order}")
            yield from _check_terms(event, event.terms, event.cap_micro)
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
        yield impossible(event, f"dataset {event.dataset_id} was never registered")
        return
    if not dataset.active and not isinstance(event, on_chain.DatasetRetired):
        yield impossible(event, "the dataset was retired")
    match event:
        case on_chain.TermsChanged():
            yield from _check_terms(event, event.terms, dataset.cap_micro)
            dataset.terms = event.terms
        case on_chain.CapScheduled():
            if event.cap_micro <= dataset.cap_micro:
                yield impossible(event, "only a higher budget is announced", "cap-history")
            dataset.next_cap_micro, dataset.cap_from_seconds = event.cap_micro, event.from_seconds
        case on_chain.CapChanged():
            if event.cap_micro > dataset.cap_micro and event.cap_micro != dataset.next_cap_micro:
                yield impossible(event, f"a budget of {event.cap_micro} x 10^-6 nat", "not-announced")
            used = dataset.reserved_micro + dataset.spent_micro
            if event.cap_micro < max(used, dataset.terms.max_loss_per_grant_micro):
                yield impossible(
                    event, "a budget below what is reserved and spent, or one grant may", "cap-history"
                )
            dataset.cap_micro, dataset.next_cap_micro, dataset.cap_from_seconds = event.cap_micro, 0, 0
        case on_chain.DatasetRetired():
            dataset.active = False


def _version(books: Books, event: on_chain.DatasetRegistered) -> Iterator[Finding]:
    """What a new version starts with: the loss of the one before, unless it is declared disjoint."""
    old = books.datasets.get(event.previous_id) if event.previous_id < event.dataset_id else None
    if event.previous_id and (old is None or old.next_id or old.registered.holder_id != event.holder_id):
        yield impossible(event, f"dataset {event.previous_id} cannot be its version before")
        return
    inherited = 0
    if old is not None:
        old.next_id = event.dataset_id
        if not event.disjoint:
            inherited = old.reserved_micro + old.spent_micro
            if event.order != old.registered.order or not inherited <= event.cap_micro <= old.cap_micro:
                text = "a version has the order of the one before, and no higher budget"
                yield impossible(event, text, "cap-history")
    if event.inherited_micro != inherited:
        text = f"it starts with a loss of {event.inherited_micro}, the version before had {inherited} (10^-6 nat)"
        yield impossible(event, text, "version-loss")


def _check_terms(event: Event, terms: DatasetTerms, cap_micro: int) -> Iterator[Finding]:
    """Each limit inside the one that contains it."""
    job_micro, grant_micro = terms.max_loss_per_job_micro, terms.max_loss_per_grant_micro
    if not (0 < job_micro <= grant_micro <= cap_micro and terms.min_cohort and terms.max_grant_term_seconds):
        text = f"limits of {job_micro} for a job and {grant_micro} for a grant do not fit a budget of {cap_micro}"
        yield impossible(event, text, "cap-history")


def _money(books: Books, event: Event) -> Iterator[Finding]:
    match event:
        case on_chain.Deposited():
            yield from books.move(event, event.token, event.owner, event.units)
        case on_chain.Withdrawn():
            yield from books.move(event, event.token, event.owner, -event.units)
        case on_chain.EarningsWithdrawn():
            key = (event.token, event.holder_id)
            earned = books.earnings.get(key, 0)
            books.earnings[key] = 0
            books.withdrawn[key] = books.withdrawn.get(key, 0) + event.units
            if earned != event.units:
                yield impossible(
                    event, f"{event.units} units left, {earned} had been earned", "payment-differs"
                )
            holder = books.holders.get(event.holder_id)
            if event.holder_id == 0:
                books.fee_payouts.append((books.guardian, event))
            elif holder is None or event.payout != holder.payout:
                text = "the earnings went elsewhere than to the holder's payout address"
                yield impossible(event, text, "payment-differs")
        case on_chain.JobOpened():
            if event.job_id in books.jobs:
                yield impossible(event, "the job had been opened before")
                return
            if books.paused:
                yield impossible(event, "new jobs were stopped", "while-paused")
            if not 1 <= event.min_legs <= event.legs <= MOST_LEGS:
                yield impossible(event, f"{event.min_legs} of {event.legs} legs")
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
                yield impossible(event, "the record had been called for before")
            logged = books.batches.get(event.holder_id, [])
            if not logged or event.sequence >= logged[-1].first_sequence + logged[-1].count:
                yield impossible(event, "there was no such record yet")
            books.calls[key] = RecordCallBook(CallState.OPEN, event.answer_by_seconds)
        case on_chain.RecordShown() | on_chain.SilenceRecorded():
            call = books.calls.get((event.holder_id, event.sequence))
            shown = isinstance(event, on_chain.RecordShown)
            if call is None or call.state not in (
                (CallState.OPEN, CallState.SILENT) if shown else (CallState.OPEN,)
            ):
                yield impossible(event, "nobody was waiting for the record")
                return
            call.state = CallState.ANSWERED if shown else CallState.SILENT
            call.silent = call.silent or not shown
            if isinstance(event, on_chain.RecordShown):
                books.shown[event.holder_id, event.sequence] = event
