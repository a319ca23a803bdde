"""The bounds of a privacy audit: they are the published ones, they hold for what is private, and they see what is not.

False-alarm rates: the simulations have fixed seeds, and say how unlikely a correct bound would fail on them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from lower_bounds import epsilon_of_noise, noise_at_most, one_run_epsilon, one_run_probability
from scipy import stats


@pytest.mark.parametrize(("canaries", "proven"), [(100, 3.49), (500, 5.10), (1000, 5.78), (5000, 7.28)])
def test_all_guesses_right_prove_what_is_published(canaries: int, proven: float) -> None:
    """By the authors' own code, delta 1e-5, 95 %."""
    assert one_run_epsilon(canaries, canaries, canaries, 1e-5, 0.05) == pytest.approx(proven, abs=0.01)


@pytest.mark.parametrize(("epsilon", "needed"), [(0.5, 649), (1.0, 755), (2.0, 898), (3.0, 964), (4.0, 990)])
def test_so_many_right_guesses_of_a_thousand_refute_an_epsilon(epsilon: float, needed: int) -> None:
    """By the authors' own code, delta 1e-5, 95 %; one guess fewer refutes nothing."""
    assert one_run_epsilon(1000, 1000, needed, 1e-5, 0.05) >= epsilon - 2e-3
    assert one_run_epsilon(1000, 1000, needed - 1, 1e-5, 0.05) < epsilon


def test_the_bound_on_guesses_covers_randomised_response() -> None:
    """Randomised response tells each coin with e^eps/(1 + e^eps): at delta 0 the bound is the binomial tail, exactly."""
    share = 1 / (1 + math.exp(-1.5))
    for correct in (0, 60, 80, 95, 100):
        tail = stats.binom.sf(correct - 1, 100, share)
        assert one_run_probability(100, 100, correct, 1.5, 0.0) == pytest.approx(tail, rel=1e-9)


@pytest.mark.parametrize("sample_rate", [0.3, 1.0])
def test_the_noise_is_bounded_from_above_as_often_as_stated(sample_rate: float) -> None:
    """200 audits of noise 1.5 at a level of 0.1: more than 40 wrong ones have a chance below 10^-4, and the bound is no
    more than twice the noise, or it would be of no use."""
    generator, count, bounds = np.random.default_rng(1), 4000, []
    for _ in range(200):
        absent = generator.normal(0, 1.5, count)
        present = generator.normal(0, 1.5, count) + (generator.random(count) < sample_rate)
        above = [(int(np.sum(world > 0.5)), count) for world in (absent, present)]
        bounds.append(noise_at_most(above[0], above[1], sample_rate, 0.1))
    assert np.sum(np.array(bounds) < 1.5) <= 40
    assert np.median(bounds) < 3.0


def test_a_thousand_observations_without_an_error_prove_no_more_than_their_number() -> None:
    """Clopper and Pearson at half of 5 % each: a rate up to 1 - 0.025^(1/1000) on either side."""
    rate = 1 - 0.025 ** (1 / 1000)
    expected = 1 / (2 * stats.norm.isf(rate))
    assert noise_at_most((0, 1000), (1000, 1000), 1.0, 0.05) == pytest.approx(expected, rel=1e-9)


def test_without_a_difference_nothing_is_proven() -> None:
    noise = noise_at_most((500, 1000), (500, 1000), 0.5, 1e-3)
    assert noise == math.inf
    assert epsilon_of_noise(noise, 0.5, 2, 1e-5) == 0.0


def test_a_canary_that_is_seen_more_often_than_it_was_sampled_is_no_private_release() -> None:
    assert noise_at_most((0, 5000), (5000, 5000), 0.5, 1e-3) == 0.0
    assert epsilon_of_noise(0.0, 0.5, 2, 1e-5) == math.inf


def test_the_epsilon_of_gaussian_noise_is_the_analytic_one() -> None:
    """Balle and Wang 2018, theorem 8: delta of a Gaussian of noise 2 at the epsilon that is stated; within 1 %."""
    epsilon = epsilon_of_noise(2.0, 1.0, 1, 1e-5)
    delta = stats.norm.cdf(0.25 - 2 * epsilon) - math.exp(epsilon) * stats.norm.cdf(-0.25 - 2 * epsilon)
    assert delta == pytest.approx(1e-5, rel=0.02)
