"""A ledger that another program touched stays closed, and says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from usufruct_server.holder.ledger import Kind, Ledger, LedgerCorrupt, LedgerReader

JOB, OTHER_JOB, SPEC, ROOT = b"j" * 32, b"k" * 32, b"s" * 32, b"r" * 32
TRIGGERS = ("entries_are_kept", "entries_stay", "usage_is_kept", "usage_stays")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.register_dataset(7, 1_000, 6)
        ledger.register_dataset(8, 1_000, 16)
        ledger.register_dataset(8, 900, 16)
        ledger.reserve(7, JOB, 100, 4, SPEC)
        ledger.charge(7, JOB, 0, 0)
        ledger.record_upload(7, JOB, 0, 0, b"v" * 32, lambda file: b"r" * file.write(bytes(32)))
        ledger.charge(7, JOB, 1, 0)
        ledger.commit(7, JOB)
        ledger.reserve(8, OTHER_JOB, 100, 2, SPEC)
        ledger.release(8, OTHER_JOB)
        for record in (b"first", b"second", b"third"):
            ledger.append_usage_record(record)
        ledger.append_usage_batch(0, 2, ROOT)
    return path


def tamper(path: Path, *statements: str) -> None:
    """What someone with a shell and `sqlite3` can do: the triggers are no obstacle to them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, f"nothing was changed by {statement}"


def assert_stays_closed(path: Path) -> None:
    for opening in (Ledger, LedgerReader):
        with pytest.raises(LedgerCorrupt) as refused:
            opening(path)
        assert "Put the undamaged file back" in str(refused.value)
        assert refused.value.reason == "LEDGER_CORRUPT"


def test_untouched_it_opens(path: Path) -> None:
    tamper(path)
    with Ledger(path) as ledger:
        assert len(ledger.rows()) == 9


def every_changed_field() -> Iterator[str]:
    columns = {
        "seq": "seq + 100",
        "version": "version + 1",
        "time_seconds": "time_seconds - 1",
        "kind": "CASE kind WHEN 'charge' THEN 'release' ELSE 'charge' END",
        "dataset_id": "dataset_id + 1",
        "amount_micro": "amount_micro + 1",
        "renyi_order": "coalesce(renyi_order, 1) + 1",
        "job_id": "randomblob(32)",
        "attempts": "coalesce(attempts, 0) + 1",
        "round": "coalesce(round, 0) + 5",
        "attempt": "coalesce(attempt, 0) + 1",
        "spec_hash": "randomblob(32)",
        "previous_hash": "randomblob(32)",
        "hash": "randomblob(32)",
    }
    for seq in range(9):
        for column, value in columns.items():
            yield f"UPDATE entries SET {column} = {value} WHERE seq = {seq}"


@pytest.mark.parametrize("statement", every_changed_field())
def test_any_altered_field_of_any_row_is_found(path: Path, statement: str) -> None:
    tamper(path, statement)
    assert_stays_closed(path)


@pytest.mark.parametrize("seq", range(9))
def test_any_deleted_row_is_found_the_last_one_too(path: Path, seq: int) -> None:
    tamper(path, f"DELETE FROM entries WHERE seq = {seq}")
    assert_stays_closed(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budgets SET spent_micro = 0",
        "UPDATE budgets SET cap_micro = cap_micro + 1 WHERE dataset_id = 7",
        "UPDATE budgets SET renyi_order = 32 WHERE dataset_id = 7",
        "DELETE FROM budgets WHERE dataset_id = 8",
        "INSERT INTO budgets VALUES (9, 6, 5000, 0, 0)",
        "UPDATE legs SET charged = 0 WHERE dataset_id = 7",
        "UPDATE legs SET state = 'reserved' WHERE dataset_id = 7",
        "UPDATE legs SET loss_per_attempt_micro = 1 WHERE dataset_id = 7",
        "DELETE FROM legs WHERE dataset_id = 7",
        "UPDATE heads SET count = count - 1 WHERE chain = 'entries'",
        "DELETE FROM heads",
        "UPDATE usage_records SET record = x'00' WHERE seq = 1",
        "DELETE FROM usage_records WHERE seq = 2",
        "DELETE FROM usage_records WHERE seq = 0",
        "UPDATE usage_batches SET count = 4",
        "UPDATE usage_batches SET first_seq = 1",
        "UPDATE usage_batches SET previous_root = root",
        "UPDATE uploads SET attempt = 5",
        "INSERT INTO uploads VALUES (7, randomblob(32), 0, 0, randomblob(32), randomblob(32), 1, 'x')",
    ],
)
def test_any_total_that_does_not_follow_from_the_rows_is_found(path: Path, statement: str) -> None:
    tamper(path, statement)
    assert_stays_closed(path)


