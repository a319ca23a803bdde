"""Noise tables: exact against independent arithmetic, exact in every comparison, and loud when they are wrong."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from usufruct.privacy import (
    MechanismInvalid,
    NoiseTable,
    NoiseTableFaulty,
    gaussian_noise,
    skellam,
    skellam_table,
)
from usufruct.privacy.gaussian_noise import discrete_gaussian_table
from usufruct.privacy.noise_table import LARGEST_TOTAL_VARIATION, ONE

VARIANCES = [1, 2, 7, 100, 10**4, 10**6]


def cumulative(table: NoiseTable) -> list[int]:
    """P(|X| <= k) in units of 2^-127."""
    pairs = zip(table.first, table.second, strict=True)
    return [(int(first) << 64) + int(second) for first, second in pairs]


def masses(table: NoiseTable) -> list[int]:
    total = cumulative(table)
    return [total[0]] + [after - before for before, after in pairwise(total)]


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_skellam_table_is_the_bessel_function(variance: int) -> None:
    """Against mpmath's Bessel function at 60 digits: nowhere further than the whole of the stated variation."""
    table = skellam_table(variance)
    entries = masses(table)
    assert table.total_variation <= LARGEST_TOTAL_VARIATION
    with mpmath.workdps(60):
        far = len(entries) - 2 if variance <= 10**4 else 5 * 10**3  # mpmath gives up further out
        for k in sorted({0, 1, 2, 5, len(entries) // 12, len(entries) // 3, far}):
            law = mpmath.exp(-variance) * mpmath.besseli(k, variance) * (1 if k == 0 else 2)
            allowed = 2 * mpmath.mpf(table.total_variation.numerator) / table.total_variation.denominator
            assert abs(mpmath.mpf(entries[k]) / ONE - law) <= allowed, k


@pytest.mark.parametrize("deviation", [1, 2, 50, 1000])
def test_a_discrete_gaussian_table_is_the_discrete_gaussian(deviation: int) -> None:
    table = discrete_gaussian_table(deviation)
    entries = masses(table)
    with mpmath.workdps(60):
        norm = mpmath.jtheta(3, 0, mpmath.exp(-mpmath.mpf(1) / (2 * deviation**2)))
        for k in sorted({0, 1, deviation, 5 * deviation, 12 * deviation}):
            law = mpmath.exp(-mpmath.mpf(k * k) / (2 * deviation**2)) / norm * (1 if k == 0 else 2)
            assert abs(mpmath.mpf(entries[k]) / ONE - law) <= mpmath.mpf(2) ** -99, k


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_skellam_table_has_the_moments_of_the_law_exactly(variance: int) -> None:
    """E X^2 = m and E X^4 = 3 m^2 + m, within the variation times the largest value: independent of Bessel functions."""
    table = skellam_table(variance)
    entries = masses(table)
    assert sum(entries) == ONE
    largest = len(entries)
    for power, moment in ((2, variance), (4, 3 * variance**2 + variance)):
        found = Fraction(sum(mass * k**power for k, mass in enumerate(entries)), ONE)
        assert abs(found - moment) <= 3 * table.total_variation * largest**power


def test_the_two_parts_of_a_gaussian_sample_add_up_to_the_law() -> None:
    """The constant of DERIVATION.md, section 9, at 60 digits; and on a small pair, the sum against the law itself."""
    with mpmath.workdps(60):
        square = 1 / (mpmath.mpf(gaussian_noise.STRETCH) ** 2 / gaussian_noise.TABLE_DEVIATION**2
                      + mpmath.mpf(1) / gaussian_noise.TABLE_DEVIATION**2)  # fmt: skip
        excess = 2 * mpmath.nsum(lambda k: mpmath.exp(-2 * mpmath.pi**2 * square * k * k), [1, 6])
        bound = mpmath.mpf(1) / gaussian_noise.CONVOLUTION_VARIATION.denominator
        assert excess / (1 - excess) <= bound
        assert excess > bound / 4, "the bound is the formula's, not a guess"
    small, stretch = masses(discrete_gaussian_table(8)), 4
    one_side = [Fraction(small[0], ONE)] + [Fraction(mass, 2 * ONE) for mass in small[1:]]

    def sided(k: int) -> Fraction:
        return one_side[abs(k)] if abs(k) < len(one_side) else Fraction(0)

    variance = 8**2 * (1 + stretch**2)
    with mpmath.workdps(50):
        norm = mpmath.jtheta(3, 0, mpmath.exp(-mpmath.mpf(1) / (2 * variance)))
        for value in (0, 1, 3, 17, 40, 100):
            both = sum(sided(value - stretch * y) * sided(y) for y in range(-100, 101))
            law = mpmath.exp(-mpmath.mpf(value * value) / (2 * variance)) / norm
            assert abs(mpmath.mpf(both.numerator) / both.denominator / law - 1) < mpmath.mpf(2) ** -105


def test_a_draw_counts_the_entries_at_most_the_uniform_number() -> None:
    """127 random bits and a sign, by a plain count over the integers; numbers at, below and above entries included, and such as
    equal entries in the leading 31 or 63 bits only."""
    table = skellam_table(50)
    bounds = cumulative(table)
    chooser = random.Random(5)
    numbers = [chooser.getrandbits(127) for _ in range(500)]
    for bound in bounds[:-1]:
        numbers += [max(0, bound - 1), bound, bound + 1, bound ^ 1 << 70, bound ^ 1 << 20]
    numbers += [0, ONE - 1]
    of_31 = [number for number in numbers if number >> 96 in {bound >> 96 for bound in bounds}]
    of_63 = [number for number in of_31 if number >> 64 in {bound >> 64 for bound in bounds}]
    for sign in (0, 1):
        first = np.array([(number >> 96 << 1) + sign for number in numbers], dtype=np.uint32)
        asked: list[int] = []

        def further_bits(count: int, asked: list[int] = asked) -> np.ndarray:
            asked.append(count)
            if len(asked) == 1:
                return np.array([(number >> 64) % 2**32 << 32 for number in of_31], dtype=np.uint64)
            return np.array([number % 2**64 for number in of_63], dtype=np.uint64)

        samples = table.invert(first, further_bits)
        expected = [sum(bound <= number for bound in bounds) for number in numbers]
        assert samples.tolist() == [-magnitude if sign else magnitude for magnitude in expected]
        assert asked == [len(of_31), len(of_63)], (
            "further bits are asked for where they decide, and only there"
        )
        assert len(of_63) < len(of_31) < len(numbers) - 400


def _enclosure(variance: int) -> tuple[list[int], list[int], Fraction]:
    entries = masses(skellam_table(variance))
    return [max(0, mass - 2) for mass in entries], [mass + 2 for mass in entries], Fraction(1, 1 << 112)


def test_an_honest_enclosure_is_accepted() -> None:
    lower, upper, tail = _enclosure(100)
    assert NoiseTable.enclosed("a law", 100, lower, upper, tail).log2_total_variation < -100


@pytest.mark.parametrize("entry", [0, 1, 10, 60])
@pytest.mark.parametrize("fault", [1 << 27, 1 << 40, 1 << 100])
def test_every_single_fault_above_the_bound_is_refused(entry: int, fault: int) -> None:
    """2^27 units are 2^-100. A fault moves one bound up or down, or both together, or mass from one entry to another."""
    changes = {"lower": (1, 0), "upper": (0, 1), "both": (1, 1)}
    for low_change, high_change in changes.values():
        for sign in (1, -1):
            lower, upper, tail = _enclosure(100)
            lower[entry] += sign * 2 * fault * low_change
            upper[entry] += sign * 2 * fault * high_change
            with pytest.raises(NoiseTableFaulty):
                NoiseTable.enclosed("a law", 100, lower, upper, tail)


def test_a_law_that_is_not_known_well_enough_is_refused() -> None:
    lower, upper, tail = _enclosure(100)
    for wrong in (
        (lower, upper, Fraction(1, 1 << 90)),
        (lower[:-40], upper[:-40], tail),
        ([], [], tail),
        (lower, upper[:-1], tail),
        ([0] * len(lower), upper, tail),
        (lower, upper, Fraction(-1)),
    ):
        with pytest.raises(NoiseTableFaulty):
            NoiseTable.enclosed("a law", 100, *wrong)


@pytest.mark.parametrize("part", ["_downwards", "tail_bound"])
def test_a_builder_that_computes_wrongly_is_refused(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of the arithmetic itself: a recurrence that starts too low, and one value that is off by 2^-60."""
    if part == "tail_bound":
        monkeypatch.setattr(
            skellam, "tail_bound", lambda variance, bits, count=1: int(9 * math.sqrt(variance))
        )
    else:
        genuine = skellam._downwards

        def off(variance: int, start: int, entries: int, after: int) -> tuple[list[int], int, int]:
            run, total, least = genuine(variance, start, entries, after)
            if after:
                run[5] += run[5] >> 60
            return run, total, least

        monkeypatch.setattr(skellam, "_downwards", off)
    with pytest.raises(NoiseTableFaulty):
        skellam_table(1000)


@pytest.mark.parametrize("variance", [0, -1, 1.5, True, 10**10 + 1, "7"])
def test_a_variance_that_has_no_table_is_refused(variance: object) -> None:
    with pytest.raises(MechanismInvalid):
        skellam_table(variance)  # type: ignore[arg-type]


@pytest.mark.parametrize(("variance", "bits"), [(1, 20), (3, 40), (50, 60), (1000, 100)])
def test_the_tail_bound_bounds_the_tail(variance: int, bits: int) -> None:
    end = skellam.tail_bound(variance, bits)
    with mpmath.workdps(60):
        tail = (
            2 * mpmath.exp(-variance) * mpmath.nsum(lambda k: mpmath.besseli(k, variance), [end, end + 300])
        )
        assert tail <= mpmath.mpf(2) ** -bits
        assert tail >= mpmath.mpf(2) ** -(bits + 16), "not needlessly far out"
