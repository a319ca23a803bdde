"""From a job spec's integers to the plan that is executed and priced: the same for builder, holder and trainer."""

from __future__ import annotations

from usufruct.domain.leg_receipt import MechanismKind, NeighbouringRelation, Rounding
from usufruct.domain.training_job import MICRO, NANO, PICO, NoiseMode, TrainingJobSpec, TrainingPlan
from usufruct.privacy.distributed_plan import DistributedPlan, IntegerNoise
from usufruct.privacy.gaussian_noise import require_fine_grid
from usufruct.privacy.plan import LocalPlan
from usufruct.privacy.rotation import padded_dimension

LegPlan = LocalPlan | DistributedPlan
"""Every plan that a trainer executes."""


def plan_of(spec: TrainingJobSpec, dataset_id: int) -> LegPlan:
    """The plan of one leg.

    Raises:
        PlanInvalid: a figure is out of its range; names the field.
        MechanismInvalid: `local` noise of this size on so many parameters is more than its grid resolves.
    """
    terms = spec.leg(dataset_id)
    return plan_from(
        spec.plan,
        parameter_count=spec.encryption.parameter_count,
        holders=len(spec.legs),
        nominal_size=terms.nominal_size,
        order=terms.order,
    )


def plan_from(
    plan: TrainingPlan, *, parameter_count: int, holders: int, nominal_size: int, order: int
) -> LegPlan:
    """:func:`plan_of` before there is a spec; raises the same."""
    if plan.noise_mode is NoiseMode.DISTRIBUTED:
        return DistributedPlan(
            sample_rate=plan.sample_rate_nano / NANO,
            max_grad_norm_micro=plan.max_grad_norm_micro,
            parameter_count=parameter_count,
            holders=holders,
            min_honest=plan.min_honest,
            max_colluding=plan.max_colluding,
            noise=IntegerNoise(plan.scale_micro, plan.share_noise, plan.clamp),
            rounds=plan.rounds,
            spare_attempts=plan.spare_attempts,
            micro_batch_size=plan.micro_batch_size,
            nominal_size=nominal_size,
            order=order,
            delta=plan.delta_pico / PICO,
            clipping=plan.clipping,
        )
    require_fine_grid(plan.noise_multiplier_micro / MICRO, parameter_count)
    return LocalPlan(
        sample_rate=plan.sample_rate_nano / NANO,
        max_grad_norm=plan.max_grad_norm_micro / MICRO,
        noise_multiplier=plan.noise_multiplier_micro / MICRO,
        local_steps=plan.local_steps,
        rounds=plan.rounds,
        spare_attempts=plan.spare_attempts,
        micro_batch_size=plan.micro_batch_size,
        nominal_size=nominal_size,
        order=order,
        delta=plan.delta_pico / PICO,
        clipping=plan.clipping,
    )


def value_count(spec: TrainingJobSpec) -> int:
    """Integers of a holder's update: a parameter each, with `distributed` noise after padding to whole blocks."""
    count = spec.encryption.parameter_count
    return padded_dimension(count) if spec.plan.noise_mode is NoiseMode.DISTRIBUTED else count


def receipt_figures(spec: TrainingJobSpec, dataset_id: int) -> dict[str, int]:
    """The fields of a leg receipt that the spec fixes, by name: mechanism, plan and sensitivities.

    Raises:
        PlanInvalid: the plan is none.
    """
    plan = spec.plan
    figures = {
        "mechanism": int(MechanismKind.SUBSAMPLED_GAUSSIAN),
        "neighbouring": int(NeighbouringRelation.ADD_OR_REMOVE_ONE),
        "rounding": int(Rounding.AFTER_NOISE),
        "order": spec.leg(dataset_id).order,
        "min_honest": plan.min_honest,
        "max_colluding": plan.max_colluding,
        "steps_per_attempt": plan.local_steps,
        "attempts_reserved": plan.attempts,
        "dimension": spec.encryption.parameter_count,
        "sample_rate_nano": plan.sample_rate_nano,
        "clip_norm_micro": plan.max_grad_norm_micro,
        "noise_multiplier_micro": plan.noise_multiplier_micro,
        "scale_micro": plan.scale_micro,
        "delta_two_micro": 0,
        "delta_one_micro": 0,
        "share_noise_micro": plan.share_noise * MICRO,
    }
    if plan.noise_mode is not NoiseMode.DISTRIBUTED:
        return figures
    mechanism = distributed_plan_of(spec, dataset_id).mechanism
    return {
        **figures,
        "mechanism": int(MechanismKind.SUBSAMPLED_SKELLAM),
        "rounding": int(Rounding.DITHERED_BEFORE_NOISE),
        "delta_two_micro": mechanism.delta_two_micro,
        "delta_one_micro": mechanism.delta_one_micro,
    }


def distributed_plan_of(spec: TrainingJobSpec, dataset_id: int) -> DistributedPlan:
    """:func:`plan_of` of a job with `distributed` noise; raises the same."""
    plan = plan_of(spec, dataset_id)
    assert isinstance(plan, DistributedPlan)
    return plan
