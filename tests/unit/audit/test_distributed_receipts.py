"""A receipt of `distributed` noise carries all that its loss can be recomputed from, and every figure is checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from usufruct.audit.receipt_checks import check_figures, recomputed_micro
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
)
from usufruct.domain.training_job import NANO
from usufruct.privacy import DistributedPlan, IntegerNoise

PLAN = DistributedPlan(
    sample_rate=100_000_000 / NANO,
    max_grad_norm_micro=1_250_000,
    parameter_count=39_700,
    holders=10,
    min_honest=7,
    max_colluding=3,
    noise=IntegerNoise(scale_micro=2_565_000_000, share_noise=4_854_000, clamp=203_000),
    rounds=18,
    spare_attempts=2,
    micro_batch_size=64,
    nominal_size=6000,
    order=6,
    delta=1e-5,
)


def receipt_of(plan: DistributedPlan, attempts_charged: int) -> LegReceipt:
    mechanism = plan.mechanism
    return LegReceipt(
        version=RECEIPT_VERSION,
        accountant_version=ACCOUNTANT_VERSION,
        fencing_epoch=1,
        leg_id=bytes(32),
        job_id=bytes(32),
        dataset_id=1,
        spec_hash=bytes(32),
        grant_hash=bytes(32),
        mechanism=MechanismKind.SUBSAMPLED_SKELLAM,
        neighbouring=NeighbouringRelation.ADD_OR_REMOVE_ONE,
        rounding=Rounding.DITHERED_BEFORE_NOISE,
        order=plan.order,
        min_honest=plan.min_honest,
        max_colluding=plan.max_colluding,
        steps_per_attempt=1,
        attempts_reserved=plan.attempts,
        attempts_charged=attempts_charged,
        rounds_done=min(plan.rounds, attempts_charged),
        dimension=plan.parameter_count,
        sample_rate_nano=round(plan.sample_rate * NANO),
        clip_norm_micro=plan.max_grad_norm_micro,
        noise_multiplier_micro=0,
        scale_micro=plan.noise.scale_micro,
        delta_two_micro=mechanism.delta_two_micro,
        delta_one_micro=mechanism.delta_one_micro,
        share_noise_micro=plan.noise.share_noise * 10**6,
        loss_micro=attempts_charged * plan.loss_per_attempt_micro,
        usage_head=bytes(32),
        updates_hash=bytes(32),
        started_seconds=1,
        ended_seconds=2,
    )


RECEIPT = receipt_of(PLAN, 19)


def test_an_honest_receipt_is_not_suspected() -> None:
    assert list(check_figures(RECEIPT, PLAN.reservation_micro)) == []
    recomputed = recomputed_micro(RECEIPT)
    assert recomputed <= PLAN.loss_per_attempt_micro <= recomputed + 1


@pytest.mark.parametrize(
    "change",
    [
        {"min_honest": 8},
        {"min_honest": 6},
        {"sample_rate_nano": 99_000_000},
        {"share_noise_micro": 4_855_000 * 10**6},
        {"scale_micro": 2_564_000_000},
        {"clip_norm_micro": 1_249_000},
        {"order": 7},
        {"attempts_reserved": 19},
        {"loss_micro": 18 * PLAN.loss_per_attempt_micro},
        {"loss_micro": 20 * PLAN.loss_per_attempt_micro + 1},
        {"mechanism": MechanismKind.SUBSAMPLED_GAUSSIAN},
        {"mechanism": 3},
    ],
)
def test_a_figure_that_would_cost_otherwise_is_found(change: dict[str, int]) -> None:
    rules = {rule for rule, _ in check_figures(replace(RECEIPT, **change), PLAN.reservation_micro)}
    assert "receipt-loss" in rules


@pytest.mark.parametrize(
    "change",
    [
        {"rounding": Rounding.AFTER_NOISE},
        {"noise_multiplier_micro": 1},
        {"steps_per_attempt": 2},
        {"max_colluding": 0},
        {"min_honest": 0},
        {"delta_two_micro": RECEIPT.delta_two_micro - 1},
        {"delta_two_micro": RECEIPT.delta_two_micro + 1},
        {"delta_one_micro": RECEIPT.delta_one_micro - 1},
        {"share_noise_micro": RECEIPT.share_noise_micro + 1},
        {"sample_rate_nano": NANO + 1},
        {"mechanism": MechanismKind.SUBSAMPLED_GAUSSIAN},
        {"attempts_charged": 21},
    ],
)
def test_a_form_that_is_no_distributed_noise_is_found(change: dict[str, int]) -> None:
    rules = {rule for rule, _ in check_figures(replace(RECEIPT, **change), PLAN.reservation_micro)}
    assert "receipt-form" in rules


@pytest.mark.parametrize(
    "field", ["min_honest", "scale_micro", "clip_norm_micro", "share_noise_micro", "order"]
)
@pytest.mark.parametrize("value", [0, 1, 2**62])
def test_hostile_figures_end_in_findings_and_not_in_a_crash(field: str, value: int) -> None:
    assert list(check_figures(replace(RECEIPT, **{field: value}), PLAN.reservation_micro))
