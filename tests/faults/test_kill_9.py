"""`kill -9` of every process in the middle of a round: who died is said within ten seconds, resume finishes the job, and
every draw of noise is in the ledgers, the usage logs and the receipts."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killed_network import (
    MESSAGE_SECONDS,
    VICTIM,
    VICTIM_DATASET,
    AtCharge,
    assert_every_draw_is_counted,
    ledger_path,
    open_job,
    read_ledgers,
    trainer_pid,
    wait_until,
)

import usufruct as uf
from usufruct.builder import JobHandle
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import UsufructError
from usufruct_server.demo.network import AGGREGATOR, CHAIN, LocalNetwork
from usufruct_server.holder.ledger import LedgerReader

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]


def error_after(
    local: LocalNetwork, job: JobHandle, attempt: int, action: Callable[[], object]
) -> UsufructError:
    """Acts when ``attempt`` is charged everywhere; the job must say in time that something is wrong."""
    with AtCharge(local, job.spec.job_id, attempt, action) as death, pytest.raises(UsufructError) as caught:
        job.run()
    seconds = time.monotonic() - death.time
    print(f"said after {seconds:.2f} s: {caught.value}")
    assert seconds < MESSAGE_SECONDS
    return caught.value


def test_a_holder(local: LocalNetwork) -> None:
    """Between charge and upload: the charge was on disk before the noise, so the restarted holder counts the attempt."""
    job = open_job(local)
    error = error_after(local, job, 2, lambda: local.kill(VICTIM))
    job.close()
    assert error.reason == "PEER_UNREACHABLE"
    assert f"dataset {VICTIM_DATASET}" in error.message
    assert local.places[VICTIM].endpoint in error.message
    dead = read_ledgers(local, job.spec.job_id)[VICTIM_DATASET]
    assert dead.charged == ((1, 1), (2, 2))
    assert (2, 2) not in dead.attempts(UsageKind.SUBMITTED), "it died after the round, not in it"
    local.restart(VICTIM)
    with LedgerReader(ledger_path(local, VICTIM)) as ledger:
        assert ledger.leg(VICTIM_DATASET, job.spec.job_id).charged == 2
    assert read_ledgers(local, job.spec.job_id)[VICTIM_DATASET].attempts(UsageKind.LOST) == [(2, 2)]
    again = uf.resume(job.id).run()
    assert [result.attempt for result in again.history] == [1, 3, 4]
    assert_every_draw_is_counted(local, again, attempts_started=4)


def kill_trainer(local: LocalNetwork, job_id: bytes) -> None:
    """Of the victim."""
    os.kill(trainer_pid(local, VICTIM, job_id), signal.SIGKILL)


def test_a_holders_trainer(local: LocalNetwork, caplog: pytest.LogCaptureFixture) -> None:
    """The holder lives, so nothing has to be resumed: the attempt is given up, aloud, and the next one follows."""
    caplog.set_level(logging.WARNING, logger="usufruct.builder")
    job = open_job(local)
    job_id, wall_minus_monotonic = job.spec.job_id, time.time() - time.monotonic()
    with AtCharge(local, job_id, 2, lambda: kill_trainer(local, job_id)) as death:
        job.run()
    warnings = [record for record in caplog.records if "attempt 2" in record.getMessage()]
    assert len(warnings) == 1, (
        "a trainer that dies after the charge costs the attempt; was the noise drawn before it?"
    )
    said = warnings[0]
    seconds = said.created - wall_minus_monotonic - death.time
    print(f"said after {seconds:.2f} s: {said.getMessage()}")
    assert seconds < MESSAGE_SECONDS
    assert f"dataset {VICTIM_DATASET}" in said.getMessage()
    assert "trainer" in said.getMessage()
    assert [result.attempt for result in job.history] == [1, 3, 4]
    ledgers = read_ledgers(local, job_id)
    assert ledgers[VICTIM_DATASET].attempts(UsageKind.LOST) == [(2, 2)]
    assert (2, 2) in ledgers[VICTIM_DATASET].charged, "charged after the draw"
    assert_every_draw_is_counted(local, job, attempts_started=4)


def test_the_aggregator(local: LocalNetwork) -> None:
    job = open_job(local)
    error = error_after(local, job, 2, lambda: local.kill(AGGREGATOR))
    job.close()
    assert error.reason == "PEER_UNREACHABLE"
    assert "The aggregator" in error.message
    assert local.aggregator.partition("#")[0] in error.message
    local.restart(AGGREGATOR)
    again = uf.resume(job.id).run()
    assert [result.attempt for result in again.history] == [1, 3, 4]
    assert_every_draw_is_counted(local, again, attempts_started=4)


RESUMED_BUILDER = """
import sys, usufruct as uf
for result in uf.resume(sys.argv[1]):
    print("round", result.index, flush=True)
