"""From what a builder asks of rows to the query of a spec: datasets that can answer it together, and how long the answer is."""

from __future__ import annotations

from collections.abc import Sequence

from usufruct.builder.datasets import Dataset
from usufruct.builder.policies import check_kind
from usufruct.builder.settings import SGD, Evaluation, Question, Statistics
from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.query import (
    EvaluationQuery,
    JobKind,
    Query,
    StatisticsQuery,
    check_query,
    described_column,
)
from usufruct.domain.training_job import MICRO
from usufruct.errors import InvalidInput

ROUNDS, SPARE_ATTEMPTS = 1, 0
"""Of a query: a spare attempt is paid for with noise whether or not it is used, and a lost query is asked again."""


def optimizer_of(question: Question) -> SGD:
    """The optimiser that stands in the spec of a query: one step at rate 1."""
    return SGD(lr=1.0, local_steps=1, sample_rate=question.sample_rate)


def kind_of(question: Question | None) -> JobKind:
    """What a job does with rows."""
    if question is None:
        return JobKind.TRAINING
    return JobKind.EVALUATION if isinstance(question, Evaluation) else JobKind.STATISTICS


def check_kinds(datasets: Sequence[Dataset], question: Question | None) -> None:
    """Whether all holders accept this kind of job, as far as their policies say.

    Raises:
        Refused: POLICY_JOB_KIND, naming the dataset.
    """
    for dataset in datasets:
        check_kind(dataset, kind_of(question))


def query_of(question: Question, datasets: Sequence[Dataset], model_parameters: int) -> Query:
    """The query, for datasets that can answer it together.

    Args:
        model_parameters: of the model that is evaluated.
    Raises:
        InvalidInput: SPEC_INVALID: there is no such column, or two cards declare it otherwise.
    """
    query: Query
    if isinstance(question, Statistics):
        first = datasets[0].card
        names = question.columns
        if names is None:
            names = (*(column.name for column in first.columns), first.label.column)
        for dataset in datasets:
            _check_alike(names, first, dataset)
        query = StatisticsQuery(names, question.bins)
    else:
        query = EvaluationQuery(model_parameters, question.score_bins, round(question.loss_bound * MICRO))
    check_query(query)
    return query


def _check_alike(names: Sequence[str], first: DatasetCard, other: Dataset) -> None:
    """Columns of one name must be declared alike, but for what stands for a missing number."""
    for name in names:
        if _declared(first, name) != _declared(other.card, name):
            raise InvalidInput(
                f"Dataset {other.id} ({other.name}) declares the column {name!r} otherwise than the first dataset; leave "
                "the column or the dataset out.",
                reason="SPEC_INVALID",
                field="columns",
                dataset_id=other.id,
            )


def _declared(card: DatasetCard, name: str) -> tuple[object, ...]:
    column = described_column(card, name)
    if column is None:
        return ("label", len(card.label.classes))
    if column.kind == "number":
        return (column.kind, column.minimum, column.maximum)
    return (column.kind, column.categories, column.missing)
