"""Usage records against the roots on chain: gapless, hash-chained, every record under its root.

A root that differs names its batch only. Which record was changed is told by the leaf kept beside it, or, for one
changed bit, by searching the bit whose change gives the root on chain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from usufruct.audit.evidence import HolderRecords, KeptRecord, StoredUsageHead
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.chain.events import RecordShown, UsageBatch
from usufruct.domain.ids import ZERO_HASH, to_hex
from usufruct.domain.usage_record import UsageRecord, leaf, merkle_proof, merkle_root, merkle_verify
from usufruct.errors import UsufructError
from usufruct.wire.usage import record_from_bytes

LOW_32 = (1 << 32) - 1
LONGEST_WAIT_SECONDS = 24 * 3600
"""A record must be under a root within a day; a holder's server does it within ten minutes."""
SEARCHED_BITS = 60_000
"""Candidates tried when looking for one changed bit: under twenty seconds, and only when something differs."""


@dataclass(frozen=True)
class ReadRecord:
    """A record that could be read.

    Attributes:
        holder_id: whose log it is in.
        data: its exact bytes. record: what they say.
        root: the root on chain that it is under; empty while it waits for one.
    """

    holder_id: int
    data: bytes
    record: UsageRecord
    root: bytes = b""


def check_batches(
    holder_id: int, batches: Sequence[UsageBatch], head: StoredUsageHead, roots: dict[int, bytes]
) -> Iterator[Finding]:
    """Batch events against one another and against the storage of ``UsageLog``.

    Args:
        roots: by first record, as stored.
    """
    sequence, previous = 0, ZERO_HASH
    for batch in batches:
        place = Place(holder_id=holder_id, record=batch.first_sequence, transaction=batch.transaction_hash)
        if batch.first_sequence != sequence or batch.count < 1:
            yield Finding(
                "batch-gap",
                place,
                f"the batch should start at record {sequence} and have at least one record",
            )
        if batch.prev_root != previous:
            yield Finding("batch-chain", place, f"the batch should follow the root {to_hex(previous)}")
        if roots.get(batch.first_sequence, ZERO_HASH) != batch.root:
            yield Finding(
                "batch-root", place, f"its root is not the one stored, {_shown(roots, batch.first_sequence)}"
            )
        sequence, previous = batch.first_sequence + batch.count, batch.root
    place = Place(holder_id=holder_id)
    if sequence != head.next_sequence:
        yield Finding(
            "usage-head", place, f"batch events lead to record {sequence}, storage to {head.next_sequence}"
        )
    if int.from_bytes(previous, "big") & LOW_32 != head.last_root_low:
        yield Finding(
            "usage-head", place, "the last root of the batch events is not the one that storage ends with"
        )
    for first in sorted(set(roots) - {batch.first_sequence for batch in batches}):
        if roots[first] != ZERO_HASH:
            yield Finding(
                "batch-missing", Place(holder_id=holder_id, record=first), "a stored root has no batch event"
            )


def check_records(
    holder_id: int, records: HolderRecords | None, batches: Sequence[UsageBatch], now_seconds: int
) -> tuple[list[ReadRecord], list[Finding]]:
    """A holder's records against its batches; returns what can be read, and everything that differs."""
    anchored = batches[-1].first_sequence + batches[-1].count if batches else 0
    if records is None:
        if not anchored:
            return [], []
        place = Place(holder_id=holder_id, record=0, last_record=anchored - 1)
        return [], [Finding("record-missing", place, "no records of this holder could be had")]
    # nobody who registers and never logs anything can spoil the verdict on the others
    gone = Severity.DISCREPANCY if anchored or records.records else Severity.NOTE
    findings = [
        Finding(
            "record-unreadable",
            Place(holder_id=holder_id, record=problem.sequence),
            f"{records.source}: {problem.text}",
            gone,
        )
        for problem in records.problems
    ]
    by_number: dict[int, KeptRecord] = {}
    for position, kept in enumerate(records.records):
        if kept.sequence in by_number or (
            position and kept.sequence < records.records[position - 1].sequence
        ):
            place = Place(holder_id=holder_id, record=kept.sequence)
            findings.append(Finding("record-order", place, "the record was given twice or out of order"))
        by_number.setdefault(kept.sequence, kept)
    last = max([anchored, records.next_sequence, *(number + 1 for number in by_number)])
    findings.extend(_missing(holder_id, by_number, last))
    roots: dict[int, bytes] = {}
    numbers = sorted(by_number)
    for batch in batches:
        start = bisect_left(numbers, batch.first_sequence)
        end = bisect_left(numbers, batch.first_sequence + batch.count)
        roots.update(dict.fromkeys(numbers[start:end], batch.root))
        if end - start == batch.count > 0:  # what is missing is named already
            findings.extend(_check_root(holder_id, by_number, batch))
    readable: list[ReadRecord] = []
    for number, kept in sorted(by_number.items()):
        place = Place(holder_id=holder_id, record=number)
        if kept.leaf and kept.leaf != leaf(number, kept.data):
            findings.append(
                Finding("record-leaf", place, "the record is not the one its Merkle leaf was made from")
            )
        try:
            record = record_from_bytes(kept.data)
        except UsufructError as error:
            findings.append(Finding("record-malformed", place, f"the record cannot be read: {error.message}"))
            continue
        if record.sequence != number:
            findings.append(
                Finding("record-sequence", place, f"the record says that it is number {record.sequence}")
            )
            continue
        readable.append(ReadRecord(holder_id, kept.data, record, roots.get(number, b"")))
        if number not in roots and now_seconds - record.time_seconds > LONGEST_WAIT_SECONDS:
            findings.append(
                Finding("record-late", place, "the record has waited for more than a day for its root")
            )
    waiting = sum(1 for entry in readable if not entry.root)
    if waiting:
        place = Place(holder_id=holder_id, record=anchored, last_record=anchored + waiting - 1)
        text = f"{waiting} records wait for their root: what they say can still be changed by the holder"
        findings.append(Finding("record-waiting", place, text, Severity.NOTE))
    return readable, findings


