"""The secret polynomials of an encryption: ternary and centred binomial, from an AES-256 key stream.

Both are exact functions of uniform bits, without branches or tables that depend on them:

* **ternary**: x uniform in 1..2^62 - 1, of which there are 3 * (2^62 - 1) / 3; floor(3 x / 2^62) - 1 takes each of
  -1, 0, 1 equally often. (A word with x = 0 comes once in 2^62; the whole draw is then made anew.)
* **centred binomial** of 21 pairs of bits, as SEAL's: the first of every pair counts 1, the second -1. 1 less a bit is
  a bit, so that is the number of ones among 42 bits, less 21. Its standard deviation is sqrt(21/2) = 3.24.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_PAIRS = 21
_WORD_BYTES = 8
_CIPHER_BLOCK_BYTES = 16


class SecretSampler:
    """Draws what encryptions of zero need; no bit of its key stream is used twice. Not thread-safe.

    *Guarantee*: its draws are independent and have exactly the distributions above, but for the advantage of telling
    AES-256 in counter mode, under a key from ``os.urandom``, from random bits: at most B^2 / 2^129 for B cipher blocks
    if AES is a pseudo-random permutation, 2^-76 for an update of 10^8 values. A process that is forked must call
    :meth:`restart` before it draws.
    """

    def __init__(self, poly_modulus_degree: int, most_rows: int) -> None:
        self._words_a_row = 3 * poly_modulus_degree
        size = most_rows * self._words_a_row * _WORD_BYTES
        self._zeros = bytes(size)
        # update_into asks for room of one cipher block more, less one byte, though it leaves it alone
        self._buffer = bytearray(size + _CIPHER_BLOCK_BYTES - 1)
        self._words = np.frombuffer(self._buffer, dtype=np.uint64, count=size // _WORD_BYTES)
        self._stream: Any
        self.restart()

    def restart(self) -> None:
        """Go on under a fresh key."""
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self.wipe()

    def draw(self, ternary: NDArray[np.float64], errors: NDArray[np.int8]) -> None:
        """Fill ``ternary``, shape [rows, N], and ``errors``, shape [rows, 2, N]."""
        words = self._words[: len(ternary) * self._words_a_row]
        thirds, bits = words[: ternary.size], words[ternary.size :]
        self._random(words)
        thirds >>= np.uint64(2)
        while not thirds.all():
            self._random(words)
            thirds >>= np.uint64(2)
        thirds *= np.uint64(3)
        thirds >>= np.uint64(62)
        np.subtract(thirds.view(np.int64).reshape(ternary.shape), 1, out=ternary)
        bits &= np.uint64((1 << 2 * _PAIRS) - 1)
        np.bitwise_count(bits.reshape(errors.shape), out=errors.view(np.uint8))
        errors -= np.int8(_PAIRS)

    def wipe(self) -> None:
        """Overwrite the last draw's bits."""
        self._words.fill(0)

    def _random(self, words: NDArray[np.uint64]) -> None:
        """Fill ``words``, which are the first of the buffer, with the next of the key stream."""
        self._stream.update_into(memoryview(self._zeros)[: words.nbytes], self._buffer)
