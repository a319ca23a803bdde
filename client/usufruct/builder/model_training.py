"""What the rounds of a training job are for: the builder's own model, a step further with every sum."""

from __future__ import annotations

from typing import Any

from torch import nn

from usufruct.builder import losses
from usufruct.builder import weights as model_weights
from usufruct.builder.server_optimizer import read_server_optimizer, read_slots, step, write_slots
from usufruct.builder.store import JobState, JobStore
from usufruct.builder.summing import OpenedSum
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import InvalidInput
from usufruct.wire.model_graph import graph_from_bytes


class ModelTraining:
    """A model between rounds.

    Args:
        model: as the job was proposed with; None for one that is rebuilt from the job's graph.
        validation: the builder's own ``(X, y)``.
    Attributes:
        graph: of the model.
        vector: its weights in layout order: what holders are sent.
        model: the builder's own module with these weights.
    Raises:
        InvalidInput: another model, or validation data that do not fit it.
    """

    def __init__(
        self,
        spec: TrainingJobSpec,
        store: JobStore,
        state: JobState,
        model: nn.Module | None,
        validation: Any,
    ) -> None:
        self._spec, self._store, record = spec, store, store.record()
        self.graph, self._names = graph_from_bytes(spec.model_graph), record.parameter_names
        if model is None:
            model = model_weights.RestoredModel(self.graph, self._names)
            if validation is not None and not model.complete:
                raise model_weights.base_model_missing()
        else:
            model_weights.check_same_model(model, self.graph, self._names, record.frozen_digest)
        self.model: nn.Module = model
        self._optimizer = read_server_optimizer(record.server_optimizer)
        self.read(state)
        self._validation = losses.read_validation(validation, self.graph.input_shape, self.graph.input_dtype)

    def read(self, state: JobState) -> None:
        """Takes up the checkpoint that ``state`` names."""
        self.vector = model_weights.checkpoint_to_vector(self.graph, self._names, self._store.weights(state))
        self._slots = read_slots(self._store.optimizer(state))
        self._show_weights()

    def take(self, opened: OpenedSum, round_: int) -> tuple[float | None, float | None]:
        """Steps the model with a round's sum, and measures it on the builder's own data: loss and accuracy, where there are
        any."""
        before = self.vector, self._slots
        self.vector, self._slots = step(
            self._optimizer, self._slots, self.vector, opened.update, round_, self._spec.plan.rounds
        )
        try:
            self._show_weights()
        except InvalidInput:
            self.vector, self._slots = before
            raise
        if self._validation is None:
            return None, None
        return losses.evaluate(self.model, self._spec.loss, self._validation)

    def checkpoint(self) -> tuple[bytes, bytes]:
        """The weights, and what the server's optimiser remembers, as files."""
        weights = model_weights.vector_to_checkpoint(self.graph, self._names, self.vector)
        return weights, write_slots(self._slots)

    def _show_weights(self) -> None:
        model_weights.load_vector(self.model, self.graph, self._names, self.vector)
