"""The usage log: append-only, gapless, batched in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from usufruct.errors import InvalidInput
from usufruct_server.holder.ledger import Ledger, LedgerReader, UsageBatch, UsageRefused

ZERO = bytes(32)
RECORDS = [f"record {index}".encode() for index in range(7)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        for index, record in enumerate(RECORDS):
            assert opened.append_usage_record(record) == index
        yield opened


def test_records_are_numbered_from_zero_without_a_gap_across_restarts(ledger: Ledger) -> None:
    ledger.close()
    with Ledger(ledger.path) as again:
        assert again.usage_count() == 7
        assert again.append_usage_record(b"eighth") == 7
        assert again.usage_records(0, 100) == (*RECORDS, b"eighth")


def test_pages_of_records(ledger: Ledger) -> None:
    assert ledger.usage_records(2, 3) == tuple(RECORDS[2:5])
    assert ledger.usage_records(5, 100) == tuple(RECORDS[5:])
    assert ledger.usage_records(7, 1) == ()
    assert ledger.usage_records(0, 0) == ()
    for first, count in ((-1, 1), (0, -1), (0.0, 1)):
        with pytest.raises(InvalidInput):
            ledger.usage_records(first, count)  # type: ignore[arg-type]


@pytest.mark.parametrize("record", [b"", bytes((1 << 20) + 1), "text", None])
def test_what_is_no_record_is_refused_and_takes_no_number(ledger: Ledger, record: object) -> None:
    with pytest.raises(UsageRefused):
        ledger.append_usage_record(record)  # type: ignore[arg-type]
    assert ledger.append_usage_record(b"next") == 7


def test_batches_follow_one_another(ledger: Ledger) -> None:
    first = ledger.append_usage_batch(0, 4, b"a" * 32)
    second = ledger.append_usage_batch(4, 2, b"b" * 32)
    assert first == UsageBatch(0, 4, b"a" * 32, ZERO, None)
    assert second.previous_root == first.root
    ledger.mark_usage_batch_sent(0, b"t" * 32)
    ledger.mark_usage_batch_sent(0, b"u" * 32)
    with LedgerReader(ledger.path) as reader:
        assert [batch.tx_hash for batch in reader.usage_batches()] == [b"u" * 32, None]


@pytest.mark.parametrize(("first_seq", "count"), [(1, 2), (0, 8), (3, 1)])
def test_a_batch_that_leaves_a_gap_or_runs_ahead_is_refused(
    ledger: Ledger, first_seq: int, count: int
) -> None:
    with pytest.raises(UsageRefused):
        ledger.append_usage_batch(first_seq, count, b"a" * 32)
    assert ledger.usage_batches() == ()


def test_a_record_is_batched_once(ledger: Ledger) -> None:
    ledger.append_usage_batch(0, 4, b"a" * 32)
    with pytest.raises(UsageRefused):
        ledger.append_usage_batch(3, 2, b"b" * 32)
    with pytest.raises(UsageRefused):
        ledger.mark_usage_batch_sent(1, b"t" * 32)
