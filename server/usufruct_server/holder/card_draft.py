"""Drafts a dataset card from a data file: names and kinds of columns, and nothing that was read off the rows.

Bounds and categories stay open for a person to fill in: inferring them from the data would be a release. The kind is
a guess from the file's own types (Parquet) or from whether a few values look like numbers or sentences (CSV); a person corrects it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from usufruct.domain.dataset_card import CARD_VERSION, PREPROCESSING
from usufruct.errors import InvalidInput

FILL_IN = "FILL-IN"
"""What stands where a person has to write something."""
_ROWS_LOOKED_AT = 50
_WORDS_OF_A_TEXT = 8


def draft_card(data: Path | None, name: str) -> dict[str, Any]:
    """A card as JSON values, with :data:`FILL_IN` wherever a person has to write.

    Args:
        data: CSV or Parquet; None drafts one example column.
    Raises:
        InvalidInput: DATA_UNREADABLE.
    """
    kinds = _kinds(data) if data else {"age": "number", "sex": "category", "label": "category"}
    names = list(kinds)
    features, label = names[:-1], names[-1]
    return {
        "version": CARD_VERSION,
        "name": name,
        "task": FILL_IN,
        "description": "",
        "columns": [_column(column, kinds[column]) for column in features],
        "label": {"column": label, "classes": FILL_IN},
        "person_column": None,
        "nominal_size": FILL_IN,
        "missing_markers": [],
        "preprocessing": [
            *PREPROCESSING,
            *([FILL_IN] if "text" in [kinds[name] for name in features] else []),
        ],
        "mock_rows": [],
        "unit_of_privacy": "row",
    }


def unfinished(card: Any, place: str = "") -> list[str]:
    """Where a card still says :data:`FILL_IN`, as ``columns[age].minimum``."""
    if card == FILL_IN:
        return [place]
    if isinstance(card, dict):
        return [
            p
            for key, value in card.items()
            for p in unfinished(value, f"{place}.{key}" if place else str(key))
        ]
    if isinstance(card, list):
        return [
            p
            for index, value in enumerate(card)
            for p in unfinished(
                value, f"{place}[{value.get('name', index) if isinstance(value, dict) else index}]"
            )
        ]
    return []


def _column(name: str, kind: str) -> dict[str, Any]:
    if kind == "number":
        return {"name": name, "kind": kind, "minimum": FILL_IN, "maximum": FILL_IN, "missing": "midpoint"}
    if kind == "text":
        return {"name": name, "kind": kind, "missing": "padding"}
    return {"name": name, "kind": kind, "categories": FILL_IN, "missing": "indicator"}


def _kinds(data: Path) -> dict[str, str]:
    """Column name to kind, in the file's order."""
    try:
        kinds = _parquet_kinds(data) if data.suffix.lower() == ".parquet" else _csv_kinds(data)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(
            f"{data} cannot be read ({type(error).__name__}).", reason="DATA_UNREADABLE"
        ) from error
    if len(kinds) < 2:
        raise InvalidInput(
            f"{data} needs a header with at least a feature column and a label.", reason="DATA_UNREADABLE"
        )
    return kinds


def _parquet_kinds(data: Path) -> dict[str, str]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        schema = pyarrow.parquet.read_schema(data)
    except pyarrow.ArrowException as error:
        raise InvalidInput(f"{data} is not a Parquet file.", reason="DATA_UNREADABLE") from error
    numbers = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_decimal)
    return {
        field.name: "number" if any(test(field.type) for test in numbers) else "category" for field in schema
    }


def _csv_kinds(data: Path) -> dict[str, str]:
    with data.open("r", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        numeric, longest = dict.fromkeys(names, True), dict.fromkeys(names, 0)
        for _, row in zip(range(_ROWS_LOOKED_AT), reader, strict=False):
            for name in names:
                value = row.get(name) or ""
                numeric[name] = numeric[name] and _looks_like_number(value)
                longest[name] = max(longest[name], len(value.split()))
    return {
        name: "number" if numeric[name] else "text" if longest[name] >= _WORDS_OF_A_TEXT else "category"
        for name in names
    }


def _looks_like_number(value: str) -> bool:
    if value.strip() in ("", "?", "NA", "NaN", "nan"):
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True
