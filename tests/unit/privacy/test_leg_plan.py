"""A job spec's integers are the plan: whatever the accountant prices stands in them, and receipts are written from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from usufruct.audit.receipt_checks import check_figures
from usufruct.domain import ids
from usufruct.domain.leg_receipt import ACCOUNTANT_VERSION, RECEIPT_VERSION, LegReceipt
from usufruct.domain.training_job import (
    NANO,
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.privacy import (
    DistributedPlan,
    LocalPlan,
    MechanismInvalid,
    PlanInvalid,
    plan_of,
    receipt_figures,
    value_count,
)

ADDRESS = ids.address("0x" + "11" * 20, "test")
LOCAL = TrainingPlan(NoiseMode.LOCAL, 18, 2, 4, 10**8, 1_250_000, 1_500_000, 10**7, 64)
DISTRIBUTED = TrainingPlan(
    NoiseMode.DISTRIBUTED, 18, 2, 1, 10**8, 1_250_000, 0, 10**7, 64, min_honest=7, max_colluding=3,
    scale_micro=2_565_000_000, share_noise=4_854_000, clamp=203_000,
)  # fmt: skip


def spec_with(
    plan: TrainingPlan, parameter_count: int = 39_700, holders: int = 10, **terms: Any
) -> TrainingJobSpec:
    leg = replace(LegTerms(1, 1, bytes(32), 6000, ADDRESS, ADDRESS, 1, 6, 1, NANO), **terms)
    return TrainingJobSpec(
        chain_id=1, compute_access=ADDRESS, builder=ADDRESS, nonce=bytes(32), model_graph=b"g", loss="mse_loss",
        optimizer=LocalOptimizer("sgd", 10**9), plan=plan,
        legs=tuple(replace(leg, dataset_id=number, holder_id=number) for number in range(1, holders + 1)),
        encryption=EncryptionPlan("p", 0, 0, parameter_count), aggregator=AggregatorRef("a:1", bytes(32)),
        min_cohort=1, purpose="", deliver_by_seconds=1, round_timeout_seconds=60,
    )  # fmt: skip


def receipt_of(spec: TrainingJobSpec, charged: int) -> LegReceipt:
    loss_micro = charged * plan_of(spec, 1).loss_per_attempt_micro
    return LegReceipt(
        version=RECEIPT_VERSION, accountant_version=ACCOUNTANT_VERSION, fencing_epoch=1, leg_id=bytes(32), job_id=bytes(32),
        dataset_id=1, spec_hash=bytes(32), grant_hash=bytes(32), attempts_charged=charged, rounds_done=charged,
        loss_micro=loss_micro, usage_head=bytes(32), updates_hash=bytes(32), started_seconds=1, ended_seconds=2,
        **receipt_figures(spec, 1),
    )  # fmt: skip


@pytest.mark.parametrize("plan", [LOCAL, DISTRIBUTED])
def test_a_receipt_written_from_a_spec_is_what_the_auditor_recomputes(plan: TrainingPlan) -> None:
    spec = spec_with(plan)
    assert list(check_figures(receipt_of(spec, 17), plan_of(spec, 1).reservation_micro)) == []


@pytest.mark.parametrize(
    ("plan", "change"),
    [
        (LOCAL, {"sample_rate_nano": 100_100_000}),
        (LOCAL, {"noise_multiplier_micro": 1_499_000}),
        (LOCAL, {"local_steps": 5}),
        (DISTRIBUTED, {"sample_rate_nano": 100_100_000}),
        (DISTRIBUTED, {"max_grad_norm_micro": 1_251_000}),
        (DISTRIBUTED, {"scale_micro": 2_566_000_000}),
        (DISTRIBUTED, {"share_noise": 4_853_000}),
        (DISTRIBUTED, {"min_honest": 6}),
    ],
)
def test_no_figure_that_is_priced_can_change_unseen(plan: TrainingPlan, change: dict[str, int]) -> None:
    before, after = spec_with(plan), spec_with(replace(plan, **change))
    priced = plan_of(before, 1)
    assert plan_of(after, 1).loss_per_attempt_micro > priced.loss_per_attempt_micro
    claimed = replace(receipt_of(before, 5), **receipt_figures(after, 1))
    assert "receipt-loss" in {rule for rule, _ in check_figures(claimed, priced.reservation_micro)}


def test_the_number_of_parameters_and_the_order_are_priced_too() -> None:
    spec = spec_with(DISTRIBUTED)
    loss = plan_of(spec, 1).loss_per_attempt_micro
    assert plan_of(spec_with(DISTRIBUTED, 80_000), 1).loss_per_attempt_micro > loss
    assert plan_of(spec_with(DISTRIBUTED, order=8), 1).loss_per_attempt_micro > loss


def test_an_update_has_a_value_for_each_parameter_and_the_padding_of_its_rotation() -> None:
    plan = plan_of(spec_with(DISTRIBUTED), 1)
    assert isinstance(plan, DistributedPlan)
    assert value_count(spec_with(DISTRIBUTED)) == plan.dimension > 39_700
    assert isinstance(plan_of(spec_with(LOCAL), 1), LocalPlan)
    assert value_count(spec_with(LOCAL)) == 39_700


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (spec_with(replace(DISTRIBUTED, clamp=220_000)), "scale_micro"),  # the sum leaves its field
        (spec_with(DISTRIBUTED, holders=11), "scale_micro"),
        (spec_with(replace(DISTRIBUTED, scale_micro=20_000)), "scale_micro"),  # the grid is too coarse
        (spec_with(replace(DISTRIBUTED, min_honest=8)), "min_honest"),
        (spec_with(replace(DISTRIBUTED, share_noise=10**10 + 1)), "share_noise"),
        (spec_with(DISTRIBUTED, nominal_size=9), "sample_rate"),
    ],
)
def test_integers_that_are_no_plan_are_refused_by_name(spec: TrainingJobSpec, field: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        plan_of(spec, 1)
    assert caught.value.details["field"] == field


def test_local_noise_beyond_its_grid_is_no_plan() -> None:
    """33,000 of noise multiplier times the root of the parameters is what the grid of 2^27 steps a deviation resolves."""
    coarse = spec_with(replace(LOCAL, noise_multiplier_micro=40_000_000), parameter_count=10**6)
    with pytest.raises(MechanismInvalid) as caught:
        plan_of(coarse, 1)
    assert caught.value.details["field"] == "noise_multiplier"
    plan_of(spec_with(replace(LOCAL, noise_multiplier_micro=30_000_000), parameter_count=10**6), 1)
