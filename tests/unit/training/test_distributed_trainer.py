"""What the shipped trainer sends with `distributed` noise: the clipped sum, and a share of noise of the planned variance."""

from __future__ import annotations

import csv
import json
import math
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, Clipping, LocalOptimizer
from usufruct.errors import InvalidInput
from usufruct.privacy import DistributedPlan, IntegerNoise, LocalPlan, open_sum
from usufruct_server.holder.training.block import VALUE_BYTES, SharedBlock
from usufruct_server.holder.training.card_data import load_card_data
from usufruct_server.holder.training.child import bounded_sum
from usufruct_server.holder.training.dpsgd import sum_over_sample
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.messages import TrainerTask, task_from_header, task_to_header
from usufruct_server.holder.training.per_sample import STABILITY, ClippedSum
from usufruct_server.holder.training.released import Release
from usufruct_server.holder.training.step_sum import StepSum
from usufruct_server.holder.training.trainer import Trainer
from usufruct_server.holder.training.zygote import Zygote

WIDTH, ROWS = 63, 30
CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=tuple(Column(f"x{i}", "number", -1.0, 1.0, missing="midpoint") for i in range(WIDTH)),
    label=Label("y", (("0",), ("1",))),
    person_column=None,
    nominal_size=ROWS,
)
with torch.random.fork_rng():
    torch.manual_seed(0)
    MODULE = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 1))
TRACED = graph.trace(MODULE, (WIDTH,))
COUNT = TRACED.bounds.parameters
WEIGHTS = graph.pack_vector(TRACED.graph, graph.vector_from_model(MODULE, TRACED))
PLAN = DistributedPlan(
    sample_rate=1.0,
    max_grad_norm_micro=500_000,
    parameter_count=COUNT,
    holders=4,
    min_honest=3,
    max_colluding=1,
    noise=IntegerNoise(scale_micro=2_000 * 10**6, share_noise=250_000, clamp=60_000),
    rounds=10,
    spare_attempts=0,
    micro_batch_size=16,
    nominal_size=ROWS,
    order=6,
    delta=1e-5,
)
LOCAL = LocalPlan(1.0, 0.5, 1.0, 1, 5, 1, 16, ROWS, 6, 1e-5)
NOISE_ALONE = math.sqrt(PLAN.noise.share_noise) / PLAN.scale
"""Standard deviation of one share's noise in a coordinate of the sum."""


def write(path: Path, rows: int) -> Path:
    drawn = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(WIDTH)), "y"])
        for row in range(rows):
            writer.writerow([*drawn.uniform(-1, 1, WIDTH).round(3), row % 2])
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TrainerTask:
    path = write(tmp_path_factory.mktemp("data") / "rows.csv", ROWS)
    optimizer = LocalOptimizer("sgd", NANO)
    return TrainerTask(
        CARD, path, TRACED.graph, PLAN, "binary_cross_entropy_with_logits", optimizer, 0.0, 0.0, 0
    )


@pytest.fixture(scope="module")
def trainer(zygote: Zygote, task: TrainerTask) -> Iterator[Trainer]:
    with zygote.spawn() as trainer:
        yield trainer


def shares(trainer: Trainer, seed: bytes, count: int, first: int = 1) -> np.ndarray:
    """Integers of several attempts, shape (count, dimension)."""
    runs = []
    for attempt in range(first, first + count):
        block = SharedBlock(max(len(WEIGHTS), VALUE_BYTES * PLAN.dimension))
        block.write(0, memoryview(WEIGHTS))
        trainer.check_weights(block, len(WEIGHTS), 1, attempt, 120)
        runs.append(block.values(0, trainer.run(1, attempt, 120, seed)))
        block.close()
    return np.array(runs, dtype=np.int64)


def test_the_plan_crosses_the_socket_unchanged(task: TrainerTask) -> None:
    assert task_from_header(task_to_header(task)) == task


def test_the_noise_of_the_opened_sum_has_the_planned_variance(trainer: Trainer, task: TrainerTask) -> None:
    """All rows are in every sample, so two attempts of the same weights differ by noise and dither alone. Shares of
    ``min_honest`` holders are opened, less as many others: twice the variance that is counted, plus at most 1/4 step² of
    dither a share, 10^-6 of the noise. 24 differences of some 4,000 coordinates: the estimate of the deviation errs by
    1/sqrt(2n) of itself, n = 12 * 2 * coordinates; the bound is six times that, the mean's too: a false alarm once in 10^8
    runs. Noise that is 2 % off, of one share fewer or more, or repeated, is found."""
    trainer.start(task)
    seed, honest = secrets.token_bytes(32), PLAN.min_honest
    runs = shares(trainer, seed, 12 * 2 * honest).reshape(12, 2, honest, PLAN.dimension).sum(axis=2)
    opened = np.array([[open_sum(total, PLAN, seed) for total in pair] for pair in runs])
    difference = (opened[:, 0] - opened[:, 1]).reshape(-1)
    planned = PLAN.noise_multiplier * PLAN.max_grad_norm * math.sqrt(2)
    n = difference.size
    assert abs(difference.std() / planned - 1) < 6 / math.sqrt(2 * n)
    assert abs(difference.mean()) < 6 * planned / math.sqrt(n)
    fewer = math.sqrt(PLAN.noise.share_noise * (honest - 1)) / PLAN.scale * math.sqrt(2)
    assert abs(difference.std() / fewer - 1) > 60 / math.sqrt(2 * n), "the test can tell a missing share"


