"""Reconstruction of rows from what a builder opens: two attacks that read rows off a sum without privacy.

*Imprint*: Fowl, Geiping, Czaja, Goldblum, Goldstein, *Robbing the Fed* (2022). All units of a layer look in one direction with
rising thresholds; between neighbouring units the sum of gradients differs by the rows whose value lies between their
thresholds, and where that is one row, the quotient of its parts for weight and bias is the row. *Inversion*: Zhu, Liu, Han,
*Deep Leakage from Gradients* (2019), by the cosine of Geiping, Bauermeister, Droege, Moeller (2020): a row is sought whose gradient
points where the opened sum points. It is the only row in the cohort, and its label is known.

A row is *recovered* if the reconstruction is within ``CLOSE`` of it. An attack is *at chance* if it comes no closer to the
rows that were in the data than to rows of the same law that were not (Wilcoxon's rank sum, stratified by attack; van Elteren 1960).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from audited_cohort import AuditedCohort, Model, Rows
from scipy import stats
from torch import nn

WIDTH, CLOSE = 12, 0.1
"""Features, each uniform in [-1, 1]; and a root mean square error over them: another row of this law is so close with
probability 10^-9."""
BINS, IMPRINTED, STRANGERS = 64, 6, 200
"""Thresholds of an imprint layer, rows in the data, and rows that were not."""
_SIGNS = np.resize([1.0, -1.0], BINS)
_DESCENT_STEPS = 80


@dataclass(frozen=True)
class Outcome:
    """Attacks on several opened sums.

    Attributes:
        members: distance of the nearest reconstruction to each row of the data, an array an attack.
        strangers: the same for rows that were not there, ``STRANGERS`` an attack.
    """

    members: tuple[np.ndarray, ...]
    strangers: tuple[np.ndarray, ...]

    @property
    def recovered(self) -> float:
        """Share of the rows that were read off."""
        return float(np.mean(np.concatenate(self.members) < CLOSE))

    @property
    def p_value(self) -> float:
        """Chance that rows which are nowhere in what was opened come out as close as those of the data."""
        surplus, variance = 0.0, 0.0
        for members, strangers in zip(self.members, self.strangers, strict=True):
            ranks = stats.rankdata(np.concatenate([members, strangers]))
            surplus += float(ranks[: members.size].sum()) - members.size * (ranks.size + 1) / 2
            variance += members.size * strangers.size * (ranks.size + 1) / 12
        return float(stats.norm.cdf(surplus / math.sqrt(variance)))


def imprint_model() -> Model:
    """A layer that sorts rows by the sum of their features, into bins of equal chance."""
    thresholds = stats.norm.ppf((np.arange(BINS) + 0.5) / BINS) * math.sqrt(1 / 3)
    module = nn.Sequential(nn.Linear(WIDTH, BINS), nn.ReLU(), nn.Linear(BINS, 1, bias=False))
    with torch.no_grad():
        module[0].weight.fill_(1 / math.sqrt(WIDTH))
        module[0].bias.copy_(torch.from_numpy(-thresholds))
        module[2].weight.copy_(torch.from_numpy(_SIGNS))  # they keep the output small, whatever the row
    return Model.of(module, WIDTH)


def imprint(cohort: AuditedCohort, attacks: int, generator: np.random.Generator) -> Outcome:
    """Rows of one holder, through :func:`imprint_model`."""
    members, strangers = [], []
    for _ in range(attacks):
        rows = _rows(IMPRINTED, generator)
        cohort.start([rows])
        (opened,) = cohort.opened(1)
        incoming = opened[: BINS * WIDTH].reshape(BINS, WIDTH) * _SIGNS[:, None]
        bias = opened[BINS * WIDTH : BINS * WIDTH + BINS] * _SIGNS
        of_bins = np.diff(bias, append=0.0)
        found = np.diff(incoming, axis=0, append=0.0) / np.where(of_bins, of_bins, 1.0)[:, None]
        found = np.clip(found, -1, 1)
        members.append(_nearest(rows.features, found))
        strangers.append(_nearest(_rows(STRANGERS, generator).features, found))
    return Outcome(tuple(members), tuple(strangers))


def inversion_model() -> Model:
    """A small perceptron with random weights, as a job starts with."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Model.of(nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, 1)), WIDTH)


def inversion(cohort: AuditedCohort, attacks: int, generator: np.random.Generator) -> Outcome:
    """One row in the whole cohort, through :func:`inversion_model`."""
    model, members, strangers = inversion_model(), [], []
    for _ in range(attacks):
        row = _rows(1, generator)
        cohort.start([row])
        (opened,) = cohort.opened(1)
        found = _matching_row(model, int(row.labels[0]), opened, generator)[None]
        members.append(_nearest(row.features, found))
        strangers.append(_nearest(_rows(STRANGERS, generator).features, found))
    return Outcome(tuple(members), tuple(strangers))


def _matching_row(model: Model, label: int, opened: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The best of four descents from random rows."""
    weights = torch.from_numpy(model.weights).double()
    parts = weights.split([32 * WIDTH, 32, 32, 1])
    incoming, bias, outgoing, last = parts[0].view(32, WIDTH), *parts[1:]
    target = torch.from_numpy(opened)

    def mismatch(features: torch.Tensor) -> torch.Tensor:
        """1 - cosine of the gradients of each row [starts, width] with the target."""
        hidden = torch.tanh(features @ incoming.T + bias)
        error = torch.sigmoid(hidden @ outgoing + last) - label
        back = outgoing * (1 - hidden.square())
        gradient = torch.cat(
            [(back[:, :, None] * features[:, None]).flatten(1), back, hidden, torch.ones(len(features), 1)], 1
        )
        return 1 - torch.cosine_similarity(gradient * error[:, None], target[None], dim=1)

    features = torch.from_numpy(generator.uniform(-1, 1, (4, WIDTH))).requires_grad_()
    descent = torch.optim.LBFGS([features], max_iter=_DESCENT_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        descent.zero_grad()
        total = mismatch(features).sum()
        total.backward()
        return total

    descent.step(closure)
    found = features.detach()[mismatch(features).argmin()].numpy()
    return np.clip(found, -1, 1)


def _rows(count: int, generator: np.random.Generator) -> Rows:
    return Rows(generator.uniform(-1, 1, (count, WIDTH)), generator.integers(0, 2, count))


def _nearest(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Root mean square distance of each row to the nearest reconstruction."""
    return np.sqrt(np.mean((rows[:, None] - found[None]) ** 2, axis=2)).min(axis=1)
