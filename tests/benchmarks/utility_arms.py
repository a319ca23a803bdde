"""One training of a job in one process, by the parts that a real job runs, without network and encryption.

The builder's planning sizes the noise and makes the spec; each holder's integers are those of the trainer's one way out
(``Release``: sampling, per-sample clipping, rotation, rounding, noise); the builder reads the sum as it reads an opened one,
and takes its server optimiser's step. Encryption and masks add and remove integers exactly, so they change no figure here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional
from utility_data import Task

import usufruct as uf
from usufruct import graph
from usufruct.builder.datasets import Dataset
from usufruct.builder.planning import make_plan
from usufruct.builder.server_optimizer import ServerOptimizer, ServerSGD, step
from usufruct.builder.summing import read_average
from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.training_job import NANO, AggregatorRef, TrainingJobSpec
from usufruct.privacy import plan_of
from usufruct_server.holder.training.losses import checked_loss
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.per_sample import ClippedSum
from usufruct_server.holder.training.released import Release

DELTA: Final = 1e-5
ADDRESS: Final = "0x" + "00" * 20
UNLIMITED: Final = 10**12
POOLED_STEPS: Final = 300


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        rounds, sample_rate, max_grad_norm, lr: of the job, one step a round; noise is sized for the rounds, without spare
            attempts.
        server: what the builder does with the average.
    """

    rounds: int
    sample_rate: float
    max_grad_norm: float
    lr: float
    server: ServerOptimizer = ServerSGD()  # noqa: RUF009 (it is frozen)


@dataclass(frozen=True)
class Score:
    """Of a model on a task's test rows, in hundredths; ``auc`` is None where there are more than two classes."""

    accuracy: float
    auc: float | None


