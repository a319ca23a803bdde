"""The dataset card: the public description of a dataset, and the only source of its preprocessing.

A card is canonical JSON; its Keccak-256 hash is on chain. Bounds and categories are *declared* by the holder from what
is known about the columns; reading them off the rows would be a release.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from eth_utils.crypto import keccak

from usufruct.domain.images import NAME as IMAGE
from usufruct.domain.images import Pixels
from usufruct.domain.scattering import Scattering
from usufruct.domain.tokens import NAME as TOKENIZER
from usufruct.domain.tokens import Tokens
from usufruct.errors import InvalidInput

CARD_VERSION = 1
DEEPEST_NESTING = 8
KINDS = ("number", "category", "text", "image")
MISSING_RULES = {
    "number": ("midpoint", "minimum", "maximum", "zero"),
    "category": ("indicator", "zeros"),
    "text": ("padding",),
    "image": ("black",),
}
PREPROCESSING = ("scale_by_declared_bounds", "one_hot_by_declared_categories")


@dataclass(frozen=True)
class Column:
    """One feature column.

    Attributes:
        name: of the column in the data.
        kind: ``"number"``, ``"category"``, or ``"text"`` or ``"image"``, which is the only one then.
        minimum, maximum: declared bounds of a number; values outside are clamped to them.
        categories: declared categories, as text; others become all zeros.
        missing: what stands for a missing value: ``midpoint``, ``minimum``, ``maximum`` or ``zero`` (of the declared
            bounds; zero is clamped into them) for a number; ``indicator`` (a column of its own) or ``zeros`` for a category;
            ``padding`` (a row of nothing else) for a text; ``black`` for an image.
    """

    name: str
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Label:
    """The column that is predicted. ``classes[i]`` are the values, as text, that mean class ``i``."""

    column: str
    classes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DatasetCard:
    """Public description of a dataset.

    Attributes:
        name, task, description: for people and for ``network.datasets(task=…)``.
        columns: feature columns, in order.
        label: what is predicted.
        person_column: column that names a person; None when one row is one unit of privacy.
        nominal_size: declared constant that sums are divided by; never counted from the data.
        missing_markers: texts that mean "missing", beside the empty one.
        preprocessing: allow-listed steps: :data:`PREPROCESSING`, and after them, where the columns are the pixels of an image,
            a feature extractor with its digest (:attr:`usufruct.domain.scattering.Scattering.step`); for a text the tokeniser with
            its own (:attr:`usufruct.domain.tokens.Tokens.step`); for an image its shape (:attr:`usufruct.domain.images.Pixels.step`).
        mock_rows: invented rows of the same shape, for trying things out.
    """

    name: str
    task: str
    description: str
    columns: tuple[Column, ...]
    label: Label
    person_column: str | None
    nominal_size: int
    missing_markers: tuple[str, ...] = ()
    preprocessing: tuple[str, ...] = PREPROCESSING
    mock_rows: tuple[dict[str, str], ...] = ()
    unit_of_privacy: str = "row"
    version: int = CARD_VERSION

    @property
    def extractor(self) -> Scattering | None:
        """What makes features of the columns, once they are numbers; None where these are the features.

        Raises:
            InvalidInput: the card names one that this version does not have; :func:`read_card` gives no such card.
        """
        step = self._further
        return Scattering.parse(step) if step and not step.startswith((TOKENIZER, IMAGE)) else None

    @property
    def tokens(self) -> Tokens | None:
        """What the ids of the text are that a row is; None where a row is numbers.

        Raises:
            InvalidInput: as for :attr:`extractor`.
        """
        return Tokens.parse(self._further) if self._further.startswith(TOKENIZER) else None

    @property
    def pixels(self) -> Pixels | None:
        """The shape of the image that a row is; None where it is none.

        Raises:
            InvalidInput: as for :attr:`extractor`.
        """
        return Pixels.parse(self._further) if self._further.startswith(IMAGE) else None

    @property
    def _further(self) -> str:
        """The step after those that every card has; empty where there is none."""
        return "".join(self.preprocessing[len(PREPROCESSING) :])

    def to_bytes(self) -> bytes:
        """Canonical JSON, UTF-8: sorted keys, no spaces. These are the bytes that are hashed and served."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def card_hash(card: bytes) -> bytes:
    """Keccak-256 of a card's exact bytes."""
    return keccak(card)


