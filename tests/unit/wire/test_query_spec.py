"""A job spec that asks a query: it crosses the wire as it is, and one that is none is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_distributed_spec import SPEC

from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.query import EvaluationQuery, JobKind, StatisticsQuery, check_query, layout_of
from usufruct.domain.training_job import MICRO, QUERY_OPTIMIZER, Clipping, TrainingJobSpec
from usufruct.errors import InvalidInput
from usufruct.wire.jobs import spec_from_bytes, spec_to_bytes

QUERIED = replace(SPEC, optimizer=QUERY_OPTIMIZER, plan=replace(SPEC.plan, rounds=1))
EVALUATION = replace(QUERIED, query=EvaluationQuery(31, 20, 4 * MICRO))
STATISTICS = replace(QUERIED, model_graph=b"", loss="", query=StatisticsQuery(("age", "a=b is missing"), 10))
CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=(
        Column("age", "number", 0.0, 100.0),
        Column("kind", "category", categories=("a", "b"), missing="indicator"),
        Column("plain", "category", categories=("a", "b"), missing="zeros"),
    ),
    label=Label("y", (("0",), ("1",), ("2",))),
    person_column=None,
    nominal_size=10,
)


@pytest.mark.parametrize(
    ("spec", "kind", "parameters"),
    [
        (SPEC, JobKind.TRAINING, SPEC.encryption.parameter_count),
        (EVALUATION, JobKind.EVALUATION, 31),
        (STATISTICS, JobKind.STATISTICS, 0),
    ],
)
def test_every_kind_of_job_survives_the_wire(spec: TrainingJobSpec, kind: JobKind, parameters: int) -> None:
    again = spec_from_bytes(spec_to_bytes(spec))
    assert again == spec
    assert (again.kind, again.model_parameters) == (kind, parameters)


@pytest.mark.parametrize(
    ("spec", "change", "field"),
    [
        (EVALUATION, {"query": EvaluationQuery(0, 20, MICRO)}, "evaluation.model_parameters"),
        (EVALUATION, {"query": EvaluationQuery(10**9, 20, MICRO)}, "evaluation.model_parameters"),
        (EVALUATION, {"query": EvaluationQuery(31, 1, MICRO)}, "evaluation.score_bins"),
        (EVALUATION, {"query": EvaluationQuery(31, 1001, MICRO)}, "evaluation.score_bins"),
        (EVALUATION, {"query": EvaluationQuery(31, 20, 0)}, "evaluation.loss_bound_micro"),
        (EVALUATION, {"query": EvaluationQuery(31, 20, 10**10)}, "evaluation.loss_bound_micro"),
        (EVALUATION, {"model_graph": b""}, "model_graph"),
        (EVALUATION, {"optimizer": SPEC.optimizer}, "optimizer"),
        (EVALUATION, {"plan": replace(EVALUATION.plan, rounds=2)}, "plan.rounds"),
        (EVALUATION, {"plan": replace(EVALUATION.plan, clipping=Clipping.AUTOMATIC)}, "plan.clipping"),
        (STATISTICS, {"query": StatisticsQuery((), 10)}, "statistics.columns"),
        (STATISTICS, {"query": StatisticsQuery(("a", "a"), 10)}, "statistics.columns"),
        (STATISTICS, {"query": StatisticsQuery(("",), 10)}, "statistics.columns"),
        (STATISTICS, {"query": StatisticsQuery(("x" * 201,), 10)}, "statistics.columns"),
        (
            STATISTICS,
            {"query": StatisticsQuery(tuple(map(str, range(1001))), 10)},
            "statistics.columns",
        ),
        (STATISTICS, {"query": StatisticsQuery(("a",), 1)}, "statistics.bins"),
        (STATISTICS, {"query": StatisticsQuery(("a",), 10**6)}, "statistics.bins"),
        (STATISTICS, {"model_graph": b"graph"}, "model_graph"),
        (STATISTICS, {"loss": "mse_loss"}, "model_graph"),
        (STATISTICS, {"optimizer": SPEC.optimizer}, "optimizer"),
        (SPEC, {"model_graph": b""}, "model_graph"),
    ],
)
def test_what_is_no_query_is_refused_by_name(
    spec: TrainingJobSpec, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec_to_bytes(replace(spec, **change))
    assert (caught.value.reason, caught.value.details["field"]) == ("SPEC_INVALID", field)


def test_blocks_follow_from_the_card_and_lie_one_after_another() -> None:
    statistics = layout_of(StatisticsQuery(("age", "kind", "plain", "y"), 5), "", CARD)
    assert statistics.blocks == (
        (("rows",), 1), (("age", "known"), 1), (("age", "value"), 1), (("age", "histogram"), 5), (("kind", "histogram"), 3),
        (("plain", "histogram"), 2), (("y", "histogram"), 3),
    )  # fmt: skip
    places = [place for _, place in sorted(statistics.places.items(), key=lambda item: item[1].start)]
    assert [place.start for place in places] == [0, *(place.stop for place in places[:-1])]
    assert places[-1].stop == statistics.values == 16
    assert statistics.norm == pytest.approx(7**0.5)
    two = replace(CARD, label=Label("y", (("0",), ("1",))))
    query = EvaluationQuery(31, 20, MICRO)
    assert [length for _, length in layout_of(query, "cross_entropy", two).blocks] == [40, 2, 1]
    assert [length for _, length in layout_of(query, "cross_entropy", CARD).blocks] == [2, 1]
    assert [length for _, length in layout_of(query, "mse_loss", two).blocks] == [1, 1]


def test_a_column_that_is_not_on_the_card_and_a_vector_that_is_too_long_are_refused() -> None:
    for query in (StatisticsQuery(("height",), 10), StatisticsQuery(("age",), 10**6)):
        with pytest.raises(InvalidInput) as caught:
            layout_of(query, "", CARD)
        assert caught.value.reason == "SPEC_INVALID"
    with pytest.raises(InvalidInput):
        check_query(StatisticsQuery(("age",), 10**6))
