"""Poisson sampling: who enters a step, decided by integers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer, checked_real
from usufruct.privacy.errors import MechanismInvalid
from usufruct.privacy.keystream import BLOCK_WORDS, Words, fresh_words
from usufruct.privacy.mechanism import MINIMUM_SAMPLE_RATE

_MAXIMUM_COUNT: Final = 2**40


def poisson_mask(count: int, sample_rate: float) -> NDArray[np.bool_]:
    """Which of ``count`` units enter a step: each with probability ``sample_rate``, independently. Shape
    ``(count,)``.

    Method: a 64-bit word below an integer threshold. The probability is ``floor(sample_rate * 2^64) /
    2^64``: exact for every rate of at least 2^-11, and otherwise lower than asked for by less than 2^-64,
    which lowers the privacy loss.

    Guarantee: really Poisson sampling, as :class:`~usufruct.privacy.mechanism.SubsampledGaussian` and
    :class:`~usufruct.privacy.mechanism.SubsampledSkellam` price it, under keys of this call alone
    (:func:`~usufruct.privacy.keystream.fresh_words`); the mask must stay secret.

    Raises:
        MechanismInvalid: the rate is outside (0, 1], or the count out of range.
    """
    checked_integer("count", count, 0, _MAXIMUM_COUNT, MechanismInvalid)
    checked_real("sample_rate", sample_rate, MINIMUM_SAMPLE_RATE, 1.0, MechanismInvalid)
    if sample_rate == 1.0:
        return np.ones(count, dtype=np.bool_)
    mask = np.empty(count, dtype=np.bool_)
    for start in range(0, count, BLOCK_WORDS):
        block = mask[start : start + BLOCK_WORDS]
        block[:] = included(fresh_words(block.size), sample_rate)
    return mask


def included(words: Words, sample_rate: float) -> NDArray[np.bool_]:
    """Which words fall below ``sample_rate * 2^64``, compared as integers."""
    threshold = int(sample_rate * 2.0**64)  # to multiply by a power of two is exact
    if threshold >= 2**64:
        return np.ones(words.size, dtype=np.bool_)
    return words < np.uint64(threshold)


def random_order(count: int) -> NDArray[np.intp]:
    """The numbers below ``count`` in a uniformly random order, by sorting fresh words (two are equal with a probability
    of at most ``count``² · 2^-65)."""
    checked_integer("count", count, 0, _MAXIMUM_COUNT, MechanismInvalid)
    words = [fresh_words(min(BLOCK_WORDS, count - start)) for start in range(0, count, BLOCK_WORDS)]
    return np.argsort(np.concatenate(words)) if words else np.empty(0, dtype=np.intp)
