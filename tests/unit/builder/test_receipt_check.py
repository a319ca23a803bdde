"""A receipt that says anything else than the spec and this builder's record is found, field by field."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from usufruct.builder.receipts import agreed_loss_micro, check_receipt
from usufruct.builder.results import LegResult, read_leg_result, write_leg_result
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
EPOCH = 7
WHOLE, CHARGED = 5000, 4000
"""The reservation of five attempts; what four of them cost."""


def leg_and_receipt() -> tuple[LegEntry, LegReceipt]:
    from usufruct.wire.jobs import spec_hash

    leg = LegEntry(
        job_id=SPEC.job_id, dataset_id=5, holder_id=2, builder=ADDRESS, payer=ADDRESS, arbiter=ids.ZERO_ADDRESS,
        spec_hash=spec_hash(SPEC_BYTES), grant_hash=bytes([3]) * 32, token=ADDRESS, price_units=250, fee_bps=0,
        loss_micro=5000, deliver_by_seconds=2_000_000_000, challenge_term_seconds=86_400, until_seconds=0,
        receipt_hash=bytes(32), state=LegState.ACCEPTED,
    )  # fmt: skip
    receipt = LegReceipt(
        version=2, accountant_version=1, fencing_epoch=EPOCH, leg_id=ids.leg_id(SPEC.job_id, 5), job_id=SPEC.job_id, dataset_id=5,
        spec_hash=leg.spec_hash, grant_hash=leg.grant_hash, mechanism=1, neighbouring=1, rounding=1, order=6,
        min_honest=0, max_colluding=0, steps_per_attempt=4, attempts_reserved=5, attempts_charged=4, rounds_done=3,
        dimension=31, sample_rate_nano=5 * 10**8, clip_norm_micro=10**6, noise_multiplier_micro=10**7, scale_micro=0,
        delta_two_micro=0, delta_one_micro=0, share_noise_micro=0, loss_micro=5000, usage_head=bytes(32),
        updates_hash=bytes(32), started_seconds=1, ended_seconds=2,
    )  # fmt: skip
    return leg, receipt


def test_an_honest_receipt_has_no_findings() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, receipt, EPOCH) == ()


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
    findings = check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, **{field: altered}), EPOCH)
    assert len(findings) == 1
    assert field in findings[0]


def test_fewer_charges_than_this_builder_saw_are_found() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, attempts_charged=3), EPOCH)


def test_one_round_more_is_right_only_where_the_job_ended_early() -> None:
    leg, receipt = leg_and_receipt()
    more = replace(receipt, rounds_done=4)
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, more, EPOCH)
    early = replace(STATE, ended_early="attempts used up")
    assert check_receipt(SPEC, SPEC_BYTES, early, leg, more, EPOCH) == ()


def test_the_loss_is_the_whole_reservation_or_what_was_charged_and_nothing_between() -> None:
    leg, receipt = leg_and_receipt()
    assert check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, loss_micro=CHARGED), EPOCH) == ()
    for loss in (0, CHARGED - 1, CHARGED + 1, WHOLE - 1, WHOLE + 1):
        (finding,) = check_receipt(SPEC, SPEC_BYTES, STATE, leg, replace(receipt, loss_micro=loss), EPOCH)
        assert "loss_micro" in finding


def test_what_a_leg_may_be_agreed_to_have_spent_is_never_below_what_was_seen() -> None:
    """Three attempts were sent and two seen charged; a holder may know of one more than we do, and of none less."""
    for said, agreed in ((0, WHOLE), (1, WHOLE), (2, 2000), (3, 3000), (4, WHOLE), (2**31, WHOLE)):
        state = JobState("finishing", 4, 2, "w", attempts_charged={"5": 2})
        assert agreed_loss_micro(SPEC, state, SPEC.legs[0], said) == agreed


def test_a_leg_result_survives_the_disk() -> None:
    result = LegResult(
        5,
        "127.0.0.1:1",
        "DELIVERED",
        5000,
        1.9,
        ADDRESS,
        250,
        0,
        0,
        bytes([9]) * 32,
        ("a finding",),
        "PEER_UNREACHABLE",
    )
    assert read_leg_result(write_leg_result(result)) == result
