"""An update leaves its trainer at the end of a slot that was there before any row; what rows take is not to be seen."""

from __future__ import annotations

import csv
import dataclasses
import logging
import mmap
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training import child, dpsgd
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.messages import TrainerTask, send, task_to_header
from usufruct_server.holder.training.per_sample import ClippedSum, Part
from usufruct_server.holder.training.time_slot import (
    LEAST_SECONDS,
    MARGIN,
    TICK_SECONDS,
    Clock,
    RowTime,
    TimeSlots,
    slot_seconds,
)
from usufruct_server.holder.training.trainer import Trainer

WIDTH = 2
CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=tuple(Column(f"x{i}", "number", -3, 3) for i in range(WIDTH)),
    label=Label("y", (("0",), ("1",))),
    person_column=None,
    nominal_size=40,
)
PLAN = LocalPlan(
    sample_rate=1.0,
    max_grad_norm=1.0,
    noise_multiplier=1.0,
    local_steps=2,
    rounds=5,
    spare_attempts=1,
    micro_batch_size=16,
    nominal_size=40,
    order=6,
    delta=1e-5,
)
MODEL = graph.trace(nn.Linear(WIDTH, 1), (WIDTH,)).graph


class SetClock(Clock):
    """A clock that stands still unless somebody works or sleeps."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds * 0.75 + 0.01  # may wake early, as the system may


@dataclasses.dataclass
class Work:
    """How long a micro-batch takes, before the sum and in it, and a draw of noise."""

    clock: SetClock
    before: float = 0.0
    in_sum: float = 0.0
    noise: float = 0.0


class WorkingSum(ClippedSum):
    """The real one, which takes as long as it is told."""

    work: Work

    def part(self, *arguments: Any) -> Part:
        part = super().part(*arguments)
        self.work.clock.time += self.work.before

        def make() -> Iterator[torch.Tensor]:
            self.work.clock.time += self.work.in_sum
            yield from part.pieces()

        return Part(make, 0)  # small enough to be kept until the chunks are made


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work(SetClock(), before=1.0, in_sum=0.5, noise=7.0)
    noised = dpsgd.noised_sum

    def working(*arguments: Any) -> np.ndarray:
        work.clock.time += work.noise
        return noised(*arguments)

    def bounded_sum(task: TrainerTask) -> WorkingSum:
        assert task.graph is not None
        made = WorkingSum(graph.rebuild(task.graph), LOSSES[task.loss])
        made.work = work
        return made

    monkeypatch.setattr(dpsgd, "noised_sum", working)
    monkeypatch.setattr(child, "bounded_sum", bounded_sum)
    return work


def session(work: Work, folder: Path, rows: int) -> child.Session:
    """A leg of a holder with so many rows."""
    path = folder / f"{rows}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x0", "x1", "y"])
        writer.writerows([row % 3, -1, row % 2] for row in range(rows))
    task = TrainerTask(
        CARD, path, MODEL, PLAN, "binary_cross_entropy_with_logits", LocalOptimizer("sgd", NANO // 10), 1.0, 1.0, 16
    )  # fmt: skip
    return child.Session(task_to_header(task), work.clock)


def run(leg: child.Session) -> tuple[float, int]:
    """One attempt: how long it takes, and by how many slots it is late."""
    weights = graph.pack_vector(MODEL, np.zeros(WIDTH + 1, dtype=np.float32))
    block = mmap.mmap(-1, 1 << 16)
    block[: len(weights)] = weights
    leg.load(block, {"round": 1, "attempt": 1, "weights_bytes": len(weights)})
    started = leg.clock.now()
    answer = leg.run({"round": 1, "attempt": 1, "rotation_seed": ""})
    assert answer["values"] == WIDTH + 1
    return leg.clock.now() - started, answer["late_slots"]


MICRO_BATCHES = dpsgd.micro_batches(PLAN)
STEP = MICRO_BATCHES * (1.0 + 0.5)
SLOT = slot_seconds(STEP)
NOISE = 2 * 7.0


def test_a_slot_is_rehearsed_on_made_up_rows_whatever_the_holder_has(work: Work, tmp_path: Path) -> None:
    slots = [session(work, tmp_path, rows).slots for rows in (0, 1, 40)]
    assert slots == [TimeSlots(SLOT, 2)] * 3
    assert STEP * MARGIN <= SLOT <= STEP * MARGIN * 1.125


@pytest.mark.parametrize("rows", [0, 1, 40])
@pytest.mark.parametrize(("before", "in_sum"), [(0.0, 0.0), (1.0, 0.5), (0.1, 1.4), (1.2, 0.6)])
def test_an_attempt_within_its_slot_takes_the_same_whatever_its_rows_do(
    work: Work, tmp_path: Path, rows: int, before: float, in_sum: float
) -> None:
    leg = session(work, tmp_path, rows)
    work.before, work.in_sum = before, in_sum
    took, late = run(leg)
    assert late == 0
    assert 2 * SLOT + NOISE <= took < 2 * SLOT + NOISE + 0.02


@pytest.mark.parametrize("times", [1.5, 2.2, 3.7])
def test_an_attempt_that_overruns_leaves_at_the_end_of_a_later_slot(
    work: Work, tmp_path: Path, times: float
) -> None:
    """Never earlier, never with an error; and it tells which slot and nothing finer."""
    leg = session(work, tmp_path, 40)
    taken = []
    for a_little in (0.0, 0.01):
        work.before, work.in_sum = times * 1.0 + a_little, times * 0.5
        took, late = run(leg)
        assert late >= 1
        assert (2 + late - 1) * SLOT < 2 * (times * STEP + MICRO_BATCHES * a_little) <= (2 + late) * SLOT
        assert (2 + late) * SLOT + NOISE <= took < (2 + late) * SLOT + NOISE + 0.02
        taken.append(late)
    assert taken[0] == taken[1]


def test_how_long_the_noise_takes_is_not_taken_for_the_rows(work: Work, tmp_path: Path) -> None:
    leg = session(work, tmp_path, 40)
    work.noise = 500.0
    took, late = run(leg)
    assert late == 0
    assert 2 * SLOT + 1000.0 <= took < 2 * SLOT + 1000.02


def test_an_answer_leaves_whole_ticks_after_its_attempt_began(work: Work, tmp_path: Path) -> None:
    """What draws take by the values drawn is not to be seen in the time."""
    leg, taken = session(work, tmp_path, 40), set()
    for draws in (7.0001, 7.0002, 7.0004):
        work.noise = draws
        leg.clock.sleep = lambda seconds: setattr(work.clock, "time", work.clock.time + seconds)  # type: ignore[method-assign]
        taken.add(round(run(leg)[0], 6))
    assert len(taken) == 1
    assert (taken.pop() / TICK_SECONDS) % 1 == pytest.approx(0, abs=1e-6)


def test_a_moment_without_the_processor_makes_no_short_attempt_late() -> None:
    clock = SetClock()
    for spent in (0.0, LEAST_SECONDS / 2, LEAST_SECONDS):
        row_time = RowTime(clock, spent)
        assert TimeSlots(LEAST_SECONDS / 50, 3).wait(row_time) == 0
        assert row_time.seconds >= LEAST_SECONDS
    assert TimeSlots(LEAST_SECONDS / 50, 3).wait(RowTime(clock, LEAST_SECONDS * 1.01)) == 48


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.9, 1.0, 100.0])
def test_a_slot_is_a_round_number_above_the_margin(seconds: float) -> None:
    slot = slot_seconds(seconds)
    assert MARGIN * seconds <= slot <= max(1e-8, MARGIN * seconds * 1.13)
    mantissa = float(np.frexp(slot)[0]) * 16
    assert mantissa == int(mantissa)


def test_the_holder_is_told_of_an_attempt_that_is_late(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    trainer = Trainer(ours, tmp_path / "scratch", lambda: False)
    caplog.set_level(logging.WARNING)
    with theirs:
        send(theirs, {"answer": "ready", "pid": 1})
        for attempt, late in ((1, 0), (2, 3)):
            send(
                theirs, {"answer": "update", "values": 5, "late_slots": late, "round": 1, "attempt": attempt}
            )
            assert trainer.run(1, attempt, 10) == 5
    (record,) = caplog.records
    assert "event=slot_overrun" in record.getMessage()
    assert "attempt=2 slots=3" in record.getMessage()
