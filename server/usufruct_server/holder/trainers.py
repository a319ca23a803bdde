"""The warm trainer children of this server: one for each running leg, and a spare one that is warm before a leg needs it.

The spare is started with the server and again with the next proposal, not while a new leg has its first rounds.
"""

from __future__ import annotations

import logging
import threading

from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.errors import Refused
from usufruct.graph.model_graph import ModelGraph
from usufruct_server.holder.appraisal import graph_of, plan_of
from usufruct_server.holder.catalogue import ServedDataset
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.trainer import Trainer

MOST_LEGS = 16
"""Legs that train on one server at a time; each has a process of its own."""

_log = logging.getLogger("usufruct.holder.trainers")
LegKey = tuple[bytes, int]


class Trainers:
    """Starts, keeps and ends trainer children. Safe from several threads; one leg's calls come from one thread at a time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._appraising = threading.Lock()
        self._legs: dict[LegKey, Trainer] = {}
        self._spare: Trainer | None = None
        self._closed = False

    def warm_up(self) -> None:
        """Starts the spare child, if there is none; returns at once."""
        with self._guard:
            if not self._closed and (self._spare is None or not self._spare.alive):
                self._spare = Trainer.spawn()

    def appraise_graph(self, graph: ModelGraph, micro_batch_size: int, loss: str, classes: int) -> int:
        """Has a child without data look at a proposed graph; returns its parameters.

        Raises:
            InvalidInput: GRAPH_NOT_ALLOWED or SPEC_INVALID. TrainerFailed: no answer in time.
        """
        with self._appraising:  # the spare child is nobody's leg until this look has ended
            self.warm_up()
            with self._guard:
                trainer, self._spare = self._spare, None
            if trainer is None:
                trainer = Trainer.spawn()
            try:
                return trainer.appraise(graph, micro_batch_size, loss, classes)
            finally:
                with self._guard:
                    keep = self._spare is None and trainer.alive and not self._closed
                    if keep:
                        self._spare = trainer
                if not keep:
                    trainer.stop()

    def for_leg(self, spec: TrainingJobSpec, served: ServedDataset) -> Trainer:
        """The leg's child, started and with the data read; a new one where the old one is dead.

        Raises:
            UsufructError: what the child refuses (graph, loss, card, data), before any charge; TOO_MANY.
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
            trainer, self._spare = self._spare, None
            if trainer is None or not trainer.alive:
                trainer = Trainer.spawn()
            self._legs[key] = trainer
        try:
            trainer.start(task_for(spec, served))
        except BaseException:
            self.end(key)
            raise
        _log.info(
            "event=trainer_ready job=%s dataset=%d pid=%d", spec.job_id.hex(), served.dataset_id, trainer.pid
        )
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
            self._closed = True
            trainers = [*self._legs.values(), *([self._spare] if self._spare else [])]
            self._legs, self._spare = {}, None
        for trainer in trainers:
            trainer.stop()


def task_for(spec: TrainingJobSpec, served: ServedDataset) -> TrainerTask:
    """What the child is told about a leg."""
    return TrainerTask(
        card=served.card.card,
        data_path=served.config.data,
        graph=graph_of(spec),
        plan=plan_of(spec, served.dataset_id),
        loss=spec.loss,
        optimizer=spec.optimizer,
        weight=spec.leg(served.dataset_id).weight_nano / NANO,
        update_range=spec.encryption.update_range_nano / NANO,
        value_bits=spec.encryption.value_bits,
    )
