"""A holder's part of a job with `distributed` noise: what it executes, and what that costs under which assumption."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from usufruct.domain.training_job import Clipping
from usufruct.privacy.accountant import unbounded_loss_micro
from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.conversion import (
    MAXIMUM_DELTA,
    MAXIMUM_TOTAL_LOSS_MICRO,
    MINIMUM_DELTA,
    delta_with_samplers,
    epsilon,
)
from usufruct.privacy.errors import PlanInvalid
from usufruct.privacy.mechanism import (
    MAXIMUM_CLIP_NORM_MICRO,
    MAXIMUM_ORDER,
    MAXIMUM_SCALE_MICRO,
    MAXIMUM_SHARE_NOISE,
    MAXIMUM_SHARES,
    MINIMUM_ORDER,
    MINIMUM_SAMPLE_RATE,
    SubsampledSkellam,
)
from usufruct.privacy.noise_table import LARGEST_TOTAL_VARIATION
from usufruct.privacy.plan import (
    CLIP_SLACK,
    GRID_SLACK,
    PricedPlan,
)
from usufruct.privacy.rotation import MAXIMUM_PARAMETERS, block_size, padded_dimension
from usufruct.privacy.skellam import tail_bound

FIELD_BITS: Final = 22
"""Width of a coordinate of the *sum* over all holders, sign included (soundness 3)."""

OVERFLOW_BITS: Final = 40
"""A coordinate of some sum of a job leaves its field with probability at most 2^-40. A target of correctness, not of
privacy: the summed word is a function of the integer sum whether or not it overflows (soundness 4)."""

GRID_BITS: Final = 30
"""Values are put on a grid of 2^-30 of a step (over sqrt(block), before the rotation); the dither has as many bits."""


@dataclass(frozen=True)
class IntegerNoise:
    """What calibration chooses: how fine the integers are, how much noise a share has, and where sums are clamped.

    Attributes:
        scale_micro: integer steps per unit of the sum, in 10^-6.
        share_noise: variance of one holder's share in a coordinate.
        clamp: largest magnitude of a holder's rounded coordinate, before the noise.
    """

    scale_micro: int
    share_noise: int
    clamp: int


@dataclass(frozen=True)
class Guarantee:
    """What holds if at least ``shares`` of the sum's shares of noise are honestly drawn and unknown to the attacker.

    Attributes:
        shares: the assumption.
        loss_per_attempt_micro: Rényi loss at the plan's order.
        epsilon: of the whole reservation, by the binding translation; may be infinite.
        delta: with what the sampler's total variation adds to it.
    """

    shares: int
    loss_per_attempt_micro: int
    epsilon: float
    delta: float

    def __str__(self) -> str:
        if not math.isfinite(self.epsilon) or self.delta >= 1.0:
            return "no epsilon that could be stated"
        return f"epsilon {self.epsilon:.3f} at delta {self.delta:.3g}"


@dataclass(frozen=True)
class DistributedPlan(PricedPlan):
    """One DP-SGD step a round, over all holders together; each adds a share of integer noise to its rounded sum.

    Neighbouring relation: add or remove one unit of one holder. *Guarantee* of the binding figures: against the builder, the
    aggregator and up to ``max_colluding`` holders together, as long as every attempt's sum has ``min_honest`` honest
    shares and only the sum is opened. :attr:`alone` says what remains if all others collude.

    Attributes:
        sample_rate: probability with which each unit enters a round's sample, independently, in (0, 1].
        max_grad_norm_micro: L2 bound of one unit's part in the sum, in 10^-6.
        parameter_count: parameters of the model, before padding.
        holders: holders of the job; fields are wide enough for all of them.
        min_honest: shares that the noise is sized for (h).
        max_colluding: further holders that every roster must have (c): a roster has at least h + c.
        noise: scale, noise of a share, clamp.
        rounds, spare_attempts, micro_batch_size, nominal_size, order, delta, clipping: as in
            :class:`~usufruct.privacy.plan.LocalPlan`.

    Raises:
        PlanInvalid: a field is out of its bounds, the cohort is smaller than h + c, the sum could overflow its field, or
            the grid is too coarse; names the field.
    """

    sample_rate: float
    max_grad_norm_micro: int
    parameter_count: int
    holders: int
    min_honest: int
    max_colluding: int
    noise: IntegerNoise
    rounds: int
    spare_attempts: int
    micro_batch_size: int
    nominal_size: int
    order: int
    delta: float
    clipping: Clipping = Clipping.FLAT

    def __post_init__(self) -> None:
        rate = checked_real("sample_rate", self.sample_rate, MINIMUM_SAMPLE_RATE, 1.0, PlanInvalid)
        delta = checked_real("delta", self.delta, MINIMUM_DELTA, MAXIMUM_DELTA, PlanInvalid)
        object.__setattr__(self, "sample_rate", rate)
        object.__setattr__(self, "delta", delta)
        for field, least, most in (
            ("max_grad_norm_micro", 1, MAXIMUM_CLIP_NORM_MICRO),
            ("parameter_count", 1, MAXIMUM_PARAMETERS),
            ("holders", 2, MAXIMUM_SHARES),
            ("min_honest", 1, MAXIMUM_SHARES),
            ("max_colluding", 1, MAXIMUM_SHARES),
        ):
            checked_integer(field, getattr(self, field), least, most, PlanInvalid)
        if not isinstance(self.noise, IntegerNoise):
            raise PlanInvalid("noise must be an IntegerNoise.", field="noise")
        for field, most in (
            ("scale_micro", MAXIMUM_SCALE_MICRO),
            ("share_noise", MAXIMUM_SHARE_NOISE),
            ("clamp", 1 << (FIELD_BITS - 1)),
        ):
            checked_integer(field, getattr(self.noise, field), 1, most, PlanInvalid)
        self._check_figures()
        self._check_cohort()
        self._check_integers()

    def _check_cohort(self) -> None:
        if self.holders < self.least_roster:
            raise PlanInvalid(
                f"{self.min_honest} honest and {self.max_colluding} colluding holders are more than the job's "
                f"{self.holders}; lower min_honest or max_colluding.",
                field="min_honest",
                requested=self.least_roster,
                limit=self.holders,
            )

    def _check_integers(self) -> None:
        largest = largest_sum(self.noise, self.holders, self.dimension * self.attempts)
        if largest >= 1 << (FIELD_BITS - 1):
            raise PlanInvalid(
                f"The sum over {self.holders} holders may reach {largest} steps, a field of {FIELD_BITS} bits holds "
                f"{(1 << (FIELD_BITS - 1)) - 1}; use a smaller scale or clamp.",
                field="scale_micro",
                requested=largest,
            )
        if not grid_is_fine(self.noise.scale_micro, self.max_grad_norm_micro, self.parameter_count):
            raise PlanInvalid(
                f"With {self.parameter_count} parameters, {self.scaled_norm:g} steps are too few for the norm of one unit: "
                "use a larger scale.",
                field="scale_micro",
                requested=self.noise.scale_micro,
            )

    # -- what the trainer executes ------------------------------------------------------------

    @property
    def least_roster(self) -> int:
        """Holders that a roster must have at least, oneself included: ``min_honest + max_colluding`` (soundness 5)."""
        return self.min_honest + self.max_colluding

    @property
    def block(self) -> int:
        """Coordinates that are rotated together."""
        return block_size(self.parameter_count)

    @property
    def dimension(self) -> int:
        """Coordinates after padding to whole blocks."""
        return padded_dimension(self.parameter_count)

    @property
    def max_grad_norm(self) -> float:
        """L2 bound of one unit's part in the sum."""
        return self.max_grad_norm_micro / 10**6

    @property
    def clip_norm(self) -> float:
        """What the trainer clips each unit's gradient to: under ``max_grad_norm`` by ``CLIP_SLACK``, of which the grid
        takes at most ``GRID_SLACK``."""
        return self.max_grad_norm * (1 - CLIP_SLACK)

    @property
    def scale(self) -> float:
        """Integer steps per unit of the sum."""
        return self.noise.scale_micro / 10**6

    @property
    def scaled_norm(self) -> float:
        """``max_grad_norm`` in steps."""
        return self.scale * self.max_grad_norm

    # -- what the accountant prices ------------------------------------------------------------

    @property
    def mechanism(self) -> SubsampledSkellam:
        """The event that prices one attempt under the assumption that ``min_honest`` shares are honest."""
        return SubsampledSkellam(
            sample_rate=self.sample_rate,
            scale_micro=self.noise.scale_micro,
            clip_norm_micro=self.max_grad_norm_micro,
            dimension=self.dimension,
            share_noise=self.noise.share_noise,
            shares=self.min_honest,
        )

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise that is counted, in a coordinate of the sum, over ``max_grad_norm``."""
        return math.sqrt(self.mechanism.noise) / self.scaled_norm

    @property
    def assumed(self) -> Guarantee:
        """Against a coalition of builder, aggregator and all but ``min_honest`` holders of a roster: the binding figure."""
        return self.guarantee(self.min_honest)

    @property
    def alone(self) -> Guarantee:
        """Against everyone else together: this holder's own share is all that is left."""
        return self.guarantee(1)

    @property
    def promise(self) -> str:
        """Both guarantees in words: for whoever decides about a job, and for logs."""
        return (
            f"{self.assumed} as long as {self.min_honest} holders of every sum are honest; {self.alone} against everyone else "
            "together"
        )

    def guarantee(self, shares: int) -> Guarantee:
        """What holds with ``shares`` honest shares in every sum; at most ``holders``.

        Raises:
            PlanInvalid: not between 1 and ``holders``.
        """
        checked_integer("shares", shares, 1, self.holders, PlanInvalid)
        loss_micro = unbounded_loss_micro(replace(self.mechanism, shares=shares), self.order)
        total = loss_micro * self.attempts
        figure = epsilon(total, self.order, self.delta) if total <= MAXIMUM_TOTAL_LOSS_MICRO else math.inf
        draws = (
            shares * self.dimension + 1
        ) * self.attempts  # and one sample, which must fit into its places
        delta = delta_with_samplers(self.delta, figure, draws, LARGEST_TOTAL_VARIATION)
        return Guarantee(shares, loss_micro, figure, delta)

    def epsilon_at_best_order(self, shares: int | None = None) -> tuple[float, int]:
        """The least epsilon of this job alone over all integer orders, and that order. NOT the binding figure: it holds
        for one job whose rounds and noise were fixed in advance, not for the total over adaptively chosen jobs.

        Args:
            shares: as in :meth:`guarantee`; None for ``min_honest``.
        """
        mechanism = replace(self.mechanism, shares=self.min_honest if shares is None else shares)
        figures = [(math.inf, self.order)]
        for order in range(MINIMUM_ORDER, MAXIMUM_ORDER + 1):
            total = self.attempts * unbounded_loss_micro(mechanism, order)
            if total <= MAXIMUM_TOTAL_LOSS_MICRO:
                figures.append((epsilon(total, order, self.delta), order))
        return min(figures)


def largest_sum(noise: IntegerNoise, holders: int, coordinates: int) -> int:
    """A bound on the magnitude of every one of ``coordinates`` sums, but for a probability of 2^-40 in all: the clamp is
    certain, the noise is bounded by Chernoff and a union."""
    return holders * noise.clamp + tail_bound(holders * noise.share_noise, OVERFLOW_BITS, coordinates)


def grid_is_fine(scale_micro: int, max_grad_norm_micro: int, parameter_count: int) -> bool:
    """Whether putting two neighbouring sums on the grid of 2^-30 adds at most ``GRID_SLACK`` of s C to their distance.

    A coordinate is off by up to two grid steps (a rounding each, and the float error of a value below 2^51), the rotation
    multiplies norms by sqrt(block): ``2 sqrt(block * d) 2^-30 <= GRID_SLACK * s C``.
    """
    block, dimension = block_size(parameter_count), padded_dimension(parameter_count)
    added = 2 * math.sqrt(block * dimension) / (1 << GRID_BITS)
    return added <= GRID_SLACK * (scale_micro * max_grad_norm_micro / 10**12)
