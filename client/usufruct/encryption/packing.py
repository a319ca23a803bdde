"""Bounded integers <-> plaintext coefficients.

Value i of a block of k*N values stands in field i // N of coefficient i % N: neighbours in memory stay
neighbours, so packing is k shifted additions of whole slices. Fields are wide enough for the sum over all
holders, so no carry ever passes from one field to the next (``EncryptionParameters`` refuses widths for which
it could).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import InvalidInput

Integers = NDArray[np.integer]


def check_values(parameters: EncryptionParameters, values: Integers) -> None:
    """Check that ``values`` is a non-empty 1-d integer array within 0..max_value.

    Raises:
        InvalidInput: names what is wrong, never a value or a position (they come from data).
    """
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InvalidInput("An update is a one-dimensional integer array.", reason="INTERNAL", field="values")
    if values.size == 0:
        raise InvalidInput("An update has at least one value.", reason="INTERNAL", field="values")
    if int(values.min()) < 0 or int(values.max()) > parameters.max_value:
        raise InvalidInput(
            f"Values of an update lie within 0..{parameters.max_value}; quantise and clamp before encrypting.",
            reason="INTERNAL",
            field="values",
            limit=parameters.max_value,
        )


def pack_block(parameters: EncryptionParameters, values: Integers) -> Coefficients:
    """Pack at most ``values_per_block`` checked values into plaintext coefficients, shape [N], below t."""
    n, width = parameters.poly_modulus_degree, parameters.literal.field_bits
    message = np.zeros(n, dtype=np.uint64)
    for field, start in enumerate(range(0, values.size, n)):
        part = values[start : start + n].astype(np.uint64)
        part <<= np.uint64(width * field)
        message[: part.size] += part
    return message


def unpack_block(parameters: EncryptionParameters, message: Coefficients) -> NDArray[np.int64]:
    """The fields of plaintext coefficients (shape [N]) in the order of :func:`pack_block`, shape [k*N]."""
    width, fields = parameters.literal.field_bits, parameters.literal.fields_per_coefficient
    mask = np.uint64((1 << width) - 1)
    out = np.empty((fields, parameters.poly_modulus_degree), dtype=np.int64)
    for field in range(fields):
        out[field] = (message >> np.uint64(width * field)) & mask
    return out.reshape(-1)
