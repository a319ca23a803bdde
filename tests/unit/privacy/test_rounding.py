"""Rounding: bounded integers, symmetric, and a sum that reads back exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from usufruct.privacy import RoundingInvalid, round_update, rounding_step, unround_sum

BITS = st.integers(2, 22)
RANGES = st.floats(1e-6, 1e6)
UPDATES = arrays.arrays(
    np.float64, st.integers(0, 40), elements=st.floats(allow_nan=False, allow_infinity=False)
)


@given(UPDATES, RANGES, BITS)
def test_codes_stay_in_their_field_whatever_the_update(
    update: np.ndarray, update_range: float, bits: int
) -> None:
    before = update.copy()
    codes = round_update(update, update_range, bits)
    assert codes.dtype == np.int32
    assert codes.shape == update.shape
    assert ((codes >= 0) & (codes <= 2**bits - 2)).all()
    assert np.array_equal(before, update), "the caller's array is not changed"


@given(UPDATES, RANGES, BITS)
def test_one_rounded_update_reads_back_within_half_a_step(
    update: np.ndarray, update_range: float, bits: int
) -> None:
    codes = round_update(update, update_range, bits)
    back = unround_sum(codes.astype(np.int64), 1, update_range, bits)
    clamped = np.clip(update, -update_range, update_range)
    assert (np.abs(back - clamped) <= rounding_step(update_range, bits) * (0.5 + 1e-9)).all()


@given(UPDATES, RANGES, BITS)
def test_rounding_is_symmetric_and_zero_is_exact(update: np.ndarray, update_range: float, bits: int) -> None:
    top = 2**bits - 2
    assert np.array_equal(
        round_update(-update, update_range, bits), top - round_update(update, update_range, bits)
    )
    zero = round_update(np.zeros(1), update_range, bits)
    assert unround_sum(zero.astype(np.int64), 1, update_range, bits)[0] == 0.0


@given(st.data(), st.integers(1, 64), RANGES, BITS)
def test_the_sum_of_codes_reads_back_as_the_sum_of_the_rounded_updates(
    data: st.DataObject, holders: int, update_range: float, bits: int
) -> None:
    offset = 2 ** (bits - 1) - 1
    codes = data.draw(arrays.arrays(np.int64, (holders, 5), elements=st.integers(0, 2 * offset)))
    sums = codes.sum(axis=0)
    exact = [sum(int(code) - offset for code in column) * (update_range / offset) for column in codes.T]
    assert unround_sum(sums, holders, update_range, bits).tolist() == exact


def test_the_ends_of_the_range_are_the_ends_of_the_field() -> None:
    update = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 1e308, -1e308])
    assert round_update(update, 1.0, 16).tolist() == [0, 0, 32767, 65534, 65534, 65534, 0]


def test_sixteen_bits_are_the_default() -> None:
    update = np.linspace(-3, 3, 101)
    assert np.array_equal(round_update(update, 3.0), round_update(update, 3.0, value_bits=16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RoundingInvalid, match="not finite"):
        round_update(np.array([0.0, value]), 1.0)


@pytest.mark.parametrize("update", [np.zeros(3, np.float32), np.zeros((2, 2)), np.zeros(3, np.int64)])
def test_anything_but_a_flat_float64_array_is_refused(update: np.ndarray) -> None:
    with pytest.raises(RoundingInvalid):
        round_update(update, 1.0)


@pytest.mark.parametrize(("update_range", "bits"), [(0.0, 16), (-1.0, 16), (np.nan, 16), (1.0, 1), (1.0, 23)])
def test_figures_out_of_bounds_are_refused(update_range: float, bits: int) -> None:
    with pytest.raises(RoundingInvalid):
        round_update(np.zeros(1), float(update_range), bits)
    with pytest.raises(RoundingInvalid):
        unround_sum(np.zeros(1, np.int64), 1, float(update_range), bits)


@pytest.mark.parametrize("total", [-1, 3 * (2**16 - 2) + 1, 2**62, -(2**62)])
def test_a_sum_that_this_roster_cannot_have_is_refused(total: int) -> None:
    with pytest.raises(RoundingInvalid, match="3 holders"):
        unround_sum(np.array([5, total]), 3, 1.0)


def test_a_sum_of_the_wrong_shape_type_or_roster_is_refused() -> None:
    for sums in (np.zeros(2, np.float64), np.zeros((1, 2), np.int64)):
        with pytest.raises(RoundingInvalid):
            unround_sum(sums, 2, 1.0)
    with pytest.raises(RoundingInvalid):
        unround_sum(np.zeros(2, np.int64), 0, 1.0)
