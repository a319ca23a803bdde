"""Checked figures: every number that enters the privacy layer passes one of these two doors.

Both take the error to raise, so that a mechanism and a plan refuse in their own words and a caller can tell
which field was wrong (``error.details["field"]``).
"""

from __future__ import annotations

import math

from usufruct.errors import InvalidInput


def checked_integer(field: str, value: object, minimum: int, maximum: int, error: type[InvalidInput]) -> int:
    """``value`` if it is an integer in ``[minimum, maximum]``; a bool or a float is refused.

    Raises:
        error: names ``field``, the value and the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{field} must be an integer, not {type(value).__name__}.", field=field)
    if not minimum <= value <= maximum:
        raise error(
            f"{field} is {value}; choose an integer from {minimum} to {maximum}.",
            field=field,
            requested=value,
        )
    return value


def checked_real(
    field: str,
    value: object,
    minimum: float,
    maximum: float,
    error: type[InvalidInput],
    *,
    because: str = "",
) -> float:
    """``value`` as a float if it is finite and in ``[minimum, maximum]``.

    Raises:
        error: names ``field``, the value and the bounds; ``because`` says why the bound is there.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise error(f"{field} must be a number, not {type(value).__name__}.", field=field)
    real = float(value)
    if not math.isfinite(real) or not minimum <= real <= maximum:
        reason = f" ({because})" if because else ""
        raise error(
            f"{field} is {real!r}; choose a finite number from {minimum:g} to {maximum:g}{reason}.",
            field=field,
            requested=real,
        )
    return real
