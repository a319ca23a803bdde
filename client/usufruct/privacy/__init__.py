"""Differential privacy: mechanisms as data, accountants, budgets, noise and rounding. No torch, gRPC or
chain here."""

from usufruct.privacy.accountant import MAXIMUM_LOSS_MICRO, MICRO, renyi_loss_micro
from usufruct.privacy.budget import MAXIMUM_BUDGET_MICRO, Budget
from usufruct.privacy.calibration import integer_noise_for, noise_multiplier_for
from usufruct.privacy.conversion import (
    delta_with_samplers,
    epsilon,
    epsilon_floor,
    loss_for_epsilon_micro,
    pld_epsilon,
)
from usufruct.privacy.distributed_plan import FIELD_BITS, DistributedPlan, Guarantee, IntegerNoise
from usufruct.privacy.errors import (
    BudgetShort,
    CalibrationImpossible,
    EpsilonBelowFloor,
    MechanismInvalid,
    NoiseTableFaulty,
    PlanInvalid,
    RoundingInvalid,
)
from usufruct.privacy.gaussian_noise import discrete_gaussian, noised_sum
from usufruct.privacy.leg_plan import (
    LegPlan,
    distributed_plan_of,
    plan_from,
    plan_of,
    receipt_figures,
    value_count,
)
from usufruct.privacy.mechanism import (
    MAXIMUM_NOISE_MULTIPLIER,
    MAXIMUM_ORDER,
    MAXIMUM_STEPS,
    MINIMUM_NOISE_MULTIPLIER,
    MINIMUM_ORDER,
    MINIMUM_SAMPLE_RATE,
    Mechanism,
    SubsampledGaussian,
    SubsampledSkellam,
    checked_order,
)
from usufruct.privacy.noise_table import NoiseTable
from usufruct.privacy.plan import LocalPlan, PricedPlan
from usufruct.privacy.recompute import claim_holds, recompute_loss_micro
from usufruct.privacy.rounding import round_update, rounding_step, unround_sum
from usufruct.privacy.sampling import poisson_mask
from usufruct.privacy.shares import noised_share, open_sum, table_for
from usufruct.privacy.skellam import skellam_table

__all__ = [
    "FIELD_BITS",
    "MAXIMUM_BUDGET_MICRO",
    "MAXIMUM_LOSS_MICRO",
    "MAXIMUM_NOISE_MULTIPLIER",
    "MAXIMUM_ORDER",
    "MAXIMUM_STEPS",
    "MICRO",
    "MINIMUM_NOISE_MULTIPLIER",
    "MINIMUM_ORDER",
    "MINIMUM_SAMPLE_RATE",
    "Budget",
    "BudgetShort",
    "CalibrationImpossible",
    "DistributedPlan",
    "EpsilonBelowFloor",
    "Guarantee",
    "IntegerNoise",
    "LegPlan",
    "LocalPlan",
    "Mechanism",
    "MechanismInvalid",
    "NoiseTable",
    "NoiseTableFaulty",
    "PlanInvalid",
    "PricedPlan",
    "RoundingInvalid",
    "SubsampledGaussian",
    "SubsampledSkellam",
    "checked_order",
    "claim_holds",
    "delta_with_samplers",
    "discrete_gaussian",
    "distributed_plan_of",
    "epsilon",
    "epsilon_floor",
    "integer_noise_for",
    "loss_for_epsilon_micro",
    "noise_multiplier_for",
    "noised_share",
    "noised_sum",
    "open_sum",
    "plan_from",
    "plan_of",
    "pld_epsilon",
    "poisson_mask",
    "receipt_figures",
    "recompute_loss_micro",
    "renyi_loss_micro",
    "round_update",
    "rounding_step",
    "skellam_table",
    "table_for",
    "unround_sum",
    "value_count",
]
