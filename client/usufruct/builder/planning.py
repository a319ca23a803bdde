"""From what a builder chooses to the integers of a job spec: noise, losses, weights, the range of an update.

Everything that is priced here is priced again by every holder from the spec's integers alone, so the figures must be
computed *from* those integers: a rate is first rounded to 10^-9 and then accounted for, never the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from usufruct import privacy as dp
from usufruct.builder.datasets import Dataset
from usufruct.builder.noise import distributed_noise, local_noise, noise_mode
from usufruct.builder.settings import SGD, Encryption, Privacy, whole
from usufruct.domain.training_job import (
    MICRO,
    NANO,
    PICO,
    VALUE_BITS,
    Clipping,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingPlan,
)
from usufruct.encryption import BoundedValues, EncryptionParameters, SignedSums
from usufruct.encryption import plan as plan_parameters
from usufruct.encryption.planner import MIN_HOLDERS
from usufruct.errors import InvalidInput, Refused

MICRO_BATCH_SIZE = 64
"""Records that a trainer puts through the model at once; what graphs are bounded for (``graph.GraphLimits``)."""

LOCAL_STEPS = 4
"""Of a round with local noise, where the builder does not say."""

ROUNDING_SHARE = 0.005
"""Variance of rounding over that of the noise: at most a four-hundredth of the deviation."""

TAIL = 6.0
"""Standard deviations of noise inside the range of an update: a coordinate is clamped with probability 2e-9."""


@dataclass(frozen=True)
class JobPlan:
    """All figures of a job, before it has a model graph, an aggregator and a number.

    Attributes:
        optimizer, plan, encryption, legs: as they stand in the spec. ``legs`` are in ascending order of dataset.
        parameters: what ``encryption`` names.
        plans: what each leg executes, and is priced by, in the order of ``legs``.
        min_cohort: least holders in a sum.
    """

    optimizer: LocalOptimizer
    plan: TrainingPlan
    legs: tuple[LegTerms, ...]
    encryption: EncryptionPlan
    parameters: EncryptionParameters
    plans: tuple[dp.LegPlan, ...]
    min_cohort: int

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Binding epsilon of each leg's whole reservation, in the order of ``legs``."""
        return tuple(plan.epsilon for plan in self.plans)

    @property
    def values(self) -> int:
        """Integers of a holder's update."""
        first = self.plans[0]
        return first.dimension if isinstance(first, dp.DistributedPlan) else self.encryption.parameter_count


