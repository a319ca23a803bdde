"""The plan: what the trainer executes is what the accountant prices."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from usufruct.privacy import (
    LocalPlan,
    PlanInvalid,
    SubsampledGaussian,
    epsilon,
    loss_for_epsilon_micro,
    noise_multiplier_for,
    renyi_loss_micro,
)

PLAN = LocalPlan(
    sample_rate=0.1,
    max_grad_norm=1.5,
    noise_multiplier=2.5,
    local_steps=4,
    rounds=20,
    spare_attempts=2,
    micro_batch_size=32,
    nominal_size=300,
    order=6,
    delta=1e-5,
)


def test_the_event_priced_is_the_plan_executed() -> None:
    assert PLAN.mechanism == SubsampledGaussian(PLAN.sample_rate, PLAN.noise_multiplier, PLAN.local_steps)
    assert PLAN.loss_per_attempt_micro == renyi_loss_micro(PLAN.mechanism, PLAN.order)
    assert PLAN.noise_standard_deviation == 2.5 * 1.5
    assert PLAN.clip_norm <= PLAN.max_grad_norm * (1 - 1e-3)
    assert PLAN.nominal_batch_size == 30.0


def test_spare_attempts_are_inside_the_reservation_and_the_calibration() -> None:
    assert PLAN.reservation_micro == 22 * PLAN.loss_per_attempt_micro
    cap = loss_for_epsilon_micro(3.0, 6, 1e-5)
    noise = noise_multiplier_for(cap, 6, PLAN.sample_rate, PLAN.local_steps, PLAN.attempts)
    sized = replace(PLAN, noise_multiplier=noise)
    assert sized.reservation_micro <= cap
    assert 2.99 < sized.epsilon <= 3.0
    assert replace(sized, spare_attempts=3).epsilon > 3.0


def test_epsilon_grows_with_the_attempts_and_ends_at_the_reservation() -> None:
    figures = [PLAN.epsilon_after(attempts) for attempts in range(PLAN.attempts + 1)]
    assert figures == sorted(set(figures))
    assert figures[-1] == PLAN.epsilon == epsilon(PLAN.reservation_micro, 6, 1e-5)
    with pytest.raises(PlanInvalid):
        PLAN.epsilon_after(PLAN.attempts + 1)


def test_less_noise_and_more_sampling_cost_more() -> None:
    assert replace(PLAN, noise_multiplier=1.25).reservation_micro > PLAN.reservation_micro
    assert replace(PLAN, sample_rate=0.2).reservation_micro > PLAN.reservation_micro
    # The clip scales noise and sensitivity alike.
    assert replace(PLAN, max_grad_norm=9.0).reservation_micro == PLAN.reservation_micro


def test_a_plan_cannot_be_changed_after_it_was_priced() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.noise_multiplier = 0.1  # type: ignore[misc]


@pytest.mark.parametrize("field", list(asdict(PLAN)))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "1", None, True, 1e300])
def test_every_bad_field_is_named(field: str, value: object) -> None:
    with pytest.raises(PlanInvalid) as refused:
        LocalPlan(**{**asdict(PLAN), field: value})
    assert refused.value.details["field"] == field
    assert field in refused.value.message
    assert refused.value.reason == "SPEC_INVALID"


@pytest.mark.parametrize(
    "field",
    [
        "sample_rate",
        "max_grad_norm",
        "noise_multiplier",
        "local_steps",
        "rounds",
        "nominal_size",
        "order",
        "delta",
    ],
)
def test_zero_is_refused_where_it_would_undo_privacy_or_meaning(field: str) -> None:
    with pytest.raises(PlanInvalid):
        replace(PLAN, **{field: 0})


def test_less_than_one_unit_a_step_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="less than one unit"):
        replace(PLAN, sample_rate=1e-3)


def test_pld_stands_below_the_binding_figure() -> None:
    assert PLAN.pld_epsilon() < PLAN.epsilon
