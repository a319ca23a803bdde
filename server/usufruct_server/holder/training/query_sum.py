"""Sums of what a query takes of each row, in the place of per-sample gradients: the same interface, the same bound.

*Guarantee*: adding or removing one row changes the result by at most ``clip_norm``·(1 + 1e-9) in L2 norm, besides the
rounding of the sum (n·2⁻⁵² of it for n terms), whatever the weights, rows, model and query:

* A row's vector is a function of that row alone, to the last bit. That is not a matter of course: which of two bins a score
  falls in can hang on a last bit, and a product over a batch may round a row differently at another place of it, so one row
  more could move all that follow. So the model runs on one row at a time, at the same place in memory; what is done with
  several rows at once is elementwise and exact.
* Every block of it has norm 1 at most; the vector is scaled by its layout's norm, and clipped besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import column_features
from usufruct.domain.query import (
    REGRESSION,
    EvaluationQuery,
    Layout,
    StatisticsQuery,
    described_column,
    layout_of,
)
from usufruct.graph.interpreter import InterpreterModule, trained
from usufruct_server.holder.training.layer_rules import CHUNK_ELEMENTS
from usufruct_server.holder.training.losses import Loss
from usufruct_server.holder.training.per_sample import Part, without_subnormals

RowVectors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(features [rows, ...], labels [rows]) -> vectors [rows, values], float64, of the layout's norm at most."""


class QuerySum:
    """Computes bounded sums for one query.

    Args:
        layout: of the vectors.
        vectors: makes them.
        input_shape: of a row's features.
        module: the model that they are made with; None where there is none.
    Attributes:
        parameters: how many numbers a row gives.
    """

    def __init__(
        self,
        layout: Layout,
        vectors: RowVectors,
        input_shape: tuple[int, ...],
        module: InterpreterModule | None = None,
    ) -> None:
        self.parameters, self.input_shape, self.module = layout.values, input_shape, module
        self._norm, self._vectors = layout.norm, vectors

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Puts the weights that are trained in, by parameter; frozen ones stay as they are in the module."""
        assert self.module is not None
        for name, parameter in trained(self.module):
            parameter.data = torch.from_numpy(weights[name]).double()

    def part(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        present: torch.Tensor,
        clip_norm: float,
        squares: torch.Tensor | None = None,
    ) -> Part:
        """The sum over one micro-batch; as :meth:`per_sample.ClippedSum.part`."""
        total = torch.zeros(self.parameters, dtype=torch.float64)
        size = max(1, CHUNK_ELEMENTS // self.parameters)
        with torch.no_grad(), without_subnormals:
            for at in range(0, len(features), size):
                some = slice(at, at + size)
                total += self.rows(features[some], labels[some], present[some], clip_norm).sum(0)
        return Part(lambda: iter([total]), total.nbytes)

    def rows(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> torch.Tensor:
        """Each row's vector, float64 [rows, values], of norm ``clip_norm`` at most; zero for padding and for what is not
        finite."""
        vectors = self._vectors(features, labels) * (clip_norm / self._norm)
        norms = vectors.square().sum(1).sqrt()
        finite = torch.isfinite(norms)
        factors = torch.where(finite, clip_norm / norms.clamp(min=clip_norm), 0.0) * present
        return torch.where(finite.unsqueeze(1), vectors, 0.0) * factors.unsqueeze(1)


def evaluation_sum(
    query: EvaluationQuery, module: InterpreterModule, loss: Loss, card: DatasetCard
) -> QuerySum:
    """Of a model's scores, right and wrong answers, and losses.

    Args:
        module: from ``usufruct.graph.rebuild``; it computes in float64, and without dropout, from now on.
    """
    layout = layout_of(query, loss.name, card)
    places = layout.places
    module.eval().double()
    module.real = torch.float64
    row = torch.zeros(1, *module.graph.input_shape, dtype=torch.float64)

    def vectors(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made = torch.zeros(len(features), layout.values, dtype=torch.float64)
        for vector, given, label in zip(made, features, labels, strict=True):
            row[0] = given
            output = module(row)
            lost = float(loss.per_row(output, label.unsqueeze(0)))
            bounded = min(lost, query.loss_bound) if math.isfinite(lost) else query.loss_bound
            vector[places["loss",]] = max(0.0, bounded) / query.loss_bound
            outcome = places["outcome",].start
            if loss.name == REGRESSION:
                vector[outcome] = 1.0
                continue
            chosen, score = _answer(output[0])
            vector[outcome + (chosen != int(label))] = 1.0
            if ("scores",) in places:
                at = min(query.score_bins - 1, int(score * query.score_bins))
                vector[places["scores",].start + int(label) * query.score_bins + at] = 1.0
        return made

    return QuerySum(layout, vectors, module.graph.input_shape, module)


def _answer(output: torch.Tensor) -> tuple[int, float]:
    """The class that a row's outputs stand for, and the probability of class 1, in [0, 1]; class -1, which is always
    wrong, at probability 0 for outputs that are no numbers."""
    if bool(torch.isnan(output).any()):
        return -1, 0.0
    if len(output) == 1:
        return int(output[0] > 0), float(torch.sigmoid(output[0]))
    score = float(functional.softmax(output, 0)[1])
    return int(output.argmax()), score if math.isfinite(score) else 0.0


def statistics_sum(query: StatisticsQuery, card: DatasetCard) -> QuerySum:
    """Of columns as the card prepares them, missing numbers kept as NaN."""
    layout = layout_of(query, "", card)
    places, features_of = layout.places, column_features(card)

    def vectors(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made = torch.zeros(len(features), layout.values, dtype=torch.float64)
        made[:, places["rows",]] = 1.0
        for name in query.columns:
            column, histogram = described_column(card, name), made[:, places[name, "histogram"]]
            if column is None:
                histogram.scatter_(1, labels.unsqueeze(1), 1.0)
            elif column.kind == "category":
                histogram[:] = features[:, features_of[name]]
            else:
                values = features[:, features_of[name]]
                known = torch.isfinite(values).double()
                values = torch.nan_to_num(values, nan=0.0).clamp(-1.0, 1.0)
                made[:, places[name, "known"]] = known
                made[:, places[name, "value"]] = values * known
                bins = ((values + 1.0) * (query.bins / 2)).long().clamp(max=query.bins - 1)
                histogram.scatter_(1, bins, known)
        return made

    return QuerySum(layout, vectors, (max(place.stop for place in features_of.values()),))
