"""The two accountants: exact where it can be computed exactly, never below the truth, at most one above it."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.privacy import (
    MICRO,
    MechanismInvalid,
    SubsampledGaussian,
    claim_holds,
    recompute_loss_micro,
    renyi_loss_micro,
)

GRID = list(
    itertools.product(
        [1e-9, 1e-4, 0.01, 0.1, 0.37, 0.9, 0.999, 1.0],  # sample_rate
        [0.5, 0.8, 1.0, 1.7, 4.0, 37.3, 1000.0],  # noise_multiplier
        [2, 3, 6, 16, 32, 64, 256],  # order
        [1, 7, 1000],  # steps
    )
)


def exact_loss_micro(mechanism: SubsampledGaussian, order: int) -> Decimal:
    """The formula of Mironov, Talwar and Zhang in 80-digit arithmetic, term by term as printed in the paper."""
    with localcontext() as context:
        context.prec = 80
        q, s = Decimal(mechanism.sample_rate), Decimal(mechanism.noise_multiplier)
        if q == 1:
            return Decimal(order) / (2 * s * s) * mechanism.steps * MICRO
        moment = sum(
            math.comb(order, k) * q**k * (1 - q) ** (order - k) * (Decimal(k * (k - 1)) / (2 * s * s)).exp()
            for k in range(order + 1)
        )
        return moment.ln() / (order - 1) * mechanism.steps * MICRO


def priced(mechanism: SubsampledGaussian, order: int) -> int | None:
    """The loss, or None where it is refused as meaninglessly large (1000 nats an attempt)."""
    try:
        return renyi_loss_micro(mechanism, order)
    except MechanismInvalid:
        assert exact_loss_micro(mechanism, order) > 999 * MICRO
        return None


def test_never_undercounts_and_stays_within_one_of_the_exact_loss() -> None:
    compared = 0
    for rate, noise, order, steps in GRID:
        mechanism = SubsampledGaussian(rate, noise, steps)
        loss_micro = priced(mechanism, order)
        if loss_micro is None:
            continue
        exact = exact_loss_micro(mechanism, order)
        assert exact <= loss_micro < exact + Decimal("1.02"), (mechanism, order)
        compared += 1
    assert compared > 800


def test_the_auditors_accountant_agrees_over_the_grid() -> None:
    for rate, noise, order, steps in GRID:
        mechanism = SubsampledGaussian(rate, noise, steps)
        loss_micro = priced(mechanism, order)
        if loss_micro is not None:
            recomputed = recompute_loss_micro(mechanism, order)
            assert recomputed <= loss_micro <= recomputed + 1, (mechanism, order)


@settings(max_examples=300, deadline=None)
@given(
    rate=st.floats(1e-9, 1.0),
    noise=st.floats(0.3, 1e6),
    order=st.integers(2, 256),
    steps=st.integers(1, 10_000),
)
def test_any_honest_claim_passes_the_audit_and_one_less_or_two_more_fails(
    rate: float, noise: float, order: int, steps: int
) -> None:
    mechanism = SubsampledGaussian(rate, noise, steps)
    loss_micro = priced(mechanism, order)
    if loss_micro is None:
        return
    assert claim_holds(7 * loss_micro, mechanism, order, 7)
    recomputed = recompute_loss_micro(mechanism, order)
    assert not claim_holds(recomputed - 1, mechanism, order, 1)
    assert not claim_holds(recomputed + 2, mechanism, order, 1)


def test_a_claim_that_is_not_a_multiple_of_its_attempts_fails() -> None:
    mechanism = SubsampledGaussian(0.1, 1.5, 3)
    loss_micro = renyi_loss_micro(mechanism, 6)
    assert claim_holds(20 * loss_micro, mechanism, 6, 20)
    assert not claim_holds(20 * loss_micro - 1, mechanism, 6, 20)
    assert not claim_holds(loss_micro, mechanism, 6, 0)


@pytest.mark.parametrize(("order", "noise", "steps"), [(16, 4.0, 1), (6, 2.0, 5), (32, 0.5, 1), (2, 1.0, 3)])
def test_without_sampling_the_loss_is_exactly_order_over_twice_the_variance(
    order: int, noise: float, steps: int
) -> None:
    # All of these are whole numbers of micro-nats: rounding up must not add one.
    assert renyi_loss_micro(SubsampledGaussian(1.0, noise, steps), order) == (
        order * steps * MICRO / (2 * noise**2)
    )


def test_without_sampling_a_fraction_is_rounded_up() -> None:
    # 6 / (2 * 3^2) = 1/3 nat.
    assert renyi_loss_micro(SubsampledGaussian(1.0, 3.0, 1), 6) == 333_334


def test_rounding_goes_against_the_one_who_profits_from_a_small_loss() -> None:
    # Next to no sampling, next to endless noise: the true loss is far below one micro-nat and still costs one.
    mechanism = SubsampledGaussian(1e-9, 1e6, 1)
    assert exact_loss_micro(mechanism, 2) < Decimal("1e-9")
    assert renyi_loss_micro(mechanism, 2) == 1
    # Rounded once per attempt: two attempts of one step cost at least one attempt of two.
    one, two = SubsampledGaussian(0.013, 1.234, 1), SubsampledGaussian(0.013, 1.234, 2)
    assert 2 * renyi_loss_micro(one, 6) >= renyi_loss_micro(two, 6)


def test_more_of_anything_that_costs_privacy_never_costs_less() -> None:
    base = {"sample_rate": 0.05, "noise_multiplier": 1.3, "steps": 10}
    for order in range(2, 256):
        assert renyi_loss_micro(SubsampledGaussian(**base), order) <= renyi_loss_micro(
            SubsampledGaussian(**base), order + 1
        )
    for field, values in (
        ("steps", range(1, 400)),
        ("sample_rate", [i / 400 for i in range(1, 401)]),
        ("noise_multiplier", [200 / i for i in range(1, 401)]),
    ):
        losses = [renyi_loss_micro(SubsampledGaussian(**{**base, field: value}), 6) for value in values]
        assert losses == sorted(losses), field
        assert losses[0] < losses[-1]


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan"), float("inf"), -0.0, 1e-4])
def test_zero_noise_is_no_mechanism(noise: float) -> None:
    with pytest.raises(MechanismInvalid) as refused:
        SubsampledGaussian(0.1, noise, 1)
    assert refused.value.details["field"] == "noise_multiplier"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0.0),
        ("sample_rate", 1.0000001),
        ("sample_rate", "0.1"),
        ("steps", 0),
        ("steps", 10_001),
        ("steps", 2.0),
        ("steps", True),
    ],
)
def test_a_mechanism_that_cannot_be_priced_is_refused_by_field(field: str, value: object) -> None:
    figures: dict[str, object] = {"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, field: value}
    with pytest.raises(MechanismInvalid) as refused:
        SubsampledGaussian(**figures)  # type: ignore[arg-type]
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("order", [1, 0, 257, 6.0, True])
def test_only_integer_orders_are_served(order: object) -> None:
    for accountant in (renyi_loss_micro, recompute_loss_micro):
        with pytest.raises(MechanismInvalid):
            accountant(SubsampledGaussian(0.1, 1.0, 1), order)  # type: ignore[arg-type]


def test_a_loss_without_meaning_is_refused_rather_than_priced() -> None:
    with pytest.raises(MechanismInvalid, match="more noise"):
        renyi_loss_micro(SubsampledGaussian(0.5, 0.01, 1), 6)


def test_an_unknown_mechanism_is_refused_by_both() -> None:
    for accountant in (renyi_loss_micro, recompute_loss_micro):
        with pytest.raises(MechanismInvalid):
            accountant("gaussian", 6)  # type: ignore[arg-type]
