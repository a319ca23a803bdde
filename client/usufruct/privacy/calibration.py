"""How much noise a job needs so that all its attempts fit under a loss cap: Gaussian noise at one holder, or integer
noise in shares over several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from usufruct.privacy.accountant import MAXIMUM_LOSS_MICRO, unbounded_loss_micro
from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.distributed_plan import (
    FIELD_BITS,
    OVERFLOW_BITS,
    IntegerNoise,
    grid_is_fine,
    largest_sum,
)
from usufruct.privacy.errors import CalibrationImpossible, MechanismInvalid
from usufruct.privacy.mechanism import (
    MAXIMUM_NOISE_MULTIPLIER,
    MAXIMUM_SCALE_MICRO,
    MAXIMUM_SHARE_NOISE,
    SubsampledGaussian,
    SubsampledSkellam,
)
from usufruct.privacy.rotation import block_size, padded_dimension

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

    least = _least(fits, _LEAST, _MOST)
    if least is None:
        raise CalibrationImpossible(
            f"No noise brings {attempts} attempts under a loss of {loss_cap_micro} millionths of a nat; "
            "ask for a larger epsilon, or for fewer rounds.",
            requested=attempts,
            limit=loss_cap_micro,
            order=order,
        )
    return least / GRID


FINEST_PER_ROOT: Final = 100
"""Steps to the norm of one unit, per root of the dimension, that are enough (soundness 3)."""


def integer_noise_for(
    loss_caps_micro: Mapping[int, int],
    *,
    sample_rate: float,
    max_grad_norm_micro: int,
    parameter_count: int,
    holders: int,
    min_honest: int,
    attempts: int,
    largest_batch: float,
    alignment: float = 1.0,
) -> IntegerNoise:
    """The finest integers of use that fit their field, and the least noise for them under every cap.

    A finer scale costs less noise beside the rounding, but value and noise must fit a field of 22 bits together. From
    ``FINEST_PER_ROOT`` times ``sqrt(dimension)`` steps to the norm on, rounding costs less than a part in 10^4 of the noise, and
    a finer scale would only make the tables of noise larger. The clamp is put where no coordinate of a sum of norm ``alignment * largest_batch * C`` reaches but for a probability of
    2^-40 a job, over the random signs: ``s |sum| z / sqrt(block)``, ``z^2 = 2 ln(2 * coordinates * 2^40)`` (Hoeffding). A sum
    beyond that is clamped, which costs accuracy and no privacy.

    Args:
        loss_caps_micro: for each Rényi order in the cohort, what the whole job may lose, in 10^-6 nat.
        sample_rate, max_grad_norm_micro, parameter_count, holders, min_honest: as in
            :class:`~usufruct.privacy.distributed_plan.DistributedPlan`.
        attempts: rounds plus spare attempts.
        largest_batch: the largest nominal batch size in the cohort.
        alignment: how long a holder's sum can be, as a share of what it is if all units pull one way; 1 bounds every sum
            of the nominal size. (Measured in training on images: 0.22 at most.)

    *Guarantee*: with the result, ``attempts`` times the loss of one attempt with ``min_honest`` shares is at most the cap at
    each order; the sum overflows its field with probability at most 2^-40 in the whole job.

    Raises:
        CalibrationImpossible: no noise is enough, or none that is fits the field.
        MechanismInvalid: a figure is out of range.
    """
    checked_integer("attempts", attempts, 1, 1_000_000, MechanismInvalid)
    checked_integer("holders", holders, 1, 1_024, MechanismInvalid)
    batch = checked_real("largest_batch", largest_batch, 1.0, 1e12, MechanismInvalid)
    share = checked_real("alignment", alignment, 1e-6, 1.0, MechanismInvalid)
    if not loss_caps_micro:
        raise MechanismInvalid("There is no loss cap to calibrate for.", field="loss_caps_micro")
    dimension, coordinates = padded_dimension(parameter_count), padded_dimension(parameter_count) * attempts
    z = math.sqrt(2 * (math.log(2 * coordinates * holders) + OVERFLOW_BITS * math.log(2)))
    peak = share * batch * min(1.0, z / math.sqrt(block_size(parameter_count)))

    def noise_at(scale_micro: int) -> IntegerNoise | None:
        clamp = 1 + math.ceil(peak * (scale_micro * max_grad_norm_micro / 10**12))

        def fits(share_noise: int) -> bool:
            mechanism = SubsampledSkellam(
                sample_rate, scale_micro, max_grad_norm_micro, dimension, share_noise, min_honest
            )
            losses = {order: unbounded_loss_micro(mechanism, order) for order in loss_caps_micro}
            return all(
                loss <= MAXIMUM_LOSS_MICRO and attempts * loss <= loss_caps_micro[order]
                for order, loss in losses.items()
            )

        if clamp >> FIELD_BITS:
            return None
        least = _least(fits, 1, MAXIMUM_SHARE_NOISE)
        return None if least is None else IntegerNoise(scale_micro, least, clamp)

    def bursts(scale_micro: int) -> bool:
        noise = noise_at(scale_micro)
        return noise is None or largest_sum(noise, holders, coordinates) >= 1 << (FIELD_BITS - 1)

    of_use = FINEST_PER_ROOT * math.sqrt(dimension) / (max_grad_norm_micro / 10**6)
    finest = max(1, min(MAXIMUM_SCALE_MICRO, round(10**6 * of_use)))
    if bursts(finest):
        # The least scale that bursts the field, to a thousandth; the one before it fits.
        too_fine = _least(bursts, 1, finest, tolerance=1000) or finest
        finest = too_fine - max(1, too_fine // 1000)
    noise = noise_at(finest) if finest >= 1 and not bursts(finest) else None
    if noise is None or not grid_is_fine(finest, max_grad_norm_micro, parameter_count):
        raise CalibrationImpossible(
            f"No integer noise of {FIELD_BITS} bits brings {attempts} attempts of {holders} holders under their loss; ask for "
            "a larger epsilon, fewer rounds, fewer holders or a smaller model.",
            requested=attempts,
            limit=min(loss_caps_micro.values()),
            order=min(loss_caps_micro, key=lambda order: loss_caps_micro[order]),
        )
    return noise


def _least(fits: Callable[[int], bool], least: int, most: int, tolerance: int = 0) -> int | None:
    """The least integer in ``[least, most]`` from which on ``fits`` holds, or None if it never does.

    Args:
        tolerance: if not 0, the result may be too large by its ``tolerance``-th part.
    """
    if fits(least):
        return least
    too_small, enough = least, min(most, max(2 * least, GRID))
    while not fits(enough):
        if enough >= most:
            return None
        too_small, enough = enough, min(most, enough * 2)
    while enough - too_small > (max(1, enough // (2 * tolerance)) if tolerance else 1):
        middle = (too_small + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_small = middle
    return enough
