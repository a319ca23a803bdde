"""The Skellam law: the difference of two independent Poisson variables, here with equal means ``variance / 2``.

``P(X = k) = exp(-m) I_k(m)`` for variance m and the modified Bessel function I (Skellam 1946). Sums of independent
Skellam variables are Skellam with the sum of the variances, which is why shares of it add up.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from usufruct.privacy.bounds import checked_integer
from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.mechanism import MAXIMUM_SHARE_NOISE
from usufruct.privacy.noise_table import ONE, NoiseTable

_WORKING_ONE: Final = 1 << 170
_TABLE_BITS: Final = 112
_START_BITS: Final = 150


def skellam_table(variance: int) -> NoiseTable:
    """The table of one Skellam variable of an integer variance from 1 to 10^10.

    Method: the recurrence ``I_(k-1) = I_(k+1) + (2k/m) I_k``, downwards in integers from a K beyond which less than
    2^-150 lies, once from ``I_(K+1) = 0`` and once from ``I_(K+1) = I_K``. All is positive and linear, and 0 < I_(K+1) <
    I_K (Soni 1965), so the true sequence is a mean of the two; and so is, after division by ``I_0 + 2 sum I_k``, each probability between the two quotients (a mediant). DERIVATION.md, section 8.

    *Guarantee*: as :meth:`NoiseTable.enclosed`.

    Raises:
        MechanismInvalid: the variance is no integer in range.
        NoiseTableFaulty: the table would be further than 2^-100 from the law.
    """
    checked_integer("share_noise", variance, 1, MAXIMUM_SHARE_NOISE, MechanismInvalid)
    entries, start = tail_bound(variance, _TABLE_BITS), tail_bound(variance, _START_BITS)
    low_run, low_sum, low_least = _downwards(variance, start, entries, 0)
    high_run, high_sum, high_least = _downwards(variance, start, entries, _WORKING_ONE)
    # Every step rounds down by less than one unit of a value of at least `least`, so each value, and each sum, is low by
    # a share of less than start / least, and a quotient of two is off by less than twice that: by `slack` units of a
    # probability, plus one for its own rounding.
    slack = 2 + 4 * ONE * start // min(low_least, high_least)
    lower, upper = [], []
    for k in range(entries):
        weight = ONE if k == 0 else 2 * ONE
        ends = weight * low_run[k] // low_sum, weight * high_run[k] // high_sum
        lower.append(max(0, min(ends) - slack))
        upper.append(max(ends) + slack)
    # The quotients are the law given |X| <= start. Given nothing they are smaller by a share of 2^-150: far below a unit.
    tail = Fraction(1, 1 << _TABLE_BITS)
    return NoiseTable.enclosed(f"Skellam of variance {variance}", variance, lower, upper, tail)


def tail_bound(variance: int, bits: float, count: int = 1) -> int:
    """An integer t with ``count * P(|X| >= t) <= 2^-bits``.

    Chernoff: ``P(X >= t) <= exp(-m g(t/m))`` with ``g(x) = x asinh(x) - (sqrt(1 + x^2) - 1)``, the minimum over h of
    ``exp(m (cosh h - 1) - h t)``.
    """
    nats = bits * math.log(2) + math.log(2 * count)

    def enough(t: int) -> bool:
        x = t / variance
        # The second form of sqrt(1 + x^2) - 1 does not cancel; what is left of rounding is far below 1e-9.
        exponent = variance * (x * math.asinh(x) - x * x / (1 + math.sqrt(1 + x * x)))
        return exponent * (1 - 1e-9) >= nats

    above = 1
    while not enough(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if enough(middle) else (middle, above)
    return above


def _downwards(variance: int, start: int, entries: int, after: int) -> tuple[list[int], int, int]:
    """Values proportional to I_0 .. I_(entries-1), the sum over all |k| <= start, and the least value met.

    Args:
        after: I_(start+1) in units where I_start is ``_WORKING_ONE``.
    """
    run = [0] * entries
    beyond, here, one_sided, least = after, _WORKING_ONE, 0, _WORKING_ONE
    for k in range(start, 0, -1):
        if k < entries:
            run[k] = here
        one_sided += here
        beyond, here = here, beyond + 2 * k * here // variance
        if here < least:
            least = here
    run[0] = here
    return run, here + 2 * one_sided, least
