"""A job spec with `distributed` noise: every figure crosses the wire, and a form that is no such noise is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from usufruct.domain import ids
from usufruct.domain.training_job import (
    AggregatorRef,
    Clipping,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.errors import InvalidInput
from usufruct.privacy import plan_of
from usufruct.v1 import jobs_pb2
from usufruct.wire.jobs import spec_from_bytes, spec_to_bytes

ADDRESS = ids.address("0x" + "11" * 20, "test")
PLAN = TrainingPlan(
    NoiseMode.DISTRIBUTED, 20, 2, 1, 5 * 10**8, 10**6, 0, 10**7, 64, min_honest=3, max_colluding=1,
    scale_micro=700 * 10**6, share_noise=123_456, clamp=40_000,
)  # fmt: skip
SPEC = TrainingJobSpec(
    chain_id=1,
    compute_access=ADDRESS,
    builder=ADDRESS,
    nonce=bytes(32),
    model_graph=b"graph",
    loss="mse_loss",
    optimizer=LocalOptimizer("sgd", 5 * 10**8),
    plan=PLAN,
    legs=tuple(
        LegTerms(number, 10 + number, bytes([number]) * 32, 100, ADDRESS, ADDRESS, 250, 6, 1000, 2 * 10**8)
        for number in range(1, 6)
    ),
    encryption=EncryptionPlan("bfv", 0, 0, 31),
    aggregator=AggregatorRef("127.0.0.1:7100", bytes(32)),
    min_cohort=4,
    purpose="test",
    deliver_by_seconds=2_000_000_000,
    round_timeout_seconds=60,
)


def test_every_figure_of_the_plan_survives_the_wire() -> None:
    assert spec_from_bytes(spec_to_bytes(SPEC)) == SPEC


LOCAL = replace(
    SPEC,
    plan=TrainingPlan(NoiseMode.LOCAL, 20, 2, 1, 5 * 10**8, 10**6, 10**6, 10**7, 64),
    encryption=EncryptionPlan("bfv", 16, 10**9, 31),
)


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("spec", [SPEC, LOCAL])
def test_clipping_survives_the_wire_reaches_the_plan_and_costs_the_same(
    spec: TrainingJobSpec, clipping: Clipping
) -> None:
    changed = replace(spec, plan=replace(spec.plan, clipping=clipping))
    again = spec_from_bytes(spec_to_bytes(changed))
    assert again.plan.clipping is clipping
    priced = plan_of(again, 1)
    assert priced.clipping is clipping
    assert priced.loss_per_attempt_micro == plan_of(spec, 1).loss_per_attempt_micro


def test_a_spec_that_does_not_name_its_clipping_means_flat_and_one_that_is_not_known_is_refused() -> None:
    message = jobs_pb2.TrainingJobSpec.FromString(spec_to_bytes(SPEC))
    message.plan.ClearField("clipping")
    assert spec_from_bytes(message.SerializeToString()).plan.clipping is Clipping.FLAT
    message.plan.clipping = 7  # type: ignore[assignment]
    with pytest.raises(InvalidInput) as caught:
        spec_from_bytes(message.SerializeToString())
    assert caught.value.details["field"] == "plan.clipping"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"local_steps": 2}, "plan.local_steps"),
        ({"noise_multiplier_micro": 10**6}, "plan.noise_multiplier_micro"),
        ({"min_honest": 1}, "plan.min_honest"),
        ({"min_honest": 0}, "plan.min_honest"),
        ({"max_colluding": 0}, "plan.max_colluding"),
        ({"min_honest": 4}, "min_cohort"),
        ({"max_colluding": 2}, "min_cohort"),
        ({"scale_micro": 0}, "plan.scale_micro"),
        ({"share_noise": 0}, "plan.share_noise"),
        ({"clamp": 0}, "plan.clamp"),
        ({"noise_mode": NoiseMode.LOCAL}, "plan.noise_multiplier_micro"),
    ],
)
def test_a_plan_that_is_no_distributed_noise_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    assert refused_field(replace(SPEC, plan=replace(PLAN, **change))) == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"min_cohort": 3}, "min_cohort"),
        ({"optimizer": LocalOptimizer("sgd", 5 * 10**8, 10**8)}, "optimizer.momentum_nano"),
        ({"encryption": replace(SPEC.encryption, value_bits=16)}, "encryption.value_bits"),
        ({"encryption": replace(SPEC.encryption, update_range_nano=1)}, "encryption.update_range_nano"),
        ({"legs": (replace(SPEC.legs[0], holder_id=12), *SPEC.legs[1:])}, "legs.holder_id"),
    ],
)
def test_a_job_that_distributed_noise_has_no_room_for_is_refused_by_name(
    change: dict[str, Any], field: str
) -> None:
    assert refused_field(replace(SPEC, **change)) == field


@pytest.mark.parametrize("field", ["min_honest", "max_colluding", "scale_micro", "share_noise", "clamp"])
def test_local_noise_has_no_figures_of_the_other(field: str) -> None:
    spec_to_bytes(LOCAL)
    assert refused_field(replace(LOCAL, plan=replace(LOCAL.plan, **{field: 5}))) == f"plan.{field}"


def refused_field(spec: TrainingJobSpec) -> str:
    with pytest.raises(InvalidInput) as caught:
        spec_to_bytes(spec)
    assert caught.value.reason == "SPEC_INVALID"
    return str(caught.value.details["field"])