def test_rows_cut_off_together_with_their_totals_are_found_by_the_head(path: Path) -> None:
    tamper(
        path,
        "DELETE FROM entries WHERE seq = 8",
        "UPDATE budgets SET reserved_micro = 200 WHERE dataset_id = 8",
        "UPDATE legs SET state = 'reserved' WHERE dataset_id = 8",
    )
    assert_stays_closed(path)


def forge(path: Path, seq: int, *totals: str, rehash_the_rest: bool = True, **fields: object) -> None:
    """An intruder who knows the hash: one row gets other fields, it and the rows after it are hashed anew."""
    with LedgerReader(path) as reader:
        rows = reader.rows()
    previous = rows[seq].previous_hash
    statements = []
    for row in rows[seq:]:
        if row.seq == seq:
            row = replace(row, **fields)
        elif not rehash_the_rest:
            break
        row = replace(row, previous_hash=previous)
        previous = row.computed_hash()
        statements.append(
            f"UPDATE entries SET kind = '{row.kind}', amount_micro = {row.amount_micro}, time_seconds = {row.time_seconds}, "
            f"previous_hash = x'{row.previous_hash.hex()}', hash = x'{previous.hex()}' WHERE seq = {row.seq}"
        )
    if rehash_the_rest:
        statements.append(f"UPDATE heads SET hash = x'{previous.hex()}' WHERE chain = 'entries'")
    tamper(path, *statements, *totals)


def test_a_row_that_was_rehashed_alone_is_found_by_its_successor(path: Path) -> None:
    forge(path, 4, rehash_the_rest=False, time_seconds=1)
    assert_stays_closed(path)


def test_a_chain_that_was_rehashed_whole_still_has_to_follow_the_rules(path: Path) -> None:
    """Where an intruder can rewrite everything consistently, only the anchor on chain can tell."""
    forge(path, 4, time_seconds=1)
    Ledger(path).close()


def test_a_cheaper_charge_is_found_in_a_chain_that_was_rehashed_whole(path: Path) -> None:
    # The last charge before the commit costs 1 instead of 100; every total is adjusted to it.
    forge(
        path,
        5,
        "UPDATE budgets SET spent_micro = 301, reserved_micro = 99 WHERE dataset_id = 7",
        amount_micro=1,
    )
    assert_stays_closed(path)


def test_a_release_after_a_charge_is_found_in_a_chain_that_was_rehashed_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.register_dataset(7, 1_000, 6)
        ledger.reserve(7, JOB, 100, 4, SPEC)
        ledger.reserve(7, OTHER_JOB, 100, 4, SPEC)
        ledger.charge(7, JOB, 0, 0)
        ledger.commit(7, JOB)
    # The commit of what was left becomes a release of all, paid from the other leg's reservation.
    forge(
        path,
        4,
        "UPDATE budgets SET spent_micro = 100, reserved_micro = 300 WHERE dataset_id = 7",
        f"UPDATE legs SET state = 'released' WHERE job_id = x'{JOB.hex()}'",
        kind=Kind.RELEASE,
        amount_micro=400,
    )
    assert_stays_closed(path)


def test_the_file_refuses_changes_through_sql_by_mistake(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "DELETE FROM entries",
            "UPDATE entries SET amount_micro = 0",
            "DELETE FROM usage_records",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look like one" * 40, b"SQLite"]
)
def test_a_file_that_is_no_ledger_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    assert_stays_closed(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_not_taken_for_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    assert_stays_closed(path)


def test_a_torn_page_is_found(path: Path) -> None:
    content = path.read_bytes()
    damaged = path.with_name("damaged.sqlite")
    found = 0
    for start in range(4096, len(content), 4096):
        torn = bytearray(content)
        torn[start : start + 4096] = bytes(4096)
        damaged.write_bytes(torn)
        try:
            LedgerReader(damaged).close()
        except LedgerCorrupt:
            found += 1
    assert found >= 8, "the pages of the tables with rows are all checked"


def test_there_is_nothing_to_read_where_there_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerCorrupt):
        LedgerReader(tmp_path / "missing.sqlite")
    assert not (tmp_path / "missing.sqlite").exists()
