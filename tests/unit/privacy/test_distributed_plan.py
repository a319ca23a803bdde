"""`distributed` noise: one plan that prices what it executes, from the clip to the integers and back."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError, asdict, replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from usufruct.privacy import (
    CalibrationImpossible,
    DistributedPlan,
    IntegerNoise,
    MechanismInvalid,
    PlanInvalid,
    RoundingInvalid,
    SubsampledSkellam,
    delta_with_samplers,
    epsilon,
    integer_noise_for,
    loss_for_epsilon_micro,
    noise_multiplier_for,
    noised_share,
    open_sum,
    renyi_loss_micro,
    shares,
    skellam_table,
    table_for,
)
from usufruct.privacy.calibration import FINEST_PER_ROOT
from usufruct.privacy.distributed_plan import FIELD_BITS, GRID_BITS, largest_sum
from usufruct.privacy.plan import CLIP_SLACK, GRID_SLACK
from usufruct.privacy.rotation import block_size, hadamard, padded_dimension, public_signs

COHORT = {
    "sample_rate": 0.1,
    "max_grad_norm_micro": 10**6,
    "parameter_count": 39_700,
    "holders": 10,
    "min_honest": 9,
    "attempts": 100,
    "largest_batch": 600.0,
}
CAP = loss_for_epsilon_micro(3.0, 6, 1e-5)
PLAN = DistributedPlan(
    sample_rate=0.1,
    max_grad_norm_micro=10**6,
    parameter_count=39_700,
    holders=10,
    min_honest=9,
    max_colluding=1,
    noise=integer_noise_for({6: CAP}, **COHORT),
    rounds=95,
    spare_attempts=5,
    micro_batch_size=64,
    nominal_size=6000,
    order=6,
    delta=1e-5,
)
SMALL = DistributedPlan(
    sample_rate=1.0,
    max_grad_norm_micro=1_500_000,
    parameter_count=12,
    holders=3,
    min_honest=2,
    max_colluding=1,
    noise=IntegerNoise(scale_micro=400 * 10**6, share_noise=900, clamp=20_000),
    rounds=10,
    spare_attempts=0,
    micro_batch_size=8,
    nominal_size=20,
    order=6,
    delta=1e-5,
)
SEED = bytes(range(32))


# -- the plan --------------------------------------------------------------------------------------


def test_the_event_priced_is_the_plan_executed() -> None:
    mechanism = PLAN.mechanism
    assert mechanism == SubsampledSkellam(
        PLAN.sample_rate, PLAN.noise.scale_micro, 10**6, PLAN.dimension, PLAN.noise.share_noise, 9
    )
    assert PLAN.loss_per_attempt_micro == renyi_loss_micro(mechanism, 6)
    assert PLAN.reservation_micro == 100 * PLAN.loss_per_attempt_micro <= CAP
    assert PLAN.epsilon == epsilon(PLAN.reservation_micro, 6, 1e-5)
    assert 2.99 < PLAN.epsilon <= 3.0
    assert table_for(SMALL).variance == SMALL.noise.share_noise
    assert PLAN.clip_norm == PLAN.max_grad_norm * (1 - CLIP_SLACK)


def test_both_guarantees_are_stated_and_the_stronger_assumption_loses_less() -> None:
    assert PLAN.assumed.shares == 9
    assert PLAN.assumed.epsilon == PLAN.epsilon
    assert PLAN.assumed.loss_per_attempt_micro == PLAN.loss_per_attempt_micro
    figures = [PLAN.guarantee(count).epsilon for count in range(1, 11)]
    assert figures == sorted(figures, reverse=True)
    assert PLAN.alone == PLAN.guarantee(1)
    assert PLAN.alone.epsilon > 5 * PLAN.epsilon
    assert 1e-5 <= PLAN.assumed.delta < 1e-5 * (1 + 1e-9)
    best, order = PLAN.epsilon_at_best_order()
    assert best <= PLAN.epsilon
    assert 2 <= order <= 256
    assert PLAN.epsilon_at_best_order(1)[0] < PLAN.alone.epsilon


def test_the_samplers_distance_is_added_to_delta() -> None:
    variation = Fraction(1, 1 << 100)
    assert delta_with_samplers(1e-5, 1.0, 0, variation) == 1e-5
    added = delta_with_samplers(0.0, 3.0, 10**12, variation)
    assert added == pytest.approx((1 + math.e**3) * 1e12 / 2**100)
    assert delta_with_samplers(1e-5, 1000.0, 1, variation) == 1.0
    assert delta_with_samplers(0.5, 3.0, 2**100, variation) == 1.0


def test_a_plan_cannot_be_changed_after_it_was_priced() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.min_honest = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", [field for field in asdict(PLAN) if field != "noise"])
@pytest.mark.parametrize("value", [float("nan"), -1, "1", None, True, 10**30, 0])
def test_every_bad_field_is_named(field: str, value: object) -> None:
    if (field, value) == ("spare_attempts", 0):
        return
    with pytest.raises(PlanInvalid) as refused:
        replace(PLAN, **{field: value})
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("field", ["scale_micro", "share_noise", "clamp"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, True, 10**30])
def test_every_bad_figure_of_the_noise_is_named(field: str, value: object) -> None:
    with pytest.raises(PlanInvalid) as refused:
        replace(PLAN, noise=replace(PLAN.noise, **{field: value}))
    assert refused.value.details["field"] == field


def test_a_cohort_smaller_than_honest_and_colluding_together_is_refused() -> None:
    assert PLAN.least_roster == 10
    for change in ({"holders": 9}, {"max_colluding": 2}, {"min_honest": 10}):
        with pytest.raises(PlanInvalid, match="colluding"):
            replace(PLAN, **change)


def test_a_sum_that_could_leave_its_field_is_refused() -> None:
    for noise in (
        replace(PLAN.noise, clamp=PLAN.noise.clamp * 2),
        replace(PLAN.noise, share_noise=10**10),
    ):
        with pytest.raises(PlanInvalid, match="field"):
            replace(PLAN, noise=noise)


def test_a_grid_too_coarse_for_the_sensitivity_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="scale"):
        replace(PLAN, noise=IntegerNoise(scale_micro=1000, share_noise=10, clamp=100))


# -- calibration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("parameters", "percent"), [(14, 0.1), (39_700, 0.1), (65_536, 0.1), (10**6, 0.5)])
def test_calibrated_noise_is_close_to_the_gaussian_of_the_same_charge(
    parameters: int, percent: float
) -> None:
    """Order 6, epsilon 3, rate 0.1, 100 attempts, ten holders: noise over sensitivity against the calibrated Gaussian."""
    noise = integer_noise_for({6: CAP}, **{**COHORT, "parameter_count": parameters})
    relative = math.sqrt(9 * noise.share_noise) / (noise.scale_micro / 10**6)
    gaussian = noise_multiplier_for(CAP, 6, 0.1, 1, 100)
    assert -0.01 < 100 * (relative / gaussian - 1) < percent


def test_calibration_takes_the_least_noise_and_fills_the_field() -> None:
    noise = PLAN.noise
    coordinates = PLAN.dimension * PLAN.attempts
    assert largest_sum(noise, 10, coordinates) < 1 << (FIELD_BITS - 1)
    assert largest_sum(noise, 10, coordinates) > 0.99 * (1 << (FIELD_BITS - 1))
    less = replace(PLAN, noise=replace(noise, share_noise=noise.share_noise - 1))
    assert less.reservation_micro > CAP


@pytest.mark.parametrize("parameters", [1, 14, 1000])
def test_a_scale_is_no_finer_than_rounding_asks_for(parameters: int) -> None:
    """A small sum would fit a scale a hundred times as fine, for which the tables of noise would be as many times larger."""
    noise = integer_noise_for({6: CAP}, **{**COHORT, "parameter_count": parameters, "largest_batch": 4})
    steps = noise.scale_micro / 10**6
    assert steps == pytest.approx(FINEST_PER_ROOT * math.sqrt(padded_dimension(parameters)), rel=1e-6)
    assert padded_dimension(parameters) / 4 < 1e-4 * steps**2, "what rounding adds to the squared norm"


def test_where_orders_differ_every_cap_holds() -> None:
    caps = {6: CAP, 16: loss_for_epsilon_micro(3.0, 16, 1e-5)}
    noise = integer_noise_for(caps, **COHORT)
    for order, cap in caps.items():
        assert replace(PLAN, noise=noise, order=order).reservation_micro <= cap
    assert noise.share_noise / noise.scale_micro**2 > PLAN.noise.share_noise / PLAN.noise.scale_micro**2


@pytest.mark.parametrize(
    "change",
    [{"loss_caps_micro": {6: 99}}, {"largest_batch": 1e9}, {"parameter_count": 10**9, "holders": 1000}],
)
def test_what_cannot_be_calibrated_is_refused(change: dict[str, object]) -> None:
    arguments = {"loss_caps_micro": {6: CAP}, **COHORT, **change}
    with pytest.raises(CalibrationImpossible):
        integer_noise_for(**arguments)  # type: ignore[arg-type]


def test_calibration_without_a_cap_is_refused() -> None:
    with pytest.raises(MechanismInvalid):
        integer_noise_for({}, **COHORT)


# -- rotation and grid -----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 4, 32, 1024, 1 << 15])
def test_the_rotation_is_the_hadamard_matrix_and_its_own_inverse(block: int) -> None:
    values = np.random.default_rng(block).integers(-(10**6), 10**6, 3 * block)
    rotated = hadamard(values, block)
    if block <= 1024:
        index = np.arange(block)
        signs = 1 - 2 * (np.bitwise_count(index[:, None] & index[None, :]) & 1).astype(np.int64)
        assert np.array_equal(rotated.reshape(3, block), values.reshape(3, block) @ signs)
    assert np.array_equal(hadamard(rotated, block), values * block)
    assert sum(int(x) ** 2 for x in rotated) == block * sum(int(x) ** 2 for x in values)


def test_padding_is_by_rule_and_small() -> None:
    for count in [*range(1, 1030), 4000, 39_700, 65_536, 10**5, 10**6, 12_345_678]:
        block, padded = block_size(count), padded_dimension(count)
        assert padded % block == 0
        assert count <= padded <= (2 * count if count < 1024 else count * 9 // 8)
    assert (padded_dimension(39_700), padded_dimension(65_536)) == (40_960, 65_536)


def test_signs_are_public_fair_and_fresh() -> None:
    signs = public_signs(SEED, 100_003)
    assert np.array_equal(signs, public_signs(SEED, 100_003))
    assert set(np.unique(signs)) == {-1, 1}
    # 100,003 fixed bits: within 4 deviations of fair, and of independence from another seed's.
    assert abs(signs.sum()) < 4 * math.sqrt(100_003)
    assert abs((signs * public_signs(bytes(32), 100_003)).sum()) < 4 * math.sqrt(100_003)
    with pytest.raises(RoundingInvalid):
        public_signs(b"short", 4)


@pytest.mark.parametrize("offset", [0, 1, 12_345, (1 << GRID_BITS) - 1])
def test_dithered_rounding_is_exactly_unbiased_over_its_grid(offset: int) -> None:
    """DERIVATION.md (3): of the 2^30 dithers exactly ``offset`` round up; checked at every boundary."""
    one = 1 << GRID_BITS
    for whole in (-3, 0, 7):
        value = whole * one + offset
        for dither in (0, 1, one - offset - 1, min(one - offset, one - 1), one - 1):
            words = np.array([dither << (32 - GRID_BITS)], dtype=np.uint64)
            expected = whole + (dither >= one - offset)
            assert shares.rounded(np.array([value]), words).tolist() == [expected]


def test_both_halves_of_a_word_are_dithers() -> None:
    one = 1 << GRID_BITS
    words = np.array([(5 << 2) | ((one - 1) << 34)], dtype=np.uint64)
    assert shares.rounded(np.array([one - 5, one - 6, 1])[:2], words).tolist() == [1, 1]
    assert shares.rounded(np.array([one - 6, 0]), words).tolist() == [0, 0]


# -- sensitivity -----------------------------------------------------------------------------------


def test_sensitivities_bound_every_rounding_of_every_small_case() -> None:
    """DERIVATION.md (2) and (3), by brute force: 2 and 3 coordinates, base points and parts on a quarter grid, every
    dither on it, with and without a clamp. The bound on the L2 norm is met to within 0.6 of a step."""
    closest = math.inf
    for d, norm in ((2, 1.5), (2, 2.75), (3, 1.0)):
        mechanism = SubsampledSkellam(1.0, round(norm * 10**6), 10**6, d, 1, 1)
        two, one = mechanism.delta_two_micro / 10**6, mechanism.delta_one_micro / 10**6
        assert two == pytest.approx(norm + math.sqrt(d), abs=3e-6)
        points = [
            p for p in itertools.product(range(-11, 12), repeat=d) if sum(x * x for x in p) <= 16 * norm**2
        ]
        parts = np.array(points)
        for base in itertools.product(range(4), repeat=d):
            for dither in itertools.product(range(4), repeat=d):
                before = (np.array(base) + np.array(dither)) // 4
                after = (parts + np.array(base) + np.array(dither)) // 4
                for bound in (100, 1):
                    change = np.clip(after, -bound, bound) - np.clip(before, -bound, bound)
                    squares = (change**2).sum(axis=1)
                    lengths = np.abs(change).sum(axis=1)
                    assert squares.max() <= two**2
                    assert lengths.max() <= one
                    assert (lengths <= np.minimum(math.sqrt(d) * two, squares)).all()
                    closest = min(closest, two - math.sqrt(squares.max()))
    assert closest < 0.6


def test_neighbours_stay_within_the_sensitivity_from_float_to_integer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The shipped path itself without its noise: 300 pairs of float sums of all sizes whose difference has the clipped
    norm, under one dither and one rotation."""
    random = np.random.default_rng(4)
    table = table_for(SMALL)
    monkeypatch.setattr(shares.NoiseTable, "draw", lambda self, count: np.zeros(count, dtype=np.int64))
    two, one = SMALL.mechanism.delta_two_micro / 10**6, SMALL.mechanism.delta_one_micro / 10**6
    for _ in range(300):
        base = random.standard_normal(12) * 10.0 ** random.uniform(-6, 6)
        part = random.standard_normal(12) * (random.random(12) < 0.5) + 1e-9
        part *= SMALL.clip_norm / np.linalg.norm(part)
        words = random.integers(0, 2**64, 8, dtype=np.uint64)
        monkeypatch.setattr(shares, "fresh_words", lambda count, words=words: words[:count])
        change = noised_share(base + part, SMALL, table, SEED) - noised_share(base, SMALL, table, SEED)
        assert math.sqrt(int((change**2).sum())) <= two
        assert int(np.abs(change).sum()) <= one


