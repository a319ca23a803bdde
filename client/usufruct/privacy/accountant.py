"""The binding accountant: Rényi loss of one attempt at the dataset's one integer order.

The loss is an integer in 10^-6 of a nat, rounded up once per attempt; a job's loss is attempts times that,
so ledger, receipt, chain and audit hold the same integer. The auditor has implementations of its own:
:mod:`usufruct.privacy.recompute` (Gaussian) and :mod:`usufruct.audit.skellam_accountant`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.mechanism import Mechanism, SubsampledGaussian, SubsampledSkellam, checked_order

MICRO: Final = 1_000_000
"""Integers named ``_micro`` are millionths of a nat."""

MAXIMUM_LOSS_MICRO: Final = 1_000 * MICRO
"""An attempt that loses more than 1000 nats promises nothing; it is refused, not priced."""

RELATIVE_MARGIN: Final = 1e-11
"""Added before rounding up. The float error of the sum below is under 3e-12 of the result within the bounds
of :class:`SubsampledGaussian`, and 1e-11 of the largest loss served is a hundredth of a micro-nat."""


def renyi_loss_micro(mechanism: Mechanism, order: int) -> int:
    """Rényi loss of ONE attempt at ``order``, in 10^-6 nat, rounded up.

    Formula: for 0 < q < 1 and integer order a, the loss of one step is ``ln A / (a - 1)`` with ``A = sum_k
    C(a,k) q^k (1-q)^(a-k) E[L^k]``, L being the likelihood ratio without sampling (Mironov, Talwar, Zhang, *Rényi
    Differential Privacy of the Sampled Gaussian Mechanism*, 2019, section 3.3; their theorem 5, and section 7 of
    DERIVATION.md for any symmetric noise, show that this direction is the larger of the two). For the Gaussian ``E[L^k] =
    exp(k(k-1) / (2 s^2))``; for Skellam noise it is bounded by :func:`skellam_log_moment`. Steps add.

    Guarantee: never below the true loss of the mechanism under add-or-remove of one unit, and at most one
    10^-6 nat above it, rounded up.

    Raises:
        MechanismInvalid: the order is not served, the mechanism is unknown, or the loss exceeds 1000 nats.
    """
    loss_micro = unbounded_loss_micro(mechanism, order)
    if loss_micro > MAXIMUM_LOSS_MICRO:
        raise MechanismInvalid(
            f"One attempt would lose {loss_micro / MICRO:.3g} nats at order {order}, more than the "
            f"{MAXIMUM_LOSS_MICRO // MICRO} that can be accounted for; use more noise or fewer steps.",
            field="noise_multiplier",
            limit=MAXIMUM_LOSS_MICRO,
            requested=loss_micro,
        )
    return loss_micro


def unbounded_loss_micro(mechanism: Mechanism, order: int) -> int:
    """As :func:`renyi_loss_micro`, without the refusal of absurdly large losses; the calibration searches
    there."""
    checked_order(order)
    if not isinstance(mechanism, SubsampledGaussian | SubsampledSkellam):
        raise MechanismInvalid(f"{type(mechanism).__name__} cannot be priced here; use a newer version.")
    steps = mechanism.steps if isinstance(mechanism, SubsampledGaussian) else 1
    if mechanism.sample_rate == 1.0:
        # Floats are rationals: without sampling the loss is exact, so no margin is needed.
        exact = _log_moment(mechanism, order) / (order - 1)
        return max(1, math.ceil(exact * steps * MICRO))
    exponents = [float(_log_moment(mechanism, k)) for k in range(2, order + 1)]
    step_nats = _subsampled_log_moment(mechanism.sample_rate, order, exponents) / (order - 1)
    loss_micro = step_nats * steps * MICRO * (1 + RELATIVE_MARGIN)
    return max(1, math.ceil(loss_micro))


def _log_moment(mechanism: Mechanism, k: int) -> Fraction:
    """``ln E[L^k]`` without sampling. Two Gaussians that differ by the sensitivity: ``k(k-1) / (2 s^2)``, exactly."""
    if isinstance(mechanism, SubsampledSkellam):
        return skellam_log_moment(mechanism, k)
    return Fraction(k * (k - 1)) / (2 * Fraction(mechanism.noise_multiplier) ** 2)


def skellam_log_moment(mechanism: SubsampledSkellam, k: int) -> Fraction:
    """A bound on ``ln E[L^k]`` of the likelihood ratio L of the rounded and noised sums of two neighbours, for integer
    k >= 2; exact rational arithmetic on the mechanism's integers.

    The lesser of two bounds, with m the variance of the noise (DERIVATION.md, sections 5 and 6):

    * the worst rounding: ``(k-1) (k D2^2 / (2m) + min(((2k-1) D2^2 + 6 D1) / (4m^2), 3 D1 / (2m)))`` (Agarwal, Kairouz,
      Liu, *The Skellam Mechanism for Differentially Private Federated Learning*, 2021, corollary 4.1);
    * the mean over the dither: ``c (s^2 C^2 + d/4) + c^2 (2sC + sqrt(d))^2 / 8 + 6 (k-1) D1 / (4m^2)`` with ``c = (k-1) (k /
      (2m) + (2k-1) / (4m^2))``: the same theorem given the dither, convexity of the moment, Hoeffding's lemma.
    """
    m, norm, root = mechanism.noise, mechanism.scaled_norm_pico, mechanism.root_dimension_micro
    two, one = mechanism.delta_two_micro, mechanism.delta_one_micro
    # D2 and D1 in 10^-6, s C in 10^-12; c is `rate / (4 m^2)`. All over the denominator 128 m^4 10^24.
    correction = min((2 * k - 1) * two**2 + 6 * one * MICRO, 6 * m * one * MICRO)
    worst = (k - 1) * (2 * k * m * two**2 + correction) * 32 * m**2 * MICRO**2
    rate = (k - 1) * (2 * k * m + 2 * k - 1)
    mean_square = 4 * norm**2 + mechanism.dimension * MICRO**4
    spread = 2 * norm + root * MICRO
    mean = 8 * m**2 * rate * mean_square + rate**2 * spread**2 + 192 * (k - 1) * one * m**2 * MICRO**3
    return Fraction(min(worst, mean), 128 * m**4 * MICRO**4)


def _subsampled_log_moment(q: float, order: int, exponents: list[float]) -> float:
    """``ln A`` to full relative precision, also where A - 1 is far below the float spacing at 1.

    The binomial weights sum to one, so ``A - 1 = sum_{k>=2} C(a,k) q^k (1-q)^(a-k) expm1(exponent_k)``:
    a sum of positive terms, with nothing to cancel.

    Args:
        exponents: ``ln E[L^k]`` without sampling, for k = 2 .. order.
    """
    log_q, log_not_q = math.log(q), math.log1p(-q)
    terms = [
        math.log(math.comb(order, k)) + k * log_q + (order - k) * log_not_q + _log_expm1(exponent)
        for k, exponent in enumerate(exponents, start=2)
    ]
    largest = max(terms)
    log_excess = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    if log_excess > 0:
        return log_excess + math.log1p(math.exp(-log_excess))
    return math.log1p(math.exp(log_excess))


def _log_expm1(x: float) -> float:
    """``ln(exp(x) - 1)`` for x > 0, without overflow."""
    if x > 1:
        return x + math.log1p(-math.exp(-x))
    return math.log(math.expm1(x))
