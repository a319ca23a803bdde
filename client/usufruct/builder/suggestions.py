"""Figures to start from where a builder has none: those that ``make bench-utility`` measured (tests/benchmarks/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from usufruct.builder.datasets import Dataset
from usufruct.builder.server_optimizer import ServerOptimizer, ServerSGD
from usufruct.builder.settings import SGD, Privacy
from usufruct.errors import InvalidInput


class Suggestion(TypedDict):
    """Arguments of ``network.train`` and ``propose``."""

    optimizer: SGD
    server_optimizer: ServerOptimizer
    privacy: Privacy
    rounds: int


def suggest(datasets: Sequence[Dataset], epsilon: float, delta: float = 1e-5) -> Suggestion:
    """Figures for logistic regression on these datasets: ``network.train(model, hospitals, **uf.suggest(hospitals, epsilon=3.0),
    …)``. Change what you know better.

    They depend on what the cards declare and on epsilon alone, so they cost no privacy. One step a round, in either noise mode.

    * Images as scattering features (a card with a feature extractor): clip at 0.4 to 0.5, momentum at the builder; 200 rounds of a tenth
      of the rows for epsilon of 2 or more, 100 of a twentieth below. More noise wants shorter steps.
    * Tables of some hundred rows: clip at 0.25, all rows in each of 25 rounds. (With a hundred features and thousands of rows, 50
      rounds with twice the clip and the learning rate did better by more than a point.)

    Args:
        datasets: of :meth:`usufruct.builder.network.Network.datasets`, all of one kind.
        epsilon, delta: of the whole job, for each dataset.
    Raises:
        InvalidInput: SPEC_INVALID: there is no dataset, or some are images and some are not; or epsilon or delta is no figure
            for :class:`~usufruct.builder.settings.Privacy`.
    """
    kinds = {dataset.card.extractor is not None for dataset in datasets}
    if len(kinds) != 1:
        raise InvalidInput(
            "Figures are suggested for one or more datasets, all of images or all of tables.",
            reason="SPEC_INVALID",
            field="datasets",
        )
    if kinds == {True}:
        momentum = 0.9
        rounds, rate = (200, 0.1) if epsilon >= 2 else (100, 0.05)
        clip = 0.5 if 2 <= epsilon < 6 else 0.4
        step = 14.0 if epsilon >= 6 else 12.0 if epsilon >= 2 else 9.0 if epsilon >= 1 else 6.0
    else:
        clip, momentum, step = 0.25, 0.0, 0.8
        rounds, rate = 25, 1.0
    return Suggestion(
        optimizer=SGD(lr=step / clip, local_steps=1, sample_rate=rate),
        server_optimizer=ServerSGD(momentum=momentum),
        privacy=Privacy(epsilon=epsilon, delta=delta, max_grad_norm=clip),
        rounds=rounds,
    )
