"""How much noise a job needs so that all its attempts fit under a loss cap."""

from __future__ import annotations

from typing import Final

from usufruct.privacy.accountant import MAXIMUM_LOSS_MICRO, unbounded_loss_micro
from usufruct.privacy.bounds import checked_integer
from usufruct.privacy.errors import CalibrationImpossible, MechanismInvalid
from usufruct.privacy.mechanism import MAXIMUM_NOISE_MULTIPLIER, SubsampledGaussian

GRID: Final = 10_000
"""Noise multipliers are whole multiples of 1 / GRID: four decimals, so that a spec reads well and hashes
alike."""
_LEAST, _MOST = 100, int(MAXIMUM_NOISE_MULTIPLIER) * GRID


def noise_multiplier_for(
    loss_cap_micro: int, order: int, sample_rate: float, steps_per_round: int, attempts: int
) -> float:
    """The smallest noise multiplier on a grid of 1e-4 with ``attempts`` times the loss of one attempt under
    the cap.

    Args:
        loss_cap_micro: what the whole job may lose, in 10^-6 nat, e.g. from
            :func:`~usufruct.privacy.conversion.loss_for_epsilon_micro`.
        order: the dataset's Rényi order.
        sample_rate: probability of each unit in a step.
        steps_per_round: local steps in one attempt.
        attempts: rounds plus spare attempts. All are paid for, so a spare one never breaks the cap.

    Guarantee: ``attempts * renyi_loss_micro(SubsampledGaussian(sample_rate, result, steps_per_round),
    order)`` is at most ``loss_cap_micro``.

    Raises:
        CalibrationImpossible: no noise is enough (the cap is below one 10^-6 nat per attempt, or nearly).
        MechanismInvalid: a figure is out of range.
    """
    checked_integer("loss_cap_micro", loss_cap_micro, 0, 2**62, MechanismInvalid)
    checked_integer("attempts", attempts, 1, 1_000_000, MechanismInvalid)

    def fits(grid_steps: int) -> bool:
        mechanism = SubsampledGaussian(sample_rate, grid_steps / GRID, steps_per_round)
        loss_micro = unbounded_loss_micro(mechanism, order)
        return loss_micro <= MAXIMUM_LOSS_MICRO and attempts * loss_micro <= loss_cap_micro

    if fits(_LEAST):
        return _LEAST / GRID
    too_small, enough = _LEAST, GRID
    while not fits(enough):
        if enough >= _MOST:
            raise CalibrationImpossible(
                f"No noise brings {attempts} attempts under a loss of {loss_cap_micro} millionths of a nat; "
                "ask for a larger epsilon, or for fewer rounds.",
                requested=attempts,
                limit=loss_cap_micro,
                order=order,
            )
        too_small, enough = enough, min(_MOST, enough * 2)
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_small = middle
    return enough / GRID
