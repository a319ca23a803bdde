"""The noise has the distribution that the accountant prices.

False-alarm rates: tests on fixed words are deterministic; the p-value bound says how unlikely those words would have
been. Tests on live randomness fail a correct sampler with probability below 1e-9 each. ``USUFRUCT_SAMPLES`` sets the number of
samples a law (the long form: 10000000).
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import stats

from usufruct.privacy import NoiseTable, noised_sum, poisson_mask, skellam_table
from usufruct.privacy.gaussian_noise import GRID_DEVIATION, discrete_gaussian
from usufruct.privacy.keystream import expand
from usufruct.privacy.sampling import included

ALARM = 1e-9
COUNT = int(os.environ.get("USUFRUCT_SAMPLES", "1000000"))


def cumulative(table: NoiseTable) -> np.ndarray:
    """P(|X| <= k) as floats."""
    return np.array(table.first / 2.0**63)


def chi_square(table: NoiseTable, samples: np.ndarray) -> float:
    """p-value of sign and magnitude in some 400 cells of about equal probability, against the table's own law."""
    law = cumulative(table)
    ends = np.unique(np.append(np.searchsorted(law, np.linspace(0, 1, 201)[1:-1]), len(law) - 1))
    chances = np.diff(np.append(0.0, law[ends]))
    cell = np.searchsorted(ends, np.abs(samples))
    counts = [np.bincount(cell[mask], minlength=len(ends)) for mask in (samples > 0, samples < 0)]
    zero = law[0]
    halves = chances.copy()
    halves[0] -= zero
    observed = np.concatenate([*counts, [np.count_nonzero(samples == 0)]])
    expected = np.concatenate([halves / 2, halves / 2, [zero]]) * samples.size
    rare = expected < 10
    assert observed[rare].sum() <= stats.poisson.isf(1e-12, max(expected[rare].sum(), 1e-9))
    observed, expected = observed[~rare], expected[~rare]
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return float(stats.chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize("variance", [1, 30, 10**4, 10**7])
def test_live_skellam_noise_is_the_law(variance: int) -> None:
    """Chi-square, mean and deviation, each at 1e-9; with 10^7 samples the deviation is within 0.14 % (0.1 % at 1.2e-5),
    and noise of a variance that is 5 % off fails (the next test)."""
    table = skellam_table(variance)
    samples = table.draw(COUNT)
    assert chi_square(table, samples) > ALARM
    sigmas = stats.norm.isf(ALARM / 2)
    assert abs(samples.mean()) < sigmas * np.sqrt(variance / COUNT)
    # Var X^2 = 2 m^2 + m.
    spread = sigmas * np.sqrt((2 + 1 / variance) / COUNT)
    assert abs(np.mean(samples.astype(np.float64) ** 2) / variance - 1) < spread
    fourth = np.mean((samples / np.sqrt(variance)) ** 4)
    assert abs(fourth - 3 - 1 / variance) < 7 * np.sqrt(
        (96 + 204 / variance + 62 / variance**2 + 1 / variance**3) / COUNT
    )


def test_skellam_noise_of_another_variance_would_be_found() -> None:
    samples = skellam_table(10_500).draw(COUNT)
    assert chi_square(skellam_table(10_000), samples) < ALARM


def test_the_deviation_is_within_a_thousandth() -> None:
    """10^7 samples: the estimator's deviation is 0.022 %, so 0.1 % is 4.5 of them (a false alarm once in 130,000 runs)."""
    table, count = skellam_table(1_923_314), 10**7
    total = sum(float(np.sum(table.draw(10**6).astype(np.float64) ** 2)) for _ in range(count // 10**6))
    assert abs(np.sqrt(total / count / 1_923_314) - 1) < 1e-3


def test_the_sum_of_shares_is_the_law_of_their_sum() -> None:
    """Nine shares add up to the Skellam of nine times the variance: KS on cells at 1e-9."""
    share, whole = skellam_table(500), skellam_table(4500)
    total = sum(share.draw(COUNT) for _ in range(9))
    assert chi_square(whole, np.asarray(total)) > ALARM


@pytest.mark.parametrize(("multiplier", "norm"), [(1e-3, 1.0), (1.0, 1.0), (2.5, 100.0)])
def test_live_gaussian_noise_has_the_deviation_that_was_asked_for(multiplier: float, norm: float) -> None:
    """Mean by z, variance by chi-square, shape by KS; each at 1e-9. Zero or halved noise fails all but the first."""
    deviation = multiplier * norm
    noise = noised_sum(np.zeros(COUNT), multiplier, norm)
    assert abs(noise.mean()) < stats.norm.isf(ALARM / 2) * deviation / np.sqrt(COUNT)
    spread = float(np.sum(noise**2)) / deviation**2
    assert stats.chi2.ppf(ALARM / 2, COUNT) < spread < stats.chi2.isf(ALARM / 2, COUNT)
    assert stats.kstest(noise, "norm", args=(0.0, deviation)).pvalue > ALARM
    for threshold in (3.0, 4.0, 4.5):
        beyond = int(np.count_nonzero(np.abs(noise) > threshold * deviation))
        assert stats.binomtest(beyond, COUNT, 2 * stats.norm.sf(threshold)).pvalue > ALARM, threshold


def test_the_last_bits_of_gaussian_noise_are_uniform() -> None:
    """A sample is one draw plus 2^13 times another: chi-square of its residues modulo 256 at 1e-9."""
    residues = np.bincount(discrete_gaussian(COUNT) % 256, minlength=256)
    assert stats.chisquare(residues).pvalue > ALARM


def test_live_noise_is_uncorrelated_along_the_vector() -> None:
    """Autocorrelation at lags 1, 2, half a block, a block and two, each at 1e-9."""
    table = skellam_table(10**6)
    for noise in (table.draw(COUNT), discrete_gaussian(COUNT) / GRID_DEVIATION):
        for lag in (1, 2, 1 << 14, 1 << 15, 1 << 16):
            assert stats.pearsonr(noise[:-lag], noise[lag:]).pvalue > ALARM, lag


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_poisson_sampling_is_really_done(rate: float) -> None:
    """Sizes vary as a binomial's: total at 1e-9, and the variance of 2000 sample sizes by chi-square at 1e-9."""
    assert stats.binomtest(int(poisson_mask(COUNT, rate).sum()), COUNT, rate).pvalue > ALARM
    draws, size = 2000, 20_000
    sizes = np.array([int(poisson_mask(size, rate).sum()) for _ in range(draws)])
    spread = float(np.sum((sizes - size * rate) ** 2)) / (size * rate * (1 - rate))
    assert stats.chi2.ppf(ALARM / 2, draws) < spread < stats.chi2.isf(ALARM / 2, draws)


def test_fixed_words_include_units_independently() -> None:
    """Neighbours enter together as often as independence says; binomial at 1e-4."""
    mask = included(expand((3).to_bytes(32, "big"), COUNT), 0.3)
    together = int(np.count_nonzero(mask[:-1:2] & mask[1::2]))
    assert stats.binomtest(together, COUNT // 2, 0.09).pvalue > 1e-4
