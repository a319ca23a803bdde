"""An already noised update as bounded integers, and the sum of such integers read back.

Everything about rounding lives here; the packing of the integers belongs to ``encryption``. In `local` mode
the full noise is in the update before it comes here, so clamping and rounding are post-processing and cost
no privacy. (In `distributed` mode they would come before the noise, under another bound; that is another
function, later.)

Code of a value x: ``rint(x / step) + offset``, clamped, where ``offset = 2^(value_bits - 1) - 1`` and
``step = update_range / offset``. So codes run from 0 to ``2 * offset``, symmetric about zero, and zero is
exact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import RoundingInvalid

MINIMUM_VALUE_BITS: Final = 2
MAXIMUM_VALUE_BITS: Final = 22
MAXIMUM_HOLDERS: Final = 1_024
MINIMUM_UPDATE_RANGE: Final = 1e-30
MAXIMUM_UPDATE_RANGE: Final = 1e30


def rounding_step(update_range: float, value_bits: int = 16) -> float:
    """Distance of neighbouring values: the error of one rounded value within the range is at most half of
    it."""
    update_range, offset = _checked(update_range, value_bits)
    return update_range / offset


def round_update(update: NDArray[np.float64], update_range: float, value_bits: int = 16) -> NDArray[np.int32]:
    """Codes of a noised update, shape ``(d,)``, each in ``[0, 2^value_bits - 2]``.

    Values beyond ``+-update_range`` are clamped to it. Ties round to even.

    Guarantee: a function of the noised update alone, so it adds nothing to the privacy loss, provided that
    the full local noise is in ``update``.

    Raises:
        RoundingInvalid: not one-dimensional float64, a value is not finite, or range or bits out of bounds.
    """
    update_range, offset = _checked(update_range, value_bits)
    if update.dtype != np.float64 or update.ndim != 1:
        raise RoundingInvalid("An update is a one-dimensional float64 array; flatten and convert it first.")
    if not np.isfinite(update).all():
        raise RoundingInvalid(
            "The update has a value that is not finite; nothing was rounded.", field="update"
        )
    # Clamp first: a huge finite value divided by a small step must not become infinite.
    scaled = np.clip(update, -update_range, update_range)
    scaled /= update_range / offset
    np.rint(scaled, out=scaled)
    np.clip(scaled, -offset, offset, out=scaled)
    scaled += offset
    return scaled.astype(np.int32)


def unround_sum(
    sums: NDArray[np.int64], holders: int, update_range: float, value_bits: int = 16
) -> NDArray[np.float64]:
    """The sum of the holders' rounded updates from the sum of their codes, shape ``(d,)``.

    Exact: the integers are shifted back without rounding and multiplied by the step once.

    Args:
        sums: sum of the codes over ``holders`` holders, coordinate by coordinate.
        holders: how many codes are in each sum.

    Raises:
        RoundingInvalid: not one-dimensional int64, a sum that ``holders`` codes cannot have, or figures out
            of
            bounds.
    """
    update_range, offset = _checked(update_range, value_bits)
    checked_integer("holders", holders, 1, MAXIMUM_HOLDERS, RoundingInvalid)
    if sums.dtype != np.int64 or sums.ndim != 1:
        raise RoundingInvalid("Sums are a one-dimensional int64 array.")
    if sums.size and (int(sums.min()) < 0 or int(sums.max()) > 2 * offset * holders):
        raise RoundingInvalid(
            f"A sum is outside what {holders} holders can add up to; a code was out of range, or the sum is "
            "not over this roster.",
            field="sums",
            holders=holders,
        )
    # Sums are far below 2^53, so float64 holds them and their differences exactly.
    values = np.subtract(sums, offset * holders, dtype=np.float64)
    values *= update_range / offset
    return values


def _checked(update_range: float, value_bits: int) -> tuple[float, int]:
    """The range, and the code of zero."""
    update_range = checked_real(
        "update_range", update_range, MINIMUM_UPDATE_RANGE, MAXIMUM_UPDATE_RANGE, RoundingInvalid
    )
    checked_integer("value_bits", value_bits, MINIMUM_VALUE_BITS, MAXIMUM_VALUE_BITS, RoundingInvalid)
    return update_range, 2 ** (value_bits - 1) - 1
