"""A dataset card is read strictly: it is the only source of preprocessing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from usufruct.domain.dataset_card import Column, DatasetCard, Label, card_hash, read_card
from usufruct.errors import InvalidInput

CARD = DatasetCard(
    name="example",
    task="example",
    description="",
    columns=(
        Column("age", "number", 0.0, 120.0, (), "midpoint"),
        Column("kind", "category", None, None, ("a", "b"), "indicator"),
    ),
    label=Label("sick", (("0",), ("1", "2"))),
    person_column=None,
    nominal_size=100,
    missing_markers=("?",),
    mock_rows=({"age": "50", "kind": "a", "sick": "0"},),
)


def test_a_card_survives_its_own_bytes() -> None:
    assert read_card(CARD.to_bytes()) == CARD
    assert card_hash(CARD.to_bytes()) != card_hash(replace(CARD, nominal_size=101).to_bytes())


def changed(**fields: Any) -> bytes:
    raw = json.loads(CARD.to_bytes())
    raw.update(fields)
    return json.dumps(raw).encode()


COLUMN = {"name": "age", "kind": "number", "minimum": 0, "maximum": 1}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"{", "card"),
        (b"[" * 100_000, "card"),
        (b'{"version":1,"version":1}', "card"),
        (changed(version=2), "version"),
        (changed(surprise=1), "card"),
        (changed(nominal_size=0), "nominal_size"),
        (changed(nominal_size=True), "nominal_size"),
        (changed(name=""), "name"),
        (changed(name="a\x1b[31m"), "name"),
        (changed(unit_of_privacy="person"), "unit_of_privacy"),
        (changed(preprocessing=["standardise"]), "preprocessing"),
        (changed(columns=[]), "columns"),
        (changed(columns=[COLUMN, COLUMN]), "columns"),
        (changed(columns=[{**COLUMN, "minimum": None}]), "columns[0]"),
        (changed(columns=[{**COLUMN, "minimum": 1, "maximum": 1}]), "columns[0]"),
        (changed(columns=[{**COLUMN, "minimum": float("nan")}]), "card"),
        (changed(columns=[{**COLUMN, "missing": "mean"}]), "columns[0]"),
        (changed(columns=[{"name": "k", "kind": "category", "categories": ["a", "a"]}]), "columns[0]"),
        (changed(label={"column": "sick", "classes": [["0"]]}), "classes"),
        (changed(label={"column": "sick", "classes": [["0"], ["0"]]}), "label.classes"),
        (changed(label={"column": "age", "classes": [["0"], ["1"]]}), "label"),
        (changed(person_column="age"), "person_column"),
        (changed(mock_rows=[{"age": 5}]), "mock_rows"),
    ],
)
def test_a_wrong_card_is_refused_with_the_field_that_is_wrong(data: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_card(data)
    assert caught.value.details["field"] == field


def test_deep_nesting_is_refused_whatever_the_recursion_limit() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        for data in (b"[" * 500_000, b'{"a":' * 100_000, b'{"name":"\\"[[[",' + b"[" * 500_000):
            with pytest.raises(InvalidInput):
                read_card(data)
    finally:
        sys.setrecursionlimit(before)


def test_brackets_inside_texts_are_no_nesting() -> None:
    assert (
        read_card(replace(CARD, description='[[[[{{{{"[[[[[[' * 20).to_bytes()).description.count("[") == 200
    )
