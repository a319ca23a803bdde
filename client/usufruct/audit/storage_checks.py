"""Events against storage: the books that the events lead to must be, word for word, what the contracts hold."""

from __future__ import annotations

from collections.abc import Iterator

from usufruct.audit.books import Books, DatasetBook, HolderBook
from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.audit.usage_log import check_batches
from usufruct.chain import CallState, DatasetEntry, HolderEntry, JobEntry, LegState
from usufruct.chain.events import GuardianOffered
from usufruct.domain import ids


def check_storage(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """All comparisons of this file."""
    yield from _settings(evidence, books)
    yield from _record_calls(evidence, books)
    yield from _holders(evidence, books)
    yield from _datasets(evidence, books)
    yield from _jobs(evidence, books)
    yield from _legs(evidence, books)
    yield from _grants(evidence, books)
    yield from _money(evidence, books)
    for holder_id, head in evidence.storage.usage_heads.items():
        roots = {
            first: root
            for (holder, first), root in evidence.storage.usage_roots.items()
            if holder == holder_id
        }
        yield from check_batches(holder_id, books.batches.get(holder_id, []), head, roots)
    for holder_id in sorted(set(books.batches) - set(evidence.storage.usage_heads)):
        yield Finding(
            "usage-head", Place(holder_id=holder_id), "batches of a holder that storage does not know"
        )


def _settings(evidence: Evidence, books: Books) -> Iterator[Finding]:
    stored = evidence.storage.settings
    events: dict[str, object] = {
        "guardian": books.guardian or stored.guardian,  # the first one is in no event
        "paused": books.paused, "fee": books.fee_bps, "announced fee": books.next_fee_bps,
        "fee time": books.fee_from_seconds,
    }  # fmt: skip
    storage: dict[str, object] = {
        "guardian": stored.guardian, "paused": stored.paused, "fee": stored.fee_bps,
        "announced fee": stored.next_fee_bps, "fee time": stored.fee_from_seconds,
    }  # fmt: skip
    if text := _differences(events, storage):
        yield Finding("settings-differ", Place(account=stored.guardian), text)
    first = _first_guardian(evidence, books)
    for guardian, event in books.fee_payouts:
        expected = guardian or first
        if expected and event.payout != expected:
            place = Place(account=event.payout, transaction=event.transaction_hash)
            yield Finding(
                "payment-differs", place, f"fees went to {event.payout}, the guardian was {expected}"
            )


def _first_guardian(evidence: Evidence, books: Books) -> str:
    """In no event: the present one if the role never changed hands, else who first offered it; "" if that is unknown."""
    if not books.guardian:
        return evidence.storage.settings.guardian
    offers = [event for event in evidence.events if isinstance(event, GuardianOffered)]
    call = evidence.calls.get(offers[0].transaction_hash) if offers else None
    return call.sender if call is not None and call.direct else ""


def _record_calls(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """Calls for records: a silence stands against the holder, whatever else is in order."""
    storage, silent = evidence.storage, dict.fromkeys(evidence.storage.silences, 0)
    for (holder_id, sequence), call in sorted(books.calls.items()):
        place = Place(holder_id=holder_id, record=sequence)
        stored = storage.record_calls.get((holder_id, sequence))
        if stored is None or (stored.state, stored.answer_by_seconds) != (call.state, call.answer_by_seconds):
            yield Finding(
                "call-differs", place, f"events leave the call {call.state.name.lower()}, storage otherwise"
            )
        if call.silent:
            silent[holder_id] = silent.get(holder_id, 0) + 1
            late = ", and shown late" if call.state is CallState.ANSWERED else ""
            yield Finding("call-silent", place, f"called for, and not shown in time{late}")
        elif call.state is CallState.OPEN and evidence.block_time_seconds > call.answer_by_seconds:
            text = "called for and not shown, and its time is over: anyone may record the silence"
            yield Finding("call-overdue", place, text, Severity.NOTE)
        elif call.state is CallState.OPEN:
            yield Finding("call-open", place, "called for and not shown yet", Severity.NOTE)
    for holder_id, count in sorted(storage.silences.items()):
        if silent.get(holder_id, 0) != count:
            text = f"events show {silent.get(holder_id, 0)} unanswered calls, storage {count}"
            yield Finding("call-differs", Place(holder_id=holder_id), text)


def _differences(event: dict[str, object], stored: dict[str, object]) -> str:
    parts = [f"{name} is {_shown(event[name])} in events and {_shown(stored[name])} in storage"
             for name in event if event[name] != stored[name]]  # fmt: skip
    return "; ".join(parts)


def _shown(value: object) -> str:
    return ids.to_hex(value) if isinstance(value, bytes) else str(value)


def _holders(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for holder_id in sorted(set(evidence.storage.holders) | set(books.holders)):
        book, stored = books.holders.get(holder_id), evidence.storage.holders.get(holder_id)
        place = Place(holder_id=holder_id)
        if book is None or stored is None:
            yield Finding("holder-missing", place, f"in {'storage' if book is None else 'events'} only")
        elif text := _differences(_holder_event(book), _holder_stored(stored)):
            yield Finding("holder-differs", place, text)


def _holder_event(book: HolderBook) -> dict[str, object]:
    return {"admin": book.admin, "operator": book.operator, "payout": book.payout, "endpoint": book.endpoint,
            "fingerprint": book.fingerprint, "revocation epoch": book.revocation_epoch,
            "fencing epoch": book.fencing_epoch,
            "ledger head": book.fencing.ledger_head if book.fencing else ids.ZERO_HASH,
            "announced payout": book.next_payout or ids.ZERO_ADDRESS, "payout time": book.payout_from_seconds,
            "offered admin": book.next_admin or ids.ZERO_ADDRESS}  # fmt: skip


def _holder_stored(stored: HolderEntry) -> dict[str, object]:
    return {"admin": stored.admin, "operator": stored.operator, "payout": stored.payout, "endpoint": stored.endpoint,
            "fingerprint": stored.fingerprint, "revocation epoch": stored.revocation_epoch,
            "fencing epoch": stored.fencing_epoch, "ledger head": stored.ledger_head,
            "announced payout": stored.next_payout, "payout time": stored.payout_from_seconds,
            "offered admin": stored.next_admin}  # fmt: skip


def _datasets(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for dataset_id in sorted(set(evidence.storage.datasets) | set(books.datasets)):
        book, stored = books.datasets.get(dataset_id), evidence.storage.datasets.get(dataset_id)
        place = Place(dataset_id=dataset_id)
        if book is None or stored is None:
            yield Finding("dataset-missing", place, f"in {'storage' if book is None else 'events'} only")
            continue
        if text := _differences(_dataset_event(book), _dataset_stored(stored)):
            yield Finding("dataset-differs", place, text)
        events = {"reserved loss": book.reserved_micro, "committed loss": book.spent_micro}
        if text := _differences(
            dict(events), {"reserved loss": stored.reserved_micro, "committed loss": stored.spent_micro}
        ):
            yield Finding("budget-differs", place, f"summed over the legs, {text} (10^-6 nat)")
        if stored.reserved_micro + stored.spent_micro > stored.cap_micro:
            text = f"{stored.reserved_micro + stored.spent_micro} of {stored.cap_micro} x 10^-6 nat are used"
            yield Finding("budget-exceeded", place, text)


def _dataset_event(book: DatasetBook) -> dict[str, object]:
    event, terms = book.registered, book.terms
    return {"holder": event.holder_id, "card hash": event.card_hash, "token": event.token, "price": terms.price_units,
            "policy hash": terms.policy_hash, "minimum cohort": terms.min_cohort, "order": event.order,
            "cap": book.cap_micro, "limit per job": terms.max_loss_per_job_micro,
            "limit per grant": terms.max_loss_per_grant_micro, "grant term": terms.max_grant_term_seconds,
            "active": book.active, "announced cap": book.next_cap_micro, "cap time": book.cap_from_seconds,
            "version before": event.previous_id, "version after": book.next_id}  # fmt: skip


def _dataset_stored(stored: DatasetEntry) -> dict[str, object]:
    return {"holder": stored.holder_id, "card hash": stored.card_hash, "token": stored.token,
            "price": stored.price_units, "policy hash": stored.policy_hash, "minimum cohort": stored.min_cohort,
            "order": stored.order, "cap": stored.cap_micro, "limit per job": stored.max_loss_per_job_micro,
            "limit per grant": stored.max_loss_per_grant_micro, "grant term": stored.max_grant_term_seconds,
            "active": stored.active, "announced cap": stored.next_cap_micro, "cap time": stored.cap_from_seconds,
            "version before": stored.previous_id, "version after": stored.next_id}  # fmt: skip


def _jobs(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for job_id in sorted(set(evidence.storage.jobs) | set(books.jobs)):
        job, stored = books.jobs.get(job_id), evidence.storage.jobs.get(job_id)
        place = Place(job_id=job_id, transaction=job.opened.transaction_hash if job else None)
        if job is None or stored is None:
            yield Finding("job-missing", place, f"in {'storage' if job is None else 'events'} only")
            continue
        opened = job.opened
        call = evidence.calls.get(opened.transaction_hash)
        if call is not None and call.nonce:
            named = ids.job_id(evidence.chain_id, evidence.compute_access, opened.builder, call.nonce)
            if named != job_id:
                yield Finding(
                    "job-id", place, "the id does not follow from chain, contract, builder and nonce"
                )
        shown = (opened.builder, opened.accept_by_seconds, opened.min_legs, opened.legs, job.accepted)
        if JobEntry(job_id, *shown) != stored:
            text = "builder, time to accept, legs, or how many were accepted, are not those stored"
            yield Finding("job-differs", place, text)
        legs = books.legs_of(job_id)
        if len(legs) != stored.legs:
            yield Finding(
                "leg-missing", place, f"the job was opened with {stored.legs} legs, events show {len(legs)}"
            )
        for leg in legs:
            entry = leg.entry
            first = legs[0].entry
            if (entry.builder, entry.spec_hash) != (opened.builder, opened.spec_hash) or (
                entry.payer, entry.arbiter, entry.deliver_by_seconds, entry.challenge_term_seconds
            ) != (first.payer, first.arbiter, first.deliver_by_seconds, first.challenge_term_seconds):  # fmt: skip
                text = "builder, payer, arbiter, spec or deadlines are not those of its job"
                yield Finding("leg-differs", leg.place, text)


def _legs(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for leg_id in sorted(set(evidence.storage.leg_hashes) | set(books.legs)):
        leg, stored = books.legs.get(leg_id), evidence.storage.leg_hashes.get(leg_id, ids.ZERO_HASH)
        if leg is None:
            if stored != ids.ZERO_HASH:
                yield Finding("leg-missing", Place(), f"leg {ids.to_hex(leg_id)} is stored and in no event")
            continue
        locked = leg.locked
        if (locked.leg.job_id, locked.leg.dataset_id) != (locked.job_id, locked.dataset_id):
            yield Finding("leg-differs", leg.place, "its event names one leg and describes another")
        if (
            locked.leg.state is not LegState.LOCKED
            or locked.leg.receipt_hash != ids.ZERO_HASH
            or locked.leg.until_seconds
        ):
            yield Finding(
                "leg-differs", leg.place, "its event opens it in another state than locked, without a receipt"
            )
        if leg.entry.stored_hash() != stored:
            text = f"events leave it {leg.entry.state.name.lower()}; the hash of that is not the one stored"
            yield Finding("leg-hash", leg.place, text)


def _grants(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for grant_hash in sorted(set(evidence.storage.grant_uses) | set(books.grant_uses)):
        uses, loss = books.grant_uses.get(grant_hash, (0, 0))
        shown = (uses, loss, books.grant_epochs.get(grant_hash, 0), grant_hash in books.cancelled)
        stored = evidence.storage.grant_uses.get(grant_hash)
        if stored is None or shown != (
            stored.uses,
            stored.loss_micro,
            stored.revocation_epoch,
            stored.cancelled,
        ):
            text = f"events use it {uses} times for {loss}, storage has {stored or 'nothing'}, or another epoch or cancellation"
            yield Finding("grant-uses", Place(), f"grant {ids.to_hex(grant_hash)}: {text} (10^-6 nat)")


def _money(evidence: Evidence, books: Books) -> Iterator[Finding]:
    storage = evidence.storage
    for token, owner in sorted(set(storage.deposits) | set(books.deposits)):
        events, stored = books.deposits.get((token, owner), 0), storage.deposits.get((token, owner), 0)
        if events != stored:
            text = f"the deposit in token {token} is {events} units after the events and {stored} in storage"
            yield Finding("deposit-differs", Place(account=owner), text)
    for token, holder_id in sorted(set(storage.earnings) | set(books.earnings)):
        events, stored = (
            books.earnings.get((token, holder_id), 0),
            storage.earnings.get((token, holder_id), 0),
        )
        if events != stored:
            text = f"earnings in token {token} are {events} units after the events and {stored} in storage"
            yield Finding("earnings-differ", Place(holder_id=holder_id), text)
    locked: dict[str, int] = {}
    for leg in books.legs.values():
        locked[leg.entry.token] = locked.get(leg.entry.token, 0) + leg.owed_units
    for token, balance in sorted(storage.balances.items()):
        owed = locked.get(token, 0)
        owed += sum(units for (of, _), units in books.deposits.items() if of == token)
        owed += sum(units for (of, _), units in books.earnings.items() if of == token)
        place = Place(account=evidence.compute_access)
        if balance < owed:
            yield Finding("balance-short", place, f"{owed} units of {token} are owed, {balance} are there")
        elif balance > owed:
            text = f"{balance - owed} units of {token} more than are owed: sent without deposit, or an event was withheld"
            yield Finding("balance-over", place, text, Severity.NOTE)
