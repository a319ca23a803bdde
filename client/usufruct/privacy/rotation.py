"""Random rotation in blocks, in exact integers: spreads a vector over its coordinates before they are rounded.

A block of b = 2^k coordinates becomes ``H D x``: signs D, then the Hadamard matrix H of entries +-1 (Sylvester), so that
``H H = b`` and norms grow by exactly sqrt(b). The signs are public; they serve accuracy (no coordinate grows large
whatever the data), never privacy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer
from usufruct.privacy.errors import RoundingInvalid
from usufruct.privacy.keystream import expand

MAXIMUM_BLOCK: Final = 1 << 15
MAXIMUM_PARAMETERS: Final = 10**9
SEED_BYTES: Final = 32
_SMALL: Final = 1024


def block_size(parameter_count: int) -> int:
    """Coordinates of a block: the largest power of two up to 2^15 that pads the vector by at most an eighth; below 1024
    parameters, the next power of two. A rule and not a choice, so that a receipt need not carry it.

    Raises:
        RoundingInvalid: not an integer from 1 to 10^9.
    """
    checked_integer("parameter_count", parameter_count, 1, MAXIMUM_PARAMETERS, RoundingInvalid)
    if parameter_count < _SMALL:
        return 1 << (parameter_count - 1).bit_length()
    block = MAXIMUM_BLOCK
    while 8 * (-parameter_count % block) > parameter_count:
        block //= 2
    return block


def padded_dimension(parameter_count: int) -> int:
    """Coordinates after padding with zeros to whole blocks; what sensitivities are computed with."""
    return parameter_count + -parameter_count % block_size(parameter_count)


def public_signs(seed: bytes, dimension: int) -> NDArray[np.int8]:
    """``dimension`` signs, +1 or -1, that every party derives from 32 public bytes, fresh for each attempt.

    Bits of AES-256-CTR under the seed, least significant bit of each byte first; a set bit is -1.

    Raises:
        RoundingInvalid: the seed is not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise RoundingInvalid(f"A seed of signs has {SEED_BYTES} bytes, not {len(seed)}.", field="seed")
    words = expand(seed, -(-dimension // 64))
    bits = np.unpackbits(words.view(np.uint8), count=dimension, bitorder="little")
    signs = bits.view(np.int8)
    signs *= -2
    signs += 1
    return signs


def hadamard(values: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """``H x`` for each block, shape ``(blocks * block,)``; its own inverse up to the factor ``block``.

    Exact, if every ``|x|`` is below ``2^63 / block``. A block is a matrix of index bits, high ones along the rows and low
    ones along the columns: butterflies over the rows, then over the columns, each along contiguous memory.
    """
    rows = 1 << ((block.bit_length() - 1) // 2)
    result = np.empty_like(values)
    work = np.empty((2, min(values.size, MAXIMUM_BLOCK)), dtype=np.int64)
    for start in range(0, values.size, MAXIMUM_BLOCK):  # as much as the cache holds; whole blocks
        part, out = (array[start : start + MAXIMUM_BLOCK] for array in (values, result))
        here, there = work[:, : part.size]
        here[:] = part
        here, there = _over_rows(here, there, rows, block // rows)
        _turned(there, here, rows, block // rows)
        here, there = _over_rows(there, here, block // rows, rows)
        _turned(out, here, block // rows, rows)
    return result


def _over_rows(
    values: NDArray[np.int64], other: NDArray[np.int64], rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The transform over the rows of every matrix [rows, columns] in ``values``; the result is in the first array given back."""
    half = rows // 2
    while half:
        shape = (-1, 2, half * columns)
        pairs, out = values.reshape(shape), other.reshape(shape)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        values, other = other, values
        half //= 2
    return values, other


def _turned(out: NDArray[np.int64], values: NDArray[np.int64], rows: int, columns: int) -> None:
    """Writes every matrix [rows, columns] in ``values`` into ``out``, transposed."""
    np.copyto(out.reshape(-1, columns, rows), values.reshape(-1, rows, columns).transpose(0, 2, 1))
