"""Loss to epsilon and back, and how much noise a cap needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.privacy import (
    MICRO,
    CalibrationImpossible,
    EpsilonBelowFloor,
    MechanismInvalid,
    SubsampledGaussian,
    epsilon,
    epsilon_floor,
    loss_for_epsilon_micro,
    noise_multiplier_for,
    pld_epsilon,
    renyi_loss_micro,
)

DELTA = 1e-5


@pytest.mark.parametrize(("order", "floor"), [(16, 0.52), (6, 1.76)])
def test_an_order_states_its_floor_even_for_no_loss(order: int, floor: float) -> None:
    assert epsilon_floor(order, DELTA) == pytest.approx(floor, abs=0.005)
    assert epsilon(0, order, DELTA) == epsilon_floor(order, DELTA)


def test_the_translation_is_the_binding_formula() -> None:
    # rho = 1.5 nat at order 8, delta 1e-6, worked by hand.
    by_hand = 1.5 + math.log(7 / 8) - (math.log(1e-6) + math.log(8)) / 7
    assert epsilon(1_500_000, 8, 1e-6) == pytest.approx(by_hand, rel=1e-14)
    assert by_hand == pytest.approx(3.0430, abs=1e-4)


def test_the_translation_is_dp_accountings() -> None:
    from dp_accounting.rdp import compute_epsilon

    for order in (2, 6, 16, 64):
        theirs, _ = compute_epsilon([order], [2.25], DELTA)
        assert epsilon(2_250_000, order, DELTA) == pytest.approx(theirs, rel=1e-12)


@given(
    order=st.integers(2, 256),
    delta=st.floats(1e-12, 0.1),
    above_floor=st.floats(1e-5, 50.0),
)
def test_the_loss_for_an_epsilon_is_the_largest_that_stays_under_it(
    order: int, delta: float, above_floor: float
) -> None:
    asked = epsilon_floor(order, delta) + above_floor
    loss_micro = loss_for_epsilon_micro(asked, order, delta)
    assert epsilon(loss_micro, order, delta) <= asked
    assert epsilon(loss_micro + 1, order, delta) > asked


@pytest.mark.parametrize("order", [6, 16])
def test_less_than_the_floor_is_refused_with_its_own_reason(order: int) -> None:
    floor = epsilon_floor(order, DELTA)
    for asked in (0.0, floor / 2, floor, floor + 0.5 / MICRO):
        with pytest.raises(EpsilonBelowFloor) as refused:
            loss_for_epsilon_micro(asked, order, DELTA)
        assert refused.value.reason == "EPSILON_BELOW_FLOOR"
        assert refused.value.details["minimum"] == floor
    assert loss_for_epsilon_micro(floor + 2 / MICRO, order, DELTA) in (1, 2)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan"), 0.2])
def test_a_delta_outside_its_bounds_is_refused(delta: float) -> None:
    with pytest.raises(MechanismInvalid):
        epsilon(MICRO, 6, delta)
    with pytest.raises(MechanismInvalid):
        epsilon_floor(6, delta)


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(MechanismInvalid):
        epsilon(-1, 6, DELTA)


@settings(deadline=None)
@given(
    cap=st.integers(1_000, 50 * MICRO),
    order=st.integers(2, 64),
    rate=st.floats(1e-3, 1.0),
    steps=st.integers(1, 50),
    attempts=st.integers(1, 200),
)
def test_the_noise_is_the_smallest_on_its_grid_that_fits(
    cap: int, order: int, rate: float, steps: int, attempts: int
) -> None:
    noise = noise_multiplier_for(cap, order, rate, steps, attempts)
    assert noise == round(noise, 4)
    assert attempts * renyi_loss_micro(SubsampledGaussian(rate, noise, steps), order) <= cap
    less = SubsampledGaussian(rate, round(noise - 1e-4, 4), steps)
    assert attempts * renyi_loss_micro(less, order) > cap


# Excess over the PLD noise at the binding order, from the table of soundness rule 7: 8.5, 12 and 8.8 %.
@pytest.mark.parametrize(
    ("asked", "order", "rate", "published"),
    [(3.0, 6, 0.1, 1.68 * 1.085), (3.0, 6, 1.0, 13.9 * 1.12), (1.0, 16, 0.1, 3.94 * 1.088)],
)
def test_calibration_finds_the_published_noise(
    asked: float, order: int, rate: float, published: float
) -> None:
    cap = loss_for_epsilon_micro(asked, order, DELTA)
    assert noise_multiplier_for(cap, order, rate, 1, 100) == pytest.approx(published, rel=0.006)


def test_a_cap_below_one_unit_an_attempt_is_impossible() -> None:
    with pytest.raises(CalibrationImpossible):
        noise_multiplier_for(99, 6, 0.1, 1, 100)
    assert noise_multiplier_for(100, 6, 0.01, 1, 100) > 1


def test_pld_is_tighter_than_the_binding_figure_and_that_is_all_it_is() -> None:
    mechanism = SubsampledGaussian(0.1, 1.8168, 1)
    binding = epsilon(100 * renyi_loss_micro(mechanism, 6), 6, DELTA)
    tighter = pld_epsilon(mechanism, 100, DELTA)
    assert 0.8 * binding < tighter < binding
    # Without sampling the PLD of a Gaussian is known: sigma 13.9 gives epsilon 3 for 100 steps (rule 7).
    assert pld_epsilon(SubsampledGaussian(1.0, 13.9, 10), 10, DELTA) == pytest.approx(3.0, abs=0.02)