"""


def builder_process(*arguments: str) -> subprocess.Popen[str]:
    """A builder in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )


def test_the_builder_killed_and_then_interrupted(local: LocalNetwork, tmp_path: Path) -> None:
    """After the kill nobody is left to tell the builder: the holders say it in their logs, and finish what they charged.

    After Ctrl-C the command says itself how to go on.
    """
    job = open_job(local)
    job_id = job.spec.job_id
    job.close()
    process = builder_process("-c", RESUMED_BUILDER, job.id)
    with AtCharge(local, job_id, 2, process.kill) as death:
        rounds, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert rounds.split() == ["round", "1"], "it was killed in the second round"
    line = f"event=builder_gone job={job_id.hex()} dataset={VICTIM_DATASET} round=2 attempt=2"
    wait_until("the holder says that its builder is gone", lambda: line in holder_log(local))
    seconds = time.monotonic() - death.time
    print(f"said after {seconds:.2f} s: {line}")
    assert seconds < MESSAGE_SECONDS

    weights = tmp_path / "model.safetensors"
    process = builder_process("-m", "usufruct.cli", "builder", "resume", job.id, "--output", str(weights))
    with AtCharge(local, job_id, 3, lambda: process.send_signal(signal.SIGINT)) as interrupt:
        _, errors = process.communicate()
    seconds = time.monotonic() - interrupt.time
    print(f"said after {seconds:.2f} s: {errors}")
    assert seconds < MESSAGE_SECONDS
    assert process.returncode == 1
    assert "Interrupted after round 1 of 3" in errors
    assert f'uf.resume("{job.id}")' in errors
    assert "Traceback" not in errors
    assert not weights.exists()

    again = uf.resume(job.id)
    assert again.rounds_done == 1
    again.run()
    assert [result.attempt for result in again.history] == [1, 4, 5]
    assert_every_draw_is_counted(local, again, attempts_started=5)


def holder_log(local: LocalNetwork) -> str:
    """What the victim has logged so far."""
    return (local.logs / f"{VICTIM}.log").read_text(encoding="utf-8")


def test_when_the_spare_attempts_are_used_up_the_job_ends_early_and_says_so(
    local: LocalNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="usufruct.builder")
    job = open_job(local, rounds=2, spare_attempts=0)
    job_id = job.spec.job_id
    with AtCharge(local, job_id, 2, lambda: kill_trainer(local, job_id)):
        job.run()
    assert [result.attempt for result in job.history] == [1]
    assert (
        "All 2 attempts that were reserved have been used; the job ends after round 1 of 2."
        in job.ended_early
    )
    assert job.ended_early in caplog.text
    assert_every_draw_is_counted(local, job, attempts_started=2)


def test_the_audit_finds_nothing_wrong_after_all_this(local: LocalNetwork) -> None:
    command = ["audit", "verify", "--rpc", local.rpc_url, "--contract", local.compute_access]
    process = builder_process("-m", "usufruct.cli", *command)
    verdict, errors = process.communicate(timeout=MESSAGE_SECONDS * 6)
    assert process.returncode == 0, verdict + errors
    assert "Verified" in verdict


def test_the_chain(local: LocalNetwork, caplog: pytest.LogCaptureFixture) -> None:
    """Said while the round goes on, however long it takes: here a trainer stands still until the message has come.

    Last: the development chain lives in memory and cannot come back.
    """
    caplog.set_level(logging.WARNING, logger="usufruct.builder")
    job = open_job(local)
    job_id, said = job.spec.job_id, 0.0

    def kill_and_listen() -> None:
        nonlocal said
        local.kill(CHAIN)
        wait_until("the builder says that the chain is gone", lambda: "the chain at" in caplog.text)
        said = time.monotonic()

    with AtCharge(local, job_id, 2, kill_and_listen) as death, pytest.raises(UsufructError) as caught:
        job.run()
    job.close()
    print(f"said after {said - death.time:.2f} s: {caplog.messages}, then {caught.value}")
    assert said - death.time < MESSAGE_SECONDS
    assert local.rpc_url in caplog.text
    assert caught.value.reason == "CHAIN_UNREACHABLE"
    assert "chain" in caught.value.message
    assert job.rounds_done == 2, "the round that needed no chain was finished and kept"
    started = time.monotonic()
    with pytest.raises(UsufructError, match="chain") as caught:
        uf.resume(job.id)
    assert caught.value.reason == "CHAIN_UNREACHABLE"
    assert time.monotonic() - started < MESSAGE_SECONDS
