"""A base model: tensors that jobs use and do not train, in one file that is known by its digest.

The file is safetensors in one form only: float32, names in ascending order, one after the other, no metadata, the header
padded with spaces to eight bytes. Its SHA-256 is the base model's digest, which `sha256sum` prints as well. Other
safetensors of float32 can be read, and have the digest of the same tensors in that form. No pickle, no torch.

Whoever reads one has it from another party: everything about its form is checked before a number is looked at, and
:meth:`BaseModel.check_values` looks at every number.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usufruct.errors import ConfigError, InvalidInput

LARGEST_BYTES = 4 << 30
MOST_TENSORS = 20_000
MOST_NESTING = 8
_STRING = re.compile(rb'(?s)"(?:[^"\\]|\\.)*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
LONGEST_NAME = 256
MOST_DIMENSIONS = 8
LARGEST_WEIGHT = 1e4
"""Absolute value of any weight, trained or not. Finite but huge weights make gradients overflow (measured), which clipping
survives only because the trainer zeroes such rows; this cap keeps honest models away from it."""

_LENGTH_BYTES = 8
_HEADER_BYTES_PER_TENSOR = 1 << 9

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Named tensors, float32; of a file they are views of it that cannot be written to."""

    tensors: Mapping[str, Vector]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file's one form, 32 bytes."""
        hash_ = hashlib.sha256()
        for part in self.parts():
            hash_.update(part)
        return hash_.digest()

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(values.size for values in self.tensors.values())

    def parts(self) -> Iterator[bytes | memoryview]:
        """The file's one form, piece by piece."""
        header: dict[str, Any] = {}
        end = 0
        for name in sorted(self.tensors):
            values = self.tensors[name]
            header[name] = {
                "dtype": "F32",
                "shape": list(values.shape),
                "data_offsets": [end, end + values.nbytes],
            }
            end += values.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH_BYTES)
        yield len(text).to_bytes(_LENGTH_BYTES, "little") + text
        for name in sorted(self.tensors):
            yield np.ascontiguousarray(self.tensors[name].reshape(-1), "<f4").data.cast("B")

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; it can be read by whoever may read the folder."""
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with scratch.open("wb") as file:
                for part in self.parts():
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            scratch.chmod(0o444)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def check_values(self) -> None:
        """Looks at every number.

        Raises:
            ConfigError: BASE_MODEL_INVALID: one is not finite, or too large.
        """
        for name, values in self.tensors.items():
            if not -LARGEST_WEIGHT <= float(values.min()) <= float(values.max()) <= LARGEST_WEIGHT:  # nor NaN
                raise _invalid(f"{name} has a value that is not finite or above {LARGEST_WEIGHT:g}")


def open_base_model(path: Path, largest_bytes: int = LARGEST_BYTES) -> BaseModel:
    """Maps a file and checks its form; no number is read and no memory taken.

    Raises:
        ConfigError: BASE_MODEL_INVALID: there is no such file, it is too large, or it is no safetensors of float32.
    """
    try:
        if not path.is_file():
            raise _invalid("there is no such file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not _LENGTH_BYTES < size <= largest_bytes:
                raise _invalid(f"it has {size} bytes; up to {largest_bytes} are allowed")
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _invalid(f"it cannot be read ({error.strerror})") from error
    begin = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if begin > size or begin % 4 or begin > _HEADER_BYTES_PER_TENSOR * (MOST_TENSORS + 1):
        raise _invalid("its header is longer than the file or than is allowed, or not aligned to four bytes")
    places = sorted(
        (_place(name, entry) for name, entry in _header(data[_LENGTH_BYTES:begin]).items()),
        key=lambda place: place[2],
    )
    tensors, free = {}, 0
    for name, shape, start, end in places:
        if start != free:
            raise _invalid("its tensors overlap, or leave a gap")
        free = end
        if begin + end > size:
            break
        tensors[name] = np.frombuffer(data, "<f4", math.prod(shape), begin + start).reshape(shape)
    if begin + free != size or not tensors:
        raise _invalid("its tensors do not fill the file")
    return BaseModel(MappingProxyType(tensors))


def digest_text(digest: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{digest.hex()}"


def read_digest(text: str) -> bytes:
    """The digest that :func:`digest_text` wrote.

    Raises:
        InvalidInput: it is none.
    """
    kind, _, digits = text.partition(":")
    if kind != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise InvalidInput("A base model's digest is sha256: and 64 hexadecimal digits.", field="base")
    return bytes.fromhex(digits)


def _header(data: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    try:
        if _nesting(data) > MOST_NESTING:  # a parser's stack is not the file's to overrun
            raise ValueError
        header = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _invalid("it is no safetensors file") from error
    if not isinstance(header, dict):
        raise _invalid("it is no safetensors file")
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise _invalid(f"it has more than {MOST_TENSORS} tensors")
    return header


def _nesting(data: bytes) -> int:
    """How deep the brackets of a JSON text go, those in its strings left out."""
    depth = deepest = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, and where the bytes begin and end after the header."""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise _invalid(f"a tensor's name is not of 1 to {LONGEST_NAME} printable characters")
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid("it is no safetensors file") from error
    if kind != "F32":
        raise _invalid(f"{name} is not float32; save the model in float32")
    whole = type(shape) is list and all(type(n) is int for n in (*shape, start, end))
    if not whole or len(shape) > MOST_DIMENSIONS or not all(0 < side <= LARGEST_BYTES for side in shape):
        raise _invalid(f"{name} has no shape that is allowed")
    if start < 0 or end - start != 4 * math.prod(shape):
        raise _invalid(f"{name} does not have the bytes of its shape")
    return name, tuple(shape), start, end


def _invalid(what: str) -> ConfigError:
    return ConfigError(f"This is not a base model that can be used: {what}.", reason="BASE_MODEL_INVALID")
