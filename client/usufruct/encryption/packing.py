"""Integers <-> plaintext words.

Value i of a block of k*N values stands in field i // N of coefficient i % N: neighbours in memory stay
neighbours, so packing is k shifted additions of whole slices. The fields v_j of one coefficient are packed as ONE
number, sum of v_j * 2^(w*j) modulo the whole word t, and never reduced field by field: were each field reduced by
itself, the sum would tell how many holders' shares wrapped around (research/soundness, rule 4). t divides 2^64, so
machine words do it for negative numbers too.

The sum of the words is the word of the sums, modulo t. Its digits, each within ``least_sum`` and 2^w - 1 above it,
are the sums themselves wherever these are all in that range: always for bounded values; for signed sums wherever
value, noise and headroom were calibrated to fit. A sum that does not fit is off by a multiple of 2^w and passes a
carry on, which is computed from the exact total word alone and so tells no more than that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import InvalidInput

Integers = NDArray[np.integer]


def check_values(parameters: EncryptionParameters, values: Integers) -> None:
    """Check that ``values`` is a non-empty 1-d integer array within least_value..max_value.

    Signed sums take every int64, since clamping a noised share would bias it (research/soundness, rule 4).

    Raises:
        InvalidInput: names what is wrong, never a value or a position (they come from data).
    """
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InvalidInput("An update is a one-dimensional integer array.", reason="INTERNAL", field="values")
    if values.size == 0:
        raise InvalidInput("An update has at least one value.", reason="INTERNAL", field="values")
    least, most, possible = parameters.least_value, parameters.max_value, np.iinfo(values.dtype)
    if least <= possible.min and possible.max <= most:
        return
    if int(values.min()) < least or int(values.max()) > most:
        raise InvalidInput(
            f"Values of an update lie within {least}..{most}; quantise and clamp before encrypting.",
            reason="INTERNAL",
            field="values",
            limit=most,
        )


def pack_block(parameters: EncryptionParameters, values: Integers) -> Coefficients:
    """Pack at most ``values_per_block`` checked values into plaintext words, shape [N], each below t."""
    n, width = parameters.poly_modulus_degree, parameters.literal.field_bits
    message = np.zeros(n, dtype=np.uint64)
    for field, start in enumerate(range(0, values.size, n)):
        part = values[start : start + n].astype(np.uint64)  # of negative numbers, their value modulo 2^64
        part <<= np.uint64(width * field)
        message[: part.size] += part
    if parameters.signed:
        message &= np.uint64(parameters.plain_modulus - 1)
    return message


def unpack_block(parameters: EncryptionParameters, message: Coefficients) -> NDArray[np.int64]:
    """The fields of plaintext words (shape [N]) in the order of :func:`pack_block`, shape [k*N].

    Each is within ``least_sum`` and 2^field_bits - 1 above it.
    """
    width, fields, least = (
        parameters.literal.field_bits,
        parameters.literal.fields_per_coefficient,
        parameters.least_sum,
    )
    mask = np.int64((1 << width) - 1)
    # With -least added to every field each digit is one of 0..2^w - 1, so that none borrows from the next.
    raised = message.view(np.int64) + np.int64(sum(-least << (width * field) for field in range(fields)))
    out = np.empty((fields, parameters.poly_modulus_degree), dtype=np.int64)
    for field, digits in enumerate(out):
        np.right_shift(raised, width * field, out=digits)
        digits &= mask
        if least:
            digits += least
    return out.reshape(-1)
