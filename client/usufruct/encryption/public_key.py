"""The bytes of a round's public key (numpy only).

A key is a pair (b, a) of polynomials modulo q p. A coefficient k travels as its quotient and its remainder by the
special prime, k = k' p + k'' with 0 <= k' < q and 0 <= k'' < p, which is what an encryption of zero is made from.
"""

from __future__ import annotations

import numpy as np

from usufruct.encryption.layout import Coefficients, Header, Kind, check_header, join_planes, split_planes
from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.errors import InvalidInput


def public_key_to_bytes(parameters: EncryptionParameters, coefficients: Coefficients) -> bytes:
    """Our bytes of a public key, shape [2, 2, N]: of b, then of a, the quotients, then the remainders; each in
    planes of its own width.
    """
    out = bytearray(parameters.public_key_bytes)
    out[:HEADER_BYTES] = Header(Kind.PUBLIC_KEY, parameters.parameter_id, 0).to_bytes()
    with memoryview(out) as view:
        for part, (start, end, width, _) in zip(coefficients.reshape(4, -1), _parts(parameters), strict=True):
            with view[start:end] as target:
                split_planes(part, width, target)
    return bytes(out)


def public_key_from_bytes(parameters: EncryptionParameters, data: bytes) -> Coefficients:
    """Another party's public key, shape [2, 2, N], each number checked against its prime.

    Raises:
        InvalidInput: ``PUBLIC_KEY_INVALID``: length, header or range.
    """
    reason = "PUBLIC_KEY_INVALID"
    check_header(data, Header(Kind.PUBLIC_KEY, parameters.parameter_id, 0), reason=reason)
    if len(data) != parameters.public_key_bytes:
        raise InvalidInput(
            f"{len(data)} bytes where a public key has {parameters.public_key_bytes}.",
            reason=reason,
            field="length",
        )
    view = memoryview(data)
    coefficients = np.empty((4, parameters.poly_modulus_degree), dtype=np.uint64)
    for row, (start, end, width, prime) in zip(coefficients, _parts(parameters), strict=True):
        row[:] = join_planes(view[start:end], parameters.poly_modulus_degree, width)
        if int(row.max()) >= prime:
            raise InvalidInput(
                "A public-key coefficient is not below its modulus.", reason=reason, field="coefficient"
            )
    return coefficients.reshape(2, 2, -1)


def _parts(parameters: EncryptionParameters) -> list[tuple[int, int, int, int]]:
    """(start, end, bytes per coefficient, bound) of the four rows of a public key."""
    parts, start = [], HEADER_BYTES
    for _ in range(2):
        for width, prime in (
            (parameters.bytes_per_coefficient, parameters.coeff_modulus),
            (parameters.bytes_per_special_coefficient, parameters.special_modulus),
        ):
            end = start + width * parameters.poly_modulus_degree
            parts.append((start, end, width, prime))
            start = end
    return parts
