"""The Gaussian mechanism of `local` mode: on a grid, exactly priced, and silent about the last bits of its input."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from usufruct.privacy import MechanismInvalid, RoundingInvalid, gaussian_noise, noised_sum
from usufruct.privacy.gaussian_noise import (
    GRID_DEVIATION,
    GRID_SLACK,
    GRID_VARIANCE,
    gaussian_total_variation,
)
from usufruct.privacy.plan import CLIP_SLACK


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf, None])
def test_noise_of_no_width_is_refused(multiplier: float) -> None:
    with pytest.raises(MechanismInvalid):
        noised_sum(np.zeros(3), multiplier, 1.0)


@pytest.mark.parametrize(
    "total",
    [np.zeros(3, dtype=np.float32), np.zeros((2, 2)), np.array([0.0, math.nan]), np.array([math.inf])],
)
def test_what_is_no_sum_is_refused(total: np.ndarray) -> None:
    with pytest.raises(RoundingInvalid):
        noised_sum(total, 1.0, 1.0)


def test_a_grid_too_coarse_for_the_noise_is_refused() -> None:
    most = GRID_SLACK * GRID_DEVIATION / 2
    assert noised_sum(np.zeros(100), most / 10.001, 1.0).shape == (100,)
    with pytest.raises(MechanismInvalid, match="grid"):
        noised_sum(np.zeros(100), most / 9.999, 1.0)


@pytest.mark.parametrize(("multiplier", "norm"), [(1.0, 1.0), (0.37, 1.5), (3.3, 0.01)])
def test_nothing_but_the_grid_leaves(multiplier: float, norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums that round to the same grid points give the same release: their last bits are gone."""
    monkeypatch.setattr(
        gaussian_noise, "discrete_gaussian", lambda count: np.arange(count, dtype=np.int64) * 10**8
    )
    step = multiplier * norm / GRID_DEVIATION
    points = np.random.default_rng(1).integers(-(2**40), 2**40, 1000)
    released = [noised_sum((points + offset) * step, multiplier, norm) for offset in (-0.4, 0.0, 0.4)]
    assert np.array_equal(released[0], released[1])
    assert np.array_equal(released[0], released[2])
    assert np.allclose(released[0], (points + np.arange(1000) * 10**8) * step, rtol=1e-12)


def test_neighbours_on_the_grid_stay_within_the_norm_that_is_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force over 2000 pairs of sums of all sizes: two steps a coordinate at most, and within the slack in all."""
    monkeypatch.setattr(gaussian_noise, "discrete_gaussian", lambda count: np.zeros(count, dtype=np.int64))
    random = np.random.default_rng(2)
    d, multiplier, norm = 50, 30.0, 1.0
    step = multiplier * norm / GRID_DEVIATION
    for _ in range(2000):
        base = random.standard_normal(d) * 10.0 ** random.uniform(-9, 7)
        part = random.standard_normal(d)
        part *= norm * (1 - CLIP_SLACK) / np.linalg.norm(part)
        before, after = (
            noised_sum(base, multiplier, norm) / step,
            noised_sum(base + part, multiplier, norm) / step,
        )
        if np.abs(base).max() < 2.0**51 * step:
            assert np.all(np.abs(np.rint(after) - np.rint(before) - part / step) <= 2)
        assert np.linalg.norm(np.rint(after) - np.rint(before)) * step <= norm


def test_the_discrete_gaussian_loses_what_the_continuous_one_does() -> None:
    """Exact Rényi moments of a shifted discrete Gaussian at integer orders, by summation at 40 digits; and of the
    Poisson-subsampled pair, in the direction that is priced and the other one."""
    with mpmath.workdps(40):
        for variance in (1, 4, 30):
            reach = 40 * int(math.sqrt(variance)) + 60
            density = {
                k: mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(-2 * reach, 2 * reach + 1)
            }
            norm = mpmath.fsum(density.values())
            for shift in (1, 2, 5):
                for order in (2, 3, 6):
                    for q in (0.1, 0.5, 1.0):
                        forward, reverse = mpmath.mpf(0), mpmath.mpf(0)
                        for k in range(-reach, reach + 1):
                            base = density[k] / norm
                            mixed = (1 - mpmath.mpf(q)) * base + mpmath.mpf(q) * density[k - shift] / norm
                            forward += mixed**order * base ** (1 - order)
                            reverse += base**order * mixed ** (1 - order)
                        gaussian = mpmath.fsum(
                            math.comb(order, k) * mpmath.mpf(q) ** k * (1 - mpmath.mpf(q)) ** (order - k)
                            * mpmath.exp(mpmath.mpf(k * (k - 1) * shift**2) / (2 * variance))
                            for k in range(order + 1)
                        )  # fmt: skip
                        assert abs(forward / gaussian - 1) < 1e-20
                        assert reverse <= forward * (1 + mpmath.mpf(10) ** -25)


def test_the_law_of_a_sample_is_stated() -> None:
    assert gaussian_total_variation() <= Fraction(1, 1 << 100)
    assert math.isclose(GRID_DEVIATION**2, GRID_VARIANCE)
    samples = gaussian_noise.discrete_gaussian(1000)
    assert samples.dtype == np.int64
    assert len({int(sample) for sample in samples}) > 995
    assert any(
        a % gaussian_noise.STRETCH != b % gaussian_noise.STRETCH for a, b in pairwise(samples.tolist())
    )
