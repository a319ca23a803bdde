"""The noise has the distribution that the accountant prices.

False-alarm rates: tests on fixed words are deterministic; the p-value bound says how unlikely those words would have
been. Tests on live randomness fail a correct sampler with probability below 1e-9 each.
"""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from usufruct.privacy import gaussian, poisson_mask
from usufruct.privacy.sampling import included, standard_normals

ALARM = 1e-9
COUNT = 1_000_000


def fixed_words(seed: int, count: int) -> np.ndarray:
    """AES-256-CTR words under a fixed key: the generator's own stream, made repeatable."""
    cipher = Cipher(algorithms.AES(seed.to_bytes(32, "big")), modes.CTR(bytes(16)))
    return np.frombuffer(cipher.encryptor().update(bytes(8 * count)), dtype=np.uint64)


def test_fixed_words_become_normal_samples() -> None:
    """Kolmogorov-Smirnov at 1e-4, tails counted separately, because KS does not see them."""
    samples = standard_normals(fixed_words(1, COUNT))
    assert stats.kstest(samples, "norm").pvalue > 1e-4
    for threshold in (3.0, 4.0, 4.5):
        beyond = int(np.count_nonzero(np.abs(samples) > threshold))
        assert stats.binomtest(beyond, COUNT, 2 * stats.norm.sf(threshold)).pvalue > 1e-4, threshold


def test_the_two_samples_of_a_pair_are_independent() -> None:
    """Correlation of values and of squares over 500,000 pairs, two-sided at 1e-4."""
    samples = standard_normals(fixed_words(2, COUNT))
    left, right = samples[: COUNT // 2], samples[COUNT // 2 :]
    assert stats.pearsonr(left, right).pvalue > 1e-4
    assert stats.pearsonr(left**2, right**2).pvalue > 1e-4


@pytest.mark.parametrize("deviation", [1e-3, 1.0, 250.0])
def test_live_noise_has_the_deviation_that_was_asked_for(deviation: float) -> None:
    """Mean by z, variance by chi-square, shape by KS; each at 1e-9. Zero or halved noise fails all but the first."""
    noise = gaussian(COUNT, deviation)
    assert abs(noise.mean()) < stats.norm.isf(ALARM / 2) * deviation / np.sqrt(COUNT)
    spread = float(np.sum(noise**2)) / deviation**2
    assert stats.chi2.ppf(ALARM / 2, COUNT) < spread < stats.chi2.isf(ALARM / 2, COUNT)
    assert stats.kstest(noise, "norm", args=(0.0, deviation)).pvalue > ALARM


def test_live_noise_is_uncorrelated_along_the_vector() -> None:
    """Autocorrelation at lags 1, 2, 32768 (half a block) and 65536 (a block), each at 1e-9."""
    noise = gaussian(COUNT, 1.0)
    for lag in (1, 2, 1 << 15, 1 << 16):
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
    mask = included(fixed_words(3, COUNT), 0.3)
    together = int(np.count_nonzero(mask[:-1:2] & mask[1::2]))
    assert stats.binomtest(together, COUNT // 2, 0.09).pvalue > 1e-4
