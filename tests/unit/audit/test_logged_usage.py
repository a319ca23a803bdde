"""Usage records against the roots on chain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from logs import HOLDER_ID, NOW_SECONDS, batches, record_bytes, records, stored

from usufruct.audit.evidence import HolderRecords, KeptRecord, Problem
from usufruct.audit.findings import Finding, Severity
from usufruct.audit.usage_log import LONGEST_WAIT_SECONDS, check_batches, check_records


def check(log: HolderRecords | None, *counts: int, now_seconds: int = NOW_SECONDS) -> list[Finding]:
    return check_records(HOLDER_ID, log, batches(*counts), now_seconds)[1]


def discrepancies(found: list[Finding]) -> list[tuple[str, int | None, int | None]]:
    return [
        (f.kind, f.place.record, f.place.last_record) for f in found if f.severity is Severity.DISCREPANCY
    ]


@pytest.mark.parametrize("counts", [(1,), (5,), (2, 3), (1, 1, 4)])
def test_an_honest_log_of_any_batches_has_no_findings(counts: tuple[int, ...]) -> None:
    found = batches(*counts)
    read, findings = check_records(HOLDER_ID, records(sum(counts)), found, NOW_SECONDS)
    assert findings == []
    assert [entry.record.sequence for entry in read] == list(range(sum(counts)))
    assert {entry.root for entry in read} == {batch.root for batch in found}
    assert list(check_batches(HOLDER_ID, found, *stored(found))) == []


def test_a_changed_record_is_named_and_no_other() -> None:
    log = records(6)
    other = replace(log.records[4], data=record_bytes(4).replace(b"\x05" * 32, b"\x09" * 32))
    changed = replace(log, records=(*log.records[:4], other, *log.records[5:]))
    assert {record for _, record, _ in discrepancies(check(changed, 2, 4))} == {4}


def test_without_leaves_a_changed_record_is_named_by_its_batch_or_its_bit() -> None:
    log = records(6, leaves=False)
    two_bits = bytes([record_bytes(4)[-1] ^ 3])
    changed = replace(log.records[4], data=record_bytes(4)[:-1] + two_bits)
    found = check(replace(log, records=(*log.records[:4], changed, *log.records[5:])), 2, 4)
    assert discrepancies(found) == [("record-root", 2, 5)]
    one_bit = replace(log.records[4], data=record_bytes(4)[:-1] + bytes([record_bytes(4)[-1] ^ 1]))
    found = check(replace(log, records=(*log.records[:4], one_bit, *log.records[5:])), 2, 4)
    assert discrepancies(found) == [("record-root", 4, None)]


def test_missing_records_are_one_finding_for_each_gap() -> None:
    log = records(8)
    kept = tuple(record for record in log.records if record.sequence not in (1, 2, 6, 7))
    found = discrepancies(check(replace(log, records=kept, next_sequence=6), 8))
    assert found == [("record-missing", 1, 2), ("record-missing", 6, 7)]


def test_records_that_could_not_be_had_at_all_are_findings() -> None:
    assert discrepancies(check(None, 5)) == [("record-missing", 0, 4)]
    gone = HolderRecords(HOLDER_ID, "127.0.0.1:1", (), 0, (Problem(None, "cannot be reached"),))
    assert discrepancies(check(gone, 5)) == [("record-unreadable", None, None), ("record-missing", 0, 4)]


def test_a_holder_that_logged_nothing_and_is_gone_spoils_no_verdict() -> None:
    gone = HolderRecords(HOLDER_ID, "127.0.0.1:1", (), 0, (Problem(None, "cannot be reached"),))
    found = check(gone)
    assert discrepancies(found) == []
    assert [f.kind for f in found] == ["record-unreadable"]


def test_hostile_numbers_cost_nothing() -> None:
    far = KeptRecord(2**62, record_bytes(0))
    log = HolderRecords(HOLDER_ID, "test", (*records(2).records, far), 2**63)
    (huge,) = batches(2)
    _, found = check_records(HOLDER_ID, log, [replace(huge, count=2**32 - 1)], NOW_SECONDS)
    assert len(found) < 10
    assert ("record-sequence", 2**62, None) in discrepancies(found)


def test_records_that_wait_for_their_root_are_a_note_for_a_day_and_then_a_finding() -> None:
    found = check(records(5), 3)
    assert discrepancies(found) == []
    assert [(f.kind, f.place.record, f.place.last_record) for f in found] == [("record-waiting", 3, 4)]
    late = check(records(5), 3, now_seconds=NOW_SECONDS + LONGEST_WAIT_SECONDS)
    assert discrepancies(late) == [("record-late", 3, None), ("record-late", 4, None)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"first_sequence": 3}, "batch-gap"),
        ({"count": 0}, "batch-gap"),
        ({"prev_root": bytes(32)}, "batch-chain"),
        ({"root": bytes([1]) * 32}, "batch-root"),
    ],
)
def test_a_changed_batch_is_found(change: dict[str, object], kind: str) -> None:
    found = batches(2, 3, 1)
    head, roots = stored(found)
    changed = [found[0], replace(found[1], **change), found[2]]  # type: ignore[arg-type]
    assert kind in {finding.kind for finding in check_batches(HOLDER_ID, changed, head, roots)}


def test_a_batch_that_is_only_in_storage_is_found() -> None:
    found = batches(2, 3)
    head, roots = stored(found)
    assert {f.kind for f in check_batches(HOLDER_ID, found[:1], head, roots)} == {
        "usage-head",
        "batch-missing",
    }
