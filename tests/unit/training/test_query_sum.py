"""What a query takes of rows: bounded for whatever a model says, exact without noise, and of each row alone."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import nn

from usufruct import graph
from usufruct.builder.estimates import Totals, described, evaluated
from usufruct.domain.dataset_card import PREPROCESSING, Column, DatasetCard, Label
from usufruct.domain.preprocessing import PreparedData, prepare_columns
from usufruct.domain.query import EvaluationQuery, Layout, StatisticsQuery, layout_of
from usufruct.domain.scattering import Scattering
from usufruct.graph.interpreter import InterpreterModule
from usufruct.privacy import LocalPlan
from usufruct_server.holder.training.dpsgd import sum_over_sample
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.query_sum import QuerySum, evaluation_sum, statistics_sum

WIDTH, ROWS, BOUND = 6, 150, 0.9
CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=(
        *(Column(f"x{i}", "number", -1.0, 1.0) for i in range(WIDTH - 3)),
        Column("kind", "category", categories=("a", "b"), missing="indicator"),
    ),
    label=Label("y", (("0",), ("1",))),
    person_column=None,
    nominal_size=ROWS,
)
PLAN = LocalPlan(
    sample_rate=1.0,
    max_grad_norm=1.0,
    noise_multiplier=1.0,
    local_steps=1,
    rounds=1,
    spare_attempts=0,
    micro_batch_size=32,
    nominal_size=ROWS,
    order=6,
    delta=1e-5,
)
EVALUATION = EvaluationQuery(WIDTH + 1, 8, round(BOUND * 10**6))
STATISTICS = StatisticsQuery(("x0", "x2", "kind", "y"), 4)


def linear(loss: str, weights: np.ndarray, bias: float = 0.0, card: DatasetCard = CARD) -> QuerySum:
    """An evaluation of a linear model; weights may be anything, also what a trainer would refuse."""
    outputs = len(card.label.classes) if loss == "cross_entropy" else 1
    evaluation = evaluation_sum(EVALUATION, rebuilt(weights.size, outputs), LOSSES[loss], card)
    assert evaluation.module is not None
    matrix, biases = [name for name, _ in evaluation.module.named_parameters()]
    slopes = (np.arange(outputs) + 1.0 - outputs / 2)[:, None] if outputs > 1 else np.ones((1, 1))
    with np.errstate(invalid="ignore"):
        rows = (slopes * weights).astype(np.float32)
    evaluation.load({matrix: rows, biases: np.full(outputs, bias, np.float32)})
    return evaluation


@cache
def rebuilt(width: int, outputs: int) -> InterpreterModule:
    """As a trainer has it."""
    return graph.rebuild(graph.trace(nn.Linear(width, outputs), (width,)).graph)


def rows_of(query: QuerySum, features: np.ndarray, labels: np.ndarray, norm: float = 1.0) -> np.ndarray:
    given = torch.from_numpy(features.astype(np.float64))
    with torch.no_grad():
        return query.rows(given, torch.from_numpy(labels), torch.ones(len(given)).double(), norm).numpy()


def drawn(count: int = ROWS, seed: int = 0) -> PreparedData:
    random = np.random.default_rng(seed)
    features = random.uniform(-1, 1, (count, WIDTH)).astype(np.float32)
    features[:, 3:] = np.eye(3)[random.integers(0, 3, count)]
    return PreparedData(features, random.integers(0, 2, count))


# -- the bound --------------------------------------------------------------------------------------------------------

HOSTILE = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e4, -1e4, 1e38, -1e38, 1e-45, 0.5])


@settings(max_examples=40, deadline=None)
@given(
    loss=st.sampled_from(sorted(LOSSES)),
    weights=st.lists(HOSTILE, min_size=WIDTH, max_size=WIDTH),
    bias=HOSTILE,
    norm=st.sampled_from([1e-3, 1.0, 999.0]),
)
def test_no_row_of_an_evaluation_exceeds_the_clip_whatever_the_model_says(
    loss: str, weights: list[float], bias: float, norm: float
) -> None:
    data = drawn(12)
    rows = rows_of(linear(loss, np.array(weights), bias), data.features, data.labels, norm)
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows, axis=1).max() <= norm * (1 + 1e-12)
    assert (np.linalg.norm(rows, axis=1) > 0.5 * norm).all(), "a row that fails counts, as a wrong answer"


@given(st.lists(st.lists(HOSTILE, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_no_row_of_statistics_exceeds_the_clip_whatever_is_in_it(rows: list[list[float]]) -> None:
    found = rows_of(statistics_sum(STATISTICS, CARD), np.array(rows), np.zeros(len(rows), np.int64))
    assert np.isfinite(found).all()
    assert np.linalg.norm(found, axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize("value", [1e3, 1e200, math.inf, math.nan])
def test_a_vector_that_is_too_long_is_clipped_and_one_that_is_no_number_counts_as_nothing(
    value: float,
) -> None:
    layout = Layout(((("all",), 5),))
    query = QuerySum(
        layout, lambda features, labels: torch.full((len(features), 5), value, dtype=torch.float64), (1,)
    )
    rows = rows_of(query, np.zeros((3, 1)), np.zeros(3, np.int64), 0.25)
    expected = 0.25 if value < 1e100 else 0.0
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.full(3, expected))


def test_padding_counts_as_nothing() -> None:
    data = drawn(4)
    query = statistics_sum(STATISTICS, CARD)
    present = torch.tensor([1.0, 0.0, 1.0, 0.0]).double()
    found = query.part(torch.from_numpy(data.features).double(), torch.from_numpy(data.labels), present, 1.0)
    (total,) = found.pieces()
    assert total.numpy() == pytest.approx(rows_of(query, data.features, data.labels)[::2].sum(0))


def test_a_row_gives_the_same_to_the_last_bit_wherever_and_beside_whomever_it_stands() -> None:
    """Scores that rounding alone decides: weights and features cancel but for the last bits. A row more beside them must not
    move them; products over batches of other sizes do round otherwise, which this finds."""
    random = np.random.default_rng(1)
    half = random.uniform(-1, 1, (200, 24))
    features = np.concatenate([half, half[:, ::-1]], axis=1)
    weights = random.uniform(-1, 1, 24)
    weights = np.concatenate([weights, -weights[::-1]])
    card = replace(CARD, columns=tuple(Column(f"x{i}", "number", -1.0, 1.0) for i in range(48)))
    query, labels = linear("binary_cross_entropy_with_logits", weights, card=card), np.zeros(200, np.int64)
    together = rows_of(query, features, labels)
    right = together[:, layout_of(EVALUATION, "binary_cross_entropy_with_logits", card).places["outcome",]][
        :, 0
    ]
    assert 0.2 < (right > 0).mean() < 0.9, "rounding decides"
    for start, stop in ((0, 199), (1, 200), (0, 63), (5, 72), (7, 8)):
        assert np.array_equal(rows_of(query, features[start:stop], labels[start:stop]), together[start:stop])


# -- exact without noise ------------------------------------------------------------------------------------------------


def totals(query: QuerySum, layout: Layout, data: PreparedData) -> Totals:
    """What is opened, without noise."""
    total = sum_over_sample(query, data, PLAN)
    return Totals(layout, total * layout.norm / PLAN.clip_norm, 0.0, "0x", 1.0)


def test_an_evaluation_without_noise_is_that_of_scikit_learn() -> None:
    data, loss = drawn(), "binary_cross_entropy_with_logits"
    weights = np.array([2.0, -1.0, 0.5, 1.0, -1.0, 0.0])
    found = evaluated(EVALUATION, totals(linear(loss, weights, 0.3), layout_of(EVALUATION, loss, CARD), data))
    scores = 1 / (1 + np.exp(-(data.features @ weights + 0.3)))
    assert found.accuracy is not None
    assert found.auc is not None
    assert found.rows.value == pytest.approx(ROWS)
    assert found.accuracy.value == pytest.approx(accuracy_score(data.labels, scores > 0.5))
    bins = np.minimum(EVALUATION.score_bins - 1, (scores * EVALUATION.score_bins).astype(int))
    assert found.auc.value == pytest.approx(roc_auc_score(data.labels, bins))
    each = [
        log_loss([label], [score], labels=[0, 1]) for label, score in zip(data.labels, scores, strict=True)
    ]
    assert (np.array(each) > BOUND).any()
    assert found.loss.value == pytest.approx(np.minimum(each, BOUND).mean(), abs=1e-6)
    assert (found.accuracy.standard_error, found.auc.standard_error, found.loss.standard_error) == (0, 0, 0)


def test_several_classes_have_no_auc_and_a_regression_no_accuracy() -> None:
    data = drawn()
    three = replace(CARD, label=Label("y", (("0",), ("1",), ("2",))))
    weights = np.array([2.0, -1.0, 0.5, 1.0, -1.0, 0.0])
    layout = layout_of(EVALUATION, "cross_entropy", three)
    classes = evaluated(EVALUATION, totals(linear("cross_entropy", weights, card=three), layout, data))
    logits = np.outer(data.features @ weights, np.array([1.0, 2.0, 3.0]) - 1.5)
    assert classes.auc is None
    assert classes.accuracy is not None
    assert classes.accuracy.value == pytest.approx(accuracy_score(data.labels, logits.argmax(1)))
    layout = layout_of(EVALUATION, "mse_loss", CARD)
    regression = evaluated(EVALUATION, totals(linear("mse_loss", weights), layout, data))
    assert (regression.accuracy, regression.auc) == (None, None)
    squares = (data.features @ weights - data.labels) ** 2
    assert regression.loss.value == pytest.approx(np.minimum(squares, BOUND).mean(), rel=1e-5)
    assert regression.rows.value == pytest.approx(ROWS)


def test_statistics_without_noise_are_those_of_the_rows_and_missing_ones_are_left_out() -> None:
    card = replace(
        CARD,
        columns=(
            Column("age", "number", 20.0, 100.0, missing="maximum"),
            Column("kind", "category", categories=("a", "b"), missing="indicator"),
        ),
    )
    ages = ["30", "", "50", "999", "20", "61", "40"]
    kinds = ["a", "b", "", "a", "c", "a", "b"]
    labels = ["0", "1", "1", "1", "0", "1", "none"]  # the last row has no label: it is not there
    columns = {"age": ages, "kind": kinds, "y": labels}
    query = StatisticsQuery(("age", "kind", "y"), 4)
    data = prepare_columns(card, columns, as_columns=True)
    found = described(query, card, totals(statistics_sum(query, card), layout_of(query, "", card), data))
    age, kind, label = (found.columns[name] for name in ("age", "kind", "y"))
    assert found.rows.value == pytest.approx(6)
    assert age.mean is not None
    known = [30.0, 50.0, 100.0, 20.0, 61.0]
    assert (age.count.value, age.mean.value) == pytest.approx((5, np.mean(known)), rel=1e-6)
    counts, edges = np.histogram(known, bins=4, range=(20, 100))
    assert [bar.value for bar in age.histogram.values()] == pytest.approx(list(counts))
    assert list(age.histogram) == list(pairwise(edges))
    assert {name: bar.value for name, bar in kind.histogram.items()} == pytest.approx({"a": 3, "b": 1, "": 1})
    assert (kind.count.value, kind.mean) == (pytest.approx(4), None)
    assert {name: bar.value for name, bar in label.histogram.items()} == pytest.approx({0: 2, 1: 4})


def test_statistics_of_images_are_those_of_pixels_and_not_of_extracted_features() -> None:
    pixels = tuple(Column(f"p{i}", "number", 0.0, 255.0) for i in range(256))
    step = Scattering(16, 16, scales=2, orientations=4, groups=1).step
    card = replace(CARD, columns=pixels, preprocessing=(*PREPROCESSING, step))
    query = StatisticsQuery(("p3", "y"), 4)
    columns = {column.name: ["", "10", "200", "90"] for column in pixels}
    data = prepare_columns(card, columns | {"y": ["0", "1", "1", "1"]}, as_columns=True)
    asked = statistics_sum(query, card)
    assert data.features.shape == (4, *asked.input_shape) == (4, 256)
    pixel = described(query, card, totals(asked, layout_of(query, "", card), data)).columns["p3"]
    assert pixel.mean is not None
    assert (pixel.count.value, pixel.mean.value) == pytest.approx((3, 100), rel=1e-6)


def test_training_still_gets_what_stands_for_a_missing_number() -> None:
    column = {**{f"x{i}": ["", "0.5"] for i in range(3)}, "kind": ["a", "b"], "y": ["0", "1"]}
    assert np.isfinite(prepare_columns(CARD, column).features).all()
    assert np.isnan(prepare_columns(CARD, column, as_columns=True).features[0, :3]).all()
