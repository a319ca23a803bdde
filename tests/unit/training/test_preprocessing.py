"""Rows become numbers by the card's declared bounds, categories and rules, and nothing in them can make that fail."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.preprocessing import (
    feature_names,
    feature_width,
    person_has_several_rows,
    prepare_columns,
    prepare_rows,
)
from usufruct.errors import InvalidInput

HEART = DatasetCard(
    name="heart",
    task="heart-disease",
    description="",
    columns=(
        Column("age", "number", 20, 100, missing="midpoint"),
        Column("pressure", "number", 80, 220, missing="minimum"),
        Column("oldpeak", "number", -4, 8, missing="zero"),
        Column("chest_pain", "category", categories=("1", "2", "3", "4"), missing="zeros"),
        Column("thal", "category", categories=("3", "6", "7"), missing="indicator"),
    ),
    label=Label("num", (("0",), ("1", "2", "3", "4"))),
    person_column=None,
    nominal_size=200,
    missing_markers=("?", "-9"),
)
NAMES = ["age", "pressure", "oldpeak", "chest_pain", "thal", "num"]


def _prepare(*rows: tuple[object, ...]) -> tuple[list[list[float]], list[int]]:
    prepared = prepare_rows(HEART, [dict(zip(NAMES, row, strict=True)) for row in rows])
    assert prepared.features.dtype == np.float32
    assert prepared.labels.dtype == np.int64
    return prepared.features.tolist(), prepared.labels.tolist()


def test_the_card_alone_gives_the_features() -> None:
    assert feature_names(HEART) == (
        "age", "pressure", "oldpeak", "chest_pain=1", "chest_pain=2", "chest_pain=3", "chest_pain=4",
        "thal=3", "thal=6", "thal=7", "thal is missing",
    )  # fmt: skip
    assert feature_width(HEART) == 11


def test_a_row_of_the_heart_disease_files() -> None:
    assert _prepare(("60", "150", "2", "2", "7", "3")) == ([[0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]], [1])


@pytest.mark.parametrize("missing", ["?", " ? ", "-9", -9, -9.0, "", None, math.nan, "nan", "inf", "hello"])
def test_what_is_missing_or_no_number_takes_the_declared_rule(missing: object) -> None:
    features, labels = _prepare((missing, missing, missing, "1", "3", "0"))
    assert features == [[0, -1, pytest.approx(4 / 12 * 2 - 1), 1, 0, 0, 0, 1, 0, 0, 0]]
    assert labels == [0]


@pytest.mark.parametrize("missing", ["?", " ? ", "-9", -9, -9.0, "", None, math.nan])
def test_a_missing_category_is_zeros_or_an_indicator(missing: object) -> None:
    features, _ = _prepare((60, 150, 2, missing, missing, 0))
    assert features == [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]


def test_an_unknown_category_is_all_zeros_and_not_missing() -> None:
    features, _ = _prepare((60, 150, 2, "5", "reversible", 0))
    assert features == [[0] * 11]


@pytest.mark.parametrize("same", ["6", "6.0", " 6 ", 6, 6.0, np.float32(6), np.int64(6)])
def test_what_means_the_same_category_is_the_same(same: object) -> None:
    features, _ = _prepare((60, 150, 2, "5", same, 0))
    assert features[0][7:] == [0, 1, 0, 0]


def test_values_beyond_the_bounds_are_clamped() -> None:
    features, _ = _prepare((1e9, -1e9, "1e300", 1, 3, 0))
    assert features[0][:3] == [1, -1, 1]


def test_rows_without_a_known_label_are_left_out_and_order_is_kept() -> None:
    features, labels = _prepare(
        *((age, 150, 2, 1, 3, label) for age, label in zip((20, 40, 60, 80), (0, "?", 9, 4), strict=True))
    )
    assert [row[0] for row in features] == [-1, 0.5]
    assert labels == [0, 1]


def test_no_rows_are_rows_too() -> None:
    prepared = prepare_rows(HEART, [])
    assert prepared.features.shape == (0, 11)
    assert prepared.labels.shape == (0,)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="'thal'") as caught:
        prepare_columns(HEART, {name: [] for name in NAMES if name != "thal"})
    assert caught.value.reason == "DATA_UNREADABLE"
    with pytest.raises(InvalidInput, match="'num'"):
        prepare_rows(HEART, [dict.fromkeys(NAMES[:-1], 1)])


def test_columns_and_rows_give_the_same() -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in ((30, 90, 1, 2, 3, 0), (50, 200, 0, 4, "?", 2))]
    by_rows = prepare_rows(HEART, rows)
    by_columns = prepare_columns(HEART, {name: [row[name] for row in rows] for name in NAMES})
    assert np.array_equal(by_rows.features, by_columns.features)
    assert np.array_equal(by_rows.labels, by_columns.labels)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.just([1]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[ANYTHING] * 6), max_size=5))
def test_nothing_in_a_row_makes_it_fail_or_leaves_the_range(rows: list[tuple[object, ...]]) -> None:
    prepared = prepare_rows(HEART, [dict(zip(NAMES, row, strict=True)) for row in rows])
    assert prepared.features.shape == (len(prepared.labels), 11)
    assert np.isfinite(prepared.features).all()
    assert (np.abs(prepared.features) <= 1).all()


@pytest.mark.parametrize("bounds", [(-1.7e308, 1.7e308), (0.0, 5e-324), (1e15, 1e15 + 0.25)])
def test_extreme_bounds_give_numbers_in_the_range(bounds: tuple[float, float]) -> None:
    card = dataclasses.replace(HEART, columns=(Column("age", "number", *bounds, missing="midpoint"),))
    values = [*bounds, 0.0, None, 1e308, -1e308, 10**5000]
    features = prepare_columns(card, {"age": values, "num": [0] * len(values)}).features
    assert np.isfinite(features).all()
    assert (np.abs(features) <= 1).all()


def test_a_person_counts_once() -> None:
    assert not person_has_several_rows(["a", "b", "1", "2"])
    assert person_has_several_rows(["a", "b", "a"])
    assert person_has_several_rows(["1", 1.0])
    assert person_has_several_rows([None, ""])
    assert not person_has_several_rows([])
