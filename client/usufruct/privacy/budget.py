"""A dataset's privacy budget as integers, and the filter that refuses: the arithmetic of the ledger.

The four verbs (DESIGN section 2): *reserve* a job's worst case, *charge* before each draw, *commit* what is
left when the leg ends, *release* only what never drew. Pure values: the durable ledger stores what these
return.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from usufruct.privacy.bounds import checked_integer
from usufruct.privacy.errors import BudgetShort, MechanismInvalid

MAXIMUM_BUDGET_MICRO: Final = 2**62
"""So that sums fit the signed 64-bit integers of SQLite and the contract's uint64."""


@dataclass(frozen=True)
class Budget:
    """One dataset's lifetime budget at its one Rényi order, in 10^-6 nat.

    Invariants, checked at every construction: all three are non-negative, and ``reserved + spent <= cap``.
    Losses at one order add up exactly under adaptive and concurrent composition, so the filter is a sum
    (Feldman and Zrnic 2021; Haney et al. 2023).

    Attributes:
        cap_micro: what may be lost over all jobs together.
        reserved_micro: promised to open legs and not yet charged.
        spent_micro: charged. Never falls.

    Raises:
        MechanismInvalid: an invariant does not hold.
    """

    cap_micro: int
    reserved_micro: int = 0
    spent_micro: int = 0

    def __post_init__(self) -> None:
        for field in ("cap_micro", "reserved_micro", "spent_micro"):
            checked_integer(field, getattr(self, field), 0, MAXIMUM_BUDGET_MICRO, MechanismInvalid)
        if self.reserved_micro + self.spent_micro > self.cap_micro:
            raise MechanismInvalid(
                "A budget cannot hold more reserved and spent loss than its cap.",
                field="cap_micro",
                limit=self.cap_micro,
                requested=self.reserved_micro + self.spent_micro,
            )

    @property
    def available_micro(self) -> int:
        """What a new reservation may take."""
        return self.cap_micro - self.reserved_micro - self.spent_micro

    def reserve(self, loss_micro: int) -> Budget:
        """Promise ``loss_micro`` to a leg: the filter.

        Raises:
            BudgetShort: it does not fit; nothing changes.
            MechanismInvalid: not a positive integer.
        """
        checked_integer("loss_micro", loss_micro, 1, MAXIMUM_BUDGET_MICRO, MechanismInvalid)
        if loss_micro > self.available_micro:
            raise BudgetShort(
                f"The job may lose {loss_micro} millionths of a nat and {self.available_micro} are left; "
                "ask for a smaller epsilon or fewer rounds.",
                requested=loss_micro,
                limit=self.available_micro,
            )
        return replace(self, reserved_micro=self.reserved_micro + loss_micro)

    def charge(self, loss_micro: int) -> Budget:
        """Move ``loss_micro`` from reserved to spent.

        Raises:
            BudgetShort: more than is reserved; nothing changes.
            MechanismInvalid: not a positive integer.
        """
        checked_integer("loss_micro", loss_micro, 1, MAXIMUM_BUDGET_MICRO, MechanismInvalid)
        self._check_reserved(loss_micro)
        return Budget(self.cap_micro, self.reserved_micro - loss_micro, self.spent_micro + loss_micro)

    def commit(self, remaining_micro: int) -> Budget:
        """Charge what a leg has left of its reservation, or as much of it as was agreed on, possibly nothing.

        Raises:
            BudgetShort: more than is reserved.
            MechanismInvalid: not a non-negative integer.
        """
        checked_integer("remaining_micro", remaining_micro, 0, MAXIMUM_BUDGET_MICRO, MechanismInvalid)
        return self.charge(remaining_micro) if remaining_micro else self

    def release(self, loss_micro: int) -> Budget:
        """Give back what a leg reserved and never charged. What was spent never comes back.

        Raises:
            BudgetShort: more than is reserved.
            MechanismInvalid: not a positive integer.
        """
        checked_integer("loss_micro", loss_micro, 1, MAXIMUM_BUDGET_MICRO, MechanismInvalid)
        self._check_reserved(loss_micro)
        return replace(self, reserved_micro=self.reserved_micro - loss_micro)

    def lower_cap(self, cap_micro: int) -> Budget:
        """The same budget under a cap that is not higher.

        Raises:
            MechanismInvalid: the cap would rise, or fall below what is reserved and spent.
        """
        checked_integer("cap_micro", cap_micro, 0, self.cap_micro, MechanismInvalid)
        return replace(self, cap_micro=cap_micro)

    def _check_reserved(self, loss_micro: int) -> None:
        if loss_micro > self.reserved_micro:
            raise BudgetShort(
                f"{loss_micro} millionths of a nat were to leave a reservation of {self.reserved_micro}.",
                requested=loss_micro,
                limit=self.reserved_micro,
            )
