"""The bytes of public keys, uploads and sums: a header of ours, then raw coefficients in byte planes (numpy
only).

Header, 32 bytes, little endian: magic ``USFR`` | version u16 | kind u16 | parameter id 16 bytes | count u64.
Then blocks. A block is one ciphertext, 2N coefficients below q (c0, then c1), split into *planes*: the low 32
bits of all its coefficients, then the next 16, then the next 8 (7 bytes a coefficient of 56 bits). Planes are
what numpy splits and joins fastest, and a block stands alone, so updates can be streamed.

Every function here refuses bytes that do not have exactly the length and range they must: nothing of another
party is used before that.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.errors import InvalidInput

MAGIC = b"USFR"
VERSION = 1
_HEADER = struct.Struct("<4sHH16sQ")

Coefficients = NDArray[np.uint64]


class Kind(IntEnum):
    """What follows a header."""

    PUBLIC_KEY = 1
    UPLOAD = 2
    SUM = 3


@dataclass(frozen=True)
class Header:
    """The first :data:`HEADER_BYTES` bytes of anything encrypted.

    Attributes:
        kind: what follows.
        parameter_id: :attr:`EncryptionParameters.parameter_id` of the sender.
        count: values carried (0 for a public key).
    """

    kind: Kind
    parameter_id: bytes
    count: int

    def to_bytes(self) -> bytes:
        """The header as it stands on the wire."""
        return _HEADER.pack(MAGIC, VERSION, int(self.kind), self.parameter_id, self.count)


def check_header(data: bytes | bytearray | memoryview, expected: Header, *, reason: str) -> None:
    """Check that ``data`` starts with exactly the header that this end expects.

    Raises:
        InvalidInput: with ``reason``; the message names the field that differs.
    """
    if len(data) < HEADER_BYTES:
        raise InvalidInput(
            f"The header has {len(data)} of {HEADER_BYTES} bytes.", reason=reason, field="length"
        )
    magic, version, kind, parameter_id, count = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise InvalidInput("These are not encrypted values of Usufruct.", reason=reason, field="magic")
    if version != VERSION:
        raise InvalidInput(
            f"The layout has version {version}; this end knows {VERSION}.", reason=reason, field="version"
        )
    if kind != expected.kind:
        raise InvalidInput(
            f"Expected kind {expected.kind.name}, not kind {kind}.", reason=reason, field="kind"
        )
    if parameter_id != expected.parameter_id:
        raise InvalidInput(
            "The encryption parameters of the two ends differ.", reason=reason, field="parameter_id"
        )
    if count != expected.count:
        raise InvalidInput(
            f"The header announces {count} values; the round has {expected.count}.",
            reason=reason,
            field="count",
        )


@functools.lru_cache
def plane_types(bytes_per_coefficient: int) -> tuple[np.dtype, ...]:
    """The planes of one coefficient, low bytes first: 7 bytes are 4 + 2 + 1."""
    widths = [width for width in (4, 2, 1) if bytes_per_coefficient & width]
    if sum(widths) != bytes_per_coefficient:
        raise ValueError("a coefficient has 1 to 7 bytes")
    return tuple(np.dtype(f"<u{width}") for width in widths)


def split_planes(coefficients: Coefficients, bytes_per_coefficient: int, out: memoryview) -> None:
    """Write ``coefficients`` (1-d, each below 2^(8 * bytes)) into ``out`` as byte planes.

    ``out`` has exactly ``coefficients.size * bytes_per_coefficient`` bytes.
    """
    first, *others = plane_types(bytes_per_coefficient)
    offset, shift = coefficients.size * first.itemsize, 8 * first.itemsize
    # "unsafe" casting keeps the low bits
    np.copyto(np.frombuffer(out, dtype=first, count=coefficients.size), coefficients, casting="unsafe")
    high = coefficients
    for dtype in others:
        high = np.right_shift(high, np.uint64(shift), out=None if high is coefficients else high)
        plane = np.frombuffer(out, dtype=dtype, count=coefficients.size, offset=offset)
        np.copyto(plane, high, casting="unsafe")
        offset, shift = offset + coefficients.size * dtype.itemsize, 8 * dtype.itemsize


def join_planes(data: memoryview, size: int, bytes_per_coefficient: int) -> Coefficients:
    """The ``size`` coefficients whose byte planes ``data`` holds; a fresh array."""
    first, *others = plane_types(bytes_per_coefficient)
    joined = np.frombuffer(data, dtype=first, count=size).astype(np.uint64)
    offset, shift = size * first.itemsize, 8 * first.itemsize
    for dtype in others:
        plane = np.frombuffer(data, dtype=dtype, count=size, offset=offset).astype(np.uint64)
        plane <<= np.uint64(shift)
        joined |= plane
        offset += size * dtype.itemsize
        shift += 8 * dtype.itemsize
    return joined


def decode_block(parameters: EncryptionParameters, block: memoryview) -> Coefficients:
    """Coefficients of one ciphertext block that has been checked before, shape [2N]."""
    return join_planes(block, 2 * parameters.poly_modulus_degree, parameters.bytes_per_coefficient)


def read_block(parameters: EncryptionParameters, block: memoryview, *, reason: str) -> Coefficients:
    """Coefficients of one ciphertext block, shape [2N], each checked to be below q.

    Raises:
        InvalidInput: with ``reason``, for a wrong length or a coefficient out of range.
    """
    if len(block) != parameters.block_bytes:
        raise InvalidInput("A ciphertext block has a wrong length.", reason=reason, field="length")
    coefficients = decode_block(parameters, block)
    if int(coefficients.max()) >= parameters.coeff_modulus:
        raise InvalidInput(
            "A coefficient is not below the coefficient modulus.", reason=reason, field="coefficient"
        )
    return coefficients


def blocks_of(
    parameters: EncryptionParameters,
    data: bytes | bytearray | memoryview,
    kind: Kind,
    count: int,
    *,
    reason: str,
) -> Iterator[Coefficients]:
    """Check header and length of a whole upload or sum, then yield its checked blocks one by one.

    Raises:
        InvalidInput: with ``reason``; a late block may be the one refused, so use nothing before the end.
    """
    check_header(data, Header(kind, parameters.parameter_id, count), reason=reason)
    expected = parameters.upload_bytes(count)
    if len(data) != expected:
        raise InvalidInput(
            f"{len(data)} bytes where {count} values need {expected}.",
            reason=reason,
            field="length",
            limit=expected,
        )
    body = memoryview(data)[HEADER_BYTES:]
    for start in range(0, len(body), parameters.block_bytes):
        yield read_block(parameters, body[start : start + parameters.block_bytes], reason=reason)
