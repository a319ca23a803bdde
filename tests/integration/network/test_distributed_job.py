"""A job with `distributed` noise over three real hospitals, and the one integer that every book has for it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from clinics import HOSPITALS, TRIO, Clinics, Finished, anew, model, usufruct

import usufruct as uf
from usufruct.audit import collect, judge, report
from usufruct.audit.receipt_checks import recomputed_micro
from usufruct.builder.receipts import receipt_on_chain
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.leg_receipt import MechanismKind, Rounding
from usufruct.domain.training_job import NoiseMode
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import Refused
from usufruct.privacy import DistributedPlan, epsilon, plan_of
from usufruct.v1 import jobs_pb2
from usufruct_server.holder.ledger import LegState

pytestmark = [pytest.mark.network, pytest.mark.timeout(400)]

ASKED = uf.Privacy(epsilon=4.0, noise="distributed", max_colluding=1)
DEFAULT = uf.Privacy(epsilon=4.0)
"""The same, over three hospitals that accept it."""


@pytest.fixture(scope="module")
def shared(clinics: Clinics) -> Finished:
    """The whole of it, run once."""
    hospitals = clinics.first.datasets(ids=TRIO)
    settings = clinics.settings(privacy=DEFAULT)
    quote = clinics.first.quote(model(), hospitals, **settings)
    proposal = clinics.first.propose(model(), hospitals, **settings)
    proposal.wait(60.0)
    asked = proposal.epsilon_asked
    job = proposal.open()
    return Finished(quote, asked, tuple(job), job)


def test_a_job_is_trained_delivered_and_paid(clinics: Clinics, shared: Finished) -> None:
    job = shared.job
    plan = job.spec.plan
    assert (plan.noise_mode, plan.min_honest, plan.max_colluding) == (NoiseMode.DISTRIBUTED, 2, 1)
    assert [result.index for result in shared.results] == [1, 2]
    assert not any(result.left_out for result in shared.results)
    assert job.finished and not job.ended_early
    assert all(receipt.acknowledged and not receipt.findings for receipt in job.receipts)
    legs = clinics.first.chain.job_legs(job.spec.job_id)
    assert [leg.state for leg in legs] == [ChainLegState.ACKNOWLEDGED] * 3
    start = np.concatenate([p.detach().numpy().ravel() for p in model().parameters()])
    trained = np.concatenate([p.detach().numpy().ravel() for p in job.model.parameters()])
    assert np.isfinite(trained).all() and not np.allclose(trained, start)


def test_both_guarantees_are_said_before_anyone_is_asked(clinics: Clinics, shared: Finished) -> None:
    quote, job = shared.quote, shared.job
    assert (quote.noise, quote.min_honest, quote.max_colluding) == ("distributed", 2, 1)
    text = "\n".join(quote.lines())
    for leg in quote.legs:
        plan = plan_of(job.spec, leg.dataset_id)
        assert isinstance(plan, DistributedPlan)
        assert (leg.epsilon, leg.alone) == (plan.assumed.epsilon, plan.alone)
        assert leg.epsilon <= 4.0 < plan.alone.epsilon
        assert f"dataset {leg.dataset_id} against everyone else together: {plan.alone}" in text
    json.dumps(quote.to_json(), allow_nan=False)
    # and by each holder, which worked them out itself
    for dataset_id, name in zip(TRIO, HOSPITALS, strict=True):
        plan = plan_of(job.spec, dataset_id)
        assert isinstance(plan, DistributedPlan)
        log = (clinics.local.logs / f"{name}.log").read_text()
        assert re.search(rf"job={job.spec.job_id.hex()}.*{re.escape(plan.promise)}", log), name


@pytest.mark.parametrize(("dataset_id", "name"), list(zip(TRIO, HOSPITALS, strict=True)))
def test_the_charged_integer_is_one_and_the_same_in_every_book(
    clinics: Clinics, shared: Finished, dataset_id: int, name: str
) -> None:
    job, network = shared.job, clinics.first
    job_id, plan = job.spec.job_id, plan_of(job.spec, dataset_id)
    each, charged = plan.loss_per_attempt_micro, len(shared.results)
    loss = charged * each
    # the ledger
    clinics.until_followed()
    with clinics.ledger(name) as book:
        leg = book.leg(dataset_id, job_id)
        assert book.charged_attempts(dataset_id, job_id) == ((1, 1), (2, 2))
    assert (leg.state, leg.reservation_micro, leg.loss_per_attempt_micro) == (
        LegState.COMMITTED,
        plan.reservation_micro,
        each,
    )
    # the usage log
    records = [record for record in clinics.records(name) if record.job_id == job_id]
    assert [r.loss_micro for r in records if r.kind is UsageKind.CHARGED] == [each] * charged
    assert [r.loss_micro for r in records if r.kind is UsageKind.DELIVERED] == [loss]
    # the chain and the receipt
    entry = network.chain.leg(job_id, dataset_id)
    assert entry is not None
    receipt = receipt_on_chain(network.chain, entry)
    assert entry.loss_micro == receipt.loss_micro == loss
    assert receipt.mechanism == MechanismKind.SUBSAMPLED_SKELLAM
    assert receipt.rounding == Rounding.DITHERED_BEFORE_NOISE
    # the auditor, by an accountant that shares no code with the holder's
    assert recomputed_micro(receipt) <= each <= recomputed_micro(receipt) + 1
    # the one translation of it
    (shown,) = [result for result in job.receipts if result.dataset_id == dataset_id]
    assert shown.loss_micro == loss
    assert shown.epsilon == epsilon(loss, plan.order, plan.delta)
    (quoted,) = [leg for leg in shared.quote.legs if leg.dataset_id == dataset_id]
    assert (quoted.loss_micro, quoted.epsilon) == (plan.reservation_micro, plan.epsilon)
    assert shared.epsilon_asked == job.epsilon == max(leg.epsilon for leg in shared.quote.legs) <= 4.0


def translation(loss_micro: int, order: int, delta: float) -> float:
    """Of a Rényi loss into epsilon, written out here a second time on purpose."""
    return loss_micro / 1e6 + math.log(1 - 1 / order) - math.log(delta * order) / (order - 1)


def test_every_epsilon_in_words_is_the_one_translation_or_says_what_else_it_is(
    clinics: Clinics, shared: Finished
) -> None:
    """What builder and holders really print, figure by figure."""
    job, plan = shared.job, shared.job.spec.plan
    delta = plan.delta_pico / 1e12
    binding, alone = set(), set()
    for leg in job.spec.legs:
        each = leg.loss_per_attempt_micro
        binding |= {translation(each * n, leg.order, delta) for n in range(1, plan.attempts + 1)}
        priced = plan_of(job.spec, leg.dataset_id)
        assert isinstance(priced, DistributedPlan)
        alone.add(translation(priced.alone.loss_per_attempt_micro * plan.attempts, leg.order, delta))
    said = [*shared.quote.lines(), *map(str, job.receipts)]
    place = ("--rpc", clinics.local.rpc_url, "--contract", clinics.local.compute_access, "--json")
    audited = json.loads(usufruct("audit", "log", *place, "--job", job.id).stdout)["legs"]
    said += [f"epsilon {row['epsilon']:.6f}" for row in audited]
    inbox = usufruct("holder", "inbox", "--all", "--config", str(clinics.local.places[HOSPITALS[0]].config))
    said += [line for line in inbox.stdout.splitlines() if job.id in line]
    for name in HOSPITALS:
        log = (clinics.local.logs / f"{name}.log").read_text()
        said += [line for line in log.splitlines() if job.spec.job_id.hex() in line]
    found = {"binding": 0, "against everyone": 0}
    for text in (part for line in said for part in re.split(r"; |\. ", line)):
        for figure in re.findall(r"epsilon (?:up to )?(\d+\.\d+)", text):
            kind = "against everyone" if "against everyone" in text else "binding"
            found[kind] += 1
            digits = len(figure.partition(".")[2])
            expected = alone if kind == "against everyone" else binding
            assert float(figure) in {round(each, digits) for each in expected}, text
    assert found["binding"] >= 3 + 3 + 3 + 2 + 3, found
    assert found["against everyone"] >= 3 + 1 + 3, found


def test_the_audit_verifies_it(clinics: Clinics, shared: Finished) -> None:
    place = (clinics.local.rpc_url, clinics.local.compute_access)
    verified = usufruct(
        "audit", "verify", "--rpc", place[0], "--contract", place[1], "--json", timeout_seconds=200
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    evidence = collect(*place)
    rows = report.log_as_dict(evidence, judge(evidence), 1e-5)["legs"]
    mine = [row for row in rows if row["job_id"] == shared.job.id]
    assert [(row["min_honest"], row["max_colluding"], row["mechanism"]) for row in mine] == [(2, 1, 2)] * 3
    assert [row["loss_committed_micro"] for row in mine] == [leg.loss_micro for leg in shared.job.receipts]


def test_what_is_unsound_is_refused_by_builder_and_holder(clinics: Clinics, shared: Finished) -> None:
    def ask(datasets: tuple[int, ...], privacy: uf.Privacy) -> str:
        hospitals = clinics.first.datasets(ids=datasets)
        with pytest.raises(Refused) as caught:
            clinics.first.propose(model(), hospitals, **clinics.settings(privacy=privacy))
        return caught.value.reason

    with clinics.nothing_used() as logged:
        assert ask(TRIO[:2], ASKED) == "COHORT_TOO_SMALL"
        assert ask(TRIO, replace(ASKED, max_colluding=2)) == "COHORT_TOO_SMALL"
        assert ask((1, 2, 4), ASKED) == "POLICY_NOISE_MODE"
        spec = shared.job.spec
        cheaper = anew(spec, plan=replace(spec.plan, share_noise=spec.plan.share_noise // 2))
        answer = clinics.propose(cheaper, 1)
        assert (answer.state, answer.reason) == (jobs_pb2.PROPOSAL_STATE_REFUSED, "SPEC_INVALID")
    assert ("hospital-1", "REFUSED", "SPEC_INVALID") in logged
