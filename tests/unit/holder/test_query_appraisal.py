"""A holder works out by itself what a query takes of a row; a spec that says otherwise is refused. And what its trainer is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from holder_world import MODEL, WIDTH, card
from test_distributed_rosters import SERVED, SPEC, facts

from usufruct.domain.query import EvaluationQuery, Query, StatisticsQuery, layout_of
from usufruct.domain.training_job import QUERY_OPTIMIZER, TrainingJobSpec
from usufruct.privacy import plan_of
from usufruct_server.holder.trainers import task_for
from usufruct_server.holder.training.messages import task_from_header, task_to_header

EVALUATION = EvaluationQuery(WIDTH + 1, 20, 10**6)
STATISTICS = StatisticsQuery((card().columns[0].name, card().label.column), 5)


def asking(query: Query) -> TrainingJobSpec:
    statistics = isinstance(query, StatisticsQuery)
    spec = replace(
        SPEC, query=query, optimizer=QUERY_OPTIMIZER, model_graph=b"" if statistics else SPEC.model_graph,
        loss="" if statistics else SPEC.loss,
    )  # fmt: skip
    values = layout_of(query, spec.loss, card()).values
    return replace(
        spec,
        plan=replace(
            spec.plan,
            rounds=1,
            scale_micro=spec.plan.scale_micro
            // 4,  # more numbers than the model has parameters: a coarser scale fits
            share_noise=spec.plan.share_noise // 16,
            clamp=spec.plan.clamp // 4,
        ),
        encryption=replace(spec.encryption, parameter_count=values),
    )


@pytest.mark.parametrize("query", [EVALUATION, STATISTICS])
def test_an_honest_query_has_no_problem_and_its_own_size_and_price(query: Query) -> None:
    spec = asking(query)
    found = facts(spec)
    assert (found.graph_problem, found.plan_problem) == ("", "")
    assert found.parameter_count == spec.encryption.parameter_count != WIDTH + 1
    assert found.loss_per_attempt_micro == plan_of(spec, SERVED.dataset_id).loss_per_attempt_micro


def test_a_query_that_is_not_of_the_card_or_the_model_is_refused() -> None:
    for query in (
        replace(EVALUATION, model_parameters=WIDTH + 2),
        replace(STATISTICS, columns=("height",)),
    ):
        found = facts(
            replace(asking(EVALUATION if isinstance(query, EvaluationQuery) else STATISTICS), query=query)
        )
        assert found.plan_problem
        assert not found.graph_problem


@pytest.mark.parametrize("query", [EVALUATION, STATISTICS])
def test_the_trainer_is_told_the_query_and_the_model_only_where_there_is_one(query: Query) -> None:
    task = task_for(asking(query), SERVED)
    assert task.query == query
    assert (task.graph == MODEL) == isinstance(query, EvaluationQuery)
    assert task_from_header(task_to_header(task)) == task
