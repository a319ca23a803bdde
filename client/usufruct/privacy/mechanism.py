"""Mechanisms as immutable data: what was done to the data, separate from whoever prices it.

One value describes one *attempt*: one round of training, drawn once. Accountants dispatch on the type
and refuse what they do not know; they never guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import MechanismInvalid

MINIMUM_SAMPLE_RATE: Final = 1e-9
"""Below this a Poisson sample of any dataset that fits a machine is empty."""
MINIMUM_NOISE_MULTIPLIER: Final = 1e-3
MAXIMUM_NOISE_MULTIPLIER: Final = 1e6
MAXIMUM_STEPS: Final = 10_000
"""Steps of one attempt; the accountants' error bounds are stated up to here."""
MAXIMUM_SCALE_MICRO: Final = 10**15
MAXIMUM_CLIP_NORM_MICRO: Final = 10**12
MAXIMUM_DIMENSION: Final = 1 << 30
MAXIMUM_SHARE_NOISE: Final = 10**10
"""Largest variance of a share: a table of 1.3 million entries."""
MAXIMUM_SHARES: Final = 1_024
MINIMUM_ORDER: Final = 2
MAXIMUM_ORDER: Final = 256


@dataclass(frozen=True)
class SubsampledGaussian:
    """``steps`` DP-SGD steps: Poisson sampling, clipped sum, Gaussian noise, released one after another.

    Neighbouring relation: add or remove one unit. Each step includes every unit independently with
    probability ``sample_rate`` and adds Gaussian noise of standard deviation ``noise_multiplier`` times the
    L2 bound of one unit's part to the sum. The steps may depend on one another's results.

    Attributes:
        sample_rate: probability of each unit, in (0, 1].
        noise_multiplier: noise over sensitivity, positive. Zero noise is no mechanism and is refused.
        steps: steps in one attempt.

    Raises:
        MechanismInvalid: a figure is out of range; names the field.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        rate = checked_real("sample_rate", self.sample_rate, MINIMUM_SAMPLE_RATE, 1.0, MechanismInvalid)
        noise = checked_real(
            "noise_multiplier",
            self.noise_multiplier,
            MINIMUM_NOISE_MULTIPLIER,
            MAXIMUM_NOISE_MULTIPLIER,
            MechanismInvalid,
            because="without noise there is no privacy to account for",
        )
        checked_integer("steps", self.steps, 1, MAXIMUM_STEPS, MechanismInvalid)
        object.__setattr__(self, "sample_rate", rate)
        object.__setattr__(self, "noise_multiplier", noise)


@dataclass(frozen=True)
class SubsampledSkellam:
    """One DP-SGD step over several holders: Poisson sampling, clipped sum, rotation, dithered rounding, clamp, and
    integer Skellam noise in shares.

    Neighbouring relation: add or remove one unit of one holder. Every figure is an integer or a rate, so that a receipt
    carries it exactly, and every derived figure is rounded up.

    Attributes:
        sample_rate: probability of each unit, in (0, 1].
        scale_micro: s, integer steps per unit of the sum, in 10^-6.
        clip_norm_micro: C, the L2 bound of one unit's part, in 10^-6.
        dimension: d, coordinates that are rounded: after padding.
        share_noise: variance of one holder's share of the noise in a coordinate.
        shares: shares that are known to be in the sum: ``min_honest``, or 1 if everyone else colludes.

    Raises:
        MechanismInvalid: a figure is out of range; names the field.
    """

    sample_rate: float
    scale_micro: int
    clip_norm_micro: int
    dimension: int
    share_noise: int
    shares: int

    def __post_init__(self) -> None:
        rate = checked_real("sample_rate", self.sample_rate, MINIMUM_SAMPLE_RATE, 1.0, MechanismInvalid)
        for field, most in (
            ("scale_micro", MAXIMUM_SCALE_MICRO),
            ("clip_norm_micro", MAXIMUM_CLIP_NORM_MICRO),
            ("dimension", MAXIMUM_DIMENSION),
            ("share_noise", MAXIMUM_SHARE_NOISE),
            ("shares", MAXIMUM_SHARES),
        ):
            checked_integer(field, getattr(self, field), 1, most, MechanismInvalid)
        object.__setattr__(self, "sample_rate", rate)

    @property
    def scaled_norm_pico(self) -> int:
        """s * C in 10^-12: the norm of one unit's part in steps, before it is rounded."""
        return self.scale_micro * self.clip_norm_micro

    @property
    def root_dimension_micro(self) -> int:
        """sqrt(d) in 10^-6, rounded up."""
        return 1 + math.isqrt(self.dimension * 10**12 - 1)

    @property
    def delta_two_micro(self) -> int:
        """L2 sensitivity after dithered rounding, ``s C + sqrt(d)``, in 10^-6, rounded up (soundness 1)."""
        return -(-self.scaled_norm_pico // 10**6) + self.root_dimension_micro

    @property
    def delta_one_micro(self) -> int:
        """L1 sensitivity, ``min(sqrt(d) * delta_two, delta_two^2)``, in 10^-6, rounded up: the first by Cauchy and
        Schwarz, the second because an integer is at most its square."""
        return -(-self.delta_two_micro * min(self.root_dimension_micro, self.delta_two_micro) // 10**6)

    @property
    def noise(self) -> int:
        """Variance of the noise that is known to be in every coordinate of the sum."""
        return self.shares * self.share_noise


Mechanism = SubsampledGaussian | SubsampledSkellam
"""Every mechanism that an accountant prices."""


def checked_order(order: int) -> int:
    """``order`` if it is an integer Rényi order that the accountants serve.

    Raises:
        MechanismInvalid: not an integer, or outside ``[2, 256]``.
    """
    return checked_integer("order", order, MINIMUM_ORDER, MAXIMUM_ORDER, MechanismInvalid)
