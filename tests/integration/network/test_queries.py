"""Evaluation and statistics over three real hospitals are jobs like any other: figures near the truth, one integer in every
book, an audit that verifies them and finds what is changed in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clinics import HOSPITALS, LOSS, TRIO, WIDTH, Clinics, anew, dataset, model, reason_of
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import usufruct as uf
from usufruct.audit import collect, judge
from usufruct.audit.evidence import Evidence
from usufruct.builder import EvaluationResult, JobHandle, StatisticsResult
from usufruct.builder.commands import app
from usufruct.builder.estimates import Estimate
from usufruct.builder.receipts import receipt_on_chain
from usufruct.chain.events import LegDelivered
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.preprocessing import prepare_rows
from usufruct.domain.training_job import NoiseMode
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import UsufructError
from usufruct.privacy import epsilon, plan_of

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

README = Path(__file__).parents[3] / "README.md"
BINS, BOUND = uf.Evaluation.score_bins, uf.Evaluation.loss_bound


@pytest.fixture(scope="module")
def answers(clinics: Clinics) -> dict[str, Any]:
    """What the README's example finds, with the columns that these hospitals have."""
    (example,) = re.findall(r"```python\n(found = network\.evaluate.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {
        "uf": uf, "network": clinics.first, "model": model(), "aggregator": clinics.local.aggregator,
        "hospitals": clinics.first.datasets(ids=TRIO),
    }  # fmt: skip
    exec(example.replace('"age"', '"x0"').replace('"sex"', '"y"'), names)  # noqa: S102
    return names


@pytest.fixture(scope="module")
def evaluation(answers: dict[str, Any]) -> EvaluationResult:
    return answers["found"]


@pytest.fixture(scope="module")
def statistics(answers: dict[str, Any]) -> StatisticsResult:
    return answers["seen"]


@pytest.fixture(scope="module")
def jobs(evaluation: EvaluationResult, statistics: StatisticsResult) -> tuple[JobHandle, JobHandle]:
    """Both jobs, taken up again from disk."""
    first, second = uf.resume(evaluation.job_id), uf.resume(statistics.job_id)
    first.close()
    second.close()
    return first, second


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Of all three hospitals: what no builder has."""
    prepared = [prepare_rows(setup.card, setup.rows) for setup in map(dataset, TRIO)]
    return np.concatenate([each.features for each in prepared]), np.concatenate(
        [each.labels for each in prepared]
    )


def near(estimate: Estimate | None, truth: float, slack: float = 0.0) -> bool:
    """Within six standard errors, but for what is not linear in the noise."""
    return estimate is not None and abs(estimate.value - truth) <= 6 * estimate.standard_error + slack


def test_an_evaluation_finds_how_well_the_model_does(evaluation: EvaluationResult) -> None:
    features, labels = rows()
    with torch.no_grad():
        logits = model()(torch.from_numpy(features))[:, 0]
    scores, target = torch.sigmoid(logits).numpy(), torch.from_numpy(labels).float()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    assert near(evaluation.rows, len(labels))
    assert near(evaluation.accuracy, float(((scores > 0.5) == labels).mean()))
    assert near(evaluation.auc, float(roc_auc_score(labels, np.floor(scores * BINS))), 0.1)
    assert near(evaluation.loss, float(losses.clamp(max=BOUND).mean()))
    assert evaluation.scores is not None
    assert evaluation.scores.shape == (2, BINS)
    for estimate, most in ((evaluation.rows, 10), (evaluation.accuracy, 0.1), (evaluation.loss, 0.3)):
        assert estimate is not None
        assert 0 < estimate.standard_error < most, "the noise of a trusted centre, or little more"


def test_statistics_find_what_the_columns_look_like(statistics: StatisticsResult) -> None:
    features, labels = rows()
    x0, y = statistics.columns["x0"], statistics.columns["y"]
    assert near(statistics.rows, len(labels))
    assert near(x0.count, len(labels))
    assert near(x0.mean, float(features[:, 0].mean()))
    counts, _ = np.histogram(features[:, 0], bins=8, range=(-1, 1))
    assert len(x0.histogram) == 8
    assert all(near(bar, count, 25) for bar, count in zip(x0.histogram.values(), counts, strict=True))
    assert near(y.histogram[1], labels.sum())


def test_the_charged_integer_is_one_and_the_same_in_every_book(
    clinics: Clinics, jobs: tuple[JobHandle, JobHandle]
) -> None:
    clinics.until_followed()
    for job in jobs:
        assert job.spec.plan.noise_mode is NoiseMode.DISTRIBUTED
        for dataset_id, name in zip(TRIO, HOSPITALS, strict=True):
            plan = plan_of(job.spec, dataset_id)
            loss = plan.loss_per_attempt_micro
            assert plan.reservation_micro == loss, "one round, and nothing to spare"
            with clinics.ledger(name) as book:
                assert book.charged_attempts(dataset_id, job.spec.job_id) == ((1, 1),)
            records = [record for record in clinics.records(name) if record.job_id == job.spec.job_id]
            kinds = ["GRANTED", "CHARGED", "SUBMITTED", "CHECKED", "DELIVERED"]
            assert [record.kind.name for record in records] == kinds
            charged = (UsageKind.CHARGED, UsageKind.DELIVERED)
            assert [record.loss_micro for record in records if record.kind in charged] == [loss, loss]
            entry = clinics.first.chain.leg(job.spec.job_id, dataset_id)
            assert entry is not None
            receipt = receipt_on_chain(clinics.first.chain, entry)
            assert (entry.loss_micro, receipt.loss_micro) == (loss, loss)
            assert receipt.dimension == job.spec.encryption.parameter_count
            (shown,) = [leg for leg in job.receipts if leg.dataset_id == dataset_id]
            assert shown.acknowledged
            assert (shown.loss_micro, shown.epsilon) == (loss, epsilon(loss, plan.order, plan.delta))


def test_a_quote_says_what_a_query_costs(clinics: Clinics, jobs: tuple[JobHandle, JobHandle]) -> None:
    hospitals, asked = clinics.first.datasets(ids=TRIO), {"privacy": uf.Privacy(epsilon=3.0)}
    for job, quote in zip(
        jobs,
        (
            clinics.first.quote(model(), hospitals, question=uf.Evaluation(), loss=LOSS, **asked),
            clinics.first.quote(None, hospitals, question=uf.Statistics(("x0", "y"), bins=8), **asked),
        ),
        strict=True,
    ):
        assert quote.parameters == job.spec.encryption.parameter_count
        assert quote.attempts == 1
        assert {leg.dataset_id: leg.loss_micro for leg in quote.legs} == {
            leg.dataset_id: job.spec.reservation_micro(leg.dataset_id) for leg in job.spec.legs
        }
        assert quote.epsilon == job.epsilon <= 3.0


def test_a_job_that_is_taken_up_again_has_its_answer_and_trains_no_model(
    jobs: tuple[JobHandle, JobHandle], evaluation: EvaluationResult, statistics: StatisticsResult
) -> None:
    assert str(jobs[0].result) == str(evaluation)
    assert jobs[1].result == statistics
    assert reason_of(lambda: jobs[1].model) == "MALFORMED"


def test_a_terminal_shows_the_answer(jobs: tuple[JobHandle, JobHandle], tmp_path: Path) -> None:
    for job in jobs:
        weights = tmp_path / "model.safetensors"
        shown = CliRunner().invoke(app, ["resume", job.id, "--json", "--output", str(weights)])
        assert shown.exit_code == 0, shown.output
        assert job.result is not None
        last = json.loads(shown.stdout.splitlines()[-1])
        assert last["result"] == json.loads(json.dumps(job.result.to_json()))
        assert not weights.exists()


def with_receipt(evidence: Evidence, job: JobHandle, lie: Callable[[LegReceipt], LegReceipt]) -> Evidence:
    """The evidence, with another receipt of the job's first leg."""
    events = tuple(
        replace(event, receipt=lie(event.receipt))
        if isinstance(event, LegDelivered)
        and (event.receipt.job_id, event.receipt.dataset_id) == (job.spec.job_id, TRIO[0])
        else event
        for event in evidence.events
    )
    assert events != evidence.events
    return replace(evidence, events=events)


