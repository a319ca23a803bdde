"""With `distributed` noise too a plan keeps the epsilon asked for, at every dataset, in integers that all parties price alike;
what it assumes, and what is left without that, is said before anyone is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from usufruct import privacy as dp
from usufruct.audit.skellam_accountant import SkellamFigures
from usufruct.builder.datasets import Dataset
from usufruct.builder.planning import JobPlan, make_plan
from usufruct.builder.settings import SGD, Encryption, Privacy
from usufruct.domain.training_job import MICRO, PICO, NoiseMode
from usufruct.encryption import SignedSums, parameter_set
from usufruct.encryption import plan as plan_parameters
from usufruct.errors import InvalidInput, Refused
from usufruct.privacy import DistributedPlan, IntegerNoise

Make = Callable[..., Dataset]
ASKED = Privacy(epsilon=3.0, noise="distributed")
STEP = SGD(lr=0.5, sample_rate=0.2)


def plan_for(
    datasets: list[Dataset], privacy: Privacy = ASKED, optimizer: SGD = STEP, **options: Any
) -> JobPlan:
    settings = {"rounds": 20, "spare_attempts": None, "parameter_count": 31, **options}
    return make_plan(datasets, privacy, optimizer, **settings)


def refusal(
    datasets: list[Dataset], privacy: Privacy = ASKED, optimizer: SGD = STEP, **options: Any
) -> Refused:
    with pytest.raises(Refused) as caught:
        plan_for(datasets, privacy, optimizer, **options)
    return caught.value


@pytest.mark.parametrize("orders", [(6, 6, 6, 6), (6, 8, 16, 6)])
@pytest.mark.parametrize(("honest", "colluding"), [(None, 1), (2, 1), (2, 2)])
def test_every_dataset_stays_within_the_epsilon_asked_for_spare_attempts_included(
    dataset: Make, orders: tuple[int, ...], honest: int | None, colluding: int
) -> None:
    asked = Privacy(epsilon=3.0, noise="distributed", min_honest=honest, max_colluding=colluding)
    job = plan_for([dataset(index, 100 * index, order=order) for index, order in enumerate(orders, 1)], asked)
    plan = job.plan
    assert (plan.noise_mode, plan.local_steps, plan.noise_multiplier_micro) == (NoiseMode.DISTRIBUTED, 1, 0)
    assert (plan.min_honest, plan.max_colluding) == (honest or 4 - colluding, colluding)
    for leg, stated in zip(job.legs, job.epsilons, strict=True):
        loss = plan.attempts * leg.loss_per_attempt_micro
        assert dp.epsilon(loss, leg.order, plan.delta_pico / PICO) == stated <= 3.0
    assert max(job.epsilons) > 2.97, "and no more noise than that needs"


def test_the_auditors_accountant_finds_the_same_loss_from_the_specs_integers(dataset: Make) -> None:
    job = plan_for([dataset(1), dataset(2, 300, order=8), dataset(3)])
    plan = job.plan
    figures = SkellamFigures(
        plan.sample_rate_nano, plan.scale_micro, plan.max_grad_norm_micro, 31, plan.share_noise * MICRO, plan.min_honest
    )  # fmt: skip
    for leg in job.legs:
        recomputed = figures.loss_micro(leg.order)
        assert recomputed <= leg.loss_per_attempt_micro <= recomputed + 1


def test_each_leg_is_priced_by_the_plan_that_its_trainer_executes(dataset: Make) -> None:
    job = plan_for([dataset(number, 100 * number) for number in (1, 2, 3)])
    for leg, plan in zip(job.legs, job.plans, strict=True):
        assert plan == DistributedPlan(
            sample_rate=0.2, max_grad_norm_micro=10**6, parameter_count=31, holders=3, min_honest=2, max_colluding=1,
            noise=IntegerNoise(job.plan.scale_micro, job.plan.share_noise, job.plan.clamp), rounds=20, spare_attempts=2,
            micro_batch_size=64, nominal_size=leg.nominal_size, order=6, delta=1e-5,
        )  # fmt: skip
        assert leg.loss_per_attempt_micro == plan.loss_per_attempt_micro
    assert job.values == 32


def test_fewer_honest_shares_are_larger_shares(dataset: Make) -> None:
    cohort = [dataset(number) for number in range(1, 11)]
    shares = {}
    for honest in (2, 5, 9):
        noise = plan_for(cohort, replace(ASKED, min_honest=honest)).plans[0]
        assert isinstance(noise, DistributedPlan)
        shares[honest] = noise.noise.share_noise / noise.noise.scale_micro**2
        assert noise.noise_multiplier == pytest.approx(plan_for(cohort).plans[0].noise_multiplier, rel=0.01)
    assert shares[2] > 2 * shares[5] > 3 * shares[9]


def test_a_sum_needs_all_whom_the_noise_counts_and_those_who_may_collude(dataset: Make) -> None:
    cohort = [dataset(number) for number in range(1, 7)]
    assert plan_for(cohort).min_cohort == 6
    assert plan_for(cohort, replace(ASKED, min_honest=2, max_colluding=2)).min_cohort == 4
    assert plan_for(cohort, replace(ASKED, min_honest=2), min_cohort=5).min_cohort == 5
    with pytest.raises(InvalidInput):
        plan_for(cohort, replace(ASKED, min_honest=4), min_cohort=4)
    strict = [*cohort[:5], dataset(6, min_cohort=5)]
    assert plan_for(strict, replace(ASKED, min_honest=2)).min_cohort == 5


@pytest.mark.parametrize("count", [3, 9, 64])
def test_the_encryption_carries_signed_sums_of_any_cohort(dataset: Make, count: int) -> None:
    job = plan_for(
        [dataset(number) for number in range(1, count + 1)], encryption=Encryption(security_bits=192)
    )
    assert job.parameters == plan_parameters(SignedSums(22), count, 192)
    assert parameter_set(job.encryption.parameters) == job.parameters
    assert (job.encryption.value_bits, job.encryption.update_range_nano) == (0, 0)


def test_what_cannot_be_is_refused_before_anyone_is_asked(dataset: Make) -> None:
    three = [dataset(number) for number in (1, 2, 3)]
    for datasets, privacy in (
        (three[:2], ASKED),
        (three, replace(ASKED, max_colluding=2)),
        (three, replace(ASKED, min_honest=3)),
        (three, replace(ASKED, min_honest=2, max_colluding=2)),
    ):
        assert refusal(datasets, privacy).reason == "COHORT_TOO_SMALL"
    low = refusal([*three[:2], dataset(3, order=32)], replace(ASKED, epsilon=1.0))
    assert (low.reason, low.details["dataset_id"]) == ("EPSILON_BELOW_FLOOR", 1)
    poor = refusal([*three[:2], dataset(3, cap_micro=10_000)])
    assert (poor.reason, poor.details["dataset_id"]) == ("BUDGET_SHORT", 3)
    for optimizer in (SGD(lr=0.5, momentum=0.9), SGD(lr=0.5, local_steps=4)):
        with pytest.raises(InvalidInput, match="one step a round"):
            plan_for(three, optimizer=optimizer)
    with pytest.raises(InvalidInput, match="one dataset of each"):
        plan_for([*three, replace(dataset(4), holder_id=1)])


def test_a_model_or_a_cohort_that_does_not_fit_the_field_is_refused(dataset: Make) -> None:
    full = SGD(lr=0.5, sample_rate=1.0)
    cohort = [dataset(number, 20_000) for number in range(1, 65)]
    error = refusal(cohort, replace(ASKED, epsilon=1.8), full, parameter_count=10**8, rounds=200)
    assert error.reason == "BUDGET_SHORT"
    assert "smaller model" in error.message


def test_local_noise_that_its_grid_does_not_resolve_is_refused_before_anything_is_charged(
    dataset: Make,
) -> None:
    local = Privacy(epsilon=1.8)
    with pytest.raises(InvalidInput) as caught:
        plan_for(
            [dataset(1)],
            local,
            SGD(lr=0.5, sample_rate=1.0, local_steps=20),
            parameter_count=10**7,
            rounds=100,
        )
    assert caught.value.details["field"] == "noise_multiplier"


def published(*modes: str) -> bytes:
    return json.dumps({"version": 1, "noise_modes": list(modes)}).encode()


def test_from_three_holders_on_that_accept_it_noise_is_distributed_unless_something_else_is_asked_for(
    dataset: Make,
) -> None:
    def mode(datasets: list[Dataset], optimizer: SGD = STEP, **asked: Any) -> NoiseMode:
        return plan_for(datasets, Privacy(epsilon=3.0, **asked), optimizer).plan.noise_mode

    three = [dataset(number, policy=published("distributed", "local")) for number in (1, 2, 3)]
    assert mode(three) is NoiseMode.DISTRIBUTED
    assert mode(three, noise="local") is NoiseMode.LOCAL
    assert mode(three[:2]) is NoiseMode.LOCAL
    assert mode([*three, replace(three[0], id=4)]) is NoiseMode.LOCAL, "of two datasets of one holder"
    assert mode([*three, dataset(4, policy=published("local"))]) is NoiseMode.LOCAL
    assert mode([*three, dataset(4)]) is NoiseMode.LOCAL, "of a policy that says nothing"
    assert mode(three, SGD(lr=0.5, momentum=0.5)) is NoiseMode.LOCAL
    assert mode(three, SGD(lr=0.5, local_steps=2)) is NoiseMode.LOCAL
    assert mode(three, SGD(lr=0.5, local_steps=1)) is NoiseMode.DISTRIBUTED


def test_a_holder_whose_policy_lists_other_noise_is_named(dataset: Make) -> None:
    both = [dataset(number, policy=published("distributed", "local")) for number in (1, 2)]
    assert plan_for([*both, dataset(3)]).plan.noise_mode is NoiseMode.DISTRIBUTED
    error = refusal([*both, dataset(3, policy=published("local"))])
    assert (error.reason, error.details["dataset_id"]) == ("POLICY_NOISE_MODE", 3)
    error = refusal([dataset(1, policy=published("distributed"))], Privacy(epsilon=3.0))
    assert (error.reason, error.details["dataset_id"]) == ("POLICY_NOISE_MODE", 1)
