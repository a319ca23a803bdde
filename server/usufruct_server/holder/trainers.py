"""The trainer children of this server: one for each running leg, and one for each look at a proposed graph."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.errors import Refused
from usufruct.graph.model_graph import ModelGraph
from usufruct.privacy import plan_of
from usufruct_server.holder.appraisal import graph_of
from usufruct_server.holder.base_models import BaseModels
from usufruct_server.holder.catalogue import ServedDataset
from usufruct_server.holder.tokenizer_folder import TokenizerFolder
from usufruct_server.holder.training.messages import BaseModelFile, TrainerTask
from usufruct_server.holder.training.trainer import Trainer
from usufruct_server.holder.training.zygote import Zygote

MOST_LEGS = 16
"""Legs that train on one server at a time; each has a process of its own."""

_log = logging.getLogger("usufruct.holder.trainers")
LegKey = tuple[bytes, int]


class Trainers:
    """Starts, keeps and ends trainer children. Safe from several threads; one leg's calls come from one thread at a time."""

    def __init__(self, zygote: Zygote, base_models: BaseModels, tokenizers: TokenizerFolder) -> None:
        """``zygote``: forks the children; whoever made it closes it."""
        self._guard = threading.Lock()
        self._appraising = threading.Lock()
        self._zygote, self._base_models, self._tokenizers = zygote, base_models, tokenizers
        self._legs: dict[LegKey, Trainer] = {}

    def appraise_graph(
        self, graph: ModelGraph, micro_batch_size: int, loss: str, classes: int, base_model: bytes
    ) -> int:
        """Has a child without data look at a proposed graph; returns its parameters.

        Raises:
            InvalidInput: GRAPH_NOT_ALLOWED or SPEC_INVALID. Refused: BASE_MODEL_UNKNOWN. ConfigError: BASE_MODEL_INVALID.
            TrainerFailed: no answer in time.
        """
        file = self._base_models.find(base_model)
        with (
            self._appraising,
            self._zygote.spawn() as trainer,
        ):  # one at a time: a stranger's graph costs memory
            return trainer.appraise(graph, micro_batch_size, loss, classes, file)

    def for_leg(self, spec: TrainingJobSpec, served: ServedDataset) -> Trainer:
        """The leg's child, started and with the data read; a new one where the old one is dead.

        Raises:
            UsufructError: what the child refuses (graph, base model, loss, card, data), before any charge; TOO_MANY.
        """
        key = (spec.job_id, served.dataset_id)
        with self._guard:
            known = self._legs.get(key)
            if known is not None and known.alive:
                return known
            if known is None and len(self._legs) >= MOST_LEGS:
                raise Refused("too many legs train here at the moment", reason="TOO_MANY", limit=MOST_LEGS)
            if known is not None:
                known.stop()
            trainer = self._legs[key] = self._zygote.spawn()
        try:
            base_model = self._base_models.find(spec.base_model)
            trainer.start(task_for(spec, served, base_model, self._tokenizers.find(served.card.card)))
        except BaseException:
            self.end(key)
            raise
        _log.info(
            "event=trainer_ready job=%s dataset=%d pid=%d slot_seconds=%.4g",
            spec.job_id.hex(), served.dataset_id, trainer.pid, trainer.slot_seconds,
        )  # fmt: skip
        return trainer

    def end(self, key: LegKey) -> None:
        """Ends a leg's child; harmless when there is none."""
        with self._guard:
            trainer = self._legs.pop(key, None)
        if trainer is not None:
            trainer.stop()

    def close(self) -> None:
        """Ends all children."""
        with self._guard:
            trainers, self._legs = [*self._legs.values()], {}
        for trainer in trainers:
            trainer.stop()


def task_for(
    spec: TrainingJobSpec,
    served: ServedDataset,
    base_model: BaseModelFile | None = None,
    tokenizer_path: Path | None = None,
) -> TrainerTask:
    """What the child is told about a leg."""
    return TrainerTask(
        card=served.card.card,
        data_path=served.config.data,
        graph=graph_of(spec) if spec.model_graph else None,
        plan=plan_of(spec, served.dataset_id),
        loss=spec.loss,
        optimizer=spec.optimizer,
        weight=spec.leg(served.dataset_id).weight_nano / NANO,
        update_range=spec.encryption.update_range_nano / NANO,
        value_bits=spec.encryption.value_bits,
        base_model=base_model,
        query=spec.query,
        tokenizer_path=tokenizer_path,
    )
