"""What is on disk survives a kill at any instant, and no attempt number is ever used twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from usufruct.builder.store import JobRecord, JobStore, home
from usufruct.errors import ConfigError, InvalidInput

JOB = bytes([7]) * 32
RECORD = JobRecord(
    "http://127.0.0.1:1", "0x" + "11" * 20, "builder.json", "0x" + "22" * 20, (("m0.weight", "0.weight"),)
)


def create() -> JobStore:
    return JobStore.create(JOB, b"spec", RECORD, b"weights 0", {"arbiter": None})


def test_a_job_is_found_again_as_it_was_left(home: Path) -> None:
    store = create()
    number, state = store.take_attempt(store.state())
    state = store.save_round(
        replace(state, rounds_done=1, attempts_charged={"3": 1}, roster=(3, 5)), b"weights 1"
    )
    store.unlock()
    again = JobStore.find("0x" + JOB.hex())
    assert (again.spec_bytes(), again.record(), again.state()) == (b"spec", RECORD, state)
    assert again.weights(again.state()) == b"weights 1"
    assert number == 1
    assert [path.name for path in again.directory.glob("weights*")] == ["weights-1.safetensors"]


def test_an_unknown_job_says_where_it_was_looked_for(home: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        JobStore.find(JOB)
    assert caught.value.reason == "JOB_UNKNOWN"
    assert str(home) in caught.value.message


def test_two_processes_cannot_drive_one_job(home: Path) -> None:
    store = create()
    with pytest.raises(ConfigError) as caught:
        JobStore.find(JOB).lock()
    assert caught.value.reason == "LEDGER_LOCKED"
    store.unlock()
    JobStore.find(JOB).lock()


def test_only_the_process_that_drives_the_job_may_write(home: Path) -> None:
    store = create()
    store.unlock()
    with pytest.raises(ConfigError):
        store.take_attempt(store.state())


def test_the_directory_holds_no_secret_and_is_private(home: Path) -> None:
    store = create()
    assert store.directory.stat().st_mode & 0o077 == 0
    assert b"passphrase" not in (store.directory / "job.json").read_bytes()


DRIVER = """
    import os, sys
    from dataclasses import replace
    from pathlib import Path
    from usufruct.builder import store as module

    store = module.JobStore.find(bytes([7]) * 32)
    store.lock()
    state, sent, steps = store.state(), open(sys.argv[1], "a"), int(sys.argv[2])

    def counted(name):
        true = getattr(os, name)
        def call(*arguments, **named):
            global steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), 9)
            return true(*arguments, **named)
        setattr(os, name, call)

    counted("fsync"), counted("open")
    replace_file, unlink = Path.replace, Path.unlink
    def counting(true):
        def call(*arguments, **named):
            global steps
            steps -= 1
            if steps == 0:
                os.kill(os.getpid(), 9)
            return true(*arguments, **named)
        return call
    Path.replace, Path.unlink = counting(replace_file), counting(unlink)

    number, state = store.take_attempt(state)
    print(number, file=sent, flush=True)  # what a holder would have been sent
    done = state.rounds_done + 1
    store.save_round(replace(state, rounds_done=done), f"weights {done}".encode())
"""


def test_kill_at_every_step_leaves_a_whole_checkpoint_and_reuses_no_attempt(
    home: Path, tmp_path: Path
) -> None:
    """One round per process, killed at its first, second, … system call that changes the disk."""
    create().unlock()
    sent, killed, completed = tmp_path / "sent", 0, 0
    sent.touch()
    for step in range(1, 40):
        before = JobStore.find(JOB).state()
        command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(sent), str(step)]
        result = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=60)
        after = JobStore.find(JOB)
        state = after.state()
        assert after.weights(state) == f"weights {state.rounds_done}".encode()
        assert state.rounds_done in (before.rounds_done, before.rounds_done + 1)
        numbers = [int(line) for line in sent.read_text().split()]
        assert len(set(numbers)) == len(numbers)
        assert all(number < state.next_attempt for number in numbers)
        if result.returncode == -signal.SIGKILL:
            killed += 1
        else:
            assert result.returncode == 0, result.stderr
            completed += 1
            if completed == 2:
                break
    assert killed >= 8
    assert completed == 2


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USUFRUCT_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("USUFRUCT_HOME")
    assert home() == Path.home() / ".usufruct"
