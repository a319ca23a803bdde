"""A receipt that says anything else than the spec and this builder's record is found, field by field."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from usufruct.builder.finishing import check_receipt, read_leg_result, write_leg_result
from usufruct.builder.results import LegResult
from usufruct.builder.store import JobState
from usufruct.chain import LegEntry, LegState
from usufruct.domain import ids
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)

ADDRESS = ids.address("0x" + "11" * 20, "test")
SPEC = TrainingJobSpec(
    chain_id=1,
    compute_access=ADDRESS,
    builder=ADDRESS,
    nonce=bytes(32),
    model_graph=b"graph",
    loss="mse_loss",
    optimizer=LocalOptimizer("sgd", 10**9),
    plan=TrainingPlan(NoiseMode.LOCAL, 3, 2, 4, 5 * 10**8, 10**6, 10**7, 10**7, 64),
    legs=(LegTerms(5, 2, bytes(32), 100, ADDRESS, ADDRESS, 250, 6, 1000, 10**9),),
    encryption=EncryptionPlan("test", 16, 10**9, 31),
    aggregator=AggregatorRef("127.0.0.1:7100", bytes(32)),
    min_cohort=1,
    purpose="test",
    deliver_by_seconds=2_000_000_000,
    round_timeout_seconds=20,
)
SPEC_BYTES = b"exact bytes"
STATE = JobState("finishing", 5, 3, "w", attempts_charged={"5": 4})
HASH = bytes([9]) * 32


def leg_and_receipt() -> tuple[LegEntry, LegReceipt]:
    from usufruct.wire.jobs import spec_hash

    leg = LegEntry(
        job_id=SPEC.job_id, dataset_id=5, holder_id=2, builder=ADDRESS, payer=ADDRESS, spec_hash=spec_hash(SPEC_BYTES),
        grant_hash=bytes([3]) * 32, token=ADDRESS, price_units=250, loss_reserved_micro=5000,
        deliver_by_seconds=2_000_000_000, receipt_hash=HASH, state=LegState.DELIVERED,
    )  # fmt: skip
    receipt = LegReceipt(
        version=1, accountant_version=1, leg_id=ids.leg_id(SPEC.job_id, 5), job_id=SPEC.job_id, dataset_id=5,
        spec_hash=leg.spec_hash, grant_hash=leg.grant_hash, mechanism=1, neighbouring=1, rounding=1, order=6,
        min_honest=0, max_colluding=0, steps_per_attempt=4, attempts_reserved=5, attempts_charged=4, rounds_done=3,
        dimension=31, sample_rate_nano=5 * 10**8, clip_norm_micro=10**6, noise_multiplier_micro=10**7, scale_micro=0,
        delta_two_micro=0, delta_one_micro=0, share_noise_micro=0, loss_micro=5000, usage_head=bytes(32),
        updates_hash=bytes(32), started_seconds=1, ended_seconds=2,
    )  # fmt: skip
    return leg, receipt


def test_an_honest_receipt_has_no_findings() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, receipt, HASH) == ()


CHECKED = [
    field.name
    for field in fields(LegReceipt)
    if field.name not in ("usage_head", "updates_hash", "started_seconds", "ended_seconds")
]


@pytest.mark.parametrize("field", CHECKED)
def test_every_figure_that_the_loss_depends_on_is_compared(field: str) -> None:
    leg, receipt = leg_and_receipt()
    value: Any = getattr(receipt, field)
    altered = bytes([255]) * 32 if isinstance(value, bytes) else value + 1
    findings = check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, **{field: altered}), HASH)
    assert len(findings) == 1
    assert field in findings[0]


def test_fewer_charges_than_this_builder_saw_are_found() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, attempts_charged=3), HASH)


def test_one_round_more_is_right_only_where_the_job_ended_early() -> None:
    leg, receipt = leg_and_receipt()
    more = replace(receipt, rounds_done=4)
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, more, HASH)
    early = replace(STATE, ended_early="attempts used up")
    assert check_receipt(SPEC, SPEC_BYTES, early, leg, more, HASH) == ()


def test_a_holder_that_names_another_receipt_than_the_chain_is_found() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, receipt, bytes(32))


def test_a_leg_result_survives_the_disk() -> None:
    result = LegResult(5, "127.0.0.1:1", 5000, 1.9, 250, HASH, ("a finding",), False)
    assert read_leg_result(write_leg_result(result)) == result
