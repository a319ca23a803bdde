"""What the privacy layer refuses with. Each names the offending field or figure; none carries a row."""

from __future__ import annotations

from usufruct.errors import ConfigError, InvalidInput, Refused


class MechanismInvalid(InvalidInput):
    """A mechanism, order or delta has no privacy guarantee that can be priced (zero noise, for example)."""

    reason = "SPEC_INVALID"


class PlanInvalid(InvalidInput):
    """A field of a training plan is out of its range."""

    reason = "SPEC_INVALID"


class RoundingInvalid(InvalidInput):
    """An update or a sum cannot be rounded or read back: not finite, or outside the integers agreed."""

    reason = "SPEC_INVALID"


class EpsilonBelowFloor(Refused):
    """The epsilon asked for is below what the dataset's order states even for no loss at all."""

    reason = "EPSILON_BELOW_FLOOR"


class BudgetShort(Refused):
    """The filter says no: the reservation does not fit under the dataset's lifetime cap."""

    reason = "BUDGET_SHORT"


class CalibrationImpossible(Refused):
    """No noise, however large, brings this many attempts under the cap."""

    reason = "BUDGET_SHORT"


class NoiseTableFaulty(ConfigError):
    """A noise table is not known to be close enough to its law. Nothing is drawn from it."""

    reason = "INTERNAL"
