"""From raw rows to numbers, by what a dataset card declares and by nothing else.

A data holder and a model builder run the same function, on training rows and on validation rows, and get columns that
mean the same. Nothing is ever fitted to rows: a mean, a quantile or a category list read off the data would be a
release. No value can make this fail: what cannot be read counts as missing, by the column's declared rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usufruct.domain.dataset_card import Column, DatasetCard
from usufruct.domain.tokens import TokenizerFile
from usufruct.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Rows as numbers.

    Attributes:
        features: shape (rows, ``*feature_shape(card)``): float32, every value in [-1, 1], of the card's extractor if it has one;
            of an image its pixels, in [0, 1]; of a text its token ids, int64. Columns as such (:func:`prepare_columns`) have
            NaN for a missing number.
        labels: int64, shape (rows,): the index of the class.
    """

    features: NDArray[np.float32] | NDArray[np.int64]
    labels: NDArray[np.int64]

    @cached_property
    def squared_lengths(self) -> NDArray[np.float64]:
        """Of each row's features, shape (rows,); what is not finite has none that is."""
        flat = self.features.reshape(len(self.features), math.prod(self.features.shape[1:]))
        lengths: NDArray[np.float64] = np.einsum("ij,ij->i", flat, flat, dtype=np.float64)
        return lengths


def feature_names(card: DatasetCard) -> tuple[str, ...]:
    """One name per feature: the column's own for a number; ``column=category`` for a category, and
    ``column is missing`` where the card gives missing values an indicator. Those of an extractor or a tokeniser are numbered,
    and differ where its digest does. An image is one."""
    if card.extractor is not None:
        name = card.extractor.digest[:16]
        return tuple(f"{name} {index}" for index in range(card.extractor.features))
    if card.pixels is not None:
        return (card.pixels.step,)
    if card.tokens is not None:
        return tuple(f"{card.tokens.step} {index}" for index in range(card.tokens.length))
    names: list[str] = []
    for column in card.columns:
        if column.kind == "number":
            names.append(column.name)
        else:
            names += [f"{column.name}={category}" for category in column.categories]
            if column.missing == "indicator":
                names.append(f"{column.name} is missing")
    return tuple(names)


def feature_shape(card: DatasetCard) -> tuple[int, ...]:
    """Of a row's features; the input shape of a model for this dataset: [channels, height, width] of an image, otherwise how many
    there are."""
    return (feature_width(card),) if card.pixels is None else card.pixels.shape


def feature_width(card: DatasetCard) -> int:
    """How many features a row has."""
    if card.pixels is not None:
        return math.prod(card.pixels.shape)
    if card.tokens is not None:
        return card.tokens.length
    return card.extractor.features if card.extractor is not None else _columns_width(card)


def feature_type(card: DatasetCard) -> str:
    """``int64`` for token ids, otherwise ``float32``; the input type of a model for this dataset."""
    return "int64" if card.tokens is not None else "float32"


def column_features(card: DatasetCard) -> dict[str, slice]:
    """Which numbers are those of a column, before an extractor makes features of them."""
    places, at = {}, 0
    for column in card.columns:
        places[column.name] = slice(at, at + _width(column))
        at += _width(column)
    return places


def prepare_rows(
    card: DatasetCard, rows: Iterable[Mapping[str, Any]], tokenizer: Path | str | None = None
) -> PreparedData:
    """Prepares rows given one by one, as ``csv.DictReader`` gives them; see :func:`prepare_columns`."""
    kept = list(rows)
    names = [column.name for column in card.columns] + [card.label.column]
    for row in kept:
        for name in names:
            if name not in row:
                raise _no_column(name)
    return prepare_columns(card, {name: [row[name] for row in kept] for name in names}, tokenizer=tokenizer)


