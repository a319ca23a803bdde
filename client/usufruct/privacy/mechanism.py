"""Mechanisms as immutable data: what was done to the data, separate from whoever prices it.

One value describes one *attempt*: one round of local training, drawn once. Accountants dispatch on the type
and refuse what they do not know; they never guess.
"""

from __future__ import annotations

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


Mechanism = SubsampledGaussian
"""Every mechanism that an accountant prices today. The integer mechanism of `distributed` noise joins it
here."""


def checked_order(order: int) -> int:
    """``order`` if it is an integer Rényi order that the accountants serve.

    Raises:
        MechanismInvalid: not an integer, or outside ``[2, 256]``.
    """
    return checked_integer("order", order, MINIMUM_ORDER, MAXIMUM_ORDER, MechanismInvalid)
