"""Noise and samples from a cryptographic generator.

Every call draws a fresh AES-256 key from the operating system and expands it in counter mode; the key is
dropped when the call returns. So nothing is kept that a fork, a restart or a restored image of the process
could use again, and no two calls share a keystream. A key costs about a microsecond, the stream about 0.2
ns a byte.

The transforms from random words to samples are pure functions beside it, so that tests can fix the words.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.mechanism import MINIMUM_SAMPLE_RATE

_BLOCK_WORDS: Final = 1 << 16
"""Words turned into samples at once: half a mebibyte, so that the working arrays stay in the cache."""
_MAXIMUM_COUNT: Final = 2**40
_KEY_BYTES: Final = 32
_WORD_BYTES: Final = 8


class _Keystream:
    """One key, one pass. Lives inside one call of the functions below."""

    def __init__(self) -> None:
        # A fresh key for every stream: the all-zero counter block is then used once per key.
        cipher = Cipher(algorithms.AES(os.urandom(_KEY_BYTES)), modes.CTR(bytes(16)))
        self._encryptor = cipher.encryptor()
        self._zeros = bytes(_BLOCK_WORDS * _WORD_BYTES)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``count <= _BLOCK_WORDS`` uniform 64-bit words."""
        stream = self._encryptor.update(memoryview(self._zeros)[: count * _WORD_BYTES])
        return np.frombuffer(stream, dtype=np.uint64)


def gaussian(count: int, standard_deviation: float) -> NDArray[np.float64]:
    """``count`` independent Gaussian samples of mean 0, shape ``(count,)``.

    Method: Box-Muller in float64 from 64-bit words; the radius takes all 64 bits of its word, so the tail
    reaches 9.5 standard deviations (a normal exceeds that once in 10^21 draws). About 20 ns a sample.

    Guarantee: independent of every other call in this and any other process, as far as AES-256 and the
    operating system's generator hold. What it is not: an exact or discrete sampler. The samples are
    float64, their distribution is that of a Gaussian up to rounding (relative 1e-15) and the cut tail, and
    the lowest bits of ``x + noise`` can tell something about ``x`` (Mironov 2012). Rounding the noised
    update to a 16-bit grid afterwards removes those bits from what leaves the holder; no proof of that is
    claimed here. The exact integer samplers belong to `distributed` noise.

    Raises:
        MechanismInvalid: the standard deviation is not positive and finite (zero noise is refused), or the
            count
            is out of range.
    """
    checked_integer("count", count, 0, _MAXIMUM_COUNT, MechanismInvalid)
    deviation = checked_real(
        "standard_deviation",
        standard_deviation,
        1e-300,
        1e300,
        MechanismInvalid,
        because="without noise there is no privacy",
    )
    stream = _Keystream()
    samples = np.empty(count, dtype=np.float64)
    for start in range(0, count, _BLOCK_WORDS):
        block = samples[start : start + _BLOCK_WORDS]
        words = stream.words(block.size + block.size % 2)
        np.multiply(standard_normals(words)[: block.size], deviation, out=block)
    return samples


def poisson_mask(count: int, sample_rate: float) -> NDArray[np.bool_]:
    """Which of ``count`` units enter a step: each with probability ``sample_rate``, independently. Shape
    ``(count,)``.

    Method: a 64-bit word below an integer threshold. The probability is ``floor(sample_rate * 2^64) /
    2^64``: exact for every rate of at least 2^-11, and otherwise lower than asked for by less than 2^-64,
    which lowers the privacy loss.

    Guarantee: really Poisson sampling, as :class:`~usufruct.privacy.mechanism.SubsampledGaussian` prices
    it; the mask must stay secret.

    Raises:
        MechanismInvalid: the rate is outside (0, 1], or the count out of range.
    """
    checked_integer("count", count, 0, _MAXIMUM_COUNT, MechanismInvalid)
    checked_real("sample_rate", sample_rate, MINIMUM_SAMPLE_RATE, 1.0, MechanismInvalid)
    stream = _Keystream()
    mask = np.empty(count, dtype=np.bool_)
    for start in range(0, count, _BLOCK_WORDS):
        block = mask[start : start + _BLOCK_WORDS]
        block[:] = included(stream.words(block.size), sample_rate)
    return mask


def standard_normals(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normal samples from an even number of uniform 64-bit words, one sample a word (Box and
    Muller 1958)."""
    half = words.size // 2
    radius = words[:half].astype(np.float64)
    radius += 0.5
    radius *= 2.0**-64
    # A word within 2^10 of 2^64 rounds to one; keep the interval open.
    np.minimum(radius, 1.0 - 2.0**-53, out=radius)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = (words[half:] >> np.uint64(11)).astype(np.float64)
    angle += 0.5
    angle *= 2.0 * math.pi * 2.0**-53
    samples = np.empty(2 * half, dtype=np.float64)
    np.multiply(radius, np.cos(angle), out=samples[:half])
    np.multiply(radius, np.sin(angle), out=samples[half:])
    return samples


def included(words: NDArray[np.uint64], sample_rate: float) -> NDArray[np.bool_]:
    """Which words fall below ``sample_rate * 2^64``, compared as integers."""
    threshold = math.floor(Fraction(sample_rate) * 2**64)
    if threshold >= 2**64:
        return np.ones(words.size, dtype=np.bool_)
    return words < np.uint64(threshold)
