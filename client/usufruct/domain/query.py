"""What a job asks of rows instead of training on them: how well a model does, or what columns look like.

Every row gives a vector of bounded norm in place of a clipped gradient; all else about the job is as in training. A
vector is made of *blocks*, each of norm at most 1 whatever the row; their places follow from public facts alone, so that
builder and holder know them alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from usufruct.domain.dataset_card import Column, DatasetCard
from usufruct.domain.preprocessing import column_features
from usufruct.errors import InvalidInput

MICRO = 10**6
MOST_BINS = 1_000
MOST_COLUMNS = 1_000
MOST_VALUES = 1_000_000
REGRESSION = "mse_loss"
"""The loss that predicts no class, so that there is nothing to be right or wrong about."""


class JobKind(StrEnum):
    """What a job does with rows."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    STATISTICS = "statistics"


@dataclass(frozen=True)
class EvaluationQuery:
    """How well the model of the job does: rows, accuracy, scores by class, loss.

    Attributes:
        model_parameters: of the model, whose weights are sent as in training.
        score_bins: bins of equal width that a score (the probability of class 1 of 2) is counted in.
        loss_bound_micro: a row's loss is cut off there, in 10^-6.
    """

    model_parameters: int
    score_bins: int
    loss_bound_micro: int

    @property
    def loss_bound(self) -> float:
        """What a row's loss is at most."""
        return self.loss_bound_micro / MICRO


@dataclass(frozen=True)
class StatisticsQuery:
    """What columns look like: counts, means, histograms.

    Attributes:
        columns: names of feature columns, or of the label.
        bins: bins of equal width between the declared bounds of a number.
    """

    columns: tuple[str, ...]
    bins: int


Query = EvaluationQuery | StatisticsQuery
Key = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Blocks of a row's vector, in order: key and length. With every block of norm at most 1, the vector is of
    :attr:`norm` at most."""

    blocks: tuple[tuple[Key, int], ...]

    @property
    def values(self) -> int:
        """Numbers of the vector."""
        return sum(length for _, length in self.blocks)

    @property
    def norm(self) -> float:
        """L2 bound of a row's vector: the root of the number of blocks."""
        return math.sqrt(len(self.blocks))

    @property
    def places(self) -> dict[Key, slice]:
        """Where each block is."""
        places, at = {}, 0
        for key, length in self.blocks:
            places[key] = slice(at, at + length)
            at += length
        return places


def check_query(query: Query) -> None:
    """Checks the ranges of a query in itself.

    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """
    if isinstance(query, EvaluationQuery):
        _need(1 <= query.model_parameters <= 200_000_000, "evaluation.model_parameters", "in [1, 2*10^8]")
        _need(2 <= query.score_bins <= MOST_BINS, "evaluation.score_bins", f"in [2, {MOST_BINS}]")
        _need(
            MICRO // 1000 <= query.loss_bound_micro <= 1000 * MICRO,
            "evaluation.loss_bound_micro",
            "in [0.001, 1000]",
        )
        return
    _need(2 <= query.bins <= MOST_BINS, "statistics.bins", f"in [2, {MOST_BINS}]")
    names = query.columns
    _need(1 <= len(names) <= MOST_COLUMNS, "statistics.columns", f"1 to {MOST_COLUMNS} names")
    _need(len(set(names)) == len(names), "statistics.columns", "distinct names")
    _need(all(0 < len(name) <= 200 for name in names), "statistics.columns", "names of 1 to 200 characters")


def layout_of(query: Query, loss: str, card: DatasetCard) -> Layout:
    """The blocks of a row's vector on one dataset.

    An evaluation has ``scores`` (by class, then by bin; with two classes), ``outcome`` (right, wrong; for a regression one
    number for every row) and ``loss``. Statistics have ``rows``, and for each column its ``histogram`` and, of a number,
    ``known`` (not missing) and ``value`` (scaled to [-1, 1]).

    Args:
        loss: of the job; statistics have none.
    Raises:
        InvalidInput: SPEC_INVALID: the card has no such column, or the vector would be too long.
    """
    blocks = _evaluated(query, loss, card) if isinstance(query, EvaluationQuery) else _described(query, card)
    layout = Layout(tuple(blocks))
    _need(
        layout.values <= MOST_VALUES,
        "query",
        f"at most {MOST_VALUES} numbers a row; ask for fewer bins or columns",
    )
    return layout


def _evaluated(query: EvaluationQuery, loss: str, card: DatasetCard) -> Iterator[tuple[Key, int]]:
    classifies = loss != REGRESSION
    if classifies and len(card.label.classes) == 2:
        yield ("scores",), 2 * query.score_bins
    yield ("outcome",), 2 if classifies else 1
    yield ("loss",), 1


def _described(query: StatisticsQuery, card: DatasetCard) -> Iterator[tuple[Key, int]]:
    yield ("rows",), 1
    for name in query.columns:
        column = described_column(card, name)
        if column is None:
            yield (name, "histogram"), len(card.label.classes)
        elif column.kind == "number":
            yield (name, "known"), 1
            yield (name, "value"), 1
            yield (name, "histogram"), query.bins
        else:
            features = column_features(card)[name]
            yield (name, "histogram"), features.stop - features.start


def described_column(card: DatasetCard, name: str) -> Column | None:
    """The feature column of this name; None for the label.

    Raises:
        InvalidInput: SPEC_INVALID: the card has neither, or it is a text or an image.
    """
    if name == card.label.column:
        return None
    for column in card.columns:
        if column.name == name and column.kind in ("number", "category"):
            return column
    raise InvalidInput(
        f"the dataset card has no column {name[:64]!r} that is a number or a category",
        reason="SPEC_INVALID",
        field="statistics.columns",
    )


def _need(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise InvalidInput(f"{field}: must be {what}", reason="SPEC_INVALID", field=field)
