"""The shipped trainer as a holder runs it, asked through its public interface, and what the builder opens of its releases.

Real zygote, real children, real files; a child is asked what a holder's server asks it, and all that is used of its answer
are the integers that would be encrypted. Their sum is what decryption gives: encryption adds exactly
(``test_the_sum_is_exact_for_two_to_64_holders``), so it is left out.
"""

from __future__ import annotations

import csv
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.graph import ModelGraph
from usufruct.privacy import DistributedPlan, LocalPlan, open_sum, unround_sum
from usufruct_server.holder.training.block import VALUE_BYTES, SharedBlock
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.zygote import Zygote

SECONDS = 300.0
VALUE_BITS = 22
Plan = LocalPlan | DistributedPlan


@dataclass(frozen=True)
class Model:
    """What a builder sends: an architecture for rows of ``width`` numbers from -1 to 1, and weights of its choice."""

    width: int
    graph: ModelGraph
    weights: np.ndarray

    @classmethod
    def of(cls, module: nn.Module, width: int) -> Model:
        """A model with the module's present weights."""
        traced = graph.trace(module, (width,))
        return cls(width, traced.graph, graph.vector_from_model(module, traced))

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return int(self.weights.size)


@dataclass(frozen=True)
class Rows:
    """A holder's data: features in [-1, 1], shape (rows, width), and labels 0 or 1."""

    features: np.ndarray
    labels: np.ndarray

    @classmethod
    def none(cls, width: int) -> Rows:
        """A holder without rows."""
        return cls(np.zeros((0, width)), np.zeros(0, dtype=np.int64))

    def write(self, path: Path) -> Path:
        """As the CSV file that a holder keeps."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(f"x{i}" for i in range(self.features.shape[1])), "y"])
            for features, label in zip(self.features.tolist(), self.labels.tolist(), strict=True):
                writer.writerow([*features, label])
        return path


class AuditedCohort:
    """The honest holders of a job: one with `local` noise, ``min_honest`` with `distributed` noise, a child each.

    Args:
        zygote: forks the children.
        folder: for the holders' files.
        reach: the largest value of a clipped sum, noise aside; with `local` noise sets the range of the integers.
    """

    def __init__(self, zygote: Zygote, folder: Path, model: Model, plan: Plan, reach: float) -> None:
        self.plan, self._model = plan, model
        self._folder = folder
        self.holders = plan.min_honest if isinstance(plan, DistributedPlan) else 1
        if isinstance(plan, LocalPlan):
            # ten deviations of noise fit; learning rate 1 and weight 1, so that an update is minus the sum over the batch
            self._range = (reach + 10 * plan.noise_standard_deviation) / plan.nominal_batch_size
        else:
            self._range = 1.0
        self._stack = ExitStack()
        self.children = [self._stack.enter_context(zygote.spawn()) for _ in range(self.holders)]
        self._no_rows = Rows.none(model.width)
        self._held: list[Rows | None] = [None] * self.holders
        self._round = 0

    def __enter__(self) -> AuditedCohort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, data: Sequence[Rows]) -> None:
        """Begins a job on these holders' data; further holders have none. Who has the same as before goes on."""
        for number, child in enumerate(self.children):
            rows = data[number] if number < len(data) else self._no_rows
            if self._held[number] is not rows:
                path = rows.write(self._folder / f"{id(self)}-{number}.csv")
                child.start(self._task(path), SECONDS)
                path.unlink()
                self._held[number] = rows

    def _task(self, path: Path) -> TrainerTask:
        card = DatasetCard(
            name="audited",
            task="audit",
            description="",
            columns=tuple(
                Column(f"x{i}", "number", -1.0, 1.0, missing="midpoint") for i in range(self._model.width)
            ),
            label=Label("y", (("0",), ("1",))),
            person_column=None,
            nominal_size=self.plan.nominal_size,
        )
        loss, optimizer = "binary_cross_entropy_with_logits", LocalOptimizer("sgd", NANO)
        return TrainerTask(
            card, path, self._model.graph, self.plan, loss, optimizer, 1.0, self._range, VALUE_BITS
        )

    def releases(self, seed: bytes, weights: np.ndarray | None = None) -> list[np.ndarray]:
        """One round: every holder's integers."""
        self._round += 1
        packed = graph.pack_vector(self._model.graph, self._model.weights if weights is None else weights)
        released = []
        for child in self.children:
            block = SharedBlock(max(len(packed), VALUE_BYTES * 2 * self._model.parameters))
            block.write(0, memoryview(packed))
            child.check_weights(block, len(packed), self._round, 0, SECONDS)
            count = child.run(self._round, 0, SECONDS, seed)
            released.append(block.values(0, count).astype(np.int64))
            block.close()
        return released

    def opened(self, rounds: int, weights: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """What the builder learns: each round's clipped sum over all holders plus noise, float64, shape (parameters,)."""
        for _ in range(rounds):
            seed = secrets.token_bytes(32)
            total = np.sum(self.releases(seed, weights), axis=0)
            if isinstance(self.plan, DistributedPlan):
                yield open_sum(total, self.plan, seed)
            else:
                yield self.local_sum(total)

    def local_sum(self, codes: np.ndarray) -> np.ndarray:
        """The noised sum behind the codes of one holder with `local` noise."""
        return unround_sum(codes, 1, self._range, VALUE_BITS) * -self.plan.nominal_batch_size