def read_card(data: bytes) -> DatasetCard:
    """Reads and checks a card.

    Args:
        data: JSON, at most 1 MiB.
    Raises:
        InvalidInput: naming the field that is wrong.
    """
    if len(data) > 1 << 20:
        raise InvalidInput("a dataset card is at most 1 MiB", reason="TOO_LARGE", field="card")
    try:
        need_flat(data)
        raw = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the dataset card is not valid JSON", field="card") from error
    _need(isinstance(raw, dict), "card", "must be an object")
    _only(raw, set(DatasetCard.__dataclass_fields__), "card")
    if raw.get("version") != CARD_VERSION:
        raise InvalidInput(
            "this version of the dataset card is not supported", reason="UNSUPPORTED_VERSION", field="version"
        )
    columns = tuple(_column(c, i) for i, c in enumerate(_list(raw, "columns", 1, 10_000)))
    card = DatasetCard(
        name=_text(raw, "name", 1, 200),
        task=_text(raw, "task", 1, 100),
        description=_text(raw, "description", 0, 10_000),
        columns=columns,
        label=_label(raw.get("label")),
        person_column=None if raw.get("person_column") is None else _text(raw, "person_column", 1, 200),
        nominal_size=_whole(raw, "nominal_size", 1, 10**12),
        missing_markers=tuple(_texts(raw, "missing_markers", 20)),
        preprocessing=tuple(_texts(raw, "preprocessing", 10)),
        mock_rows=tuple(_mock_row(r) for r in _list(raw, "mock_rows", 0, 100)),
        unit_of_privacy=_text(raw, "unit_of_privacy", 1, 20),
    )
    names = [c.name for c in columns]
    _need(len(set(names)) == len(names), "columns", "must have distinct names")
    _need(card.label.column not in names, "label", "must not be a feature column")
    _need(
        card.person_column not in [*names, card.label.column],
        "person_column",
        "must not be a feature or the label: take it out of columns",
    )
    _need(
        card.preprocessing[: len(PREPROCESSING)] == PREPROCESSING
        and len(card.preprocessing) <= len(PREPROCESSING) + 1,
        "preprocessing",
        f"must be {list(PREPROCESSING)}, and may end with a feature extractor, a tokeniser or the shape of an image",
    )
    whole = next((column.kind for column in columns if column.kind in ("text", "image")), None)
    _need(
        whole is None or len(columns) == 1,
        "columns",
        f"must be one {whole} and nothing else, where one is {whole}",
    )
    _need(
        (whole == "text") == (card.tokens is not None) and (whole == "image") == (card.pixels is not None),
        "preprocessing",
        "must end with a tokeniser where the column is a text, with a shape where it is an image, and only there",
    )
    if card.extractor is not None:
        pixels = card.extractor.height * card.extractor.width
        _need(
            len(columns) == pixels and all(column.kind == "number" for column in columns),
            "columns",
            f"must be the {pixels} pixels of an image as numbers, row by row, for this feature extractor",
        )
    _need(card.unit_of_privacy == "row", "unit_of_privacy", "must be 'row' in this version")
    return card


