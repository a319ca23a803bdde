"""Who trained when, and with how many: charges against the acceptances of a job, and against one another.

Times in usage records are those of the holders' clocks; they may differ from the chain's by
:data:`CLOCK_TOLERANCE_SECONDS`. What the order on chain tells is exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from usufruct.audit.books import Books, JobBook, LegBook
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.audit.usage_log import ReadRecord
from usufruct.chain import UNSPENT, Event, LegState
from usufruct.domain import ids
from usufruct.domain.usage_record import UsageKind

CLOCK_TOLERANCE_SECONDS = 300
"""How far a holder's clock may be from the chain's."""


def check_rounds(
    records: Iterable[ReadRecord], books: Books, block_times: Mapping[int, int]
) -> Iterator[Finding]:
    """Every charge of every leg, and the rounds of every job."""
    charges: dict[bytes, list[ReadRecord]] = defaultdict(list)
    sent: dict[bytes, list[ReadRecord]] = defaultdict(list)
    for entry in records:
        record = entry.record
        if record.kind in (UsageKind.CHARGED, UsageKind.SUBMITTED) and len(record.job_id) == 32:
            of_kind = charges if record.kind is UsageKind.CHARGED else sent
            of_kind[ids.leg_id(record.job_id, record.dataset_id)].append(entry)
    for job in books.jobs.values():
        legs = books.legs_of(job.opened.job_id)
        charged = [(leg, charges[leg.locked.leg.leg_id]) for leg in legs]
        submitted = [(leg, sent[leg.locked.leg.leg_id]) for leg in legs]
        for leg, mine in charged:
            yield from _check_charges(job, leg, mine, books, block_times)
        yield from _check_views(charged, "was charged for another offer")
        yield from _check_views(submitted, "was encrypted for another view")
        yield from _check_cohorts(charged, submitted)


def _check_charges(
    job: JobBook, leg: LegBook, charges: list[ReadRecord], books: Books, block_times: Mapping[int, int]
) -> Iterator[Finding]:
    """Nobody trains on a leg that was let go, before enough legs of its job were accepted, or after its deadline."""
    begin = max(leg.accepted, job.started, key=_position) if leg.accepted and job.started else None
    since = block_times.get(begin.block_number, 0) if begin else 0
    deliver_by = leg.entry.deliver_by_seconds
    batches = {batch.root: batch for batch in books.batches.get(leg.entry.holder_id, [])}
    for entry in charges:
        if leg.entry.state in UNSPENT:
            text = f"it charged an attempt of a leg that was {leg.entry.state.name.lower()} at no loss"
            yield Finding("attempt-unspent", _at(entry, leg), text)
            continue
        batch, time = batches.get(entry.root), entry.record.time_seconds
        if begin is None:
            text = "the leg was not accepted, or too few others were"
            # one that waits for its root may be newer than the final block
            severity = Severity.DISCREPANCY if batch else Severity.NOTE
            yield Finding("attempt-early", _at(entry, leg), text, severity)
        elif batch and _position(batch) < _position(begin):
            text = "it was logged before the leg and enough others were accepted"
            yield Finding("attempt-early", _at(entry, leg), text)
        elif time < since - CLOCK_TOLERANCE_SECONDS:
            text = f"charged {since - time} s before the leg and enough others were accepted"
            yield Finding("attempt-early", _at(entry, leg), text)
        if time > deliver_by + CLOCK_TOLERANCE_SECONDS:
            text = f"charged {time - deliver_by} s after the leg had to be delivered"
            yield Finding("attempt-late", _at(entry, leg), text)
    if leg.entry.state is LegState.FAILED and leg.closed is not None:
        charged = sum(entry.record.loss_micro for entry in charges)
        if leg.closed.loss_micro < charged:
            text = (
                f"it ended at a loss of {leg.closed.loss_micro}, its charges add up to {charged} (10^-6 nat)"
            )
            yield Finding("leg-loss", leg.place, text)


def _check_views(legs: list[tuple[LegBook, list[ReadRecord]]], other: str) -> Iterator[Finding]:
    """All holders of an attempt were offered the same weights and key, and those in its sum the same roster."""
    views: dict[int, tuple[int, bytes]] = {}
    for leg, entries in legs:
        for entry in entries:
            record = entry.record
            seen = views.setdefault(record.attempt, (record.round, record.view_hash))
            if seen != (record.round, record.view_hash):
                text = f"attempt {record.attempt} {other} than at another holder"
                yield Finding("attempt-view", _at(entry, leg), text)


def _check_cohorts(
    charged: list[tuple[LegBook, list[ReadRecord]]], submitted: list[tuple[LegBook, list[ReadRecord]]]
) -> Iterator[Finding]:
    """Every sum that was opened had the updates of at least `min_cohort` holders, and with distributed noise of as many as
    its receipt's loss assumes.

    A view names its roster by a hash only; but whoever is in a sum has recorded that it sent its update for that view. A
    round was summed if a later one was charged, or if as many receipts as a sum needs say so.
    """
    holders: dict[tuple[int, bytes], set[int]] = defaultdict(set)
    for leg, entries in submitted:
        for entry in entries:
            holders[entry.record.round, entry.record.view_hash].add(leg.locked.dataset_id)
    last_round = max((entry.record.round for _, entries in charged for entry in entries), default=0)
    claims = sorted((leg.delivered.receipt.rounds_done for leg, _ in charged if leg.delivered), reverse=True)
    for leg, entries in submitted:
        wanted = max(leg.terms.min_cohort if leg.terms else 1, _assumed(leg))
        done = max(last_round - 1, claims[wanted - 1] if 0 < wanted <= len(claims) else 0)
        for round_ in sorted({entry.record.round for entry in entries}):
            most = max(len(those) for (of, _), those in holders.items() if of == round_)
            if round_ <= done and most < wanted:
                text = f"round {round_} was done with {most} holders, and {wanted} have to be in a sum with its dataset"
                yield Finding("round-cohort", leg.place, text)


def _assumed(leg: LegBook) -> int:
    """Holders that must be in every sum so that a receipt's loss is right: ``min_honest + max_colluding``."""
    return leg.delivered.receipt.min_honest + leg.delivered.receipt.max_colluding if leg.delivered else 0


def _position(event: Event) -> tuple[int, int]:
    return event.block_number, event.log_index


def _at(entry: ReadRecord, leg: LegBook) -> Place:
    return replace(leg.place, holder_id=entry.holder_id, record=entry.record.sequence)
