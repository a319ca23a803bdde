"""Holders whose books agree with the chain in every word, and lie all the same: only recomputing tells."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from finished_job import PLAN, PRICE_UNITS, ROUNDS, Job, Network, WorkingHolder
from judged import findings_by_job

from usufruct.audit import Evidence, collect
from usufruct.audit.findings import Finding
from usufruct.domain.usage_record import UsageKind

RECEIPT_LIES: dict[str, tuple[dict[str, object], str]] = {
    "less noise than it paid for": ({"noise_multiplier_micro": 2_990_000}, "receipt-loss"),
    "more sampling than it paid for": ({"sample_rate_nano": 260_000_000}, "receipt-loss"),
    "more steps than it paid for": ({"steps_per_attempt": 3}, "receipt-loss"),
    "no noise at all": ({"noise_multiplier_micro": 0}, "receipt-loss"),
    "fewer attempts reserved": ({"attempts_reserved": PLAN.attempts - 1}, "receipt-loss"),
    "a mechanism that nobody knows": ({"mechanism": 9}, "receipt-loss"),
    "another neighbouring relation": ({"neighbouring": 2}, "receipt-form"),
    "another rounding": ({"rounding": 2}, "receipt-form"),
    "a figure of the distributed mode": ({"share_noise_micro": 1}, "receipt-form"),
    "fewer attempts than were charged": ({"attempts_charged": ROUNDS - 1}, "receipt-attempts"),
    "fewer rounds than updates were sent in": ({"rounds_done": ROUNDS - 1}, "receipt-rounds"),
    "other updates than were sent": ({"updates_hash": bytes([1]) * 32}, "receipt-updates"),
    "a usage head that never was": ({"usage_head": bytes([1]) * 32}, "receipt-usage-head"),
    "no usage head": ({"usage_head": bytes(32)}, "receipt-usage-head"),
}


CHECKS: dict[str, dict[str, object]] = {
    "two answers in one attempt": {"sum_digest": bytes(32)},
    "a check of no attempt": {"attempt": 9, "sum_digest": bytes(32)},
    "a check of another update": {"upload_digest": bytes(32), "sum_digest": bytes(32)},
}
"""What a check says beside the one that was answered."""


def open_and_run(
    network: Network, holder: WorkingHolder, *, without_outcome: int = 0, **terms: object
) -> Job:
    job = network.open_job([holder], **terms)  # type: ignore[arg-type]
    for round_ in range(1, ROUNDS + 1):
        if round_ == without_outcome:
            charge = holder.ledger.charge(holder.dataset_id, job.job_id, round_, round_)
            about = {**network.about(job, holder), "round": round_, "attempt": round_, "view_hash": bytes(32)}
            holder.usage.record(UsageKind.CHARGED, loss_micro=charge.loss_micro, **about)
        else:
            network.charge(job, holder, round_, round_)
    return job


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {}


@pytest.fixture(scope="module")
def dishonest(tmp_path_factory: pytest.TempPathFactory, jobs: dict[str, Job]) -> Iterator[Evidence]:
    """One leg for each lie, and one honest one, all on one chain."""
    network = Network(tmp_path_factory.mktemp("ledgers"), honest=False)
    network.builder.deposit(network.token, 10 * PRICE_UNITS)  # for more legs than a finished job has
    holders = network.holders
    for number, (what, (lies, _)) in enumerate(RECEIPT_LIES.items()):
        holder = holders[number % 2]
        jobs[what] = open_and_run(network, holder)
        network.finish(jobs[what], holder, **lies)
    last = holders[2]
    jobs["honest"] = open_and_run(network, last)
    jobs["a loss rounded down"] = open_and_run(
        network, last, loss_per_attempt_micro=PLAN.loss_per_attempt_micro - 1
    )
    jobs["a charge without outcome"] = open_and_run(network, last, without_outcome=2)
    jobs["a grant that was not logged"] = open_and_run(network, last, log_grant=False)
    for what, check in CHECKS.items():
        jobs[what] = open_and_run(network, last)
        about = {**network.about(jobs[what], last), "round": 1, **check}
        last.usage.record(UsageKind.CHECKED, **{"attempt": 1, "document_hash": bytes(32), **about})  # type: ignore[arg-type]
    for what in ("honest", "a loss rounded down", "a charge without outcome", "a grant that was not logged"):
        network.finish(jobs[what], last)
    for what in CHECKS:
        network.finish(jobs[what], last)
    stranger = Job(secrets.token_bytes(32), secrets.token_bytes(32), {}, [last])
    jobs["a charge without a leg"] = stranger
    about = {**network.about(stranger, last), "round": 1, "attempt": 1, "view_hash": bytes(32)}
    last.usage.record(UsageKind.CHARGED, loss_micro=1, **about)
    network.finish(open_and_run(network, last), last)
    yield collect(network.rpc, network.compute_access)
    network.close()


@pytest.fixture(scope="module")
def found(dishonest: Evidence) -> dict[bytes, list[Finding]]:
    return findings_by_job(dishonest)


@pytest.mark.parametrize("what", RECEIPT_LIES)
def test_a_receipt_that_lies_is_found(
    what: str, found: dict[bytes, list[Finding]], jobs: dict[str, Job]
) -> None:
    assert RECEIPT_LIES[what][1] in {finding.kind for finding in found[jobs[what].job_id]}


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("a loss rounded down", "receipt-loss"),
        ("a charge without outcome", "attempt-open"),
        ("a grant that was not logged", "grant-unlogged"),
        ("a charge without a leg", "record-without-leg"),
        *((what, "attempt-check") for what in CHECKS),
    ],
)
def test_a_usage_log_that_lies_is_found(
    what: str, kind: str, found: dict[bytes, list[Finding]], jobs: dict[str, Job]
) -> None:
    assert {finding.kind for finding in found[jobs[what].job_id]} == {kind}


def test_the_honest_leg_beside_them_is_not_suspected(
    found: dict[bytes, list[Finding]], jobs: dict[str, Job]
) -> None:
    assert jobs["honest"].job_id not in found
