"""Events against storage: the books that the events lead to must be, word for word, what the contracts hold."""

from __future__ import annotations

from collections.abc import Iterator

from usufruct.audit.books import Books, DatasetBook, HolderBook
from usufruct.audit.evidence import Evidence, StoredGrantUse
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.audit.usage_log import check_batches
from usufruct.chain import DatasetEntry, HolderEntry, JobEntry, LegState
from usufruct.domain import ids


def check_storage(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """All comparisons of this file."""
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
    return {"admin": book.registered.admin, "operator": book.operator, "payout": book.registered.payout,
            "endpoint": book.endpoint, "fingerprint": book.fingerprint}  # fmt: skip


def _holder_stored(stored: HolderEntry) -> dict[str, object]:
    return {"admin": stored.admin, "operator": stored.operator, "payout": stored.payout,
            "endpoint": stored.endpoint, "fingerprint": stored.fingerprint}  # fmt: skip


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
    event = book.registered
    return {"holder": event.holder_id, "card hash": event.card_hash, "token": event.token, "price": event.price_units,
            "minimum cohort": event.min_cohort, "order": event.order, "cap": event.cap_micro,
            "limit per job": event.max_loss_per_job_micro, "grant term": event.max_grant_term_seconds,
            "active": book.active}  # fmt: skip


def _dataset_stored(stored: DatasetEntry) -> dict[str, object]:
    return {"holder": stored.holder_id, "card hash": stored.card_hash, "token": stored.token,
            "price": stored.price_units, "minimum cohort": stored.min_cohort, "order": stored.order,
            "cap": stored.cap_micro, "limit per job": stored.max_loss_per_job_micro,
            "grant term": stored.max_grant_term_seconds, "active": stored.active}  # fmt: skip


def _jobs(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for job_id in sorted(set(evidence.storage.jobs) | set(books.jobs)):
        job, stored = books.jobs.get(job_id), evidence.storage.jobs.get(job_id)
        place = Place(job_id=job_id, transaction=job.transaction_hash if job else None)
        if job is None or stored is None:
            yield Finding("job-missing", place, f"in {'storage' if job is None else 'events'} only")
            continue
        if ids.job_id(evidence.chain_id, evidence.compute_access, job.builder, job.nonce) != job_id:
            yield Finding("job-id", place, "the id does not follow from chain, contract, builder and nonce")
        if JobEntry(job_id, job.builder, job.deliver_by_seconds, job.min_cohort, job.legs) != stored:
            yield Finding(
                "job-differs", place, "builder, deadline, cohort or number of legs are not those stored"
            )
        legs = books.legs_of(job_id)
        if len(legs) != stored.legs:
            yield Finding(
                "leg-missing", place, f"the job was opened with {stored.legs} legs, events show {len(legs)}"
            )
        for leg in legs:
            entry = leg.entry
            if (entry.builder, entry.spec_hash, entry.deliver_by_seconds) != (
                job.builder, job.spec_hash, job.deliver_by_seconds
            ):  # fmt: skip
                yield Finding("leg-differs", leg.place, "builder, spec or deadline are not those of its job")


def _legs(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for leg_id in sorted(set(evidence.storage.leg_hashes) | set(books.legs)):
        leg, stored = books.legs.get(leg_id), evidence.storage.leg_hashes.get(leg_id, ids.ZERO_HASH)
        if leg is None:
            if stored != ids.ZERO_HASH:
                yield Finding("leg-missing", Place(), f"leg {ids.to_hex(leg_id)} is stored and in no event")
            continue
        locked = leg.locked
        if (locked.leg.job_id, locked.leg.dataset_id, locked.leg.builder) != (
            locked.job_id, locked.dataset_id, locked.builder
        ):  # fmt: skip
            yield Finding("leg-differs", leg.place, "its event names one leg and describes another")
        if locked.leg.state is not LegState.LOCKED or locked.leg.receipt_hash != ids.ZERO_HASH:
            yield Finding(
                "leg-differs", leg.place, "its event opens it in another state than locked, without a receipt"
            )
        if leg.entry.stored_hash() != stored:
            text = f"events leave it {leg.entry.state.name.lower()}; the hash of that is not the one stored"
            yield Finding("leg-hash", leg.place, text)


def _grants(evidence: Evidence, books: Books) -> Iterator[Finding]:
    for grant_hash in sorted(set(evidence.storage.grant_uses) | set(books.grant_uses)):
        uses, loss = books.grant_uses.get(grant_hash, (0, 0))
        stored = evidence.storage.grant_uses.get(grant_hash, StoredGrantUse(0, 0))
        if (uses, loss) != (stored.uses, stored.loss_micro):
            text = (
                f"events use it {uses} times for {loss}, storage {stored.uses} times for {stored.loss_micro}"
            )
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
        if leg.entry.state in (LegState.LOCKED, LegState.DELIVERED):
            locked[leg.entry.token] = locked.get(leg.entry.token, 0) + leg.entry.price_units
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