def test_the_opened_sum_is_the_clipped_sum_of_the_rows(trainer: Trainer, task: TrainerTask) -> None:
    """The mean of 40 shares against the sum by plain autograd, at most six deviations of that mean off in any of some 4,000
    coordinates: a false alarm once in 10^5 runs."""
    trainer.start(task)
    seed = secrets.token_bytes(32)
    mean = open_sum(shares(trainer, seed, 40).sum(axis=0), PLAN, seed) / 40
    expected = clipped_by_hand(task)
    assert np.abs(mean - expected).max() < 6 * NOISE_ALONE / math.sqrt(40)
    assert np.linalg.norm(expected) > 10 * NOISE_ALONE, "the test can tell the sum from nothing"


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize(
    "plan", [replace(PLAN, max_grad_norm_micro=50 * 10**6), replace(LOCAL, max_grad_norm=50.0)]
)
def test_the_trainer_clips_as_its_plan_says(
    task: TrainerTask, plan: DistributedPlan | LocalPlan, clipping: Clipping
) -> None:
    """All rows are in the sample. The norm is so wide that flat clipping leaves the gradients as they are."""
    asked = replace(task, plan=replace(plan, clipping=clipping))
    told = task_from_header(json.loads(json.dumps(task_to_header(asked))))
    assert told == asked
    assert told.plan.clipping is clipping
    clipped_sum = bounded_sum(told)
    assert isinstance(clipped_sum, ClippedSum)
    clipped_sum.load(graph.weights_in(clipped_sum.module, memoryview(bytearray(WEIGHTS))))
    got = sum_over_sample(clipped_sum, load_card_data(told.data_path, told.card), told.plan)
    want = clipped_by_hand(told)
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)


def test_attempts_of_one_rotation_share_neither_dither_nor_noise(trainer: Trainer, task: TrainerTask) -> None:
    trainer.start(task)
    first, second = shares(trainer, bytes(32), 2)
    assert np.mean(first == second) < 0.01


def test_a_holder_without_rows_sends_a_share_like_any_other(
    trainer: Trainer, task: TrainerTask, tmp_path: Path
) -> None:
    """Deviation of one share over some 4,000 coordinates within six of its errors."""
    trainer.start(replace(task, data_path=write(tmp_path / "none.csv", 0)))
    (share,) = shares(trainer, bytes(32), 1)
    assert abs(share.std() / math.sqrt(PLAN.noise.share_noise) - 1) < 6 / math.sqrt(2 * share.size)


def test_a_sum_that_is_not_finite_is_sent_as_noise(
    monkeypatch: pytest.MonkeyPatch, task: TrainerTask
) -> None:
    """Nothing is known to bring one about, so the sum is made so here; after the charge it must not be told by a failure."""

    def whole(*arguments: Any) -> np.ndarray:
        return np.concatenate([*Release(arguments[0], COUNT).integers(*arguments[1:])])

    clipped_sum = ClippedSum(graph.rebuild(TRACED.graph), LOSSES["binary_cross_entropy_with_logits"])
    data = PreparedData(np.zeros((ROWS, WIDTH), dtype=np.float32), np.zeros(ROWS, dtype=np.int64))
    for value in (math.nan, math.inf):
        monkeypatch.setattr(StepSum, "_pieces", lambda _, value=value: iter([np.full(COUNT, value)]))
        share = whole(task, clipped_sum, data, bytes(32))
        assert abs(share.std() / math.sqrt(PLAN.noise.share_noise) - 1) < 6 / math.sqrt(2 * share.size)
        local = replace(task, plan=LOCAL, weight=1.0, update_range=1.0, value_bits=16)
        assert whole(local, clipped_sum, data, b"").std() > 100


def test_a_plan_that_is_not_of_this_model_is_refused_before_any_charge(
    trainer: Trainer, task: TrainerTask
) -> None:
    other = replace(PLAN, parameter_count=COUNT - 1)
    coarse = replace(LOCAL, noise_multiplier=10_000.0)
    for plan in (other, coarse):
        with pytest.raises(InvalidInput) as caught:
            trainer.start(replace(task, plan=plan, weight=1.0, update_range=1.0, value_bits=16))
        assert caught.value.reason == "SPEC_INVALID"
    trainer.start(task)


def clipped_by_hand(task: TrainerTask) -> np.ndarray:
    """Sum of clipped gradients over all rows by plain autograd, a row at a time."""
    module = graph.rebuild(TRACED.graph)
    graph.load_weights(module, WEIGHTS)
    module.double()
    parameters, total = list(module.parameters()), np.zeros(COUNT)
    with task.data_path.open() as file:
        rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    for *features, label in rows:
        # The card's bounds are -1 and 1, which a row's numbers are scaled to; they are stored as float32.
        row = torch.tensor([features], dtype=torch.float32).double()
        loss = nn.functional.binary_cross_entropy_with_logits(module(row)[0, 0], torch.tensor(label).double())
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).numpy()
        norm, bound = np.linalg.norm(gradient), task.plan.clip_norm
        if task.plan.clipping is Clipping.AUTOMATIC:
            total += gradient * bound / (norm + STABILITY)
        else:
            total += gradient * min(1.0, bound / norm)
    return total
