"""What a privacy audit's observations prove: lower bounds on epsilon, each wrong with at most a stated probability.

Both bounds say: if the trainer were what its plan says, so much would be seen with a probability of at most ``level``.
Imports nothing of the project but the exact loss of the Gaussian mechanism's composition through ``dp_accounting``, so a
mistake in our accountants cannot hide here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

_PRECISION = 1e-3
_LARGEST = 40.0


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """A lower bound on epsilon from one run in which every canary was in the data by the toss of a coin.

    Steinke, Nasr, Jagielski, *Privacy Auditing with One (1) Training Run* (2023), theorem 5.2: of a mechanism that is
    (epsilon, delta)-private, ``guesses`` guesses about ``canaries`` coins are right at least ``correct`` times with
    probability at most ``beta + 2 canaries delta alpha``, where ``beta`` is the binomial tail at ``e^eps/(1 + e^eps)``. The
    neighbouring relation is add-or-remove-one. Which canaries are guessed about may depend on the output; how many, not.

    Args:
        level: probability that the bound is too large, at most.
    Returns:
        The largest epsilon at ``delta`` that is refuted; 0 if none is.
    """
    return _largest_refuted(
        lambda epsilon: one_run_probability(canaries, guesses, correct, epsilon, delta) <= level
    )


def one_run_probability(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The bound of the theorem on the probability of ``correct`` or more right guesses."""
    if not correct:
        return 1.0
    share = 1 / (1 + math.exp(-epsilon))
    beta = stats.binom.sf(correct - 1, guesses, share)
    fewer = np.arange(1, correct + 1)
    below = stats.binom.cdf(correct - 1, guesses, share) - stats.binom.cdf(
        correct - fewer - 1, guesses, share
    )
    return float(min(1.0, beta + 2 * canaries * delta * np.max(below / fewer)))


def noise_at_most(
    absent: tuple[int, int], present: tuple[int, int], sample_rate: float, level: float
) -> float:
    """The most noise, as a multiple of the canary, with which a threshold would tell the worlds apart so well.

    Without the canary the statistic is N(0, s^2); with it, with probability ``sample_rate``, N(1, s^2). Of all tests with a
    false-positive rate a the best one finds the canary at a rate of ``(1-q) a + q Phi(Phi^-1(a) + 1/s)`` (Neyman and
    Pearson). Clopper-Pearson bounds on both rates, at half the level each, bound s from above. That is the two-run audit of
    Nasr et al., *Tight Auditing of Differentially Private Machine Learning* (2023), for the subsampled Gaussian.

    Args:
        absent, present: how often the statistic was above a threshold fixed beforehand, and of how many independent
            observations, in the two worlds.
    Returns:
        The noise, above the true one with a probability of at least ``1 - level``; infinite if nothing was told apart.
    """
    false_alarms, found = _rate_bounds(*absent, level / 2)[1], _rate_bounds(*present, level / 2)[0]
    if_sampled = (found - (1 - sample_rate) * false_alarms) / sample_rate
    if if_sampled >= 1:
        return 0.0  # no noise explains that the canary was seen more often than it can have been sampled
    if if_sampled <= false_alarms:
        return math.inf
    return float(1 / (stats.norm.ppf(if_sampled) - stats.norm.ppf(false_alarms)))


def epsilon_of_noise(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The exact epsilon of ``steps`` steps with that much Gaussian noise, by privacy loss distributions; infinite without noise."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    if math.isinf(noise_multiplier):
        return 0.0
    if noise_multiplier < 0.05:
        return math.inf
    accountant = PLDAccountant(value_discretization_interval=_PRECISION)
    step = dp_event.PoissonSampledDpEvent(sample_rate, dp_event.GaussianDpEvent(noise_multiplier))
    accountant.compose(dp_event.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))


def _rate_bounds(hits: int, trials: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson (1934): each bound is wrong with a probability of at most ``level``."""
    low = stats.beta.ppf(level, hits, trials - hits + 1) if hits else 0.0
    high = stats.beta.isf(level, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def _largest_refuted(refuted: Callable[[float], bool]) -> float:
    low, high = 0.0, _LARGEST
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
