"""The auditor's accountant for Gaussian noise: the same loss through Google's ``dp_accounting``, sharing no formula with
ours. (It has no Skellam event; for that there is ``usufruct.audit.skellam_accountant``.)

``dp_accounting`` takes a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import math
from typing import Final

from usufruct.privacy.accountant import MICRO
from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.mechanism import Mechanism, SubsampledGaussian, checked_order

RELATIVE_ERROR: Final = 1e-11
"""Bound on the relative float error of ``dp_accounting``'s result within our bounds."""
LOG_MOMENT_ERROR: Final = 1e-12
"""Bound on its absolute error in the log moment of one step, per unit of order: it takes logarithms of
factorials by ``gammaln`` and adds terms that nearly cancel."""


def recompute_loss_micro(mechanism: Mechanism, order: int) -> int:
    """Loss of one attempt at ``order`` through ``dp_accounting``'s ``RdpAccountant``, in 10^-6 nat.

    The result is the smallest integer that an honest claim can be: rounded up after subtracting the float
    error that ``dp_accounting`` may have made. A claim passes if ``recomputed <= claimed <= recomputed +
    1`` (:func:`claim_holds`).

    Raises:
        MechanismInvalid: the order is not served or the mechanism is unknown.
    """
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    checked_order(order)
    if not isinstance(mechanism, SubsampledGaussian):
        raise MechanismInvalid(f"{type(mechanism).__name__} is not among the events of dp_accounting.")
    step = dp_event.PoissonSampledDpEvent(
        mechanism.sample_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
    )
    accountant = RdpAccountant(orders=[order])
    accountant.compose(dp_event.SelfComposedDpEvent(step, mechanism.steps))
    loss_micro = float(accountant.rdp[0]) * MICRO
    absolute_error = 0.0
    if mechanism.sample_rate < 1.0:
        absolute_error = LOG_MOMENT_ERROR * order / (order - 1) * mechanism.steps * MICRO
    return max(1, math.ceil(loss_micro * (1 - RELATIVE_ERROR) - absolute_error))


def claim_holds(claimed_micro: int, mechanism: Mechanism, order: int, attempts: int) -> bool:
    """Whether a receipt's loss is what its mechanism costs: ``recomputed <= claimed <= recomputed + 1`` per
    attempt.

    Args:
        claimed_micro: loss claimed for all attempts together; must be a multiple of ``attempts``.
        attempts: attempts charged, at least 1.
    """
    if attempts < 1 or claimed_micro % attempts:
        return False
    recomputed = recompute_loss_micro(mechanism, order)
    return recomputed <= claimed_micro // attempts <= recomputed + 1
