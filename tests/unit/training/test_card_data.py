"""A holder's file is read as its card says, or refused with a reason, before a row is used and without a value in it."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct_server.holder.training.card_data import load_card_data

CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=(
        Column("age", "number", 0, 100, missing="midpoint"),
        Column("kind", "category", categories=("1", "NA"), missing="indicator"),
    ),
    label=Label("num", (("0",), ("1", "2"))),
    person_column=None,
    nominal_size=50,
    missing_markers=("?",),
)
WITH_PERSON = dataclasses.replace(CARD, person_column="patient")


def _csv(
    path: Path, *rows: tuple[object, ...], header: tuple[str, ...] = ("patient", "age", "kind", "num")
) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv_values_are_read_as_text_and_in_order(tmp_path: Path) -> None:
    path = _csv(tmp_path / "d.csv", ("p1", "75", "NA", "2"), ("p2", "?", "1.0", "0"), ("p3", "25", "", "1"))
    data = load_card_data(path, WITH_PERSON)
    assert data.features.tolist() == [[0.5, 0, 1, 0], [0, 1, 0, 0], [-0.5, 0, 0, 1]]
    assert data.labels.tolist() == [1, 0, 1]


def test_parquet_gives_the_same_as_csv(tmp_path: Path) -> None:
    table = pa.table(
        {"num": [2, 0, 1], "age": [75.0, None, 25.0], "kind": ["NA", "1", None], "patient": [1, 2, 3]}
    )
    parquet.write_table(table, tmp_path / "d.parquet")
    data = load_card_data(tmp_path / "d.parquet", WITH_PERSON)
    assert data.features.tolist() == [[0.5, 0, 1, 0], [0, 1, 0, 0], [-0.5, 0, 0, 1]]
    assert data.labels.tolist() == [1, 0, 1]


def test_more_rows_than_one_batch_of_the_reader_keep_their_order(tmp_path: Path) -> None:
    ages = np.random.default_rng(0).integers(0, 101, 9000)
    path = _csv(tmp_path / "d.csv", *((f"p{i}", age, 1, i % 3) for i, age in enumerate(ages)))
    data = load_card_data(path, dataclasses.replace(WITH_PERSON, nominal_size=9000))
    assert np.allclose(data.features[:, 0], ages / 50 - 1)
    assert data.labels.tolist() == [min(1, i % 3) for i in range(9000)]


@pytest.mark.parametrize(
    "rows", [[], [("p", 1, 1, 1)], [("p", 1, 1, "unknown")], [(f"p{i}", i, 1, 1) for i in range(30)]]
)
def test_few_rows_or_one_class_are_no_error(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    data = load_card_data(_csv(tmp_path / "d.csv", *rows), WITH_PERSON)
    assert data.features.shape == (sum(row[3] == 1 for row in rows), 4)


def test_an_empty_parquet_file_is_no_error(tmp_path: Path) -> None:
    parquet.write_table(
        pa.table({"num": pa.array([], pa.int64()), "age": [], "kind": []}), tmp_path / "d.parquet"
    )
    assert load_card_data(tmp_path / "d.parquet", CARD).features.shape == (0, 4)


@pytest.mark.parametrize("twice", [("p1", "p1"), ("1", "1.0"), ("", ""), ("x", " x ")])
def test_a_person_with_two_rows_is_refused(tmp_path: Path, twice: tuple[str, str]) -> None:
    path = _csv(tmp_path / "d.csv", (twice[0], 1, 1, 1), ("other", 2, 1, 0), (twice[1], 3, 1, 0))
    with pytest.raises(Refused, match="more than one row") as caught:
        load_card_data(path, WITH_PERSON)
    assert caught.value.reason == "PERSON_HAS_SEVERAL_ROWS"
    assert load_card_data(path, CARD).labels.tolist() == [1, 0, 0]  # a card of rows protects rows


def test_a_row_that_would_be_left_out_still_counts_for_its_person(tmp_path: Path) -> None:
    path = _csv(tmp_path / "d.csv", ("p1", 1, 1, "unknown"), ("p1", 3, 1, 0))
    with pytest.raises(Refused):
        load_card_data(path, WITH_PERSON)


def test_what_cannot_be_read_is_refused_without_a_value_of_it(tmp_path: Path) -> None:
    secret = "zebra-4711"
    broken = tmp_path / "broken.csv"
    broken.write_text(f"age,kind,num\n1,1,1\n{secret},1,1,{secret},5,6\n")
    binary = tmp_path / "binary.parquet"
    binary.write_bytes(secret.encode() * 100)
    other = tmp_path / "data.txt"
    other.write_text(secret)
    for path in (broken, binary, other, tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InvalidInput) as caught:
            load_card_data(path, CARD)
        error: BaseException | None = caught.value
        assert isinstance(error, UsufructError)
        assert error.reason == "DATA_UNREADABLE"
        while error is not None:  # nor in what it was raised from
            assert secret not in f"{error} {error.args} {getattr(error, 'details', '')}"
            error = error.__cause__ or error.__context__


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    if suffix == ".csv":
        _csv(path, ("p", 1, 1), header=("patient", "age", "num"))
    else:
        parquet.write_table(pa.table({"patient": ["p"], "age": [1], "num": [1]}), path)
    with pytest.raises(InvalidInput, match="no column 'kind'") as caught:
        load_card_data(path, CARD)
    assert caught.value.public_details == {"field": "kind"}


def test_nothing_of_the_data_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _csv(tmp_path / "d.csv", *((f"zebra{i}", i, 1, 1) for i in range(50)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    load_card_data(path, WITH_PERSON)
    assert list(scratch.iterdir()) == []


def test_bytes_that_are_no_text_and_a_long_first_row_stop_no_reader(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"age,kind,num\n1,\xff\xfe" + b"x" * 200_000 + b",1\n1,1,0\n")
    assert load_card_data(path, CARD).labels.tolist() == [1, 0]


def test_more_rows_than_the_card_declares_are_refused(tmp_path: Path) -> None:
    """The trainer has places for so many; without places, one row more would move others."""
    rows = [("p", 1, 1, 0)] * CARD.nominal_size
    assert len(load_card_data(_csv(tmp_path / "d.csv", *rows), CARD).labels) == CARD.nominal_size
    with pytest.raises(InvalidInput, match="nominal_size") as caught:
        load_card_data(_csv(tmp_path / "d.csv", *rows, rows[0]), CARD)
    assert caught.value.reason == "DATA_UNREADABLE"


def test_what_a_parquet_file_says_of_its_columns_opens_nothing(tmp_path: Path) -> None:
    """Metadata by which ``datasets`` would decode a column as images, and open the files that its values name."""
    table = pa.table({"age": ["1"], "kind": ["NA"], "num": ["1"]})
    features = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names}
    said = {"info": {"features": {**features, "kind": {"_type": "Image"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    parquet.write_table(table, tmp_path / "d.parquet")
    assert load_card_data(tmp_path / "d.parquet", CARD).labels.tolist() == [1]
