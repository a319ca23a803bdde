"""One object that the trainer executes and the accountant prices, so that the claim cannot drift from the
code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from usufruct.domain.training_job import Clipping
from usufruct.privacy.accountant import renyi_loss_micro
from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.conversion import MAXIMUM_DELTA, MINIMUM_DELTA, epsilon, pld_epsilon
from usufruct.privacy.errors import PlanInvalid
from usufruct.privacy.mechanism import (
    MAXIMUM_NOISE_MULTIPLIER,
    MAXIMUM_ORDER,
    MAXIMUM_STEPS,
    MINIMUM_NOISE_MULTIPLIER,
    MINIMUM_ORDER,
    MINIMUM_SAMPLE_RATE,
    Mechanism,
    SubsampledGaussian,
)

MAXIMUM_ROUNDS: Final = 10_000
MAXIMUM_SPARE_ATTEMPTS: Final = 1_000
MAXIMUM_MICRO_BATCH: Final = 65_536
MAXIMUM_NOMINAL_SIZE: Final = 2**40
MINIMUM_GRAD_NORM: Final = 1e-6
MAXIMUM_GRAD_NORM: Final = 1e6

CLIP_SLACK: Final = 1e-3
"""Share of ``max_grad_norm`` kept back for arithmetic: rounding in the trainer's sums adds up to 5e-4 of it (proved
there), and putting a sum on the grid of its noise takes up to 5e-4."""

GRID_SLACK: Final = 5e-4
"""Share of ``max_grad_norm`` that putting two neighbouring sums on a grid may add to their distance."""


class PricedPlan(ABC):
    """What the accountant makes of a plan, whatever its mechanism: the same arithmetic for every kind of noise."""

    sample_rate: float
    rounds: int
    spare_attempts: int
    micro_batch_size: int
    nominal_size: int
    order: int
    delta: float
    clipping: Clipping

    @property
    def nominal_batch_size(self) -> float:
        """What the noised sum is divided by, or this holder's part of that: a public constant, not the size of the sample drawn."""
        return self.sample_rate * self.nominal_size

    def _check_figures(self) -> None:
        """What every kind of plan asks of the figures above, but for ``sample_rate`` and ``delta``, which it makes floats of first."""
        for field, least, most in (
            ("rounds", 1, MAXIMUM_ROUNDS),
            ("spare_attempts", 0, MAXIMUM_SPARE_ATTEMPTS),
            ("micro_batch_size", 1, MAXIMUM_MICRO_BATCH),
            ("nominal_size", 1, MAXIMUM_NOMINAL_SIZE),
            ("order", MINIMUM_ORDER, MAXIMUM_ORDER),
        ):
            checked_integer(field, getattr(self, field), least, most, PlanInvalid)
        if not isinstance(self.clipping, Clipping):
            raise PlanInvalid("clipping must be a Clipping.", field="clipping")
        if self.nominal_batch_size < 1.0:
            raise PlanInvalid(
                f"sample_rate times nominal_size is {self.nominal_batch_size:g}: less than one unit a step. "
                "Choose a larger sample_rate.",
                field="sample_rate",
                requested=self.sample_rate,
            )

    @property
    @abstractmethod
    def mechanism(self) -> Mechanism:
        """The event that prices one attempt."""

    @property
    def attempts(self) -> int:
        """Attempts that are reserved: rounds and spare ones."""
        return self.rounds + self.spare_attempts

    @property
    def loss_per_attempt_micro(self) -> int:
        """Rényi loss of one attempt at ``order``, in 10^-6 nat, rounded up."""
        return renyi_loss_micro(self.mechanism, self.order)

    @property
    def reservation_micro(self) -> int:
        """The job's worst case: attempts times the loss of one."""
        return self.attempts * self.loss_per_attempt_micro

    def epsilon_after(self, attempts: int) -> float:
        """The binding epsilon at ``delta`` after ``attempts`` attempts.

        Raises:
            PlanInvalid: more attempts than the plan reserves.
        """
        checked_integer("attempts", attempts, 0, self.attempts, PlanInvalid)
        return epsilon(attempts * self.loss_per_attempt_micro, self.order, self.delta)

    @property
    def epsilon(self) -> float:
        """The binding epsilon of the whole reservation."""
        return self.epsilon_after(self.attempts)


@dataclass(frozen=True)
class LocalPlan(PricedPlan):
    """A holder's part of a job with ``local`` noise: several DP-SGD steps a round, full noise at every
    holder.

    Attributes:
        sample_rate: probability with which each unit enters a step's sample, independently, in (0, 1].
        max_grad_norm: L2 bound of one unit's part in a step's sum.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
        local_steps: DP-SGD steps in a round.
        rounds: rounds of the job.
        spare_attempts: further attempts, for rounds that have to be drawn again; reserved and calibrated for.
        micro_batch_size: rows that the trainer puts through the model at once. No effect on the privacy loss.
        nominal_size: the dataset's declared size, a public constant; never counted from the data.
        order: the dataset's Rényi order.
        delta: for the translation into epsilon.
        clipping: how a unit is taken to that bound. No effect on the privacy loss.

    Raises:
        PlanInvalid: a field is not finite or outside its bounds; names the field.
    """

    sample_rate: float
    max_grad_norm: float
    noise_multiplier: float
    local_steps: int
    rounds: int
    spare_attempts: int
    micro_batch_size: int
    nominal_size: int
    order: int
    delta: float
    clipping: Clipping = Clipping.FLAT

    def __post_init__(self) -> None:
        for field, minimum, maximum, because in (
            ("sample_rate", MINIMUM_SAMPLE_RATE, 1.0, ""),
            ("max_grad_norm", MINIMUM_GRAD_NORM, MAXIMUM_GRAD_NORM, ""),
            ("noise_multiplier", MINIMUM_NOISE_MULTIPLIER, MAXIMUM_NOISE_MULTIPLIER, "no noise, no privacy"),
            ("delta", MINIMUM_DELTA, MAXIMUM_DELTA, ""),
        ):
            value = getattr(self, field)
            real = checked_real(field, value, minimum, maximum, PlanInvalid, because=because)
            object.__setattr__(self, field, real)
        checked_integer("local_steps", self.local_steps, 1, MAXIMUM_STEPS, PlanInvalid)
        self._check_figures()

    # -- what the trainer executes ------------------------------------------------------------

    @property
    def clip_norm(self) -> float:
        """What the trainer clips each unit's gradient to: a little under ``max_grad_norm``, so that float
        error in norms and sums stays inside the sensitivity that the noise is scaled to."""
        return self.max_grad_norm * (1 - CLIP_SLACK)

    @property
    def noise_standard_deviation(self) -> float:
        """Of the Gaussian noise that each step adds to every coordinate of the clipped *sum*."""
        return self.noise_multiplier * self.max_grad_norm

    # -- what the accountant prices ------------------------------------------------------------

    @property
    def mechanism(self) -> SubsampledGaussian:
        """The event that prices one attempt."""
        return SubsampledGaussian(self.sample_rate, self.noise_multiplier, self.local_steps)

    def pld_epsilon(self) -> float:
        """Epsilon of the whole reservation by privacy loss distributions; not the binding figure. Takes
        seconds."""
        return pld_epsilon(self.mechanism, self.attempts, self.delta)
