"""The Gaussian mechanism of `local` mode on a grid: integers in, integers out, and nothing in their last bits.

The clipped sum is put on a grid that is fine against the noise, gets *discrete* Gaussian noise of a fixed deviation of
about 2^27 grid steps, and is scaled back. At integer orders the discrete Gaussian loses exactly what the continuous one
does (Canonne, Kamath, Steinke 2020; DERIVATION.md, section 9), so ``SubsampledGaussian`` prices it.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import MechanismInvalid, RoundingInvalid
from usufruct.privacy.mechanism import MAXIMUM_NOISE_MULTIPLIER, MINIMUM_NOISE_MULTIPLIER
from usufruct.privacy.noise_table import ONE, NoiseTable
from usufruct.privacy.plan import GRID_SLACK

TABLE_DEVIATION: Final = 1 << 14
STRETCH: Final = 1 << 13
"""A sample is ``X + STRETCH * Y`` for two draws of the table."""

GRID_VARIANCE: Final = TABLE_DEVIATION**2 * (1 + STRETCH**2)
GRID_DEVIATION: Final = math.sqrt(GRID_VARIANCE)
"""Standard deviation of the noise in grid steps: 2^27 + 1, nearly."""

CONVOLUTION_VARIATION: Final = Fraction(1, 1 << 112)
"""Bound on the total variation between the law of ``X + STRETCH * Y`` and the discrete Gaussian, X and Y being exact:
``e / (1 - e)`` with ``e = 2 sum_k exp(-2 pi^2 t^2 k^2)``, ``1/t^2 = 1/4 + 2^-28`` (DERIVATION.md, section 9)."""

_LARGEST_GRID_VALUE: Final = 2.0**52
_WORKING_BITS: Final = 240
_TABLE_DEVIATIONS: Final = 12.6
_BLOCK: Final = 1 << 16


def noised_sum(
    total: NDArray[np.float64], noise_multiplier: float, max_grad_norm: float, parameters: int = 0
) -> NDArray[np.float64]:
    """A clipped sum, shape ``(d,)``, with Gaussian noise of deviation ``noise_multiplier * max_grad_norm``.

    Args:
        parameters: how many values the whole sum has where ``total`` is a chunk of it; then what holds of the whole sum
            holds of its chunks together.

    *Guarantee*: if neighbouring sums differ by at most ``max_grad_norm * (1 - GRID_SLACK)``, this is a function of the
    discrete Gaussian mechanism of sensitivity ``max_grad_norm`` and that deviation, to within a total variation of
    :func:`gaussian_total_variation` a coordinate. Neighbouring sums on the grid differ by at most two steps a
    coordinate more than they did (a rounding each, and the float error of a value below 2^52), and values beyond 2^52
    steps are clamped before the noise.

    Raises:
        MechanismInvalid: a figure is out of range, or the grid is too coarse for so much noise on so many coordinates.
        RoundingInvalid: not one-dimensional float64, or a value is not finite.
    """
    multiplier = checked_real(
        "noise_multiplier",
        noise_multiplier,
        MINIMUM_NOISE_MULTIPLIER,
        MAXIMUM_NOISE_MULTIPLIER,
        MechanismInvalid,
        because="without noise there is no privacy",
    )
    norm = checked_real("max_grad_norm", max_grad_norm, 1e-30, 1e30, MechanismInvalid)
    if total.dtype != np.float64 or total.ndim != 1:
        raise RoundingInvalid("A sum is a one-dimensional float64 array.", field="total")
    if not np.isfinite(total).all():
        raise RoundingInvalid("The sum has a value that is not finite; nothing was released.", field="total")
    require_fine_grid(multiplier, max(parameters, total.size))
    steps = GRID_DEVIATION / multiplier
    values = total / (norm / steps)
    np.clip(values, -_LARGEST_GRID_VALUE, _LARGEST_GRID_VALUE, out=values)
    np.rint(values, out=values)
    noised = values.astype(np.int64)
    noised += discrete_gaussian(total.size)
    released: NDArray[np.float64] = noised.astype(np.float64)
    released *= norm / steps
    return released


def require_fine_grid(noise_multiplier: float, count: int) -> None:
    """Whether rounding ``count`` coordinates to the grid stays within ``GRID_SLACK`` of the norm, ``2 sqrt(count)`` steps of
    ``GRID_DEVIATION / noise_multiplier`` to the norm; with about ``noise_multiplier * sqrt(count)`` up to 33,000. For a check
    before anything is charged.

    Raises:
        MechanismInvalid: it does not.
    """
    if 2 * math.sqrt(count) * noise_multiplier > GRID_SLACK * GRID_DEVIATION:
        raise MechanismInvalid(
            f"A noise_multiplier of {noise_multiplier:g} on {count} parameters is more than the noise grid resolves; use "
            "fewer parameters or less noise (a larger epsilon, fewer rounds).",
            field="noise_multiplier",
            requested=noise_multiplier,
        )


def discrete_gaussian(count: int) -> NDArray[np.int64]:
    """``count`` samples of the discrete Gaussian of variance :data:`GRID_VARIANCE`, in grid steps, shape ``(count,)``.

    *Guarantee*: independent, under keys of this call alone; each within :func:`gaussian_total_variation` of the law.
    """
    checked_integer("count", count, 0, 2**40, MechanismInvalid)
    table = _table()
    samples = np.empty(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        block = samples[start : start + _BLOCK]
        block[:] = table.draw(block.size)
        block *= STRETCH
        block += table.draw(block.size)
    return samples


def gaussian_total_variation() -> Fraction:
    """Bound on the distance between one sample and the discrete Gaussian: two draws of the table, and their sum."""
    return 2 * _table().total_variation + CONVOLUTION_VARIATION


@functools.cache
def _table() -> NoiseTable:
    """The one table: a constant of mathematics, built at its first use in a process (a third of a second)."""
    return discrete_gaussian_table(TABLE_DEVIATION)


def discrete_gaussian_table(deviation: int) -> NoiseTable:
    """The table of P(X = k) proportional to ``exp(-k^2 / (2 deviation^2))``.

    Method: with ``r = exp(-1 / (2 deviation^2))`` the weights are ``w_0 = 1, w_(k+1) = w_k r^(2k+1)``, computed once
    rounding every product down and once up, from rationals below and above r. Beyond the last entry the weights fall
    faster than a geometric series.

    *Guarantee*: as :meth:`NoiseTable.enclosed`.

    Raises:
        NoiseTableFaulty: the table would be further than 2^-100 from the law.
    """
    checked_integer("deviation", deviation, 1, 1 << 16, MechanismInvalid)
    entries = math.ceil(_TABLE_DEVIATIONS * deviation) + 2
    x = Fraction(1, 2 * deviation**2)
    below, above = _exponential_bounds(x)
    low, _ = _weights(below, entries, 0)
    high, high_beyond = _weights(above, entries, 1)
    low_sum = 2 * sum(low) - low[0]
    high_sum = 2 * (sum(high) + high_beyond) - high[0]
    lower, upper = [], []
    for k in range(entries):
        weight = ONE if k == 0 else 2 * ONE
        lower.append(weight * low[k] // high_sum)
        upper.append(weight * high[k] // low_sum + 1)
    tail = Fraction(2 * high_beyond, low_sum)
    return NoiseTable.enclosed(
        f"discrete Gaussian of deviation {deviation}", deviation**2, lower, upper, tail
    )


def _exponential_bounds(x: Fraction) -> tuple[Fraction, Fraction]:
    """Rationals below and above exp(-x) for 0 < x < 1: two partial sums of the alternating series, 2^-200 apart."""
    partial, term, number = Fraction(1), Fraction(1), 0
    while True:
        number += 1
        before, term = partial, -term * x / number
        partial += term
        if number >= 2 and abs(term) < Fraction(1, 1 << (_WORKING_BITS - 10)):
            return min(before, partial), max(before, partial)


def _weights(r: Fraction, entries: int, round_up: int) -> tuple[list[int], int]:
    """The weights in units of 2^-240, each product rounded down (``round_up`` 0) or up (1), and a bound on the sum of
    those that follow if it is rounded up: ``w_n / (1 - r^(2n+1))``."""
    ratio = (r.numerator << _WORKING_BITS) // r.denominator + round_up
    square = (ratio * ratio >> _WORKING_BITS) + round_up
    weight, weights = 1 << _WORKING_BITS, []
    for _ in range(entries):
        weights.append(weight)
        weight = (weight * ratio >> _WORKING_BITS) + round_up
        ratio = (ratio * square >> _WORKING_BITS) + round_up
    return weights, (weight << _WORKING_BITS) // ((1 << _WORKING_BITS) - ratio) + 1
