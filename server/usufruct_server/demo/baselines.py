"""What the network's result is compared with. Both run in the demo's own process, which holds all rows because it made
them; on a real network nobody could compute them.

* *pooled*: the same model on all hospitals' rows together, without privacy.
* *alone*: each hospital by itself under the same epsilon, with the holders' own trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from usufruct import privacy as dp
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct_server.demo.study import Study, TrainingChoice

if TYPE_CHECKING:
    from torch import nn

POOLED_STEPS: Final = 300
POOLED_LEARNING_RATE: Final = 0.01
"""Adam over all rows at once; enough steps that more of them change neither data set's validation accuracy by more than
one row in fifty, few enough that the larger model does not overfit."""

ALONE_REPEATS: Final = 3
LOSS: Final = "binary_cross_entropy_with_logits"


@dataclass(frozen=True)
class Score:
    """How well a model does on some rows.

    Attributes:
        accuracy: share of rows on the right side of zero.
        auc: area under the ROC curve.
        loss: mean binary cross-entropy.
    """

    accuracy: float
    auc: float
    loss: float


@dataclass(frozen=True)
class Baseline:
    """A comparison: its score on the test rows and on the rows that the learning curve is drawn for."""

    test: Score
    watched: Score


def score(model: nn.Module, data: PreparedData) -> Score:
    """The model's score on ``data``; the area needs rows of both classes and is NaN otherwise."""
    import torch
    from sklearn.metrics import roc_auc_score
    from torch.nn import functional

    with torch.no_grad():
        logits = model(torch.from_numpy(data.features).to(next(model.parameters()).dtype))[:, 0]
        labels = torch.from_numpy(data.labels)
        loss = float(functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)))
    both = len(set(data.labels.tolist())) == 2
    return Score(
        accuracy=float(((logits > 0).long() == labels).double().mean()),
        auc=float(roc_auc_score(data.labels, logits.numpy())) if both else float("nan"),
        loss=loss,
    )


def pooled(study: Study) -> Baseline:
    """The same model, plainly trained on all rows together, without privacy."""
    import torch
    from torch.nn import functional

    parts = [hospital.prepared() for hospital in study.hospitals]
    features = torch.from_numpy(np.concatenate([part.features for part in parts]))
    labels = torch.from_numpy(np.concatenate([part.labels for part in parts])).float()
    model = study.choice.model(study.width)
    optimizer = torch.optim.Adam(model.parameters(), lr=POOLED_LEARNING_RATE)
    for _ in range(POOLED_STEPS):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(model(features)[:, 0], labels)
        torch.autograd.backward(loss)
        optimizer.step()
    return Baseline(score(model, study.test), score(model, study.validation))


def alone(study: Study, orders: Sequence[int], repeats: int = ALONE_REPEATS) -> tuple[Baseline, ...]:
    """Each hospital by itself: same model, rounds, momentum and epsilon, trained by the holders' own DP-SGD on its rows only,
    with all of the noise: nobody else adds a share.

    Its noise is sized for the rounds alone: without a network no round is ever lost, so it needs no spare attempts.

    Args:
        orders: Rényi order of each hospital's dataset.
    Returns:
        Means over ``repeats`` trainings, one for each hospital.
    """
    return tuple(
        _mean([_alone_once(study, index, order) for _ in range(repeats)])
        for index, order in enumerate(orders)
    )


def alone_plan(choice: TrainingChoice, nominal_size: int, order: int) -> dp.LocalPlan:
    """The plan of a hospital that trains by itself under the study's epsilon."""
    cap = dp.loss_for_epsilon_micro(choice.epsilon, order, choice.delta)
    return dp.LocalPlan(
        sample_rate=choice.sample_rate,
        max_grad_norm=choice.max_grad_norm,
        noise_multiplier=dp.noise_multiplier_for(cap, order, choice.sample_rate, 1, choice.rounds),
        local_steps=1,
        rounds=choice.rounds,
        spare_attempts=0,
        micro_batch_size=64,
        nominal_size=nominal_size,
        order=order,
        delta=choice.delta,
    )


def _alone_once(study: Study, index: int, order: int) -> Baseline:
    from usufruct import graph
    from usufruct.builder.server_optimizer import ServerSGD, step
    from usufruct_server.holder.training.dpsgd import train_round
    from usufruct_server.holder.training.losses import checked_loss
    from usufruct_server.holder.training.per_sample import ClippedSum

    hospital, choice = study.hospitals[index], study.choice
    model = choice.model(study.width)
    traced = graph.trace(model, (study.width,))
    clipped_sum = ClippedSum(graph.rebuild(traced.graph), checked_loss(LOSS, 1, 2))
    vector = graph.vector_from_model(model, traced)
    plan = alone_plan(choice, hospital.card.nominal_size, order)
    optimizer = LocalOptimizer("sgd", round(choice.learning_rate * NANO))
    data = hospital.prepared()
    slots: Mapping[str, NDArray[np.float32]] = {}
    for round_ in range(1, choice.rounds + 1):
        weights = bytearray(graph.pack_vector(traced.graph, vector))
        clipped_sum.load(graph.weights_in(clipped_sum.module, weights))
        update = np.concatenate([*train_round(clipped_sum, data, plan, optimizer)])
        vector, slots = step(
            ServerSGD(momentum=choice.momentum), slots, vector, update, round_, choice.rounds
        )
    graph.load_into_model(model, traced, vector)
    return Baseline(score(model, study.test), score(model, study.validation))


def _mean(baselines: Sequence[Baseline]) -> Baseline:
    def mean(scores: list[Score]) -> Score:
        return Score(
            *(float(np.mean([getattr(s, field) for s in scores])) for field in ("accuracy", "auc", "loss"))
        )

    return Baseline(mean([b.test for b in baselines]), mean([b.watched for b in baselines]))
