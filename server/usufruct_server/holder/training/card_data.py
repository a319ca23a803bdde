"""Reads a holder's file as its dataset card describes it.

CSV and Parquet, through Hugging Face ``datasets`` in streaming mode, which keeps no copy on disk; nothing here
touches the network. No error carries a value of the data, and none is chained to one that could.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import PreparedData, person_has_several_rows, prepare_columns
from usufruct.errors import ConfigError, InvalidInput, Refused

_FORMATS = {".csv": "csv", ".parquet": "parquet"}
_ROWS_AT_ONCE = 4096
_LONGEST_FIELD = 1 << 30
"""Of the first row, which is looked at to see that there is one: an image may be long."""


def load_card_data(
    path: Path, card: DatasetCard, *, as_columns: bool = False, tokenizer: Path | None = None
) -> PreparedData:
    """All rows of ``path`` as numbers, in the order of the file.

    Works for no rows, few rows and rows of one class alike. Every CSV value is read as text, so that nothing is
    inferred from the rows; the card alone says what they mean.

    Args:
        as_columns, tokenizer: as :func:`usufruct.domain.preprocessing.prepare_columns` has them.
    Raises:
        Refused: PERSON_HAS_SEVERAL_ROWS, when the card names a person column and a person is there twice.
        InvalidInput: DATA_UNREADABLE, when the file is missing, not of its format, lacks a column of the card, or has more rows
            than the card's nominal size; or the tokeniser cannot be used.
    """
    names = [column.name for column in card.columns] + [card.label.column]
    if card.person_column is not None:
        names.append(card.person_column)
    columns = _read(Path(path), names)
    if card.person_column is not None and person_has_several_rows(columns[card.person_column]):
        raise Refused(
            f"A person of the column {card.person_column!r} has more than one row. Keep one row a person, or register "
            "the dataset without a person column if a row is what has to be protected.",
            reason="PERSON_HAS_SEVERAL_ROWS",
            field=card.person_column,
        )
    if len(columns[card.label.column]) > card.nominal_size:
        raise _unreadable(
            "The data have more rows than the card's nominal_size declares, for which the trainer has no places. Register the "
            "dataset anew with a nominal_size that is no smaller.",
            field="nominal_size",
        )
    try:
        return prepare_columns(card, columns, as_columns=as_columns, tokenizer=tokenizer)
    except ConfigError as error:  # of the tokeniser's file, which is no row
        raise _unreadable(error.message) from error


def _read(path: Path, names: list[str]) -> dict[str, list[Any]]:
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise _unreadable("The data must be a .csv or .parquet file.")
    if not path.is_file():
        raise _unreadable("The data file is not there, or may not be read.")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    missing, failed = "", ""
    try:
        found, has_rows = _describe_csv(path) if kind == "csv" else _describe_parquet(path)
        missing = next((name for name in names if name not in found), "")
        if has_rows and not missing:  # ``datasets`` fails on a file without rows, which a holder may have
            for batch in _csv_batches(path, found) if kind == "csv" else _parquet_batches(path, names):
                for name in names:
                    columns[name].extend(batch[name])
    except Exception as error:  # the text of a reader's error can quote rows; keep its type only
        failed = f"The data cannot be read as {kind} ({type(error).__name__})."
    if missing:
        raise _unreadable(f"The data have no column {missing!r}, which the card names.", field=missing)
    if failed:
        raise _unreadable(failed)
    return columns


def _csv_batches(path: Path, found: list[str]) -> Iterator[dict[str, list[Any]]]:
    """The file in pieces, columns by name, every value a text; bytes that are no UTF-8 are replaced, as no row may stop a
    reader. ``datasets`` wants a cache directory for a lock file: a private one."""
    from datasets import Features, Value, load_dataset

    texts = Features({name: Value("string") for name in found})
    with TemporaryDirectory(prefix="usufruct-reader-") as private:
        rows = load_dataset(
            "csv", data_files=str(path), split="train", streaming=True, cache_dir=private, features=texts,
            keep_default_na=False, encoding_errors="replace",
        )  # fmt: skip
        yield from rows.iter(batch_size=_ROWS_AT_ONCE)


def _parquet_batches(path: Path, names: list[str]) -> Iterator[dict[str, list[Any]]]:
    """The file in pieces, columns by name, by Arrow alone: ``datasets`` would decode images and open the files that they name,
    if the file's own metadata said so."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names):
            yield batch.to_pydict()


def _describe_csv(path: Path) -> tuple[list[str], bool]:
    """Names of the columns, and whether there is a row."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        return next(rows, []), next(rows, None) is not None


def _describe_parquet(path: Path) -> tuple[list[str], bool]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names), file.metadata.num_rows > 0


def _unreadable(message: str, **details: Any) -> InvalidInput:
    return InvalidInput(message, reason="DATA_UNREADABLE", **details)