def test_the_audit_verifies_queries_and_finds_what_is_changed_in_them(
    clinics: Clinics, jobs: tuple[JobHandle, JobHandle]
) -> None:
    evidence = collect(clinics.local.rpc_url, clinics.local.compute_access)
    honest = judge(evidence)
    assert honest.verified, [str(finding) for finding in honest.discrepancies]
    lies: list[tuple[str, Callable[[LegReceipt], LegReceipt]]] = [
        ("receipt-loss", lambda receipt: replace(receipt, sample_rate_nano=receipt.sample_rate_nano // 2)),
        ("receipt-loss", lambda receipt: replace(receipt, share_noise_micro=receipt.share_noise_micro * 2)),
        ("receipt-loss", lambda receipt: replace(receipt, loss_micro=receipt.loss_micro - 1)),
        ("receipt-form", lambda receipt: replace(receipt, dimension=receipt.dimension * 8)),
        ("receipt-attempts", lambda receipt: replace(receipt, attempts_charged=0)),
    ]
    for job in jobs:
        for kind, lie in lies:
            assert kind in {finding.kind for finding in judge(with_receipt(evidence, job, lie)).discrepancies}


def test_a_query_that_claims_less_than_it_costs_is_refused_by_every_holder(
    clinics: Clinics, jobs: tuple[JobHandle, JobHandle]
) -> None:
    with clinics.nothing_used() as logged:
        for job in jobs:
            spec = job.spec
            cheaper = tuple(replace(leg, loss_per_attempt_micro=1) for leg in spec.legs)
            wider = replace(spec.encryption, parameter_count=spec.encryption.parameter_count - 1)
            for lie in (anew(spec, legs=cheaper), anew(spec, encryption=wider)):
                assert clinics.propose(lie, 1).reason == "SPEC_INVALID"
    assert logged == [("hospital-1", "REFUSED", "SPEC_INVALID")] * 4


def test_rows_of_another_width_are_no_ones_model(clinics: Clinics) -> None:
    with pytest.raises(UsufructError) as caught:
        clinics.first.evaluate(
            torch.nn.Linear(WIDTH + 1, 1), clinics.first.datasets(ids=TRIO), loss=LOSS, aggregator=clinics.local.aggregator,
            privacy=uf.Privacy(epsilon=3.0),
        )  # fmt: skip
    assert caught.value.reason in ("GRAPH_NOT_ALLOWED", "SPEC_INVALID")
