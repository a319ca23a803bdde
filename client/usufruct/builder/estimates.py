"""From noised totals over rows to figures that people read: rates, means, histograms, each with its standard error.

All of it is post-processing of a noised sum and costs no privacy. Every standard error is that of the noise alone, to first order
(the delta method); what a sample of rows says about other rows is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.query import EvaluationQuery, Layout, StatisticsQuery, described_column

Values = NDArray[np.float64]
Bar = str | int | tuple[float, float]


@dataclass(frozen=True, repr=False)
class Estimate:
    """A figure and how far the noise may have moved it.

    Attributes:
        standard_error: standard deviation of the noise in ``value``; infinite where the noise leaves nothing to say.
    """

    value: float
    standard_error: float

    def __repr__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"

    def to_json(self) -> dict[str, float | None]:
        """JSON knows neither NaN nor infinity: what cannot be said is null."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class Totals:
    """Noised totals over all rows.

    Attributes:
        layout: where each block is.
        values: in rows: a block's number counts 1 for a row that has 1 there.
        deviation: standard deviation of the noise in each of them, which is independent.
        job_id, epsilon: of the job, and what it has cost.
    """

    layout: Layout
    values: Values
    deviation: float
    job_id: str
    epsilon: float

    def at(self, *key: str) -> Values:
        """A block."""
        return self.values[self.layout.places[key]]


@dataclass(frozen=True)
class EvaluationResult:
    """How well a model does on the rows of all datasets of the job together.

    Attributes:
        rows: how many there are.
        accuracy: share of right answers; None for a regression.
        auc: area under the ROC curve, by scores in bins, of which ties count half; None but for two classes.
        loss: mean, each row's cut off at ``loss_bound``.
        scores: noised counts [class, bin] of the probability of class 1, where there is an ``auc``; may be negative.
        job_id: of the job, ``0x…``; ``uf.resume`` finds its receipts.
        epsilon: largest binding epsilon of the datasets.
    """

    rows: Estimate
    accuracy: Estimate | None
    auc: Estimate | None
    loss: Estimate
    loss_bound: float
    scores: Values | None
    job_id: str
    epsilon: float

    @property
    def figures(self) -> dict[str, Estimate]:
        """Those that there are, by name."""
        named = {"rows": self.rows, "accuracy": self.accuracy, "auc": self.auc, "loss": self.loss}
        return {name: figure for name, figure in named.items() if figure is not None}

    def __str__(self) -> str:
        words = [f"{name} {figure}" for name, figure in self.figures.items()]
        return f"{', '.join(words)} (epsilon {self.epsilon:.3f})"

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return {name: figure.to_json() for name, figure in self.figures.items()}


@dataclass(frozen=True)
class ColumnStatistics:
    """What a column looks like over all datasets of the job together.

    Attributes:
        count: rows in which it is not missing; for a category: in which it is one that the card declares.
        mean: of those, in the column's unit, values cut off at the declared bounds; None for a category or the label.
        histogram: how many rows; by (from, to) for a number, by name for a category, by class for the label. A category
            whose missing values the card gives an indicator has ``""`` for them, which is not in ``count``.
    """

    count: Estimate
    mean: Estimate | None
    histogram: Mapping[Bar, Estimate]


