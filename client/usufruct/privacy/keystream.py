"""Uniform words that nobody else has, has had, or will have: AES-256-CTR under a key for every block.

There is no generator object: a key is made, expanded into one block and dropped, inside one call. So there is
nothing that a fork could share, a restart repeat, a pickle carry away or a restored image of the process use
again.
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint64]

BLOCK_WORDS: Final = 1 << 15
"""Words of one key: a quarter of a mebibyte, so that what is computed from them stays in the cache. A key costs about
ten microseconds, a block about four hundred to turn into noise."""

_ZEROS: Final = bytes(BLOCK_WORDS * 8)


def fresh_words(count: int) -> Words:
    """``count <= BLOCK_WORDS`` independent uniform 64-bit words, shape ``(count,)``.

    Method: the key is HMAC-SHA-256 of process id, wall clock and monotonic clock under 32 bytes from the operating
    system; the words are AES-256 of the counter 0, 1, 2, ... under it.

    *Guarantee*: uniform and independent of every other block, in this and any other process, as far as HMAC-SHA-256
    and AES-256 are pseudo-random functions and the operating system's bytes are fresh. Where they are not (two
    machines restored from one image, before their kernels have noticed), the keys still differ unless both
    processes ask in the same nanosecond of both clocks.
    """
    moment = struct.pack("<qqq", os.getpid(), time.time_ns(), time.monotonic_ns())
    return expand(hmac.digest(os.urandom(32), moment, "sha256"), count)


def expand(key: bytes, count: int) -> Words:
    """The first ``count`` words of AES-256-CTR under ``key`` (32 bytes), from counter zero. A key is used once."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros = memoryview(_ZEROS)[: 8 * count] if count <= BLOCK_WORDS else bytes(8 * count)
    return np.frombuffer(encryptor.update(zeros), dtype="<u8")
