"""``kill -9`` at every point: the ledger opens again and counts everything that was confirmed.

A child process does a fixed list of operations, says over a pipe when it begins and when it has finished
each, and kills itself with SIGKILL at its n-th step, for every n. Steps are SQL statements (creation of the
file included), and every fsync and rename of the outbox.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from ledger_life import JOB, LOSS, OPERATIONS, SPEC, check

from usufruct_server.holder.ledger import Ledger, schema


class _Steps:
    """Counts steps in the child, and kills it at the chosen one."""

    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def __call__(self, *_: object) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def _child(path: Path, fatal: int, pipe: int) -> None:
    step = _Steps(fatal)
    connect, fsync, rename = sqlite3.connect, os.fsync, Path.rename

    def counted_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(step)
        return connection

    def counted_fsync(descriptor: int) -> None:
        step()
        fsync(descriptor)
        step()

    def counted_rename(source: Path, target: Path) -> Path:
        step()
        return rename(source, target)

    schema.sqlite3.connect = counted_connect  # type: ignore[attr-defined]
    os.fsync = counted_fsync
    Path.rename = counted_rename  # type: ignore[assignment, method-assign]
    ledger = Ledger(path)
    for name, operation in OPERATIONS:
        os.write(pipe, f"begin {name}\n".encode())
        operation(ledger)
        os.write(pipe, f"done {name}\n".encode())


def run_until_killed(path: Path, fatal: int) -> tuple[bool, list[str], list[str]]:
    """Whether the child was killed, and the operations it began and finished."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            _child(path, fatal, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    begun = [line.removeprefix("begin ") for line in lines if line.startswith("begin ")]
    return killed, begun, [line.removeprefix("done ") for line in lines if line.startswith("done ")]


def test_killed_at_every_statement_and_sync_nothing_is_undercounted(tmp_path: Path) -> None:
    fatal, points_in_charges = 0, 0
    while True:
        path = tmp_path / str(fatal) / "ledger.sqlite"
        path.parent.mkdir()
        killed, begun, done = run_until_killed(path, fatal)
        check_again = begun[len(done) :]
        points_in_charges += any(name.startswith("charge") for name in check_again)
        check(path, begun, done)
        if not killed:
            break
        fatal += 1
    assert len(done) == len(OPERATIONS)
    assert points_in_charges >= 10, "the charges were interrupted at several statements"
    assert fatal >= 60


def test_killed_from_outside_between_two_charges(tmp_path: Path) -> None:
    """A separate interpreter charges as fast as it can; the parent kills it after the k-th confirmation it
    reads."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.register_dataset(7, 10**9, 6)
        ledger.reserve(7, JOB, LOSS, 100_000, SPEC)
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from usufruct_server.holder.ledger import Ledger
        ledger = Ledger(Path(sys.argv[1]))
        for round_ in range(int(sys.argv[2]), 100_000):
            ledger.charge(7, b"j" * 32, round_, 0)
            print(round_, flush=True)
        """
    )
    confirmed = -1
    for confirmations in (1, 7, 20):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(confirmed + 1)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            assert child.stdout is not None
            for _ in range(confirmations):
                confirmed = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split("\n")
        assert child.returncode == -signal.SIGKILL
        confirmed = max([confirmed, *(int(line) for line in rest[:-1])])
        with Ledger(path) as ledger:
            charged = ledger.leg(7, JOB).charged
            assert confirmed + 1 <= charged <= confirmed + 2
            assert ledger.budget(7).spent_micro == charged * LOSS
            confirmed = charged - 1
