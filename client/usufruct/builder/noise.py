"""How much noise a job needs, by where it is added: the least that keeps every dataset within the epsilon asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from usufruct import privacy as dp
from usufruct.builder.datasets import Dataset
from usufruct.builder.policies import check_noise, noise_accepted
from usufruct.builder.settings import SGD, Privacy
from usufruct.domain.training_job import (
    MICRO,
    NANO,
    PICO,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.errors import InvalidInput, Refused

LEAST_NOISE_MULTIPLIER = 0.1
"""What a spec admits; a calibration that would need less takes this much."""

LEAST_HONEST = 2
"""Honest holders of a sum with distributed noise: with one, each would add all of the noise, as local noise does."""

T = TypeVar("T")


def noise_mode(datasets: Sequence[Dataset], privacy: Privacy, optimizer: SGD) -> NoiseMode:
    """Where noise is added: as the builder says, or what :class:`Privacy` says of None."""
    if privacy.noise is not None:
        return NoiseMode[privacy.noise.upper()]
    holders = {dataset.holder_id for dataset in datasets}
    several = len(holders) == len(datasets) >= LEAST_HONEST + 1
    one_step = optimizer.local_steps in (None, 1) and not optimizer.momentum
    accepted = all(noise_accepted(dataset, "distributed") is True for dataset in datasets)
    return NoiseMode.DISTRIBUTED if several and one_step and accepted else NoiseMode.LOCAL


def local_noise(plan: TrainingPlan, datasets: Sequence[Dataset], privacy: Privacy) -> TrainingPlan:
    """``plan`` with the least noise multiplier that keeps every dataset of the cohort within ``privacy.epsilon``.

    Where the datasets' orders differ, the largest noise of the cohort is used for all of them.

    *Guarantee*: at every dataset's order, ``plan.attempts`` times the loss of one attempt translates to at most
    ``privacy.epsilon`` at ``privacy.delta``.

    Raises:
        Refused: EPSILON_BELOW_FLOOR, BUDGET_SHORT or POLICY_NOISE_MODE, naming the dataset.
    """
    largest, rate = LEAST_NOISE_MULTIPLIER, plan.sample_rate_nano / NANO
    for dataset in datasets:
        check_noise(dataset, plan.noise_mode.name.lower())
        cap = _cap_micro(dataset, plan, privacy)

        def least(dataset: Dataset = dataset, cap: int = cap) -> float:
            return dp.noise_multiplier_for(cap, dataset.order, rate, plan.local_steps, plan.attempts)

        largest = max(largest, _named(dataset, least))
    return replace(plan, noise_multiplier_micro=round(largest * MICRO))


def distributed_noise(
    plan: TrainingPlan, datasets: Sequence[Dataset], privacy: Privacy, optimizer: SGD, parameter_count: int
) -> TrainingPlan:
    """``plan`` with the finest integers that fit their field and the least noise for them, in shares of ``min_honest``.

    *Guarantee*: as :func:`local_noise`, against all but ``min_honest`` holders of any sum.

    Raises:
        Refused: COHORT_TOO_SMALL; EPSILON_BELOW_FLOOR or POLICY_NOISE_MODE, naming the dataset; BUDGET_SHORT, where no
            noise that fits is enough.
        InvalidInput: SPEC_INVALID: an option that distributed noise has no room for.
    """
    colluding, count = privacy.max_colluding, len(datasets)
    honest = count - colluding if privacy.min_honest is None else privacy.min_honest
    if honest < LEAST_HONEST or honest + colluding > count:
        raise Refused(
            f"Distributed noise needs at least {LEAST_HONEST} honest holders and {colluding} that may collude"
            + (f", here {honest + colluding} in all" if privacy.min_honest is not None else "")
            + f"; the job has {count}. Add datasets of other holders, lower max_colluding or min_honest, or ask for "
            'noise="local".',
            reason="COHORT_TOO_SMALL",
            minimum=max(honest, LEAST_HONEST) + colluding,
            holders=count,
        )
    if len({dataset.holder_id for dataset in datasets}) < count:
        raise _no_room("datasets", "counts holders: one dataset of each")
    if optimizer.momentum:
        raise _no_room("momentum", "takes one step a round, at whose start momentum is zero: leave it out")
    if optimizer.local_steps not in (None, 1):
        raise _no_room("local_steps", "takes one step a round: leave it out, and ask for more rounds")
    caps: dict[int, int] = {}
    for dataset in datasets:
        check_noise(dataset, plan.noise_mode.name.lower())
        cap = _cap_micro(dataset, plan, privacy)
        caps[dataset.order] = min(cap, caps.get(dataset.order, cap))
    rate = plan.sample_rate_nano / NANO
    noise = dp.integer_noise_for(
        caps,
        sample_rate=rate,
        max_grad_norm_micro=plan.max_grad_norm_micro,
        parameter_count=parameter_count,
        holders=count,
        min_honest=honest,
        attempts=plan.attempts,
        largest_batch=max(1.0, rate * max(dataset.nominal_size for dataset in datasets)),
    )
    return replace(
        plan,
        min_honest=honest,
        max_colluding=colluding,
        scale_micro=noise.scale_micro,
        share_noise=noise.share_noise,
        clamp=noise.clamp,
    )


def average_deviation(spec: TrainingJobSpec, roster: Sequence[int]) -> float:
    """Standard deviation of the noise, rounding included, in each number of a round's average update (of one step at rate 1).

    Noise of every holder of the roster is in it, also of those that the guarantee does not count. Rounding takes 1/12 step² a
    holder with local noise, at most 1/4 with the dither of distributed noise.
    """
    variance, batch, weight = 0.0, 0.0, 0.0
    for dataset_id in roster:
        plan, share = dp.plan_of(spec, dataset_id), spec.leg(dataset_id).weight_nano / NANO
        batch += plan.nominal_batch_size
        weight += share
        if isinstance(plan, dp.DistributedPlan):
            variance += (plan.noise.share_noise + 0.25) / plan.scale**2
        else:
            step = dp.rounding_step(spec.encryption.update_range_nano / NANO, spec.encryption.value_bits)
            variance += (share * plan.noise_standard_deviation / plan.nominal_batch_size) ** 2 + step**2 / 12
    return math.sqrt(variance) / (batch if spec.plan.noise_mode is NoiseMode.DISTRIBUTED else weight)


def _cap_micro(dataset: Dataset, plan: TrainingPlan, privacy: Privacy) -> int:
    delta = plan.delta_pico / PICO
    return _named(dataset, lambda: dp.loss_for_epsilon_micro(privacy.epsilon, dataset.order, delta))


def _named(dataset: Dataset, ask: Callable[[], T]) -> T:
    """What the privacy layer answers; its refusal names the dataset that it concerns."""
    try:
        return ask()
    except Refused as error:
        details = {**error.details, "dataset_id": dataset.id}
        text = f"Dataset {dataset.id} ({dataset.name}): {error.message}"
        raise Refused(text, reason=error.reason, **details) from error


def _no_room(field: str, why: str) -> InvalidInput:
    return InvalidInput(
        f'{field}: distributed noise {why}; or ask for noise="local".', reason="SPEC_INVALID", field=field
    )