def _need(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise InvalidInput(f"dataset card: {field} {what}", field=field)


def need_flat(data: bytes) -> None:
    """Refuses JSON that nests deep, before it is parsed: where a library has raised Python's recursion limit, it would crash.

    Raises:
        ValueError: it does.
    """
    depth = 0
    for mark in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', data, re.DOTALL):
        if mark in (b"[", b"{"):
            depth += 1
            if depth > DEEPEST_NESTING:
                raise ValueError("nested too deep")
        elif mark in (b"]", b"}"):
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_constants(name: str) -> None:
    raise ValueError(name)


def _only(raw: dict[str, Any], allowed: set[str], field: str) -> None:
    unknown = sorted(set(raw) - allowed)
    _need(not unknown, field, f"has unknown keys {unknown[:5]}")


def _text(raw: dict[str, Any], field: str, shortest: int, longest: int) -> str:
    value = raw.get(field)
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise InvalidInput(
            f"dataset card: {field} must be text of {shortest} to {longest} characters", field=field
        )
    _need(all(ch.isprintable() or ch == "\n" for ch in value), field, "must be printable")
    return value


def _whole(raw: dict[str, Any], field: str, lowest: int, highest: int) -> int:
    value = raw.get(field)
    if type(value) is not int or not lowest <= value <= highest:
        raise InvalidInput(
            f"dataset card: {field} must be a whole number from {lowest} to {highest}", field=field
        )
    return value


def _list(raw: dict[str, Any], field: str, shortest: int, longest: int) -> list[Any]:
    value = raw.get(field)
    if not isinstance(value, list) or not shortest <= len(value) <= longest:
        raise InvalidInput(f"dataset card: {field} must be a list of {shortest} to {longest}", field=field)
    return value


def _texts(raw: dict[str, Any], field: str, longest: int) -> list[str]:
    values = _list(raw, field, 0, longest)
    _need(all(isinstance(v, str) and len(v) <= 200 for v in values), field, "must be a list of texts")
    return values


def _column(raw: Any, index: int) -> Column:
    field = f"columns[{index}]"
    _need(isinstance(raw, dict), field, "must be an object")
    _only(raw, set(Column.__dataclass_fields__), field)
    name, kind = _text(raw, "name", 1, 200), raw.get("kind")
    _need(kind in KINDS, field, f"kind must be one of {list(KINDS)}")
    missing = raw.get("missing") or MISSING_RULES[kind][0]
    _need(missing in MISSING_RULES[kind], field, f"missing must be one of {list(MISSING_RULES[kind])}")
    if kind == "category":
        categories = tuple(_texts(raw, "categories", 10_000))
        _need(len(set(categories)) == len(categories) >= 1, field, "needs distinct categories")
        _need(raw.get("minimum") is None and raw.get("maximum") is None, field, "a category has no bounds")
        return Column(name=name, kind=kind, categories=categories, missing=missing)
    if kind in ("text", "image"):
        declared = raw.get("minimum"), raw.get("maximum"), raw.get("categories") or None
        _need(
            declared == (None, None, None),
            field,
            f"a column of the kind {kind} has no bounds and no categories",
        )
        return Column(name=name, kind=kind, missing=missing)
    low, high = raw.get("minimum"), raw.get("maximum")
    _need(
        type(low) in (int, float) and type(high) in (int, float),
        field,
        "needs a declared minimum and maximum",
    )
    low, high = float(low), float(high)
    _need(
        math.isfinite(low) and math.isfinite(high) and low < high,
        field,
        "needs minimum < maximum, both finite",
    )
    _need(not raw.get("categories"), field, "a number has no categories")
    return Column(name=name, kind=kind, minimum=low, maximum=high, missing=missing)


def _label(raw: Any) -> Label:
    _need(isinstance(raw, dict), "label", "must be an object")
    _only(raw, {"column", "classes"}, "label")
    classes = _list(raw, "classes", 2, 1000)
    _need(all(isinstance(c, list) and c and all(isinstance(v, str) for v in c) for c in classes), "label.classes",
          'must be one list of texts for each class, such as [["0"], ["1"]]')  # fmt: skip
    flat = [v for c in classes for v in c]
    _need(len(set(flat)) == len(flat), "label.classes", "must not repeat a value")
    return Label(column=_text(raw, "column", 1, 200), classes=tuple(tuple(c) for c in classes))


def _mock_row(raw: Any) -> dict[str, str]:
    ok = isinstance(raw, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in raw.items())
    _need(ok, "mock_rows", 'must be objects of texts, such as {"age": "50"}')
    return dict(raw)