def test_the_grid_adds_no_more_than_its_slack() -> None:
    random = np.random.default_rng(5)
    for _ in range(300):
        base = random.standard_normal(12) * 10.0 ** random.uniform(-9, 12)
        part = random.standard_normal(12)
        part *= SMALL.clip_norm / np.linalg.norm(part)
        change = shares.to_grid(base + part, SMALL) - shares.to_grid(base, SMALL)
        length = math.sqrt(sum(int(x) ** 2 for x in change)) * math.sqrt(SMALL.block) / 2**GRID_BITS
        assert length <= SMALL.scaled_norm * (1 - CLIP_SLACK + GRID_SLACK)


# -- the whole round -------------------------------------------------------------------------------


def test_a_round_opens_to_the_sum_and_its_noise() -> None:
    """Ten holders, 39,700 parameters. Error of the opened sum against the exact one: mean at 6 deviations, deviation within
    6 of its own (2 %), for random, aligned and one-coordinate sums; the noise is that of ten shares and their ditherings."""
    table, random = table_for(PLAN), np.random.default_rng(6)
    deviation = math.sqrt(10 * (PLAN.noise.share_noise + 1 / 6)) / PLAN.scale
    for kind in range(3):
        totals = random.standard_normal((10, 39_700))
        if kind == 1:
            totals[:] = totals[0]
        if kind == 2:
            totals[:, 1:] = 0
        totals *= 600 / np.linalg.norm(totals, axis=1, keepdims=True)
        seed = random.bytes(32)
        sums = np.sum([noised_share(total, PLAN, table, seed) for total in totals], axis=0)
        assert np.abs(sums).max() < 1 << (FIELD_BITS - 1)
        error = open_sum(sums, PLAN, seed) - totals.sum(axis=0)
        assert abs(error.mean()) < 6 * deviation / math.sqrt(39_700)
        assert abs(error.std() / deviation - 1) < 6 / math.sqrt(2 * 39_700)
        assert stats.kstest(error[:5000], "norm", args=(0.0, deviation)).pvalue > 1e-9


