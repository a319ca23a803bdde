"""A plan keeps the epsilon that was asked for, at every dataset, in integers that every party computes alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usufruct import privacy as dp
from usufruct.builder.datasets import Dataset
from usufruct.builder.planning import ROUNDING_SHARE, make_plan, update_range_nano, weights_nano
from usufruct.builder.settings import SGD, Encryption, Privacy
from usufruct.domain.training_job import MICRO, NANO, PICO, VALUE_BITS, Clipping, LocalOptimizer
from usufruct.encryption import BoundedValues, parameter_set
from usufruct.encryption import plan as plan_parameters
from usufruct.errors import InvalidInput, Refused

Make = Callable[..., Dataset]
ASKED = Privacy(epsilon=3.0)


def plan_for(datasets: list[Dataset], privacy: Privacy = ASKED, optimizer: SGD | None = None, **options: int):  # type: ignore[no-untyped-def]
    settings = {"rounds": 20, "spare_attempts": None, "parameter_count": 31, **options}
    return make_plan(datasets, privacy, optimizer or SGD(lr=0.5, local_steps=1, sample_rate=1.0), **settings)


@pytest.mark.parametrize(
    "optimizer", [SGD(lr=0.5), SGD(lr=0.1, momentum=0.9, local_steps=5, sample_rate=0.1)]
)
@pytest.mark.parametrize("epsilon", [1.9, 3.0, 8.0])
def test_every_dataset_stays_within_the_epsilon_asked_for_spare_attempts_included(
    dataset: Make, optimizer: SGD, epsilon: float
) -> None:
    job = plan_for([dataset(1), dataset(2, 500, order=8)], Privacy(epsilon=epsilon), optimizer)
    assert job.plan.spare_attempts == 2
    for leg, stated in zip(job.legs, job.epsilons, strict=True):
        loss = job.plan.attempts * leg.loss_per_attempt_micro
        assert dp.epsilon(loss, leg.order, job.plan.delta_pico / PICO) == stated <= epsilon


def test_clipping_is_in_the_plan_and_changes_no_other_figure_of_it(dataset: Make) -> None:
    flat, automatic = (plan_for([dataset(1)], Privacy(3.0, clipping=name)) for name in ("flat", "automatic"))
    assert flat.plan.clipping is Clipping.FLAT
    assert automatic.plan == replace(flat.plan, clipping=Clipping.AUTOMATIC)
    assert automatic.legs == flat.legs
    assert [plan.clipping for plan in automatic.plans] == [Clipping.AUTOMATIC]


def test_no_smaller_noise_would_keep_it(dataset: Make) -> None:
    job = plan_for([dataset(1)])
    less = dp.SubsampledGaussian(1.0, job.plan.noise_multiplier_micro / MICRO - 1e-4, 1)
    assert dp.epsilon(job.plan.attempts * dp.renyi_loss_micro(less, 6), 6, 1e-5) > 3.0


def test_the_largest_noise_of_the_cohort_applies(dataset: Make) -> None:
    alone = [plan_for([dataset(1, order=order)]).plan.noise_multiplier_micro for order in (6, 32)]
    both = plan_for([dataset(1, order=6), dataset(2, order=32)]).plan.noise_multiplier_micro
    assert alone[0] != alone[1]
    assert both == max(alone)


def test_a_holder_that_prices_the_plan_from_its_integers_finds_the_same_loss(dataset: Make) -> None:
    job = plan_for([dataset(1)], optimizer=SGD(lr=0.5, local_steps=3, sample_rate=1 / 3))
    plan, leg = job.plan, job.legs[0]
    holders_own = dp.LocalPlan(
        sample_rate=plan.sample_rate_nano / NANO,
        max_grad_norm=plan.max_grad_norm_micro / MICRO,
        noise_multiplier=plan.noise_multiplier_micro / MICRO,
        local_steps=plan.local_steps,
        rounds=plan.rounds,
        spare_attempts=plan.spare_attempts,
        micro_batch_size=plan.micro_batch_size,
        nominal_size=leg.nominal_size,
        order=leg.order,
        delta=plan.delta_pico / PICO,
    )
    assert holders_own.loss_per_attempt_micro == leg.loss_per_attempt_micro


def test_epsilon_below_the_floor_has_its_own_reason_and_names_the_dataset(dataset: Make) -> None:
    with pytest.raises(Refused) as caught:
        plan_for([dataset(1, order=32), dataset(2, order=6)], Privacy(epsilon=1.5))
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("EPSILON_BELOW_FLOOR", 2)


def test_a_dataset_without_enough_budget_is_named_before_anyone_is_asked(dataset: Make) -> None:
    need = plan_for([dataset(1)]).plan.attempts * plan_for([dataset(1)]).legs[0].loss_per_attempt_micro
    exact = dataset(2, cap_micro=need + 50, reserved_micro=30, spent_micro=20)
    assert plan_for([dataset(1), exact]).epsilons[1] <= 3.0
    with pytest.raises(Refused) as caught:
        plan_for([dataset(1), replace(exact, spent_micro=21)])
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("BUDGET_SHORT", 2)
    assert caught.value.details["limit"] == need - 1


def test_the_admin_keys_limit_for_one_job_holds(dataset: Make) -> None:
    with pytest.raises(Refused) as caught:
        plan_for([dataset(1, max_loss_per_job_micro=1000)])
    assert caught.value.reason == "POLICY_LOSS_TOO_HIGH"


def test_a_cohort_below_a_datasets_minimum_is_refused(dataset: Make) -> None:
    with pytest.raises(Refused) as caught:
        plan_for([dataset(1), dataset(2, min_cohort=3)])
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("COHORT_TOO_SMALL", 2)
    assert plan_for([dataset(1), dataset(2, min_cohort=3), dataset(3)]).min_cohort == 3


def test_less_than_one_record_a_step_is_refused(dataset: Make) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_for([dataset(1, rows=30)], optimizer=SGD(lr=0.5, sample_rate=0.03))
    assert caught.value.details["field"] == "sample_rate"


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=64))
def test_weights_add_up_to_one_exactly_and_follow_the_declared_sizes(sizes: list[int]) -> None:
    weights = weights_nano(sizes)
    assert sum(weights) == NANO
    assert min(weights) >= 1
    lifted = sum(size * NANO < sum(sizes) for size in sizes)
    for weight, size in zip(weights, sizes, strict=True):
        assert abs(weight - size * NANO / sum(sizes)) <= 1 + lifted


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.2, 8)])
def test_the_range_holds_the_worst_honest_update_and_its_noise(
    dataset: Make, momentum: float, rate: float, steps: int
) -> None:
    """Simulates the holder's steps with every record's gradient on one coordinate; seed fixed, 20,000 coordinates."""
    job = plan_for(
        [dataset(1, 40), dataset(2, 400)], optimizer=SGD(0.5, momentum, local_steps=steps, sample_rate=rate)
    )
    random, plan = np.random.default_rng(7), job.plan
    bound = job.encryption.update_range_nano / NANO
    for leg in job.legs:
        velocity = update = np.zeros(20_000)
        for _ in range(steps):
            batch = random.binomial(leg.nominal_size, rate)
            noise = random.normal(0, plan.noise_multiplier_micro / MICRO, 20_000)
            velocity = momentum * velocity + (batch + noise) / (rate * leg.nominal_size)
            update = update - 0.5 * velocity
        weighted = update * leg.weight_nano / NANO
        assert np.abs(weighted).max() <= bound
        noise_deviation = weighted.std()
        assert dp.rounding_step(bound) < noise_deviation / 100


@pytest.mark.parametrize("holders", [1, 2, 3, 9, 64])
@pytest.mark.parametrize("encryption", [None, Encryption(12), Encryption(8, 192)])
def test_the_encryption_is_the_planners_for_the_cohort_and_every_party_finds_it_by_its_name(
    dataset: Make, holders: int, encryption: Encryption | None
) -> None:
    options = {} if encryption is None else {"encryption": encryption}
    job = plan_for([dataset(number) for number in range(1, holders + 1)], **options)  # type: ignore[arg-type]
    bits = job.encryption.value_bits if encryption is None else encryption.value_bits
    security = (encryption or Encryption()).security_bits
    assert bits in VALUE_BITS
    assert job.parameters == plan_parameters(BoundedValues(bits), max(2, holders), security)
    assert parameter_set(job.encryption.parameters) == job.parameters
    assert (job.encryption.value_bits, job.parameters.max_value) == (bits, 2**bits - 1)
    assert job.parameters.literal.security_bits == security
    assert job.parameters.max_holders >= len(job.legs)


@pytest.mark.parametrize(("rows", "expected"), [(40, 8), (400, 12), (4_000, 16)])
def test_values_have_as_few_bits_as_keep_rounding_small_beside_the_noise(
    dataset: Make, rows: int, expected: int
) -> None:
    """The more rows, the smaller the noise beside what the rows can bring about; rounding is measured on noise itself."""
    job = plan_for(
        [dataset(number, rows) for number in (1, 2, 3)],
        optimizer=SGD(lr=0.5, sample_rate=0.5, local_steps=1),
        parameter_count=10**6,
    )
    assert job.encryption.value_bits == expected
    plan, reach = job.plan, job.encryption.update_range_nano / NANO
    deviation = (
        0.5 * plan.noise_multiplier_micro / MICRO * plan.max_grad_norm_micro / MICRO / (0.5 * rows) / 3
    )
    noise = np.random.default_rng(4).normal(0.0, deviation, 200_000)

    def share(bits: int) -> float:
        back = dp.unround_sum(dp.round_update(noise, reach, bits).astype(np.int64), 1, reach, bits)
        return float((back - noise).var() / deviation**2)

    fewer = [bits for bits in VALUE_BITS if bits < expected]
    assert share(expected) < 1.05 * ROUNDING_SHARE
    assert all(share(bits) > 0.95 * ROUNDING_SHARE for bits in fewer)


def test_a_model_of_less_than_a_block_takes_the_bits_that_are_fewest_bytes(dataset: Make) -> None:
    datasets = [dataset(number, 400) for number in (1, 2, 3)]
    chosen = plan_for(datasets)
    for bits in (12, 16):
        other = plan_for(datasets, encryption=Encryption(bits))  # type: ignore[arg-type]
        assert chosen.parameters.upload_bytes(31) <= other.parameters.upload_bytes(31)
    assert chosen.encryption.value_bits == 16, "twelve are enough for the noise, and their block is larger"


def test_a_small_cohort_takes_fewer_bytes_than_a_large_one(dataset: Make) -> None:
    few = plan_for([dataset(number) for number in (1, 2, 3)]).parameters
    many = plan_for([dataset(number) for number in range(1, 65)]).parameters
    assert few.upload_bytes_per_parameter() < many.upload_bytes_per_parameter()


def test_the_range_grows_with_the_learning_rate(dataset: Make) -> None:
    job = plan_for([dataset(1)])
    doubled = update_range_nano(LocalOptimizer("sgd", 10**9), job.plan, job.legs)
    assert doubled == pytest.approx(2 * job.encryption.update_range_nano, abs=2)


def test_settings_refuse_what_a_spec_cannot_hold() -> None:
    for wrong in (
        lambda: Privacy(epsilon=0.0),
        lambda: Privacy(epsilon=float("nan")),
        lambda: Privacy(epsilon=3.0, delta=0.5),
        lambda: Privacy(epsilon=3.0, noise="elsewhere"),
        lambda: Privacy(epsilon=3.0, clipping="none"),
        lambda: Privacy(epsilon=3.0, noise="distributed", max_colluding=0),
        lambda: Privacy(epsilon=3.0, noise="distributed", min_honest=1),
        lambda: Encryption(value_bits=10),
        lambda: Encryption(value_bits=16.0),  # type: ignore[arg-type]
        lambda: Encryption(security_bits=256),
        lambda: SGD(lr=0.0),
        lambda: SGD(lr=0.1, momentum=1.0),
        lambda: SGD(lr=0.1, local_steps=0),
        lambda: SGD(lr=0.1, sample_rate=1.5),
    ):
        with pytest.raises(InvalidInput) as caught:
            wrong()
        assert caught.value.reason == "SPEC_INVALID"
