"""From Rényi loss to epsilon and back: the one binding translation, and one labelled figure beside it.

``epsilon = rho + ln(1 - 1/a) - (ln delta + ln a) / (a - 1)`` for a loss of rho nats at order a (Canonne,
Kamath, Steinke, *The Discrete Gaussian for Differential Privacy*, 2020, proposition 12).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from usufruct.privacy.accountant import MICRO
from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import EpsilonBelowFloor, MechanismInvalid
from usufruct.privacy.mechanism import Mechanism, SubsampledGaussian, checked_order

MINIMUM_DELTA: Final = 1e-15
MAXIMUM_DELTA: Final = 0.1
MAXIMUM_EPSILON: Final = 1e6
MAXIMUM_TOTAL_LOSS_MICRO: Final = 2**62


def epsilon_floor(order: int, delta: float) -> float:
    """The epsilon that the translation states for no loss at all: 0.52 at order 16, 1.76 at 6 (delta 1e-5).

    Raises:
        MechanismInvalid: order or delta out of range.
    """
    return max(0.0, _offset(order, delta))


def epsilon(loss_micro: int, order: int, delta: float) -> float:
    """Epsilon at ``delta`` of a total loss of ``loss_micro`` at ``order``.

    Guarantee: what loses at most ``loss_micro`` at ``order`` is (epsilon, delta)-differentially private.

    Raises:
        MechanismInvalid: a figure is out of range.
    """
    checked_integer("loss_micro", loss_micro, 0, MAXIMUM_TOTAL_LOSS_MICRO, MechanismInvalid)
    return max(0.0, loss_micro / MICRO + _offset(order, delta))


def loss_for_epsilon_micro(epsilon_: float, order: int, delta: float) -> int:
    """The largest loss, rounded down, whose :func:`epsilon` is at most ``epsilon_``.

    Raises:
        EpsilonBelowFloor: not even one 10^-6 nat fits under it at this order; names the floor.
        MechanismInvalid: a figure is out of range.
    """
    epsilon_ = checked_real("epsilon", epsilon_, 0.0, MAXIMUM_EPSILON, MechanismInvalid)
    loss_micro = math.floor((epsilon_ - _offset(order, delta)) * MICRO) + 1
    while loss_micro > 0 and epsilon(loss_micro, order, delta) > epsilon_:
        loss_micro -= 1
    if loss_micro <= 0:
        floor = epsilon_floor(order, delta)
        raise EpsilonBelowFloor(
            f"epsilon {epsilon_:g} is not above {floor:.4f}, the least that order {order} can state at delta "
            f"{delta:g}; ask for more, or use datasets registered at a higher order.",
            field="epsilon",
            requested=epsilon_,
            minimum=floor,
            order=order,
        )
    return loss_micro


def delta_with_samplers(delta: float, epsilon_: float, draws: int, total_variation: Fraction) -> float:
    """Delta of what is (``epsilon_``, ``delta``)-private with ideal noise, when ``draws`` samples of it are each within
    ``total_variation`` of their law: ``delta + (1 + exp(epsilon)) * draws * total_variation``, at most 1.

    *Guarantee*: valid for adaptive jobs too (replace the draws one by one; DERIVATION.md, section 10).
    """
    distance = draws * total_variation
    if epsilon_ > 700 or not distance:
        return 1.0 if distance else delta
    return min(1.0, delta + (1 + math.exp(epsilon_)) * float(distance))


def pld_epsilon(mechanism: Mechanism, attempts: int, delta: float) -> float:
    """Epsilon by privacy loss distributions (``dp_accounting``) of one fixed ``local`` plan. NOT the
    binding figure.

    Tighter than :func:`epsilon`, but valid only for one plan fixed in advance: totals over adaptively
    chosen jobs are not. Show it beside the binding figure and label it as what it is.

    Guarantee: pessimistic discretisation, so an upper bound up to the float error of ``dp_accounting``.

    Raises:
        MechanismInvalid: a figure is out of range or the mechanism is unknown.
    """
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    checked_integer("attempts", attempts, 1, 1_000_000, MechanismInvalid)
    delta = checked_delta(delta)
    if not isinstance(mechanism, SubsampledGaussian):
        raise MechanismInvalid(f"{type(mechanism).__name__} has no privacy loss distribution here.")
    step = dp_event.PoissonSampledDpEvent(
        mechanism.sample_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
    )
    accountant = PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(step, mechanism.steps * attempts))
    return float(accountant.get_epsilon(delta))


def _offset(order: int, delta: float) -> float:
    """What the translation adds to the loss; below zero where ``delta * order`` is large."""
    checked_order(order)
    delta = checked_delta(delta)
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def checked_delta(delta: float) -> float:
    """``delta`` if it is in ``[1e-15, 0.1]``.

    Raises:
        MechanismInvalid: otherwise.
    """
    return checked_real("delta", delta, MINIMUM_DELTA, MAXIMUM_DELTA, MechanismInvalid)
