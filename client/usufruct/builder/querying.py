"""What the round of a query is for: a sum of what every row gave, read as figures with their errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from usufruct.builder import weights as model_weights
from usufruct.builder.estimates import EvaluationResult, StatisticsResult, Totals, described, evaluated
from usufruct.builder.noise import average_deviation
from usufruct.builder.results import read_round_result
from usufruct.builder.store import JobState, JobStore
from usufruct.builder.summing import OpenedSum
from usufruct.domain import ids
from usufruct.domain.dataset_card import read_card
from usufruct.domain.query import EvaluationQuery, Layout, Query, layout_of
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import ConfigError
from usufruct.privacy import plan_of
from usufruct.wire.model_graph import graph_from_bytes

_AVERAGE = "average"
"""Under which name the opened sum is kept."""


class Querying:
    """A query before and after its round.

    Attributes:
        graph: of the model that is evaluated; None for statistics.
        vector: its weights, which holders are sent.
    """

    def __init__(self, spec: TrainingJobSpec, query: Query, store: JobStore, state: JobState) -> None:
        self._spec, self._query, self._store = spec, query, store
        record = store.record()
        self._card = read_card(record.card.encode())
        self.graph = graph_from_bytes(spec.model_graph) if spec.model_graph else None
        self._names = record.parameter_names
        self.vector: model_weights.Vector = np.zeros(0, np.float32)
        self._average: NDArray[np.float64] | None = None
        self.read(state)

    def read(self, state: JobState) -> None:
        """Takes up what ``state`` names: the model's weights before the round, the sum after it."""
        data = self._store.weights(state)
        if state.rounds_done:
            try:
                self._average = read_safetensors(data)[_AVERAGE]
            except (SafetensorError, KeyError) as error:
                raise ConfigError("The job's sum is damaged on disk.") from error
        elif self.graph is not None:
            self.vector = model_weights.checkpoint_to_vector(self.graph, self._names, data)

    def take(self, opened: OpenedSum, round_: int) -> tuple[None, None]:
        """Keeps the round's sum."""
        self._average = opened.update
        return None, None

    def checkpoint(self) -> tuple[bytes, bytes]:
        """The sum as a file."""
        assert self._average is not None
        return bytes(write_safetensors({_AVERAGE: self._average})), b""

    def result(self, state: JobState, epsilon: float) -> EvaluationResult | StatisticsResult | None:
        """The figures; None before the round.

        Args:
            epsilon: largest binding epsilon of what the holders have charged.
        """
        if self._average is None:
            return None
        spec, query = self._spec, self._query
        left_out = read_round_result(state.history[-1]).left_out
        members = state.roster or tuple(leg.dataset_id for leg in spec.legs)
        roster = [dataset_id for dataset_id in members if dataset_id not in left_out]
        layout = layout_of(query, spec.loss, self._card)
        per_row = rows_in_average(spec, roster, layout)
        deviation = average_deviation(spec, roster) * abs(per_row)
        totals = Totals(layout, self._average * per_row, deviation, ids.to_hex(spec.job_id), epsilon)
        if isinstance(query, EvaluationQuery):
            return evaluated(query, totals)
        return described(query, self._card, totals)


def rows_in_average(spec: TrainingJobSpec, roster: Sequence[int], layout: Layout) -> float:
    """By what an opened average of a query is multiplied to count rows.

    An update is minus the noised sum over the declared batch size (``QUERY_OPTIMIZER``); a row gives ``clip_norm`` over the
    layout's norm where it has 1; and a row of the sample stands for 1 / rate of them.
    """
    plans = [plan_of(spec, dataset_id) for dataset_id in roster]
    rows = sum(plan.nominal_batch_size for plan in plans) / plans[0].sample_rate
    return -rows * layout.norm / plans[0].clip_norm