class Job:
    """A job over a task's holders, planned once and trained as often as asked.

    Args:
        epsilon: of every dataset, at ``order`` and :data:`DELTA`.
        noise: ``"distributed"``, or ``"local"``: which over one holder is central differential privacy, or a holder alone.
        max_colluding: of the holders, with distributed noise; it is sized for all others.
    """

    def __init__(
        self, task: Task, recipe: Recipe, epsilon: float, order: int, noise: str, max_colluding: int = 1
    ) -> None:
        self._task, self._recipe = task, recipe
        self._traced = traced = graph.trace(linear(task), (task.width,))
        count = traced.bounds.parameters
        self.spec = spec = job_spec(task, recipe, epsilon, order, noise, max_colluding, count)
        self._releases = [
            Release(_task(task, spec, index, traced.graph), count) for index in range(len(spec.legs))
        ]
        loss = checked_loss(spec.loss, traced.bounds.outputs, task.classes)
        self._clipped_sum = ClippedSum(graph.rebuild(traced.graph), loss)

    def run(self) -> Score:
        """Trains from zero with fresh samples and noise, and scores the model."""
        model = linear(self._task)
        vector, slots = graph.vector_from_model(model, self._traced), dict[str, NDArray[np.float32]]()
        for round_ in range(1, self._recipe.rounds + 1):
            average = self._round(vector)
            vector, slots = step(self._recipe.server, slots, vector, average, round_, self._recipe.rounds)
        graph.load_into_model(model, self._traced, vector)
        return score(model, self._task)

    def _round(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        """The average of the holders' updates from these weights."""
        seed, clipped_sum = secrets.token_bytes(32), self._clipped_sum
        weights = bytearray(graph.pack_vector(self._traced.graph, vector))
        total: NDArray[np.int64] | int = 0
        for release, part in zip(self._releases, self._task.parts, strict=True):
            clipped_sum.load(graph.weights_in(clipped_sum.module, weights))
            total = total + np.concatenate([*release.integers(clipped_sum, part, seed)]).astype(np.int64)
        return read_average([total], self.spec, [leg.dataset_id for leg in self.spec.legs], seed)


def job_spec(
    task: Task, recipe: Recipe, epsilon: float, order: int, noise: str, max_colluding: int, parameters: int
) -> TrainingJobSpec:
    """The spec of a job as the builder plans it; who takes part in it and where is left blank."""
    plan = make_plan(
        [listed_dataset(card, number, order) for number, card in enumerate(task.cards, 1)],
        uf.Privacy(epsilon, DELTA, recipe.max_grad_norm, noise, max_colluding),
        uf.SGD(recipe.lr, local_steps=1, sample_rate=recipe.sample_rate),
        rounds=recipe.rounds,
        spare_attempts=0,
        parameter_count=parameters,
    )
    return TrainingJobSpec(
        chain_id=1,
        compute_access=ADDRESS,
        builder=ADDRESS,
        nonce=bytes(32),
        model_graph=b"",
        loss="binary_cross_entropy_with_logits" if task.classes == 2 else "cross_entropy",
        optimizer=plan.optimizer,
        plan=plan.plan,
        legs=plan.legs,
        encryption=plan.encryption,
        aggregator=AggregatorRef("", bytes(32)),
        min_cohort=plan.min_cohort,
        purpose="",
        deliver_by_seconds=0,
        round_timeout_seconds=0,
    )


def listed_dataset(card: DatasetCard, number: int, order: int) -> Dataset:
    """A holder's dataset as the builder lists it, with budget for anything."""
    return Dataset(
        id=number,
        holder_id=number,
        card=card,
        card_hash=bytes(32),
        policy=b"",
        token=ADDRESS,
        price_units=0,
        min_cohort=1,
        order=order,
        cap_micro=UNLIMITED,
        reserved_micro=0,
        spent_micro=0,
        max_loss_per_job_micro=UNLIMITED,
        max_loss_per_grant_micro=UNLIMITED,
        operator=ADDRESS,
        endpoint="",
        fingerprint=bytes(32),
    )


def _task(task: Task, spec: TrainingJobSpec, index: int, model_graph: graph.ModelGraph) -> TrainerTask:
    """What a holder tells its trainer; the rows are at hand already."""
    leg = spec.legs[index]
    return TrainerTask(
        card=task.cards[index],
        data_path=Path(),
        graph=model_graph,
        plan=plan_of(spec, leg.dataset_id),
        loss=spec.loss,
        optimizer=spec.optimizer,
        weight=leg.weight_nano / NANO,
        update_range=spec.encryption.update_range_nano / NANO,
        value_bits=spec.encryption.value_bits,
    )


def pooled(task: Task, decay: float) -> Score:
    """The same model on all rows in one place without privacy, by Adam over all of them at once; it draws nothing.

    Args:
        decay: weight of half the squared weights beside the mean loss.
    """
    everything = task.pooled().parts[0]
    features, labels = torch.from_numpy(np.array(everything.features)), torch.from_numpy(everything.labels)
    model = linear(task)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, POOLED_STEPS)
    for _ in range(POOLED_STEPS):
        optimizer.zero_grad()
        output = model(features)
        if task.classes == 2:
            loss = functional.binary_cross_entropy_with_logits(output[:, 0], labels.float())
        else:
            loss = functional.cross_entropy(output, labels)
        squares = sum(weights.square().sum() for weights in model.parameters())
        torch.autograd.backward(loss + decay / 2 * squares)
        optimizer.step()
        schedule.step()
    return score(model, task)


def linear(task: Task) -> nn.Module:
    """Logistic regression, from zero."""
    model = nn.Linear(task.width, 1 if task.classes == 2 else task.classes)
    for weights in model.parameters():
        nn.init.zeros_(weights)
    return model


def score(model: nn.Module, task: Task) -> Score:
    """On the test rows."""
    with torch.no_grad():
        output = torch.cat([*_outputs(model, task)]).numpy()
    labels = task.test.labels
    if output.shape[1] > 1:
        return Score(100 * float((output.argmax(1) == labels).mean()), None)
    right = (output[:, 0] > 0) == labels
    return Score(100 * float(right.mean()), 100 * float(roc_auc_score(labels, output[:, 0])))


def _outputs(model: nn.Module, task: Task) -> Iterator[torch.Tensor]:
    for start in range(0, len(task.test.labels), 1000):
        yield model(torch.from_numpy(np.array(task.test.features[start : start + 1000])))
