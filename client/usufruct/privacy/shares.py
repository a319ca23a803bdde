"""A round of `distributed` noise at a holder and at the builder: the clipped sum to noised integers, and their sum back.

Order, which the derivation depends on: grid, rotation, dithered rounding, clamp, noise. Nothing is rounded, clamped or
reduced coordinate by coordinate after the noise; packing treats a run of coordinates as one signed number (soundness 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.distributed_plan import GRID_BITS, DistributedPlan
from usufruct.privacy.errors import PlanInvalid, RoundingInvalid
from usufruct.privacy.keystream import BLOCK_WORDS, Words, fresh_words
from usufruct.privacy.noise_table import NoiseTable
from usufruct.privacy.rotation import MAXIMUM_BLOCK, hadamard, public_signs
from usufruct.privacy.skellam import skellam_table

_LARGEST_GRID_BITS: Final = 51


def table_for(plan: DistributedPlan) -> NoiseTable:
    """The table of one holder's share; built once a job, in up to some seconds.

    Raises:
        NoiseTableFaulty: it is not known to be close enough to its law.
    """
    return skellam_table(plan.noise.share_noise)


def noised_share(
    total: NDArray[np.float64], plan: DistributedPlan, table: NoiseTable, seed: bytes
) -> NDArray[np.int64]:
    """What a holder adds to the sum of an attempt, shape ``(plan.dimension,)``. Call it once an attempt, after the charge.

    Args:
        total: the holder's clipped sum over its sample, float64, shape ``(plan.parameter_count,)``.
        table: of :func:`table_for`.
        seed: 32 public bytes that all holders of the attempt share, independent of the data.

    *Guarantee*: if one unit changes ``total`` by at most ``plan.max_grad_norm * (1 - GRID_SLACK)``, the sum of this and other
    holders' shares, of which ``plan.min_honest`` carry such noise, is the mechanism that ``plan.mechanism`` prices, to
    within the table's total variation a draw (DERIVATION.md). Dither and noise are fresh at every call and never leave it.

    Raises:
        RoundingInvalid: not one-dimensional float64 of the plan's length, a value that is not finite, or a bad seed.
        PlanInvalid: the table is not the plan's.
    """
    if table.law != f"Skellam of variance {plan.noise.share_noise}":
        raise PlanInvalid(f"The plan's noise is not that of the table ({table.law}).", field="share_noise")
    if total.dtype != np.float64 or total.shape != (plan.parameter_count,):
        raise RoundingInvalid(
            f"A sum is a one-dimensional float64 array of {plan.parameter_count} values.", field="total"
        )
    if not np.isfinite(total).all():
        raise RoundingInvalid("The sum has a value that is not finite; nothing was released.", field="total")
    share = np.empty(plan.dimension, dtype=np.int64)
    signs = public_signs(seed, plan.dimension)
    for part in _parts(plan.dimension):  # as much as a core's cache holds
        values = np.zeros(part.stop - part.start, dtype=np.int64)
        here = total[part]
        values[: here.size] = to_grid(here, plan)
        values *= signs[part]
        steps = dithered(hadamard(values, plan.block))
        np.clip(steps, -plan.noise.clamp, plan.noise.clamp, out=steps)
        np.add(steps, table.draw(steps.size), out=share[part])
    return share


def open_sum(sums: NDArray[np.int64], plan: DistributedPlan, seed: bytes) -> NDArray[np.float64]:
    """The holders' clipped sums added up, plus noise, shape ``(plan.parameter_count,)``, from the sum of their shares.

    Unbiased as long as nothing was clamped: of all dithers exactly as many round up as it takes, and the noise has mean
    zero.

    Raises:
        RoundingInvalid: not one-dimensional int64 of the plan's dimension, a sum that is no field, or a bad seed.
    """
    if sums.dtype != np.int64 or sums.shape != (plan.dimension,):
        raise RoundingInvalid(
            f"Sums are a one-dimensional int64 array of {plan.dimension} values.", field="sums"
        )
    if sums.size and int(np.abs(sums).max()) >= 1 << 40:
        raise RoundingInvalid("A sum is far outside its field.", field="sums")
    values = np.empty(plan.parameter_count)
    signs = public_signs(seed, plan.dimension)
    for part in _parts(plan.dimension):
        turned = hadamard(sums[part], plan.block)
        turned *= signs[part]
        here = values[part]
        np.divide(turned[: here.size], plan.scale * math.sqrt(plan.block), out=here)
    return values


def _parts(dimension: int) -> Iterator[slice]:
    """Runs of whole blocks, small enough to stay in a core's cache while they go through all steps."""
    for start in range(0, dimension, MAXIMUM_BLOCK):
        yield slice(start, min(start + MAXIMUM_BLOCK, dimension))


def to_grid(total: NDArray[np.float64], plan: DistributedPlan) -> NDArray[np.int64]:
    """The nearest points of a grid of ``2^-30 / sqrt(block)`` steps, so that rotated values are on a grid of 2^-30 steps.

    Values beyond 2^51 grid points, or 2^62 / block, are clamped (which brings neighbours no further apart), so that floats
    hold them and the rotation cannot overflow.
    """
    bits = min(_LARGEST_GRID_BITS, 62 - (plan.block.bit_length() - 1))
    values = total * (plan.scale * (1 << GRID_BITS) / math.sqrt(plan.block))
    np.clip(values, -(2.0**bits), 2.0**bits, out=values)
    np.rint(values, out=values)
    return values.astype(np.int64)


def dithered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """``floor(x + u)`` of values x on the grid of 2^-30, u uniform on the grid in [0, 1), fresh and independent."""
    result = np.empty_like(values)
    size = 2 * BLOCK_WORDS
    for start in range(0, values.size, size):
        block = values[start : start + size]
        result[start : start + size] = rounded(block, fresh_words(-(-block.size // 2)))
    return result


def rounded(values: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
    """:func:`dithered` with the dither from ``words``: the upper 30 bits of each half of a word, lower half first."""
    dither = (words.view("<u4")[: values.size] >> np.uint32(32 - GRID_BITS)).astype(np.int64)
    dither += values
    dither >>= GRID_BITS
    return dither
