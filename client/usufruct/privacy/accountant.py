"""The binding accountant: Rényi loss of one attempt at the dataset's one integer order.

The loss is an integer in 10^-6 of a nat, rounded up once per attempt; a job's loss is attempts times that,
so ledger, receipt, chain and audit hold the same integer. A second, independent implementation for the
auditor is :mod:`usufruct.privacy.recompute`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.mechanism import Mechanism, SubsampledGaussian, checked_order

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
    C(a,k) q^k (1-q)^(a-k) exp(k(k-1) / (2 s^2))`` (Mironov, Talwar, Zhang, *Rényi Differential Privacy of
    the Sampled Gaussian Mechanism*, 2019, section 3.3; their theorem 5 shows that this direction is the
    larger of the two). At q = 1 it is ``a / (2 s^2)`` (Mironov 2017, corollary 3). Steps add.

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
    if not isinstance(mechanism, SubsampledGaussian):
        raise MechanismInvalid(f"{type(mechanism).__name__} cannot be priced here; use a newer version.")
    if mechanism.sample_rate == 1.0:
        # Floats are rationals: without sampling the loss is exact, so no margin is needed.
        exact = Fraction(order) / (2 * Fraction(mechanism.noise_multiplier) ** 2)
        return max(1, math.ceil(exact * mechanism.steps * MICRO))
    step_nats = _log_moment(mechanism.sample_rate, mechanism.noise_multiplier, order) / (order - 1)
    loss_micro = step_nats * mechanism.steps * MICRO * (1 + RELATIVE_MARGIN)
    return max(1, math.ceil(loss_micro))


def _log_moment(q: float, s: float, order: int) -> float:
    """``ln A`` to full relative precision, also where A - 1 is far below the float spacing at 1.

    The binomial weights sum to one, so ``A - 1 = sum_{k>=2} C(a,k) q^k (1-q)^(a-k) expm1(k(k-1)/(2 s^2))``:
    a sum of positive terms, with nothing to cancel.
    """
    log_q, log_not_q = math.log(q), math.log1p(-q)
    terms = [
        math.log(math.comb(order, k))
        + k * log_q
        + (order - k) * log_not_q
        + _log_expm1(k * (k - 1) / (2 * s * s))
        for k in range(2, order + 1)
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
