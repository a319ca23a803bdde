"""The auditor's accountant for `distributed` noise, from the integers of a receipt. Shares no code with ``usufruct.privacy``.

Decimal arithmetic of 60 digits, term by term as DERIVATION.md prints the formulas, where the holder's accountant works in
exact rationals and floats: the two agree within one micro-nat only if both are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from typing import Final

LARGEST_ORDER: Final = 256
"""What a dataset can be registered with; a receipt that names more is not worth the time."""

_DIGITS: Final = 60
_UP: Final = Context(prec=_DIGITS, rounding=ROUND_CEILING)
_MICRO: Final = Decimal(10) ** -6
_WIDEST_BLOCK: Final = 15
"""Power of two of the largest block of the rotation."""


@dataclass(frozen=True)
class SkellamFigures:
    """What a receipt says of a `distributed` mechanism, in the receipt's units.

    Raises:
        ValueError: a figure is not positive, or the rate is above 1; names it.
    """

    sample_rate_nano: int
    scale_micro: int
    clip_norm_micro: int
    parameter_count: int
    share_noise_micro: int
    shares: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be positive")
        if self.sample_rate_nano > 10**9:
            raise ValueError("sample_rate_nano must be at most 10^9")
        if self.share_noise_micro % 10**6:
            raise ValueError("share_noise_micro must be a whole number of integer steps squared")

    @property
    def dimension(self) -> int:
        """Coordinates after padding: whole blocks of the largest power of two that wastes at most an eighth, or, below
        1024 parameters, one block."""
        count = self.parameter_count
        if count < 1024:
            power = 0
            while 1 << power < count:
                power += 1
            return 1 << power
        for power in range(_WIDEST_BLOCK, -1, -1):
            padded = math.ceil(count / (1 << power)) << power
            if (padded - count) * 8 <= count:
                return padded
        raise AssertionError("blocks of one coordinate pad nothing")

    def sensitivities_micro(self) -> tuple[int, int]:
        """Delta two and delta one after dithered rounding, in 10^-6: each figure rounded up as it is formed."""
        with localcontext(_UP):
            norm = math.ceil(self._norm() / _MICRO)
            root = self._root_micro()
            two = norm + root
            one = min(math.ceil(Decimal(two * root) * _MICRO), math.ceil(Decimal(two * two) * _MICRO))
        return two, one

    def log_moment(self, order: int) -> Decimal:
        """Bound on ln E[L^order] without sampling: the lesser of DERIVATION.md (5) and (6)."""
        with localcontext(_UP):
            two, one = (Decimal(figure) * _MICRO for figure in self.sensitivities_micro())
            m = Decimal(self.shares) * self.share_noise_micro * _MICRO
            k, norm, d = Decimal(order), self._norm(), Decimal(self.dimension)
            root = self._root_micro() * _MICRO
            small = min(((2 * k - 1) * two**2 + 6 * one) / (4 * m**2), 3 * one / (2 * m))
            worst = (k - 1) * (k * two**2 / (2 * m) + small)
            c = (k - 1) * (k / (2 * m) + (2 * k - 1) / (4 * m**2))
            mean = c * (norm**2 + d / 4) + c**2 / 8 * (2 * norm + root) ** 2 + 6 * (k - 1) * one / (4 * m**2)
            return min(worst, mean)

    def loss_micro(self, order: int) -> int:
        """Rényi loss of one attempt at an integer order from 2 to 256, in 10^-6 nat, rounded up; at least 1.

        *Guarantee*: no honest claim is below it, and none above it by more than 1.

        Raises:
            ValueError: the order is outside 2 to 256.
        """
        if not 2 <= order <= LARGEST_ORDER:
            raise ValueError(f"order must be from 2 to {LARGEST_ORDER}")
        with localcontext(_UP):
            # The float that the holder samples with, exactly.
            q = Decimal(self.sample_rate_nano / 10**9)
            if q == 1:
                moment = self.log_moment(order)
            else:
                total = (1 - q) ** (order - 1) * (1 + (order - 1) * q)
                for k in range(2, order + 1):
                    total += math.comb(order, k) * q**k * (1 - q) ** (order - k) * self.log_moment(k).exp()
                moment = total.ln()
            exact = moment / (order - 1) / _MICRO
            # What is left of 60 digits after the sum; it must not lift a whole number to the next.
            return max(1, math.ceil(exact - Decimal(10) ** -30))

    def _norm(self) -> Decimal:
        """s C."""
        return Decimal(self.scale_micro) * self.clip_norm_micro * _MICRO**2

    def _root_micro(self) -> int:
        """sqrt(dimension) in 10^-6, rounded up."""
        with localcontext(_UP):
            return math.ceil(Decimal(self.dimension).sqrt() / _MICRO - Decimal(10) ** -40)
