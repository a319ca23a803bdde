"""What may be asked of which datasets together, before anyone is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from listed_datasets import make_dataset
from torch import nn

from usufruct.builder.proposing import new_proposal, work_on
from usufruct.builder.questions import query_of
from usufruct.builder.settings import SGD, EscrowTerms, Evaluation, Privacy, Statistics
from usufruct.domain.dataset_card import Column
from usufruct.domain.query import EvaluationQuery, StatisticsQuery
from usufruct.errors import InvalidInput, Refused

LOSS = "binary_cross_entropy_with_logits"
FIRST = make_dataset(1)


def test_all_columns_are_described_unless_some_are_named() -> None:
    assert query_of(Statistics(), [FIRST], 0) == StatisticsQuery(("a", "b", "y"), 10)
    assert query_of(Statistics(["b"], bins=3), [FIRST], 0) == StatisticsQuery(("b",), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "allowed"),
    [
        (Column("a", "number", 0.0, 1.0, missing="zero"), True),
        (Column("a", "number", 0.0, 2.0), False),
        (Column("a", "category", categories=("0", "1"), missing="zeros"), False),
        (Column("other", "number", 0.0, 1.0), False),
    ],
)
def test_a_column_is_described_over_cards_that_declare_it_alike(column: Column, allowed: bool) -> None:
    other = make_dataset(2)
    other = replace(other, card=replace(other.card, columns=(column, other.card.columns[1])))
    query_of(Statistics(("b", "y")), [FIRST, other], 0)
    if allowed:
        query_of(Statistics(("a",)), [FIRST, other], 0)
        return
    with pytest.raises(InvalidInput) as caught:
        query_of(Statistics(("a",)), [FIRST, other], 0)
    assert caught.value.reason == "SPEC_INVALID"


@pytest.mark.parametrize(
    "settings",
    [
        {"score_bins": 1},
        {"score_bins": 2.5},
        {"loss_bound": 0.0},
        {"loss_bound": float("inf")},
        {"sample_rate": 1.5},
    ],
)
def test_an_evaluation_out_of_range_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Evaluation(**settings)
    assert [caught.value.details["field"]] == list(settings)


@pytest.mark.parametrize("settings", [{"bins": 1}, {"bins": 10**6}, {"sample_rate": 0.0}])
def test_statistics_out_of_range_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Statistics(**settings)
    assert [caught.value.details["field"]] == list(settings)


def test_an_evaluation_names_its_model_and_statistics_need_none() -> None:
    work = work_on(nn.Linear(2, 1), [FIRST], LOSS, Evaluation(score_bins=5, loss_bound=2.0))
    assert work.query == EvaluationQuery(3, 5, 2_000_000)
    assert work.values == 2 * 5 + 2 + 1
    assert work_on(None, [FIRST], None, Statistics(("a",), bins=4)).values == 1 + 1 + 1 + 4
    for question in (None, Evaluation()):
        with pytest.raises(InvalidInput) as caught:
            work_on(None, [FIRST], LOSS, question)
        assert caught.value.details["field"] == "model"


def test_statistics_with_a_base_model_are_refused_before_anyone_is_asked() -> None:
    nobody: Any = None
    with pytest.raises(InvalidInput) as caught:
        new_proposal(
            nobody, None, [FIRST], aggregator="127.0.0.1:1#sha256:" + "00" * 32, loss="", optimizer=SGD(1.0), rounds=1,
            privacy=Privacy(3.0), base="sha256:" + "00" * 32, validation=None, server_optimizer=None, spare_attempts=0,
            min_cohort=None, encryption=None, purpose=None, round_timeout_seconds=60, deliver_within_seconds=600,
            escrow=EscrowTerms(), question=Statistics(("a",)),
        )  # fmt: skip
    assert caught.value.details["field"] == "base"


@pytest.mark.parametrize(
    ("question", "kind"), [(None, "training"), (Evaluation(), "evaluation"), (Statistics(), "statistics")]
)
def test_a_kind_of_job_that_a_holder_does_not_accept_is_not_asked(question: Any, kind: str) -> None:
    kinds = ["training", "evaluation", "statistics"]
    accepts = make_dataset(1, policy=json.dumps({"version": 1, "job_kinds": kinds}).encode())
    kinds.remove(kind)
    refuses = make_dataset(2, policy=json.dumps({"version": 1, "job_kinds": kinds}).encode())
    work_on(nn.Linear(2, 1), [accepts], LOSS, question)
    with pytest.raises(Refused) as caught:
        work_on(nn.Linear(2, 1), [accepts, refuses], LOSS, question)
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("POLICY_JOB_KIND", 2)
