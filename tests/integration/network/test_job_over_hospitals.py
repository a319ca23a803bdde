"""The main job through real processes, and the one integer that every book has for it."""

from __future__ import annotations

import json

import pytest
from clinics import HOSPITALS, PRICE_UNITS, TRIO, Clinics, Finished, usufruct

from usufruct.audit import collect, judge, report
from usufruct.builder.receipts import receipt_on_chain
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.usage_record import UsageKind
from usufruct.privacy import epsilon
from usufruct_server.holder.ledger import LegState

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]


def test_a_job_is_trained_delivered_and_paid(clinics: Clinics, finished: Finished) -> None:
    job = finished.job
    assert [result.index for result in finished.results] == [1, 2]
    assert [result.attempt for result in finished.results] == [1, 2]
    assert job.finished
    assert not job.ended_early
    assert job.paid == sum(finished.quote.price_units.values()) == len(TRIO) * PRICE_UNITS
    assert all(receipt.acknowledged and not receipt.findings for receipt in job.receipts)
    legs = clinics.first.chain.job_legs(job.spec.job_id)
    assert [leg.state for leg in legs] == [ChainLegState.ACKNOWLEDGED] * 3
    for leg in legs:
        assert clinics.first.chain.earnings_of(leg.token, leg.holder_id) >= PRICE_UNITS


def test_a_hospital_behind_a_relay_took_part(clinics: Clinics, finished: Finished) -> None:
    place = clinics.local.places[HOSPITALS[1]]
    on_chain = clinics.first.chain.holder(place.holder_id).endpoint
    assert on_chain == clinics.relay.endpoint != place.endpoint
    assert clinics.relay.sent > finished.results[0].download_bytes / len(TRIO) / 2, (
        "the weights went through it"
    )
    kinds = [r.kind for r in clinics.records(HOSPITALS[1]) if r.job_id == finished.job.spec.job_id]
    assert kinds.count(UsageKind.SUBMITTED) == 2


@pytest.mark.parametrize(("dataset_id", "name"), list(zip(TRIO, HOSPITALS, strict=True)))
def test_the_charged_integer_is_one_and_the_same_in_every_book(
    clinics: Clinics, finished: Finished, dataset_id: int, name: str
) -> None:
    job, network = finished.job, clinics.first
    job_id, plan = job.spec.job_id, job.spec.plan
    reserved, each = job.spec.reservation_micro(dataset_id), job.spec.leg(dataset_id).loss_per_attempt_micro
    loss = len(finished.results) * each
    assert reserved == plan.attempts * each > loss > 0, "spare attempts that were not used are free again"
    # the holder's ledger, once it has seen the receipt at a final block
    clinics.until_followed()
    with clinics.ledger(name) as book:
        leg, budget = book.leg(dataset_id, job_id), book.budget(dataset_id)
        assert (leg.state, leg.reservation_micro, leg.loss_per_attempt_micro) == (
            LegState.COMMITTED,
            reserved,
            each,
        )
        charged = book.charged_attempts(dataset_id, job_id)
    assert charged == ((1, 1), (2, 2))
    # its usage log
    records = [record for record in clinics.records(name) if record.job_id == job_id]
    assert [r.loss_micro for r in records if r.kind is UsageKind.CHARGED] == [each, each]
    assert [r.loss_micro for r in records if r.kind is UsageKind.DELIVERED] == [loss]
    # the chain: leg, receipt, budget
    entry = network.chain.leg(job_id, dataset_id)
    assert entry is not None
    receipt = receipt_on_chain(network.chain, entry)
    assert entry.loss_micro == receipt.loss_micro == loss
    assert (receipt.attempts_charged, receipt.attempts_reserved) == (len(charged), plan.attempts)
    on_chain = network.chain.dataset(dataset_id)
    assert on_chain.spent_micro == budget.spent_micro >= loss
    # what the builder was shown
    (shown,) = [leg for leg in job.receipts if leg.dataset_id == dataset_id]
    assert (shown.loss_micro, shown.receipt_hash) == (loss, entry.receipt_hash)


def test_every_epsilon_that_is_shown_is_that_integers(clinics: Clinics, finished: Finished) -> None:
    job = finished.job
    plan = job.spec.plan
    delta = plan.delta_pico / 1e12

    def binding(dataset_id: int, attempts: int) -> float:
        leg = job.spec.leg(dataset_id)
        return epsilon(attempts * leg.loss_per_attempt_micro, leg.order, delta)

    whole = {dataset_id: binding(dataset_id, plan.attempts) for dataset_id in TRIO}
    assert {leg.dataset_id: leg.epsilon for leg in finished.quote.legs} == whole
    spent = {dataset_id: binding(dataset_id, len(finished.results)) for dataset_id in TRIO}
    assert {leg.dataset_id: leg.epsilon for leg in job.receipts} == spent
    assert finished.epsilon_asked == job.epsilon == max(whole.values()) <= 4.0
    for result in finished.results:
        assert result.epsilon == max(binding(dataset_id, result.attempt) for dataset_id in TRIO)


def test_the_audit_has_the_same_integer_and_epsilon(clinics: Clinics, finished: Finished) -> None:
    place = (clinics.local.rpc_url, clinics.local.compute_access)
    verified = usufruct("audit", "verify", "--rpc", place[0], "--contract", place[1], "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)["verified"] is True
    evidence = collect(*place)
    audit = report.log_as_dict(evidence, judge(evidence), 1e-5)
    job = finished.job
    rows = {row["dataset_id"]: row for row in audit["legs"] if row["job_id"] == job.id}
    assert sorted(rows) == list(TRIO)
    for shown in job.receipts:
        row = rows[shown.dataset_id]
        assert row["loss_reserved_micro"] == job.spec.reservation_micro(shown.dataset_id)
        assert row["loss_committed_micro"] == shown.loss_micro
        assert (row["epsilon"], row["paid_units"], row["state"]) == (
            shown.epsilon,
            PRICE_UNITS,
            "ACKNOWLEDGED",
        )
        mine = [r for r in audit["usage"] if (r["job_id"], r["dataset_id"]) == (job.id, shown.dataset_id)]
        used = [
            r for r in mine if r["kind"] != "REFUSED"
        ]  # other tests of this network knock at the finished leg
        kinds = ["GRANTED", *2 * ["CHARGED", "SUBMITTED", "CHECKED"], "DELIVERED"]
        assert [r["kind"] for r in used] == kinds
        assert used[-1]["loss_micro"] == shown.loss_micro