@dataclass(frozen=True)
class StatisticsResult:
    """What columns look like.

    Attributes:
        rows: how many there are; rows whose label is missing or of no declared class are nowhere counted.
        columns: by name.
        job_id, epsilon: as in :class:`EvaluationResult`.
    """

    rows: Estimate
    columns: Mapping[str, ColumnStatistics]
    job_id: str
    epsilon: float

    def __str__(self) -> str:
        lines = [f"rows {self.rows} (epsilon {self.epsilon:.3f})"]
        for name, column in self.columns.items():
            mean = "" if column.mean is None else f", mean {column.mean}"
            lines.append(f"{name}: count {column.count}{mean}")
            lines += [f"  {_bar_name(bar)}: {count}" for bar, count in column.histogram.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The figures; a histogram as a list of bars."""
        return {
            "rows": self.rows.to_json(),
            "columns": {
                name: {
                    "count": column.count.to_json(),
                    "mean": None if column.mean is None else column.mean.to_json(),
                    "histogram": [{"bar": bar, **count.to_json()} for bar, count in column.histogram.items()],
                }
                for name, column in self.columns.items()
            },
        }


def _bar_name(bar: Bar) -> str:
    return f"{bar[0]:g} to {bar[1]:g}" if isinstance(bar, tuple) else str(bar) or "(missing)"


def ratio(part: float, whole: float, part_noise: float, whole_noise: float, shared: float) -> Estimate:
    """``part / whole`` of noised totals; NaN where the whole is not above 0.

    Args:
        part_noise, whole_noise: standard deviations.
        shared: covariance of the two.
    """
    if whole <= 0:
        return Estimate(math.nan, math.inf)
    value = part / whole
    variance = part_noise**2 - 2 * value * shared + (value * whole_noise) ** 2
    return Estimate(value, math.sqrt(max(0.0, variance)) / whole)


def clamped(estimate: Estimate, least: float, most: float) -> Estimate:
    """The same within what is possible."""
    return Estimate(min(max(estimate.value, least), most), estimate.standard_error)


def total(values: Values, deviation: float) -> Estimate:
    """The sum of noised counts; not below 0."""
    return clamped(Estimate(float(values.sum()), deviation * math.sqrt(values.size)), 0.0, math.inf)


def area_under_curve(counts: Values, deviation: float) -> Estimate:
    """Area under the ROC curve of scores in bins, counts [2, bins], negatives first; ties in a bin count half.

    Source: the Mann-Whitney statistic, sum_i n_i (p_i / 2 + sum_{j > i} p_j) / (N P), whose derivative by every count gives
    the standard error.
    """
    negative, positive = counts
    negatives, positives = float(negative.sum()), float(positive.sum())
    if negatives <= 0 or positives <= 0:
        return Estimate(math.nan, math.inf)
    above = positives - np.cumsum(positive) + positive / 2  # of positives, for a negative in this bin
    below = np.cumsum(negative) - negative / 2  # of negatives, for a positive in this bin
    area = float(negative @ above) / (negatives * positives)
    by_negative = (above / positives - area) / negatives
    by_positive = (below / negatives - area) / positives
    slope = math.sqrt(float(by_negative @ by_negative + by_positive @ by_positive))
    return clamped(Estimate(area, deviation * slope), 0.0, 1.0)


def evaluated(query: EvaluationQuery, totals: Totals) -> EvaluationResult:
    """The figures of an evaluation."""
    outcome, lost, deviation = totals.at("outcome"), totals.at("loss"), totals.deviation
    rows = total(outcome, deviation)
    accuracy = None
    if outcome.size == 2:
        right = ratio(float(outcome[0]), float(outcome.sum()), deviation, rows.standard_error, deviation**2)
        accuracy = clamped(right, 0.0, 1.0)
    share = ratio(float(lost[0]), float(outcome.sum()), deviation, rows.standard_error, 0.0)
    bound = query.loss_bound
    scored = ("scores",) in totals.layout.places
    counts = totals.at("scores").reshape(2, query.score_bins) if scored else None
    return EvaluationResult(
        rows=rows,
        accuracy=accuracy,
        auc=None if counts is None else area_under_curve(counts, deviation),
        loss=clamped(Estimate(share.value * bound, share.standard_error * bound), 0.0, bound),
        loss_bound=bound,
        scores=counts,
        job_id=totals.job_id,
        epsilon=totals.epsilon,
    )


def described(query: StatisticsQuery, card: DatasetCard, totals: Totals) -> StatisticsResult:
    """The figures of columns."""
    columns = {name: _column(query, card, name, totals) for name in query.columns}
    return StatisticsResult(
        total(totals.at("rows"), totals.deviation), columns, totals.job_id, totals.epsilon
    )


def _column(query: StatisticsQuery, card: DatasetCard, name: str, totals: Totals) -> ColumnStatistics:
    column, counts, deviation = described_column(card, name), totals.at(name, "histogram"), totals.deviation
    bars = [total(counts[at : at + 1], deviation) for at in range(counts.size)]
    if column is None:
        return ColumnStatistics(total(counts, deviation), None, dict(enumerate(bars)))
    if column.kind == "category":
        names = [*column.categories, ""]
        there = counts[: len(column.categories)]
        return ColumnStatistics(total(there, deviation), None, dict(zip(names, bars, strict=False)))
    known, value = totals.at(name, "known"), totals.at(name, "value")
    low, high = float(column.minimum or 0.0), float(column.maximum or 0.0)
    share = clamped(ratio(float(value[0]), float(known[0]), deviation, deviation, 0.0), -1.0, 1.0)
    half = high / 2 - low / 2
    mean = Estimate(low / 2 + high / 2 + half * share.value, half * share.standard_error)
    edges = np.linspace(low, high, query.bins + 1).tolist()
    histogram: dict[Bar, Estimate] = {(edges[at], edges[at + 1]): bar for at, bar in enumerate(bars)}
    return ColumnStatistics(total(known, deviation), mean, histogram)
