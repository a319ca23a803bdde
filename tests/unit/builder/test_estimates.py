"""Figures from noised totals: right without noise, their standard errors right with it, possible whatever the noise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from listed_datasets import make_dataset
from sklearn.metrics import roc_auc_score

from usufruct.builder.estimates import (
    Estimate,
    Totals,
    area_under_curve,
    described,
    evaluated,
)
from usufruct.domain.query import EvaluationQuery, StatisticsQuery, layout_of

CARD = make_dataset(1).card
EVALUATION = EvaluationQuery(1, 10, 2_000_000)
STATISTICS = StatisticsQuery(("a", "y"), 4)
DRAWS = 4000


def scores(rows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Bins of scores, and labels."""
    random = np.random.default_rng(2)
    labels = (random.random(rows) < 0.3).astype(int)
    bins = np.clip(random.normal(4 + 2 * labels, 2), 0, 9).astype(int)
    return bins, labels


def counted(bins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = np.zeros((2, 10))
    np.add.at(counts, (labels, bins), 1)
    return counts


def test_the_area_of_bins_without_noise_is_that_of_the_scores_with_ties() -> None:
    bins, labels = scores()
    area = area_under_curve(counted(bins, labels), 0.0)
    assert area.value == pytest.approx(roc_auc_score(labels, bins))
    assert area.standard_error == 0


def _evaluation(values: np.ndarray, deviation: float) -> dict[str, Estimate | None]:
    layout = layout_of(EVALUATION, "cross_entropy", CARD)
    found = evaluated(EVALUATION, Totals(layout, values, deviation, "0x", 1.0))
    return {"rows": found.rows, "accuracy": found.accuracy, "auc": found.auc, "loss": found.loss}


def _statistics(values: np.ndarray, deviation: float) -> dict[str, Estimate | None]:
    found = described(STATISTICS, CARD, Totals(layout_of(STATISTICS, "", CARD), values, deviation, "0x", 1.0))
    a, y = found.columns["a"], found.columns["y"]
    return {
        "rows": found.rows,
        "mean": a.mean,
        "count": a.count,
        "bar": [*a.histogram.values()][1],
        "y": y.count,
    }


@pytest.mark.parametrize(
    ("figures", "values"),
    [
        (_evaluation, np.concatenate([counted(*scores()).ravel(), [1500.0, 500.0, 600.0]])),
        (_statistics, np.array([2000.0, 1800.0, 450.0, 200.0, 300.0, 800.0, 500.0, 900.0, 1100.0])),
    ],
)
def test_standard_errors_are_the_deviations_of_the_figures(
    figures: Callable[[np.ndarray, float], dict[str, Estimate | None]], values: np.ndarray
) -> None:
    """4,000 draws of noise at a fixed seed: a deviation is estimated to 1.1 %, and has to be right to 6 %."""
    random, deviation = np.random.default_rng(3), 12.0
    runs = [figures(values + random.normal(0, deviation, values.size), deviation) for _ in range(DRAWS)]
    truth = figures(values, 0.0)
    for name, exact in truth.items():
        drawn = [run[name] for run in runs]
        assert exact is not None
        found = np.array([estimate.value for estimate in drawn if estimate is not None])
        said = np.array([estimate.standard_error for estimate in drawn if estimate is not None])
        assert found.std() == pytest.approx(said.mean(), rel=0.06), name
        assert found.mean() == pytest.approx(exact.value, abs=5 * found.std() / math.sqrt(DRAWS) + 1e-3), name


def test_whatever_the_noise_every_figure_is_possible_or_said_to_be_unknown() -> None:
    random = np.random.default_rng(4)
    for _ in range(300):
        for figures, size in ((_evaluation, 23), (_statistics, 9)):
            found = figures(random.normal(0, 50, size), 50.0)
            for name, estimate in found.items():
                assert estimate is not None
                if math.isnan(estimate.value):
                    assert estimate.standard_error == math.inf
                    continue
                assert estimate.standard_error > 0
                most = {"accuracy": 1.0, "auc": 1.0, "mean": 1.0, "loss": 2.0}.get(name, math.inf)
                assert 0 <= estimate.value <= most, name


def test_figures_are_shown_to_people_and_to_machines_also_where_nothing_can_be_said() -> None:
    unknown = np.array([-1.0] * 23)
    found = evaluated(
        EVALUATION, Totals(layout_of(EVALUATION, "cross_entropy", CARD), unknown, 2.0, "0x", 1.0)
    )
    figures = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert figures["auc"] == {"value": None, "standard_error": None}
    assert "accuracy nan ± inf" in str(found)
    values = np.array([2000.0, 1800.0, 450.0, 200.0, 300.0, 800.0, 500.0, 900.0, 1100.0])
    seen = described(STATISTICS, CARD, Totals(layout_of(STATISTICS, "", CARD), values, 2.0, "0x", 1.0))
    figures = json.loads(json.dumps(seen.to_json(), allow_nan=False))
    assert figures["columns"]["a"]["histogram"][2] == {
        "bar": [0.5, 0.75],
        "value": 800.0,
        "standard_error": 2.0,
    }
    assert "a: count 1800 ± 2, mean 0.625 ± 0.00057" in str(seen)
    assert "  0.5 to 0.75: 800 ± 2" in str(seen)
