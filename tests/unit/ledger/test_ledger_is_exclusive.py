"""Two servers cannot open one ledger; readers can; a dead server's lock is gone; a fork cannot write."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from usufruct_server.holder.ledger import (
    AttemptAlreadyCharged,
    Ledger,
    LedgerLocked,
    LedgerReader,
    LedgerWriteFailed,
)

JOB, SPEC = b"j" * 32, b"s" * 32


def in_a_child(work: Callable[[], str]) -> tuple[int, str]:
    """Run ``work`` in a forked process, which then stays alive; returns its pid and its answer."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work().encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    answer = os.read(reading, 4096).decode()
    os.close(reading)
    return pid, answer


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_opening_is_refused_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path):
        with pytest.raises(LedgerLocked, match=f"process {os.getpid()}"):
            Ledger(path)
        with LedgerReader(path) as reader:
            assert reader.rows() == ()
    Ledger(path).close()


def test_another_process_keeps_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"

    held: list[Ledger] = []

    def hold() -> str:
        held.append(Ledger(path))
        return "open"

    pid, answer = in_a_child(hold)
    try:
        assert answer == "open"
        with pytest.raises(LedgerLocked, match=f"process {pid}") as refused:
            Ledger(path)
        assert refused.value.reason == "LEDGER_LOCKED"
    finally:
        end(pid)
    Ledger(path).close()


def test_a_forked_copy_of_the_server_cannot_write(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.register_dataset(7, 1_000, 6)
        ledger.reserve(7, JOB, 100, 4, SPEC)

        def charge() -> str:
            try:
                ledger.charge(7, JOB, 0, 0)
            except LedgerWriteFailed:
                return "refused"
            return "charged"

        pid, answer = in_a_child(charge)
        try:
            assert answer == "refused"
        finally:
            end(pid)
        assert ledger.budget(7).spent_micro == 0


def test_threads_charge_one_attempt_once(tmp_path: Path) -> None:
    outcomes: list[str] = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.register_dataset(7, 1_000, 6)
        ledger.reserve(7, JOB, 10, 50, SPEC)
        start = threading.Barrier(8)

        def charge() -> None:
            start.wait()
            for round_ in range(5):
                try:
                    ledger.charge(7, JOB, round_, 0)
                    outcomes.append("charged")
                except AttemptAlreadyCharged:
                    outcomes.append("refused")

        threads = [threading.Thread(target=charge) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["charged"] * 5 + ["refused"] * 35
        assert ledger.budget(7).spent_micro == 50


def test_the_file_and_what_belongs_to_it_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path):
        for name in ("ledger.sqlite", "ledger.sqlite.lock", "ledger.sqlite.outbox"):
            assert (tmp_path / name).stat().st_mode & 0o077 == 0, name


def test_the_disk_is_asked_to_keep_every_commit(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert ledger._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_after_a_failed_write_nothing_is_charged_until_the_ledger_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.register_dataset(7, 1_000, 6)
        ledger.reserve(7, JOB, 100, 4, SPEC)
        ledger.charge(7, JOB, 0, 0)
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerWriteFailed, match="Nothing may be drawn"):
            ledger.append_usage_record(bytes(1 << 20))
        with pytest.raises(LedgerWriteFailed, match="Restart"):
            ledger.charge(7, JOB, 1, 0)
    with Ledger(path) as ledger:
        assert ledger.budget(7).spent_micro == 100
        assert ledger.usage_count() == 0
        ledger.charge(7, JOB, 1, 0)