def prepare_columns(
    card: DatasetCard,
    columns: Mapping[str, Sequence[Any]],
    *,
    as_columns: bool = False,
    tokenizer: Path | str | None = None,
) -> PreparedData:
    """Prepares a table given by columns. The order of rows is kept; rows whose label is missing or not among the
    card's classes are left out.

    Numbers are clamped to their declared bounds and scaled to [-1, 1]; categories become one-hot columns, all zeros
    for an unknown one. Texts and numbers that mean the same (``1``, ``1.0``, ``"1"``) are the same category. Where the card
    names a feature extractor, it makes of every row by itself the features.

    Args:
        columns: every feature column and the label, all of the same length. Values are texts, numbers, flags or None.
        as_columns: whether columns are to be described and not learned from: a missing number stays one, as NaN, and nothing
            is extracted.
        tokenizer: file of the tokeniser that the card names, for a text.
    Raises:
        ConfigError: the tokeniser's file cannot be read.
        InvalidInput: DATA_UNREADABLE, when a column of the card is absent or its length differs. Names the column,
            never a value.
    """
    for name in [*(column.name for column in card.columns), card.label.column]:
        if name not in columns:
            raise _no_column(name)
    count = len(columns[card.label.column])
    for column in card.columns:
        if len(columns[column.name]) != count:
            raise InvalidInput(
                f"The column {column.name!r} has another length than the label.",
                reason="DATA_UNREADABLE",
                field=column.name,
            )
    markers = frozenset(_text(marker) for marker in card.missing_markers) | {""}
    classes = {_text(value): index for index, values in enumerate(card.label.classes) for value in values}
    labels = np.fromiter(
        (classes.get(_text(value), -1) for value in columns[card.label.column]), dtype=np.int64, count=count
    )
    known = labels >= 0
    if card.pixels is not None and not as_columns:
        return PreparedData(card.pixels(columns[card.columns[0].name])[known], labels[known])
    if card.tokens is not None and not as_columns:
        return PreparedData(_token_ids(card, columns, markers, tokenizer)[known], labels[known])
    features = np.zeros((count, _columns_width(card)), dtype=np.float32)
    at = 0
    for column in card.columns:
        values = columns[column.name]
        width = _width(column)
        if column.kind == "number":
            features[:, at] = _scaled(column, values, markers, keep_missing=as_columns)
        elif column.kind == "category":
            _one_hot(column, values, markers, features[:, at : at + width])
        at += width
    features = features[known]
    if card.extractor is not None and not as_columns:
        features = card.extractor(features)
    return PreparedData(features, labels[known])


def person_has_several_rows(persons: Sequence[Any]) -> bool:
    """Whether a name of a person occurs twice. Rows without a name cannot be told apart and count as one person."""
    return len({_text(person) for person in persons}) != len(persons)


def _columns_width(card: DatasetCard) -> int:
    return sum(map(_width, card.columns))


def _width(column: Column) -> int:
    if column.kind != "category":
        return 1
    return len(column.categories) + (column.missing == "indicator")


def _token_ids(
    card: DatasetCard,
    columns: Mapping[str, Sequence[Any]],
    markers: frozenset[str],
    tokenizer: Path | str | None,
) -> NDArray[np.int64]:
    if card.tokens is None or tokenizer is None:
        raise InvalidInput(
            "The card's rows are texts: name the file of its tokeniser.",
            reason="DATA_UNREADABLE",
            field="tokenizer",
        )
    values = columns[card.columns[0].name]
    texts = [value if isinstance(value, str) and _text(value) not in markers else None for value in values]
    return TokenizerFile.read(tokenizer).ids(texts, card.tokens)


def _scaled(
    column: Column, values: Sequence[Any], markers: frozenset[str], keep_missing: bool
) -> NDArray[np.float64]:
    low, high = _bounds(column)
    substitute = {
        "midpoint": low / 2 + high / 2,
        "minimum": low,
        "maximum": high,
        "zero": min(max(0.0, low), high),
    }[column.missing or "midpoint"]
    numbers = np.fromiter((_number(value, markers) for value in values), dtype=np.float64, count=len(values))
    known = np.isfinite(numbers)
    numbers = np.where(known, numbers, substitute)
    half = high / 2 - low / 2  # halves first: the difference of two finite bounds can overflow
    with np.errstate(all="ignore"):
        scaled = (np.clip(numbers, low, high) - (low / 2 + high / 2)) / half
    scaled = np.clip(np.nan_to_num(scaled), -1.0, 1.0)
    return np.where(known, scaled, math.nan) if keep_missing else scaled


def _one_hot(
    column: Column, values: Sequence[Any], markers: frozenset[str], out: NDArray[np.float32]
) -> None:
    index = {_text(category): at for at, category in enumerate(column.categories)}
    if column.missing == "indicator":
        index.update(dict.fromkeys(markers, len(column.categories)))
    for row, value in enumerate(values):
        at = index.get(_text(value))
        if at is not None:
            out[row, at] = 1.0


def _bounds(column: Column) -> tuple[float, float]:
    if column.minimum is None or column.maximum is None:
        raise InvalidInput(f"The column {column.name!r} has no declared bounds.", field=column.name)
    return float(column.minimum), float(column.maximum)


def _number(value: Any, markers: frozenset[str]) -> float:
    """The value as a float; NaN where it is missing or no number."""
    if _text(value) in markers:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _text(value: Any) -> str:
    """One text for all that means the same: ``1``, ``1.0``, ``" 1 "`` and ``"1.0"`` are ``"1"``; None and NaN are empty."""
    if value is None:
        return ""
    try:
        text = str(value).strip()
    except ValueError:  # an integer of thousands of digits
        return ""
    try:
        number = float(text)
    except ValueError:
        return text
    if math.isnan(number):
        return "" if not isinstance(value, str) else text
    if math.isfinite(number) and number == int(number) and abs(number) < 2**53:
        return str(int(number))
    return repr(number) if math.isfinite(number) else text


def _no_column(name: str) -> InvalidInput:
    return InvalidInput(
        f"The data have no column {name!r}, which the card names.", reason="DATA_UNREADABLE", field=name
    )
