"""`distributed` noise is never undercounted: both accountants against exact sums, against each other, and monotone."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_skellam import log_moment, log_moments
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from usufruct.audit.skellam_accountant import SkellamFigures
from usufruct.privacy import (
    MICRO,
    MechanismInvalid,
    SubsampledSkellam,
    recompute_loss_micro,
    renyi_loss_micro,
)
from usufruct.privacy.accountant import skellam_log_moment, unbounded_loss_micro
from usufruct.privacy.mechanism import MAXIMUM_SHARE_NOISE
from usufruct.privacy.rotation import padded_dimension

PLAN = SubsampledSkellam(0.1, 3_207_029_760, 10**6, 40_960, 3_775_539, 9)


def figures(mechanism: SubsampledSkellam, parameter_count: int) -> SkellamFigures:
    return SkellamFigures(
        sample_rate_nano=round(mechanism.sample_rate * 10**9),
        scale_micro=mechanism.scale_micro,
        clip_norm_micro=mechanism.clip_norm_micro,
        parameter_count=parameter_count,
        share_noise_micro=mechanism.share_noise * 10**6,
        shares=mechanism.shares,
    )


def theorem(variance: float, shift: int, order: int) -> float:
    """The bound of Agarwal, Kairouz and Liu on (order - 1) times the divergence, one dimension: D2 = D1 = |shift|."""
    d = abs(shift)
    small = min(((2 * order - 1) * d**2 + 6 * d) / (4 * variance**2), 3 * d / (2 * variance))
    return (order - 1) * (order * d**2 / (2 * variance) + small)


@pytest.mark.parametrize("variance", [0.1, 1, 2, 10, 100, 1000, 10**5])
def test_the_skellam_theorem_holds_in_every_exact_case(variance: float) -> None:
    """DERIVATION.md (4): the published theorem, never below the sum itself, and tight where the noise is wide. In more
    dimensions moments multiply, so one dimension is all of it."""
    tightest = math.inf
    for order in (2, 3, 6, 16, 32):
        for shift in sorted({1, 2, 3, 7, int(math.sqrt(variance)) + 1, int(3 * math.sqrt(variance)) + 1}):
            exact = log_moment(variance, shift, order)
            bound = theorem(variance, shift, order)
            assert bound >= exact * (1 - 1e-9), (variance, order, shift)
            tightest = min(tightest, bound / exact)
    assert tightest < (1.001 if variance >= 1000 else 10.0)


@pytest.mark.parametrize("order", [2, 6, 16])
def test_the_theorem_holds_at_the_noise_of_a_real_plan(order: int) -> None:
    """At the variance of ten holders and 39,700 parameters, for shifts up to the whole sensitivity in one coordinate.
    The sums have an absolute error below 1e-10 (the moments are 3e-8 to 2)."""
    variance = PLAN.noise
    for shift in (1, 2, 16, 256, PLAN.delta_two_micro // MICRO):
        assert theorem(variance, shift, order) >= log_moment(variance, shift, order) - 1e-10


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("variance", [1, 10, 200, 10**4])
def test_the_subsampled_loss_holds_in_both_directions(rate: float, variance: int) -> None:
    """DERIVATION.md (7): exact mixtures, forward and reverse. The reverse direction never loses more."""
    for order, shift in itertools.product((2, 3, 6, 16), (1, 2, 5, int(math.sqrt(variance)) + 1)):
        forward, reverse = log_moments(variance, {shift: 1.0}, order, rate)
        weights = [math.comb(order, k) * rate**k * (1 - rate) ** (order - k) for k in range(order + 1)]
        moments = [theorem(variance, shift, k) if k > 1 else 0.0 for k in range(order + 1)]
        assert reverse <= forward * (1 + 1e-9) + 1e-13
        assert special.logsumexp(moments, b=weights) >= forward * (1 - 1e-9) - 1e-13


@pytest.mark.parametrize("norm", [0.1, 0.5, 0.9, 1.5, 2.25, 4.5, 10.3])
@pytest.mark.parametrize("variance", [1, 5, 50, 1000, 10**4])
def test_the_priced_loss_covers_dithered_rounding(norm: float, variance: int) -> None:
    """DERIVATION.md (5) and (6): one coordinate, exactly. The pair of laws given the dither is averaged in two ways: with
    the dither unknown (the law of the shift is its mixture) and with the dither public (the mean of the moments). Both
    stay below the loss that the shipped accountant charges, in both directions."""
    low, chance = math.floor(norm), norm - math.floor(norm)
    shifts = {low: 1 - chance, low + 1: chance}
    for order, rate in itertools.product((2, 6, 16), (0.1, 1.0)):
        mechanism = SubsampledSkellam(rate, round(norm * 10**6), 10**6, 1, variance, 1)
        charged = unbounded_loss_micro(mechanism, order) / MICRO * (order - 1)
        public = [log_moments(variance, {shift: 1.0}, order, rate) for shift in shifts]
        weights = list(shifts.values())
        for direction in (0, 1):
            mean = math.log(
                math.fsum(w * math.exp(p[direction]) for w, p in zip(weights, public, strict=True))
            )
            assert charged >= mean * (1 - 1e-9), (order, rate, "public dither")
            # The base point is rounded with the same dither: jointly convex, so the unknown dither gives less still.
            unknown = log_moments(variance, shifts, order, rate)[direction]
            assert mean >= unknown * (1 - 1e-9) - 1e-12
            assert charged >= unknown * (1 - 1e-9), (order, rate, "unknown dither")


@pytest.mark.parametrize("order", [1.01, 2, 3.5, 16, 64])
def test_the_other_direction_never_loses_more_pointwise(order: float) -> None:
    """DERIVATION.md (7): the bracket under the mean, ``k(A) + L k(A')``, on a grid of ratios and rates."""
    ratio = np.exp(np.linspace(-8, 8, 401))[:, None]
    rate = np.linspace(0.0, 1.0, 101)[None, :]

    def k(z: np.ndarray) -> np.ndarray:
        return z**order - z ** (1 - order)

    first, second = k(1 - rate + rate * ratio), ratio * k(1 - rate + rate / ratio)
    assert (first + second >= -1e-9 * (1 + np.abs(first) + np.abs(second))).all()
    assert (first < -1e-3).any(), "each half alone can be negative"


def test_hoeffdings_lemma_covers_each_rounded_coordinate() -> None:
    """DERIVATION.md (6): ln E exp(c X^2) of a rounded coordinate against ``c (x^2 + 1/4) + c^2 (2|x| + 1)^2 / 8``, where X is
    floor(x) or one more with the right mean."""
    for x in np.concatenate([np.linspace(-3, 3, 121), [10.49, -57.5, 300.01]]):
        low = math.floor(x)
        chance = x - low
        assert (
            abs(low * low * (1 - chance) + (low + 1) ** 2 * chance - (x * x + chance * (1 - chance))) < 1e-9
        )
        for c in (1e-9, 1e-4, 1e-2, 0.3, 2.0):
            ends = np.array([c * low * low, c * (low + 1) ** 2])
            chances = np.array([1 - chance, chance])
            largest = ends.max()
            exact = largest + math.log(float(np.sum(chances * np.exp(ends - largest))))
            assert exact <= c * (x * x + 0.25) + c * c * (2 * abs(x) + 1) ** 2 / 8 + 1e-9 * max(1, abs(exact))


@pytest.mark.parametrize("d", [1, 2, 5, 400])
def test_the_mean_over_the_dither_is_bounded_in_many_dimensions(d: int) -> None:
    """The moment of the rounded difference of random parts of the full norm, exactly (coordinates are independent), is
    within the shipped bound, for even, sparse and one-coordinate parts."""
    random = np.random.default_rng(d)
    norm, order = 7.3, 6
    for variance in (30, 1000):
        mechanism = SubsampledSkellam(1.0, round(norm * 10**6), 10**6, d, variance, 1)
        bound = float(skellam_log_moment(mechanism, order))
        known = {shift: log_moment(variance, shift, order) for shift in range(10)}
        for kind in range(6):
            part = np.ones(d) if kind == 0 else random.standard_normal(d) * (random.random(d) < 0.5**kind)
            part[0] += not part.any()
            part *= norm / np.linalg.norm(part)
            total = 0.0
            for x in np.abs(part):
                low, chance = math.floor(x), x - math.floor(x)
                total += math.log((1 - chance) * math.exp(known[low]) + chance * math.exp(known[low + 1]))
            assert total <= bound * (1 + 1e-9), (variance, kind)


def test_the_lesser_of_both_bounds_is_charged() -> None:
    """Few wide steps: the worst rounding is the lesser bound. Many coordinates: the mean over the dither is."""

    def worst(mechanism: SubsampledSkellam, k: int) -> Fraction:
        m = mechanism.noise
        two, one = Fraction(mechanism.delta_two_micro, MICRO), Fraction(mechanism.delta_one_micro, MICRO)
        small = min(((2 * k - 1) * two**2 + 6 * one) / Fraction(4 * m**2), 3 * one / Fraction(2 * m))
        return (k - 1) * (k * two**2 / Fraction(2 * m) + small)

    assert skellam_log_moment(PLAN, 6) < worst(PLAN, 6) * Fraction(9, 10)
    tiny = SubsampledSkellam(1.0, 10**6, 10**6, 4, 1, 1)
    assert skellam_log_moment(tiny, 6) == worst(tiny, 6)


MECHANISMS = st.builds(
    SubsampledSkellam,
    sample_rate=st.integers(1, 10**9).map(lambda nano: nano / 10**9),
    scale_micro=st.integers(10**5, 10**11),
    clip_norm_micro=st.integers(10**4, 10**8),
    dimension=st.just(1),
    share_noise=st.integers(1, MAXIMUM_SHARE_NOISE),
    shares=st.integers(1, 64),
)


@settings(max_examples=300, deadline=None)
@given(mechanism=MECHANISMS, parameters=st.integers(1, 10**7), order=st.integers(2, 64))
def test_the_two_accountants_agree_within_one_unit(
    mechanism: SubsampledSkellam, parameters: int, order: int
) -> None:
    mechanism = replace(mechanism, dimension=padded_dimension(parameters))
    audited = figures(mechanism, parameters)
    assert audited.dimension == mechanism.dimension
    assert audited.sensitivities_micro() == (mechanism.delta_two_micro, mechanism.delta_one_micro)
    loss = unbounded_loss_micro(mechanism, order)
    if loss <= 1000 * MICRO:
        recomputed = audited.loss_micro(order)
        assert recomputed <= loss <= recomputed + 1


@pytest.mark.parametrize("order", [2, 6, 16, 64, 256])
@pytest.mark.parametrize("rate", [1e-9, 0.001, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("share_noise", [10**5, 3_775_539, 10**9])
def test_the_two_accountants_agree_over_a_grid(order: int, rate: float, share_noise: int) -> None:
    mechanism = replace(PLAN, sample_rate=rate, share_noise=share_noise)
    try:
        loss = renyi_loss_micro(mechanism, order)
    except MechanismInvalid:
        assert figures(mechanism, 39_700).loss_micro(order) > 999 * MICRO
        return
    recomputed = figures(mechanism, 39_700).loss_micro(order)
    assert recomputed <= loss <= recomputed + 1


def test_more_of_anything_that_costs_privacy_never_costs_less() -> None:
    for field, values in (
        ("sample_rate", [i / 200 for i in range(1, 201)]),
        ("scale_micro", [10**9 + i * 10**8 for i in range(100)]),
        ("clip_norm_micro", [10**6 + i * 10**5 for i in range(100)]),
        ("dimension", [1, 10, 100, 1000, 10**4, 10**5, 10**6, 10**8]),
        ("share_noise", [10**9 // i for i in range(1, 200)]),
        ("shares", list(range(64, 0, -1))),
    ):
        losses = [unbounded_loss_micro(replace(PLAN, **{field: value}), 6) for value in values]
        assert losses == sorted(losses), field
        assert losses[0] < losses[-1], field
    by_order = [unbounded_loss_micro(PLAN, order) for order in range(2, 257)]
    assert by_order == sorted(by_order)


def test_wide_noise_costs_what_gaussian_noise_costs() -> None:
    """As steps and noise grow together, the loss falls to that of the Gaussian of the same ratio, never below it."""
    gaussian = 6 * MICRO / (2 * 4.0)
    losses = [
        renyi_loss_micro(SubsampledSkellam(1.0, scale * 10**6, 10**6, 1024, 4 * scale**2, 1), 6)
        for scale in (10, 100, 1000, 10_000)
    ]
    assert losses == sorted(losses, reverse=True)
    assert gaussian <= losses[-1] < gaussian * 1.0001


@pytest.mark.parametrize("field", ["scale_micro", "clip_norm_micro", "dimension", "share_noise", "shares"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, True, 10**30])
def test_a_mechanism_that_cannot_be_priced_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(MechanismInvalid) as refused:
        replace(PLAN, **{field: value})
    assert refused.value.details["field"] == field


def test_google_has_no_event_for_it_and_says_so() -> None:
    with pytest.raises(MechanismInvalid, match="dp_accounting"):
        recompute_loss_micro(PLAN, 6)


@pytest.mark.parametrize(
    "change",
    [
        {"share_noise_micro": 1_500_000},
        {"shares": 0},
        {"sample_rate_nano": 10**9 + 1},
        {"parameter_count": 0},
    ],
)
def test_the_auditor_refuses_figures_of_no_mechanism(change: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        replace(figures(PLAN, 39_700), **change)
    for order in (1, 257):
        with pytest.raises(ValueError):
            figures(PLAN, 39_700).loss_micro(order)