def make_plan(
    datasets: Sequence[Dataset],
    privacy: Privacy,
    optimizer: SGD,
    *,
    rounds: int,
    spare_attempts: int | None,
    parameter_count: int,
    min_cohort: int | None = None,
    encryption: Encryption | None = None,
) -> JobPlan:
    """Sizes a job so that each dataset's binding epsilon stays within ``privacy.epsilon``.

    Where the datasets' orders differ, the largest noise of the cohort is used for all of them.

    Args:
        spare_attempts: attempts beyond ``rounds`` for what has to be drawn again; None for max(2, rounds // 10).
            They are paid for in privacy whether or not they are used.
    Raises:
        Refused: EPSILON_BELOW_FLOOR, BUDGET_SHORT, POLICY_LOSS_TOO_HIGH, POLICY_NOISE_MODE (each names the dataset),
            COHORT_TOO_SMALL; BUDGET_SHORT also where no integer noise that fits its field is enough.
        InvalidInput: SPEC_INVALID, naming the field.
    """
    cohort, encryption = _cohort(datasets), encryption or Encryption()
    spare = max(2, rounds // 10) if spare_attempts is None else spare_attempts
    whole("rounds", rounds, 1, 10_000)
    whole("spare_attempts", spare, 0, 1000)
    local = LocalOptimizer("sgd", _scaled(optimizer.lr, NANO), _scaled(optimizer.momentum, NANO))
    rate_nano = _scaled(optimizer.sample_rate, NANO)
    for dataset in cohort:
        _check_batch(dataset, rate_nano)
    plan = TrainingPlan(
        noise_mode=noise_mode(cohort, privacy, optimizer),
        rounds=rounds,
        spare_attempts=spare,
        local_steps=1,
        sample_rate_nano=rate_nano,
        max_grad_norm_micro=_scaled(privacy.max_grad_norm, MICRO),
        noise_multiplier_micro=0,
        delta_pico=_scaled(privacy.delta, PICO),
        # where a dataset has fewer rows, the others would be padding
        micro_batch_size=min(MICRO_BATCH_SIZE, max(dataset.nominal_size for dataset in cohort)),
        clipping=Clipping[privacy.clipping.upper()],
    )
    least = _least_cohort(cohort)
    if plan.noise_mode is NoiseMode.DISTRIBUTED:
        plan = distributed_noise(plan, cohort, privacy, optimizer, parameter_count)
        least = max(least, plan.min_honest + plan.max_colluding)
    else:
        steps = LOCAL_STEPS if optimizer.local_steps is None else optimizer.local_steps
        plan = local_noise(replace(plan, local_steps=steps), cohort, privacy)
    if min_cohort is not None:
        whole("min_cohort", min_cohort, least, len(cohort))
        least = min_cohort
    plans = [
        dp.plan_from(
            plan,
            parameter_count=parameter_count,
            holders=len(cohort),
            nominal_size=dataset.nominal_size,
            order=dataset.order,
        )
        for dataset in cohort
    ]
    legs = tuple(
        _terms(dataset, priced, weight)
        for dataset, priced, weight in zip(
            cohort, plans, weights_nano([d.nominal_size for d in cohort]), strict=True
        )
    )
    for dataset, priced in zip(cohort, plans, strict=True):
        _check_budget(dataset, priced, privacy)
    if plan.noise_mode is NoiseMode.DISTRIBUTED:
        parameters = encryption_parameters(SignedSums(dp.FIELD_BITS), len(cohort), encryption.security_bits)
        encrypted = EncryptionPlan(parameters.name, 0, 0, parameter_count)
    else:
        asked = encryption.value_bits
        # a small model leaves most of a block empty: there, more bits may take fewer bytes
        parameters = min(
            (
                encryption_parameters(BoundedValues(enough), len(cohort), encryption.security_bits)
                for enough in reversed(enough_value_bits(local, plan, legs) if asked is None else (asked,))
            ),
            key=lambda found: found.upload_bytes(parameter_count),
        )
        bits = parameters.literal.value_bits or 0
        reach = update_range_nano(local, plan, legs)
        encrypted = EncryptionPlan(parameters.name, bits, reach, parameter_count)
    return JobPlan(local, plan, legs, encrypted, parameters, tuple(plans), least)


def encryption_parameters(
    need: BoundedValues | SignedSums, holders: int, security_bits: int
) -> EncryptionParameters:
    """The parameters with the fewest bytes for a cohort: local noise needs bounded values, distributed noise signed sums.

    A smaller roster, down to one holder, uses the same.
    """
    return plan_parameters(need, max(MIN_HOLDERS, holders), security_bits)


def weights_nano(nominal_sizes: Sequence[int]) -> tuple[int, ...]:
    """Weights in proportion to the declared sizes, in 10^-9, each at least 1, adding up to exactly 10^9.

    The shares are rounded down; what is left goes, one unit each, to the largest remainders.
    """
    total = sum(nominal_sizes)
    weights = [max(1, size * NANO // total) for size in nominal_sizes]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(nominal_sizes[i] * NANO % total), i))
    left = NANO - sum(weights)
    for i in by_remainder[: max(0, left)]:
        weights[i] += 1
    while sum(weights) > NANO:  # tiny shares were lifted to 1: the largest share gives it back
        weights[weights.index(max(weights))] -= 1
    return tuple(weights)


def update_range_nano(optimizer: LocalOptimizer, plan: TrainingPlan, legs: Sequence[LegTerms]) -> int:
    """Bound on a coordinate of a holder's *weighted* update, in 10^-9: what the value's bits are spread over.

    A holder takes K steps ``v = m*v + g; w = w - lr*v``, so its update is ``-lr * sum_k a_k g_k`` with
    ``a_k = 1 + m + ... + m^(K-k)``. A step's gradient is (clipped sum + noise) / (qN):

    * the sum over B sampled records, each of norm at most C, is at most ``C*B`` in any coordinate, and B exceeds
      ``qN + 6*sqrt(qN(1-q))`` hardly ever;
    * the noise has standard deviation ``s*C/(qN)``; over the steps ``lr*s*C/(qN) * sqrt(sum a_k^2)``.

    The range is the first, at its worst, plus :data:`TAIL` standard deviations of the second, times the holder's
    weight; the largest over the cohort. So clamping never touches the gradient of a dataset of its declared size,
    and the noise once in 5*10^8 coordinates; clamping is post-processing in any case and has no effect on privacy.
    """
    widest = 0.0
    for leg in legs:
        signal, noise = _weighted_update(optimizer, plan, leg)
        widest = max(widest, signal + TAIL * noise)
    return min(10**6 * NANO, max(1, math.ceil(widest * NANO)))


def enough_value_bits(
    optimizer: LocalOptimizer, plan: TrainingPlan, legs: Sequence[LegTerms]
) -> tuple[int, ...]:
    """The bits of a value with which rounding stays small beside the noise, rising; the most there are where none does.

    A holder's value is rounded to steps of ``range / (2^(bits - 1) - 1)``, whose error has a variance of a twelfth of the step's
    square; over all holders that is to be at most :data:`ROUNDING_SHARE` of the variance that their noise has.
    """
    reach = update_range_nano(optimizer, plan, legs) / NANO
    noise = math.fsum(_weighted_update(optimizer, plan, leg)[1] ** 2 for leg in legs)
    enough = [
        bits
        for bits in VALUE_BITS
        if len(legs) * dp.rounding_step(reach, bits) ** 2 / 12 <= ROUNDING_SHARE * noise
    ]
    return tuple(enough) or VALUE_BITS[-1:]


def _weighted_update(optimizer: LocalOptimizer, plan: TrainingPlan, leg: LegTerms) -> tuple[float, float]:
    """Of a coordinate of a holder's weighted update: the most that its rows bring about, and the noise's standard deviation."""
    lr, momentum = optimizer.learning_rate_nano / NANO, optimizer.momentum_nano / NANO
    rate, clip = plan.sample_rate_nano / NANO, plan.max_grad_norm_micro / MICRO
    multiplier = plan.noise_multiplier_micro / MICRO
    reach = [_geometric(momentum, plan.local_steps - k) for k in range(plan.local_steps)]
    signal, spread = math.fsum(reach), math.sqrt(math.fsum(a * a for a in reach))
    batch = rate * leg.nominal_size
    crowd = 1 + TAIL * math.sqrt(max(0.0, 1 - rate) / batch)
    unit = lr * clip * leg.weight_nano / NANO
    return unit * signal * crowd, unit * multiplier * spread / batch


def _geometric(ratio: float, terms: int) -> float:
    """1 + ratio + ... with ``terms`` terms."""
    return float(terms) if ratio == 0 and terms == 0 else (1 - ratio**terms) / (1 - ratio)


def _check_batch(dataset: Dataset, sample_rate_nano: int) -> None:
    if sample_rate_nano * dataset.nominal_size < NANO:
        raise InvalidInput(
            f"sample_rate {sample_rate_nano / NANO:g} is less than one record a step on dataset {dataset.id} "
            f"({dataset.nominal_size} rows declared); choose a larger one.",
            reason="SPEC_INVALID",
            field="sample_rate",
            dataset_id=dataset.id,
        )


def _terms(dataset: Dataset, plan: dp.LegPlan, weight_nano: int) -> LegTerms:
    return LegTerms(
        dataset_id=dataset.id,
        holder_id=dataset.holder_id,
        card_hash=dataset.card_hash,
        nominal_size=dataset.nominal_size,
        operator=dataset.operator,
        token=dataset.token,
        price_units=dataset.price_units,
        order=dataset.order,
        loss_per_attempt_micro=plan.loss_per_attempt_micro,
        weight_nano=weight_nano,
    )


def _check_budget(dataset: Dataset, plan: dp.LegPlan, privacy: Privacy) -> None:
    """Whether the dataset can still pay for the leg's whole reservation."""
    loss, epsilon = plan.reservation_micro, plan.epsilon
    left = dataset.epsilon_left(privacy.delta)
    ask = (
        f"ask for epsilon {left:.2f} or less"
        if left > dataset.epsilon_floor
        else "nothing more can be asked of it"
    )
    if loss > dataset.budget_left_micro:
        raise Refused(
            f"Dataset {dataset.id} ({dataset.name}) has too little privacy budget left for epsilon {epsilon:.2f}: the "
            f"job would reserve {loss} millionths of a nat and {dataset.budget_left_micro} are left; {ask}, or leave "
            "this dataset out.",
            reason="BUDGET_SHORT",
            dataset_id=dataset.id,
            requested=loss,
            limit=dataset.budget_left_micro,
        )
    if loss > dataset.most_per_job_micro:
        raise Refused(
            f"Dataset {dataset.id} ({dataset.name}) allows one job {dataset.most_per_job_micro} millionths of a nat "
            f"and this one would reserve {loss} (epsilon {epsilon:.2f}); {ask}.",
            reason="POLICY_LOSS_TOO_HIGH",
            dataset_id=dataset.id,
            requested=loss,
            limit=dataset.most_per_job_micro,
        )


def _least_cohort(cohort: Sequence[Dataset]) -> int:
    """Least holders in a sum by the datasets' own rules."""
    strictest = max(cohort, key=lambda dataset: dataset.min_cohort)
    if strictest.min_cohort > len(cohort):
        raise Refused(
            f"Dataset {strictest.id} ({strictest.name}) may only be used by {strictest.min_cohort} holders together, and the "
            f"job has {len(cohort)}; add datasets of other holders.",
            reason="COHORT_TOO_SMALL",
            dataset_id=strictest.id,
            minimum=strictest.min_cohort,
            holders=len(cohort),
        )
    return strictest.min_cohort


def _cohort(datasets: Sequence[Dataset]) -> list[Dataset]:
    cohort = sorted(datasets, key=lambda dataset: dataset.id)
    if not cohort:
        raise InvalidInput(
            "A job needs at least one dataset; network.datasets() lists what there is.",
            reason="SPEC_INVALID",
            field="datasets",
        )
    if len({dataset.id for dataset in cohort}) != len(cohort) or len(cohort) > 64:
        raise InvalidInput("A job has 1 to 64 datasets, each once.", reason="SPEC_INVALID", field="datasets")
    return cohort


def _scaled(value: float, unit: int) -> int:
    return round(value * unit)
