"""A privacy audit of one attempt: no distinguisher may do better than the binding epsilon allows.

The worst neighbours for the subsampled Gaussian are a sum of 0 and a sum of one unit at the clip. Threshold tests on a
million attempts in each world give Clopper-Pearson bounds on both error rates, and so a lower bound on epsilon. A correct
mechanism exceeds the claim with probability below 1e-6 (union over thresholds and both bounds).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from usufruct.privacy import LocalPlan, noised_sum, poisson_mask

ATTEMPTS = 1_000_000
PLAN = LocalPlan(
    sample_rate=0.5,
    max_grad_norm=1.0,
    noise_multiplier=0.9,
    local_steps=1,
    rounds=1,
    spare_attempts=0,
    micro_batch_size=1,
    nominal_size=2,
    order=6,
    delta=1e-5,
)


def attempts(present: bool, noise_share: float = 1.0) -> np.ndarray:
    """What leaves the holder in a million attempts: noise, and the one unit at the clip where it was sampled."""
    sums = np.zeros(ATTEMPTS)
    if present:
        sums += poisson_mask(ATTEMPTS, PLAN.sample_rate) * PLAN.clip_norm
    return noised_sum(sums, PLAN.noise_multiplier * noise_share, PLAN.max_grad_norm)


def epsilon_at_least(absent: np.ndarray, present: np.ndarray) -> float:
    """Largest epsilon that some threshold proves at the plan's delta, over 40 thresholds at 1e-8 each."""
    best = 0.0
    for threshold in np.linspace(-4, 6, 40):
        for hits, false_hits in (
            (np.count_nonzero(present > threshold), np.count_nonzero(absent > threshold)),
            (np.count_nonzero(absent <= threshold), np.count_nonzero(present <= threshold)),
        ):
            if hits == 0:
                continue
            power = stats.beta.ppf(1e-8, hits, ATTEMPTS - hits + 1)
            size = stats.beta.isf(1e-8, false_hits + 1, max(ATTEMPTS - false_hits, 1))
            if power > PLAN.delta:
                best = max(best, math.log((power - PLAN.delta) / size))
    return best


def test_no_threshold_distinguishes_better_than_the_claim() -> None:
    assert epsilon_at_least(attempts(present=False), attempts(present=True)) <= PLAN.epsilon


def test_the_audit_sees_too_little_noise() -> None:
    """The same audit on a tenth of the noise: it must prove more than the claim, or it proves nothing."""
    lower_bound = epsilon_at_least(attempts(False, noise_share=0.1), attempts(True, noise_share=0.1))
    assert lower_bound > PLAN.epsilon