def test_the_clamp_acts_before_the_noise() -> None:
    """A sum far beyond the clamp: every rounded coordinate stands at it, and the full noise is still on top."""
    table = table_for(SMALL)
    total = np.full(12, 1e9)
    shares_ = np.array([noised_share(total, SMALL, table, SEED) for _ in range(4000)])
    at_clamp = np.abs(shares_ - np.sign(shares_) * SMALL.noise.clamp) < 40 * 30
    assert at_clamp.any(axis=1).all()
    spread = shares_.std(axis=0)
    assert (np.abs(spread / 30 - 1) < 6 / math.sqrt(2 * 4000)).all()
    assert (np.abs(shares_) > SMALL.noise.clamp).any(), "nothing is cut after the noise"


def test_nothing_repeats_between_attempts() -> None:
    table = table_for(PLAN)
    total = np.zeros(39_700)
    first, second = (noised_share(total, PLAN, table, SEED) for _ in range(2))
    assert np.count_nonzero(first == second) < 100


@pytest.mark.parametrize(
    "total", [np.zeros(11), np.zeros((12, 1)), np.zeros(12, dtype=np.float32), np.full(12, math.nan)]
)
def test_what_is_no_sum_of_the_plan_is_refused(total: np.ndarray) -> None:
    with pytest.raises(RoundingInvalid):
        noised_share(total, SMALL, table_for(SMALL), SEED)


def test_another_table_than_the_plans_is_refused() -> None:
    with pytest.raises(PlanInvalid):
        noised_share(np.zeros(12), SMALL, skellam_table(SMALL.noise.share_noise - 1), SEED)


@pytest.mark.parametrize("sums", [np.zeros(12, dtype=np.int64), np.zeros(16), np.full(16, 1 << 41)])
def test_what_is_no_sum_of_shares_is_refused(sums: np.ndarray) -> None:
    with pytest.raises(RoundingInvalid):
        open_sum(sums, SMALL, SEED)
