"""Products modulo X^N + 1 in Python's integers: the slow reference of the fast paths."""

from __future__ import annotations

import numpy as np


def negacyclic(left: np.ndarray, ternary: np.ndarray) -> np.ndarray:
    """left * ternary, object array of shape [N]; 0 <= left < 2^80. By Kronecker substitution of 12 bytes."""
    n, size = len(left), 12
    whole = int.from_bytes(b"".join(int(value).to_bytes(size, "little") for value in left), "little")
    out = np.zeros(n, dtype=object)
    for sign in (1, -1):
        picked = b"".join(int(value == sign).to_bytes(size, "little") for value in ternary)
        product = (whole * int.from_bytes(picked, "little")).to_bytes(2 * n * size, "little")
        words = np.array(
            [int.from_bytes(product[at : at + size], "little") for at in range(0, len(product), size)],
            dtype=object,
        )
        out += sign * (words[:n] - words[n:])
    return out


def centred(numbers: np.ndarray, modulus: int) -> np.ndarray:
    """``numbers`` modulo ``modulus``, near 0."""
    return (numbers + modulus // 2) % modulus - modulus // 2
