"""A round with `distributed` noise against a real aggregator: only the sum is opened, and it is one step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from round_world import RoundWorld
from torch import nn

from usufruct.domain.training_job import NANO, LocalOptimizer, NoiseMode, TrainingPlan
from usufruct.encryption import SignedSums, plan
from usufruct.errors import RoundFailed
from usufruct.privacy import distributed_plan_of, value_count

PLAN = TrainingPlan(
    NoiseMode.DISTRIBUTED, 3, 2, 1, NANO // 2, 10**6, 0, 10**7, 64, min_honest=2, max_colluding=1,
    scale_micro=10_000 * 10**6, share_noise=40_000, clamp=200_000,
)  # fmt: skip
INPUTS = 3_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RoundWorld]:
    running = RoundWorld(tmp_path, nn.Linear(INPUTS, 1), INPUTS)
    running.let(
        plan=PLAN,
        optimizer=LocalOptimizer("sgd", NANO // 4),
        encryption=replace(
            running.spec.encryption,
            parameters=plan(SignedSums(22), 3).name,
            value_bits=0,
            update_range_nano=0,
        ),
    )
    yield running
    running.stop()


def test_the_opened_sum_is_a_step_along_the_holders_sums(world: RoundWorld) -> None:
    """Off by the noise of three shares and their dither, at most six deviations in any of 3,001 coordinates: a false alarm
    once in 10^5 runs."""
    assert value_count(world.spec) > world.count == INPUTS + 1
    sums = [holder.update for holder in world.holders.values()]
    _, opened = world.run()
    batch = 3 * 50.0
    step = -0.25 * np.sum(sums, axis=0) / batch
    deviation = 0.25 / batch * math.sqrt(3 * (PLAN.share_noise + 0.25)) / 10_000
    error = opened.update - step
    assert opened.update.shape == (world.count,)
    assert np.abs(error).max() < 6 * deviation
    assert np.abs(step).max() > 20 * deviation, "the test can tell the step from nothing"
    assert abs(error.std() / deviation - 1) < 6 / math.sqrt(2 * world.count)


def test_no_round_goes_on_without_a_holder_whose_share_is_counted(world: RoundWorld) -> None:
    world.holders[8].refusal = RoundFailed(reason="TRAINER_FAILED")
    attempt, error = world.failure()
    assert error.reason == "TRAINER_FAILED"
    assert attempt.view is None and not attempt.key.used
    assert not any(holder.views for holder in world.holders.values())


def test_every_holder_rotates_by_the_same_signs_and_every_attempt_by_others(world: RoundWorld) -> None:
    driver = world.driver()
    seeds = set()
    for number in (1, 2):
        attempt = driver.prepare(1, number, world.vector)
        driver.run(attempt, lambda dataset_id, event: None)
        driver.forget(attempt)
        seeds.add(attempt.offer.rotation_seed)
    assert len(seeds) == 2
    assert all(
        distributed_plan_of(world.spec, number).dimension == value_count(world.spec) for number in (3, 5, 8)
    )
