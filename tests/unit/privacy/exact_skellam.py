"""Rényi moments of Skellam noise by plain summation, for tests: no bound, no theorem, nothing of the shipped code."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy import special


def log_law(variance: float, reach: int) -> np.ndarray:
    """ln P(X = k) for k = -reach .. reach: ratios of Bessel functions by continued fraction from far out, downwards."""
    start = reach + 60 + int(5 * math.sqrt(variance))
    ratio, logs = 0.0, np.zeros(start + 1)
    for k in range(start, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)
        logs[k] = math.log(ratio)
    one_side = math.log(special.ive(0, variance)) + np.concatenate([[0.0], np.cumsum(logs[1 : reach + 1])])
    return np.concatenate([one_side[:0:-1], one_side])


def log_moments(variance: float, shifts: Mapping[int, float], order: int, rate: float) -> tuple[float, float]:
    """``ln E_P[(M/P)^order]`` and ``ln E_M[(P/M)^order]`` for P Skellam noise at 0 and M the mixture of it with the noise at
    random shifts: P(shift) = ``rate * shifts[shift]``. One dimension."""
    furthest = max(abs(shift) for shift in shifts)
    reach = int(order * furthest + 16 * math.sqrt(variance)) + 80
    law = log_law(variance, reach + furthest)

    def at(shift: int) -> np.ndarray:
        return law[furthest - shift : furthest - shift + 2 * reach + 1]

    base = at(0)
    parts = [math.log(rate * chance) + at(shift) for shift, chance in shifts.items() if chance > 0]
    if rate < 1:
        parts.append(math.log1p(-rate) + base)
    mixed = special.logsumexp(parts, axis=0)
    return (
        float(special.logsumexp(order * mixed + (1 - order) * base)),
        float(special.logsumexp(order * base + (1 - order) * mixed)),
    )


def log_moment(variance: float, shift: int, order: int) -> float:
    """``ln E[L^order]`` for one fixed shift."""
    return log_moments(variance, {shift: 1.0}, order, 1.0)[0]
