"""What usage records say against what the chain says: every charge has a leg and an outcome, every receipt its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from usufruct.audit.books import Books, LegBook
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.audit.usage_log import ReadRecord
from usufruct.chain import ENDED, LegState
from usufruct.domain import ids
from usufruct.domain.leg_receipt import updates_hash
from usufruct.domain.usage_record import UsageKind

OUTCOMES = (UsageKind.SUBMITTED, UsageKind.LOST)


def check_usage(records: Iterable[ReadRecord], books: Books) -> Iterator[Finding]:
    """All records of all holders, in the order of their logs."""
    by_leg: dict[bytes, list[ReadRecord]] = defaultdict(list)
    for entry in records:
        record = entry.record
        place = Place(holder_id=entry.holder_id, record=record.sequence)
        if record.kind is UsageKind.REFUSED:
            if not record.reason or record.loss_micro:
                yield Finding("record-refused", place, "a refusal names a reason and no loss")
            continue
        if record.reason:
            yield Finding("record-form", place, f"a record of kind {record.kind.name} names no reason")
        if any(len(value) != 32 for value in (record.job_id, record.spec_hash)):
            yield Finding("record-form", place, "job and spec must be named")
            continue
        dataset = books.datasets.get(record.dataset_id)
        if dataset is None or dataset.registered.holder_id != entry.holder_id:
            text = f"dataset {record.dataset_id} is not this holder's"
            yield Finding("record-dataset", place, text)
            continue
        leg_id = ids.leg_id(record.job_id, record.dataset_id)
        if leg_id in books.legs:
            by_leg[leg_id].append(entry)
        elif record.kind is not UsageKind.GRANTED:
            place = replace(place, dataset_id=record.dataset_id, job_id=record.job_id)
            text = f"{record.kind.name}, but no such leg was ever opened"
            yield Finding("record-without-leg", place, text, _newer(entry))
    for leg_id, leg in books.legs.items():
        yield from _check_leg(leg, by_leg[leg_id], books)


def _check_leg(leg: LegBook, records: list[ReadRecord], books: Books) -> Iterator[Finding]:
    place = leg.place
    for entry in records:
        record = entry.record
        if (record.builder, record.spec_hash) != (leg.entry.builder, leg.entry.spec_hash):
            yield Finding("record-about", _at(entry, leg), "its builder or spec is not the leg's")
    kinds: dict[UsageKind, list[ReadRecord]] = defaultdict(list)
    for entry in records:
        kinds[entry.record.kind].append(entry)
    grants = {entry.record.document_hash for entry in kinds[UsageKind.GRANTED]}
    if leg.entry.grant_hash not in grants:
        yield Finding("grant-unlogged", place, "the leg's grant is in no usage record of its holder")
    for entry in kinds[UsageKind.GRANTED]:
        if entry.record.document_hash != leg.entry.grant_hash:
            text = "another grant than the one that opened the leg"
            yield Finding("grant-other", _at(entry, leg), text, Severity.NOTE)
    yield from _check_attempts(leg, records)
    yield from _check_delivered(leg, kinds[UsageKind.DELIVERED])
    if leg.delivered is None:
        return
    receipt = leg.delivered.receipt
    charged = len(kinds[UsageKind.CHARGED])
    if charged != receipt.attempts_charged:
        text = (
            f"the receipt says that {receipt.attempts_charged} attempts were charged, the usage log {charged}"
        )
        yield Finding("receipt-attempts", place, text)
    digests = [entry.record.upload_digest for entry in kinds[UsageKind.SUBMITTED]]
    if updates_hash(digests) != receipt.updates_hash:
        text = f"updates_hash does not follow from the {len(digests)} updates in the usage log"
        yield Finding("receipt-updates", place, text)
    last_round = max((entry.record.round for entry in kinds[UsageKind.SUBMITTED]), default=0)
    if last_round > receipt.rounds_done:
        text = f"the receipt says that {receipt.rounds_done} rounds were done, an update was sent in round {last_round}"
        yield Finding("receipt-rounds", place, text)
    yield from _check_usage_head(leg, [e for e in records if e.record.kind is not UsageKind.DELIVERED], books)


def _check_attempts(leg: LegBook, records: list[ReadRecord]) -> Iterator[Finding]:
    """CHARGED, then SUBMITTED or LOST of the same attempt, then CHECKED of what was sent; never twice; never after delivery."""
    reserved = leg.delivered.receipt.attempts_reserved if leg.delivered else None
    charges: dict[int, ReadRecord] = {}
    outcomes: dict[int, ReadRecord] = {}
    checked: set[int] = set()
    delivered = False
    for entry in records:
        record, place = entry.record, _at(entry, leg)
        attempt = record.attempt
        if record.kind is UsageKind.DELIVERED:
            delivered = True
        elif record.kind is UsageKind.CHARGED:
            if attempt in charges:
                yield Finding("attempt-twice", place, f"attempt {attempt} was charged before")
            if delivered:
                yield Finding(
                    "attempt-late", place, f"attempt {attempt} was charged after the leg was delivered"
                )
            if attempt < 1 or record.round < 1 or (reserved is not None and attempt > reserved):
                yield Finding(
                    "attempt-range", place, f"attempt {attempt} of round {record.round} was never reserved"
                )
            if reserved and record.loss_micro * reserved != leg.reserved_micro:
                text = f"it charged {record.loss_micro}; {reserved} attempts reserved {leg.reserved_micro}"
                yield Finding("attempt-loss", place, text)
            if len(record.view_hash) != 32:
                yield Finding("record-form", place, "a charge names the offer of its round")
            charges.setdefault(attempt, entry)
        elif record.kind in OUTCOMES:
            charge = charges.get(attempt)
            if charge is None:
                yield Finding("attempt-uncharged", place, f"attempt {attempt} was not charged before")
            elif charge.record.round != record.round:
                text = f"attempt {attempt} was charged for round {charge.record.round}, not {record.round}"
                yield Finding("attempt-view", place, text)
            if attempt in outcomes:
                yield Finding("attempt-twice", place, f"attempt {attempt} had an outcome before")
            sent = record.kind is UsageKind.SUBMITTED
            if sent != (len(record.upload_digest) == 32) or (sent and len(record.view_hash) != 32):
                text = "an update that was sent has a view and a digest, a lost one has no digest"
                yield Finding("record-form", place, text)
            outcomes[attempt] = entry
        elif record.kind is UsageKind.CHECKED:
            outcome = outcomes.get(attempt)
            if outcome is None or _sent(outcome) != _sent(entry):
                text = f"a check of attempt {attempt}, of which another update or none was sent"
                yield Finding("attempt-check", place, text)
            if attempt in checked:
                text = f"two challenges were answered in attempt {attempt}"
                yield Finding("attempt-check", place, text)
            if len(record.sum_digest) != 32 or len(record.document_hash) != 32:
                yield Finding("record-form", place, "a check names its sum and its challenge")
            checked.add(attempt)
    if leg.delivered or leg.entry.state in ENDED:
        for attempt in sorted(set(charges) - set(outcomes)):
            text = f"attempt {attempt} was charged, and no record says whether its update was sent or lost"
            yield Finding("attempt-open", _at(charges[attempt], leg), text)


def _sent(entry: ReadRecord) -> tuple[int, bytes, bytes]:
    record = entry.record
    return record.round, record.view_hash, record.upload_digest


def _check_delivered(leg: LegBook, records: list[ReadRecord]) -> Iterator[Finding]:
    """A holder records each receipt that it signs: more than one only where a later server signed anew."""
    if leg.delivered is None:
        open_still = leg.entry.state in (LegState.ACCEPTED, LegState.EXPIRED)
        for entry in records:
            text = "the holder signed a receipt, and the leg was not delivered on chain"
            yield Finding(
                "delivered-extra", _at(entry, leg), text, Severity.NOTE if open_still else _newer(entry)
            )
        return
    if not records:
        yield Finding("delivered-unlogged", leg.place, "the delivery is in no usage record of the holder")
        return
    if all(entry.record.document_hash != leg.delivered.receipt_hash for entry in records):
        text = "it names another receipt than the one delivered"
        yield Finding("delivered-receipt", _at(records[-1], leg), text)
    for entry in records:
        record = entry.record
        if record.round != leg.delivered.receipt.rounds_done:
            yield Finding("delivered-receipt", _at(entry, leg), "its number of rounds is not the receipt's")
        if record.loss_micro != leg.delivered.receipt.loss_micro:
            text = (
                f"it commits {record.loss_micro}, the receipt {leg.delivered.receipt.loss_micro} (10^-6 nat)"
            )
            yield Finding("delivered-loss", _at(entry, leg), text)


def _check_usage_head(leg: LegBook, records: list[ReadRecord], books: Books) -> Iterator[Finding]:
    """The receipt names a root that stood on chain when it was delivered and covers all of the leg's records."""
    event = leg.delivered
    if event is None:
        return
    batches = books.batches.get(leg.entry.holder_id, [])
    before = [b for b in batches if (b.block_number, b.log_index) < (event.block_number, event.log_index)]
    named = [batch for batch in before if batch.root == event.receipt.usage_head]
    if not named:
        text = "usage_head is not a root that the holder had logged before it delivered"
        yield Finding("receipt-usage-head", leg.place, text)
        return
    end = named[-1].first_sequence + named[-1].count
    for entry in records:
        if entry.record.sequence >= end:
            text = "the record is not yet under the root that the leg's receipt names"
            yield Finding("receipt-usage-head", _at(entry, leg), text)


def _newer(entry: ReadRecord) -> Severity:
    """Records are fetched after the final block was chosen: one that waits for its root may be about a later block."""
    return Severity.DISCREPANCY if entry.root else Severity.NOTE


def _at(entry: ReadRecord, leg: LegBook) -> Place:
    return replace(leg.place, holder_id=entry.holder_id, record=entry.record.sequence)