def with_shown(
    holder_id: int, records: HolderRecords | None, shown: Mapping[int, RecordShown]
) -> tuple[HolderRecords | None, list[Finding]]:
    """A holder's records and, where it does not give one, what was shown on chain: the contract has checked that.

    Args:
        shown: by number of the record.
    """
    if not shown:
        return records, []
    given = records or HolderRecords(holder_id, "chain", (), 0)
    by_number = {kept.sequence: kept for kept in given.records}
    findings = [
        Finding(
            "record-shown",
            Place(holder_id=holder_id, record=number, transaction=event.transaction_hash),
            "the record is not the one that was shown on chain",
        )
        for number, event in sorted(shown.items())
        if number in by_number and by_number[number].data != event.record
    ]
    more = [KeptRecord(number, shown[number].record) for number in sorted(set(shown) - set(by_number))]
    if more:
        kept = list(given.records)
        for record in more:
            after = (i for i, other in enumerate(kept) if other.sequence > record.sequence)
            kept.insert(next(after, len(kept)), record)
        given = replace(given, records=tuple(kept))
    return given, findings


def _missing(holder_id: int, by_number: dict[int, KeptRecord], end: int) -> Iterator[Finding]:
    """One finding for each gap, so that hostile numbers cannot make a million of them."""
    expected = 0
    for number in [*sorted(by_number), end]:
        if number > expected:
            place = Place(
                holder_id=holder_id,
                record=expected,
                last_record=number - 1 if number - 1 > expected else None,
            )
            yield Finding("record-missing", place, "could not be fetched")
        expected = number + 1


def _check_root(holder_id: int, by_number: dict[int, KeptRecord], batch: UsageBatch) -> Iterator[Finding]:
    numbers = range(batch.first_sequence, batch.first_sequence + batch.count)
    kept = [by_number[number] for number in numbers]
    leaves = [leaf(number, entry.data) for number, entry in zip(numbers, kept, strict=True)]
    if merkle_root(leaves) == batch.root:
        return
    text = (
        f"differs from what was logged: the records of this batch do not give its root {to_hex(batch.root)}"
    )
    beside = [entry.leaf for entry in kept]
    if all(beside) and merkle_root(beside) == batch.root:
        changed = [
            number for number, mine, theirs in zip(numbers, leaves, beside, strict=True) if mine != theirs
        ]
    else:
        found = _changed_bit([entry.data for entry in kept], leaves, batch)
        changed = [] if found is None else [found]
    for number in changed:
        place = Place(holder_id=holder_id, record=number, transaction=batch.transaction_hash)
        yield Finding("record-root", place, text)
    if not changed:
        place = Place(
            holder_id=holder_id,
            record=numbers[0],
            last_record=numbers[-1],
            transaction=batch.transaction_hash,
        )
        yield Finding("record-root", place, text)


def _changed_bit(records: list[bytes], leaves: list[bytes], batch: UsageBatch) -> int | None:
    """Number of the record in which changing one bit gives the root on chain; None when there is none.

    Records that do not read as what they should be are tried first.
    """
    numbers = range(batch.first_sequence, batch.first_sequence + batch.count)
    sound = [_reads_as(number, data) for number, data in zip(numbers, records, strict=True)]
    tried = 0
    for index in sorted(range(len(records)), key=lambda i: sound[i]):
        data, number = records[index], numbers[index]
        proof = merkle_proof(leaves, index)
        for bit in range(8 * len(data)):
            tried += 1
            if tried > SEARCHED_BITS:
                return None
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            if merkle_verify(proof, batch.root, leaf(number, bytes(changed))):
                return number
    return None


def _reads_as(number: int, data: bytes) -> bool:
    try:
        return record_from_bytes(data).sequence == number
    except UsufructError:
        return False


def _shown(roots: dict[int, bytes], first: int) -> str:
    return to_hex(roots[first]) if first in roots else "of which there is none"
