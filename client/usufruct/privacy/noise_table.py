"""Integer noise by table: the law of a symmetric integer X to within a total variation that the table states.

A table holds the cumulative law of ``|X|`` in units of 2^-127; a draw takes one sign bit and compares 127 uniform bits
with it, as integers, of which it asks for 31 first and for the others where these do not decide. No float decides an entry or a draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from usufruct.privacy.bounds import checked_integer
from usufruct.privacy.errors import MechanismInvalid, NoiseTableFaulty
from usufruct.privacy.keystream import BLOCK_WORDS, Words, fresh_words

UNIT_BITS: Final = 127
ONE: Final = 1 << UNIT_BITS
"""Probability one, in the integers of a table."""

LARGEST_TOTAL_VARIATION: Final = Fraction(1, 1 << 100)
"""A table further than this from its law is refused (soundness 8): 2^40 draws of such tables, at epsilon 8, add less
than 2^-48 to delta. Statistics cannot see such faults; the bound is the argument."""

_MAXIMUM_COUNT: Final = 2**40
_MAXIMUM_GUIDE_BITS: Final = 20
_LOW_WORD: Final = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """A law that can be drawn from. Made by :meth:`enclosed` only, from bounds on every probability.

    Attributes:
        law: which one, for messages.
        variance: of the law.
        total_variation: proven bound on the distance between one draw and the law, given uniform bits.
        first, second: the cumulative law of ``|X|``, entry k is P(|X| <= k) in units of 2^-127: its upper 63 and its
            lower 64 bits. Shape ``(entries,)``, the last entry is one.
        guide: for each value of the leading bits of a word, how many entries are below all words that have it.
        coarse: the upper 32 bits of ``first``: nearly every draw is decided by these, and they fit a cache twice as well.

    A table holds no secret and no state. It can be neither copied nor pickled: what comes out of a file has passed no
    check.
    """

    law: str
    variance: int
    total_variation: Fraction
    first: Words
    second: Words
    guide: NDArray[np.int32]
    coarse: NDArray[np.uint32]

    @classmethod
    def enclosed(
        cls, law: str, variance: int, lower: Sequence[int], upper: Sequence[int], tail: Fraction
    ) -> Self:
        """The table of a law from an enclosure.

        Args:
            law, variance: as above.
            lower, upper: for k = 0, 1, ...: integers with ``lower[k] <= P(|X| = k) * 2^127 <= upper[k]``.
            tail: a bound on P(|X| >= len(lower)).

        *Guarantee*: if the enclosure holds, ``total_variation`` does. The table takes the lower bounds and gives what
        is missing to the last entry, so the sum of its errors is at most the missing mass, the widths and the tail; half of that is the
        total variation. (The sign is one exact bit for both, and adds nothing.)

        Raises:
            NoiseTableFaulty: the bounds contradict each other or a probability law, or the total variation exceeds
                2^-100. One wrong bound is always found if it is wrong by more than that.
        """
        if not lower or len(lower) != len(upper) or min(lower) < 0 or tail < 0:
            raise NoiseTableFaulty(f"The table of {law} has no entries, or negative ones.", law=law)
        widths = sum(high - low for low, high in zip(lower, upper, strict=True))
        mass = sum(lower)
        if any(low > high for low, high in zip(lower, upper, strict=True)) or not (
            mass <= ONE <= mass + widths + math.ceil(tail * ONE)
        ):
            raise NoiseTableFaulty(
                f"The bounds of the table of {law} contradict each other; do not use this build.", law=law
            )
        variation = (Fraction(widths + ONE - mass, ONE) + tail) / 2
        if variation > LARGEST_TOTAL_VARIATION:
            raise NoiseTableFaulty(
                f"The table of {law} is only known to within a total variation of 2^{_log2(variation):.1f}; 2^-100 is "
                "needed. Do not use this build.",
                law=law,
                log2_total_variation=_log2(variation),
            )
        cumulative = list(itertools.accumulate(lower))
        cumulative[-1] = ONE
        words = b"".join(value.to_bytes(16, "little") for value in cumulative)
        halves = np.frombuffer(words, dtype="<u8").reshape(-1, 2)
        first, second = np.ascontiguousarray(halves[:, 1]), np.ascontiguousarray(halves[:, 0])
        bits = min(_MAXIMUM_GUIDE_BITS, max(8, len(lower).bit_length() + 1))
        cells = np.arange(1 << bits, dtype=np.uint64) << np.uint64(63 - bits)
        guide = np.searchsorted(first, cells, side="left").astype(np.int32)
        coarse = (first >> np.uint64(32)).astype(np.uint32)
        for array in (first, second, guide, coarse):
            array.flags.writeable = False
        return cls(law, variance, variation, first, second, guide, coarse)

    @property
    def log2_total_variation(self) -> float:
        """The bound as a power of two, rounded up to a thousandth; at most -100."""
        return _log2(self.total_variation)

    @property
    def size_bytes(self) -> int:
        """Memory that the table takes."""
        return sum(array.nbytes for array in (self.first, self.second, self.guide, self.coarse))

    def draw(self, count: int) -> NDArray[np.int64]:
        """``count`` independent samples, shape ``(count,)``, under keys of this call alone.

        *Guarantee*: each is within ``total_variation`` of the law, given that
        :func:`~usufruct.privacy.keystream.fresh_words` is uniform.

        The time depends on the values drawn (a few nanoseconds a sample); a caller whose time can be seen says so.

        Raises:
            MechanismInvalid: the count is negative or absurd.
        """
        checked_integer("count", count, 0, _MAXIMUM_COUNT, MechanismInvalid)
        samples = np.empty(count, dtype=np.int64)
        for start in range(0, count, BLOCK_WORDS):
            block = samples[start : start + BLOCK_WORDS]
            words = fresh_words(-(-block.size // 2)).view("<u4")
            block[:] = self.invert(words[: block.size], fresh_words)
        return samples

    def invert(self, words: NDArray[np.uint32], more: Callable[[int], Words]) -> NDArray[np.int32]:
        """One sample for each uniform word: bit 0 is the sign, the others the leading 31 bits of a 127-bit number U;
        ``|X|`` is how many entries are at most U.

        Args:
            more: gives further words, of 64 bits. The other bits of U are asked for only where its leading ones equal those of
                an entry, so that they decide; that they are drawn late changes nothing in the law.
        """
        leading = words >> np.uint32(1)
        magnitude = self.guide.take(words >> np.uint32(33 - len(self.guide).bit_length()))
        at = np.flatnonzero(self.coarse.take(magnitude) <= leading)
        if at.size:  # the entry that the guide names is passed or equal, and perhaps some more
            among, found = leading[at], magnitude[at]
            found += self.coarse.take(found) < among
            late = np.flatnonzero(self.coarse.take(found) < among)
            found[late] = np.searchsorted(self.coarse, among[late], side="left")
            equal = np.flatnonzero(self.coarse.take(found) == among)
            if equal.size:
                found[equal] = self._decided(among[equal], more)
            magnitude[at] = found
        # 1 for the sign bit 0, -1 for 1
        sign = words.astype(np.int32)
        sign &= 1
        sign <<= 1
        np.subtract(1, sign, out=sign)
        magnitude *= sign
        return magnitude

    def _decided(self, leading: NDArray[np.uint32], more: Callable[[int], Words]) -> NDArray[np.int64]:
        """How many entries are at most U, by its leading 31 bits and 96 further ones: 32, and 64 where these leave it open."""
        upper = leading.astype(np.uint64) << np.uint64(32)
        upper += more(leading.size) >> np.uint64(32)
        counts: NDArray[np.int64] = np.searchsorted(self.first, upper, side="right")
        tied = np.flatnonzero(
            self.first[counts - 1] == upper
        )  # index -1 is the last entry, 2^63: no U equals it
        for at, word in zip(tied, more(tied.size) if tied.size else (), strict=True):
            begin, end = np.searchsorted(self.first, upper[at], side="left"), counts[at]
            counts[at] = begin + np.searchsorted(self.second[begin:end], word, side="right")
        return counts

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A noise table is built where it is used; it is neither copied nor pickled.")


def _log2(value: Fraction) -> float:
    """Upper bound on the logarithm to base 2, to a thousandth."""
    numerator, denominator = value.numerator, value.denominator
    exact = math.log2(numerator) - math.log2(denominator) if numerator else -math.inf
    return math.ceil(exact * 1000) / 1000 if numerator else -math.inf
