"""A base model's file: one form, one digest; and what another party may write into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from usufruct import graph
from usufruct.errors import ConfigError, InvalidInput
from usufruct.graph.base_model import LONGEST_NAME, MOST_TENSORS

TENSORS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([0.5], dtype=np.float32),
    "c.bias": np.array(-1.0, dtype=np.float32),
}


def _file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Bytes that look like safetensors, whatever the header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def _entry(shape: Any = (2,), start: Any = 0, end: Any = 8, kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def test_the_digest_is_the_sha_256_of_the_one_form(tmp_path: Path) -> None:
    base = graph.BaseModel(TENSORS)
    base.write(tmp_path / "base")
    data = (tmp_path / "base").read_bytes()
    assert hashlib.sha256(data).digest() == base.digest
    header = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},'
        b'"c.bias":{"dtype":"F32","shape":[],"data_offsets":[28,32]}}'
    )
    header += b" " * (-len(header) % 8)
    values = np.array([0.5, 0, 1, 2, 3, 4, 5, -1], "<f4").tobytes()
    assert data == len(header).to_bytes(8, "little") + header + values


def test_what_is_written_is_read_here_and_by_safetensors(tmp_path: Path) -> None:
    graph.BaseModel(TENSORS).write(tmp_path / "base")
    found = graph.open_base_model(tmp_path / "base")
    assert found.parameters == 8
    for read in (found.tensors, load_file(tmp_path / "base")):
        assert set(read) == set(TENSORS)
        for name, values in TENSORS.items():
            assert read[name].dtype == np.float32
            assert np.array_equal(read[name], values)
            assert read[name].shape == values.shape
    found.check_values()
    assert not (tmp_path / "base").stat().st_mode & 0o222
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_another_writers_file_of_the_same_tensors_has_the_same_digest(tmp_path: Path) -> None:
    save_file(dict(reversed(TENSORS.items())), tmp_path / "other", metadata={"format": "pt"})
    graph.BaseModel(TENSORS).write(tmp_path / "own")
    assert (tmp_path / "other").read_bytes() != (tmp_path / "own").read_bytes()
    assert graph.open_base_model(tmp_path / "other").digest == graph.BaseModel(TENSORS).digest


@pytest.mark.parametrize(
    "other",
    [
        {**TENSORS, "a": np.array([0.25], np.float32)},
        {**TENSORS, "a": np.array([[0.5]], np.float32)},
        {("A" if name == "a" else name): values for name, values in TENSORS.items()},
        {**TENSORS, "d": np.array([0.5], np.float32)},
    ],
)
def test_any_other_value_shape_name_or_tensor_is_another_digest(other: dict[str, Any]) -> None:
    assert graph.BaseModel(other).digest != graph.BaseModel(TENSORS).digest


def test_a_mapped_base_model_cannot_be_written_to(tmp_path: Path) -> None:
    graph.BaseModel(TENSORS).write(tmp_path / "base")
    found = graph.open_base_model(tmp_path / "base")
    with pytest.raises(ValueError, match="read-only"):
        found.tensors["a"][0] = 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0001e4, -3e38])
def test_a_value_that_is_not_finite_or_huge_is_refused(tmp_path: Path, value: float) -> None:
    values = np.zeros(1000, np.float32)
    values[777] = value
    graph.BaseModel({"w": values}).write(tmp_path / "base")
    with pytest.raises(ConfigError, match="not finite or above") as caught:
        graph.open_base_model(tmp_path / "base").check_values()
    assert caught.value.reason == "BASE_MODEL_INVALID"


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda path: _bytes(path, b""),
    "a pickle": lambda path: _bytes(path, b"\x80\x04cposix\nsystem\n(S'true'\ntR." * 40),
    "a zip": lambda path: _bytes(path, b"PK\x03\x04" + bytes(200)),
    "no JSON": lambda path: _file(path, b"{" * 64),
    "brackets": lambda path: _file(path, b"[" * 100_000),
    "brackets behind others in a string": lambda path: _file(path, b'["' + b"]" * 50_000 + b'",' + b"[" * 50_000),
    "a list": lambda path: _file(path, [1, 2]),
    "no tensor": lambda path: _file(path, {}),
    "metadata only": lambda path: _file(path, {"__metadata__": {"a": "b"}}),
    "header longer than the file": lambda path: _file(path, {"w": _entry()}, bytes(8), length=1 << 40),
    "header of all the file": lambda path: _file(path, {"w": _entry()}, bytes(8), length=(1 << 64) - 1),
    "header not aligned": lambda path: _bytes(path, (13).to_bytes(8, "little") + b'{"w":{"a":1}}' + bytes(8)),
    "a name twice": lambda path: _file(path, b'{"w":%b,"w":%b}' % (2 * (json.dumps(_entry()).encode(),)), bytes(8)),
    "an empty name": lambda path: _file(path, {"": _entry()}, bytes(8)),
    "a long name": lambda path: _file(path, {"w" * (LONGEST_NAME + 1): _entry()}, bytes(8)),
    "a name that is no text": lambda path: _file(path, {"w\x1b[2J": _entry()}, bytes(8)),
    "too many tensors": lambda path: _file(
        path, {f"w{i}": _entry((1,), 4 * i, 4 * i + 4) for i in range(MOST_TENSORS + 1)}, bytes(4 * MOST_TENSORS + 4)
    ),
    "float64": lambda path: _file(path, {"w": _entry((1,), kind="F64")}, bytes(8)),
    "half": lambda path: _file(path, {"w": _entry((4,), kind="F16")}, bytes(8)),
    "an unknown type": lambda path: _file(path, {"w": _entry(kind=["F32"])}, bytes(8)),
    "no shape": lambda path: _file(path, {"w": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "a shape that is no list": lambda path: _file(path, {"w": _entry("2")}, bytes(8)),
    "a shape of floats": lambda path: _file(path, {"w": _entry((2.0,))}, bytes(8)),
    "a shape of booleans": lambda path: _file(path, {"w": _entry((True, 2))}, bytes(8)),
    "a negative shape": lambda path: _file(path, {"w": _entry((-1, -2))}, bytes(8)),
    "an empty tensor": lambda path: _file(path, {"w": _entry((0,), 0, 0), "v": _entry()}, bytes(8)),
    "a huge shape": lambda path: _file(path, {"w": _entry((1 << 40, 1 << 40))}, bytes(8)),
    "many dimensions": lambda path: _file(path, {"w": _entry((1,) * 9 + (2,))}, bytes(8)),
    "other bytes than the shape's": lambda path: _file(path, {"w": _entry((3,))}, bytes(8)),
    "a negative place": lambda path: _file(path, {"w": _entry(start=-8, end=0)}, bytes(8)),
    "a place that is no number": lambda path: _file(path, {"w": _entry(start="0")}, bytes(8)),
    "behind the end": lambda path: _file(path, {"w": _entry((4,), 0, 16)}, bytes(8)),
    "bytes of no tensor": lambda path: _file(path, {"w": _entry()}, bytes(12)),
    "a gap": lambda path: _file(path, {"w": _entry(), "v": _entry(start=12, end=20)}, bytes(20)),
    "an overlap": lambda path: _file(path, {"w": _entry(), "v": _entry(start=4, end=12)}, bytes(12)),
    "a folder": lambda path: _made(path.mkdir, path),
    "a pipe": lambda path: _made(lambda: os.mkfifo(path), path),
    "missing": lambda path: path,
}  # fmt: skip


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _made(make: Callable[[], object], path: Path) -> Path:
    make()
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_base_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graph.open_base_model(HOSTILE[name](tmp_path / "file"))
    assert caught.value.reason == "BASE_MODEL_INVALID"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    graph.BaseModel(TENSORS).write(tmp_path / "base")
    size = (tmp_path / "base").stat().st_size
    assert graph.open_base_model(tmp_path / "base", size).parameters == 8
    with pytest.raises(ConfigError, match="are allowed"):
        graph.open_base_model(tmp_path / "base", size - 1)


def test_damaged_files_are_refused_or_have_another_digest(tmp_path: Path) -> None:
    """A small file with every seventh byte flipped, and cut off there."""
    graph.BaseModel(TENSORS).write(tmp_path / "base")
    whole, digest = (tmp_path / "base").read_bytes(), graph.BaseModel(TENSORS).digest
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]):
            path = _bytes(tmp_path / "damaged", damaged)
            with suppress(ConfigError):  # and nothing else
                assert graph.open_base_model(path).digest != digest


def test_a_digest_is_text_and_back() -> None:
    digest = graph.BaseModel(TENSORS).digest
    assert graph.read_digest(graph.digest_text(digest)) == digest
    for text in ("", "sha256:", digest.hex(), f"sha1:{digest.hex()}", f"sha256:{digest.hex().upper()}", f"sha256:{digest.hex()}0"):  # fmt: skip
        with pytest.raises(InvalidInput):
            graph.read_digest(text)
