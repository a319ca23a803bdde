"""Packing: fields of one word, summed modulo the word, come back as the sums; nothing is reduced on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usufruct.encryption import BoundedValues, EncryptionParameters, SignedSums, plan
from usufruct.encryption.packing import check_values, pack_block, unpack_block
from usufruct.errors import InvalidInput

SIGNED = plan(SignedSums(22), 8)
BOUNDED = plan(BoundedValues(8), 8)
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def sets(draw: st.DrawFn) -> EncryptionParameters:
    need = draw(st.builds(BoundedValues, st.integers(1, 16)) | st.builds(SignedSums, st.integers(2, 43)))
    return plan(need, draw(st.integers(2, 64)), draw(st.sampled_from([128, 192])))


def summed(parameters: EncryptionParameters, updates: list[np.ndarray]) -> np.ndarray:
    """The words' sum modulo t, unpacked: what decryption gives when it is right."""
    total = np.zeros(parameters.poly_modulus_degree, dtype=np.uint64)
    for values in updates:
        message = pack_block(parameters, values)
        assert int(message.max()) < parameters.plain_modulus
        total += message
    return unpack_block(parameters, total & np.uint64(parameters.plain_modulus - 1))


@given(sets(), st.data())
def test_sums_that_fit_come_back_exactly(parameters: EncryptionParameters, data: st.DataObject) -> None:
    low = parameters.least_sum
    high = low + (1 << parameters.literal.field_bits) - 1
    count = data.draw(st.integers(1, 3)) * 3001 % parameters.values_per_block + 1
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if parameters.signed:
        totals = rng.choice(np.array([low, high, 0, -1, 1 + low, high - 1]), count)
        updates = list(rng.integers(-(2**50), 2**50, (parameters.max_holders - 1, count)))
        updates.append(totals - np.sum(updates, axis=0))
    else:
        extremes = np.array([0, 1, parameters.max_value - 1, parameters.max_value])
        updates = list(rng.choice(extremes, (parameters.max_holders, count)))
        updates[0][:] = parameters.max_value
    opened = summed(parameters, updates)
    np.testing.assert_array_equal(opened[:count], np.sum(updates, axis=0))
    assert not opened[count:].any()


@given(hnp.arrays(np.int64, 4096 + 7, elements=INT64))
def test_a_word_is_one_number_modulo_the_whole_word(values: np.ndarray) -> None:
    """Rule 4: integers of any size, in Python's own arithmetic."""
    message = pack_block(SIGNED, values)
    for coefficient in (0, 5, 6, 7, 4095):
        low = int(values[coefficient])
        high = int(values[4096 + coefficient]) if coefficient < 7 else 0
        assert int(message[coefficient]) == (low + (high << 22)) % SIGNED.plain_modulus


@given(INT64, INT64, INT64)
def test_an_overflow_depends_on_the_total_alone(first: int, second: int, shift: int) -> None:
    """However the holders' shares are split, equal totals give equal words: nothing tells who wrapped."""

    def word(*values: int) -> list[int]:
        wrapped = [(value + 2**63) % 2**64 - 2**63 for value in values]
        return summed(SIGNED, [np.array([value, 3]) for value in wrapped])[:2].tolist()

    assert word(first, second) == word(first + shift, second - shift)


def test_an_overflow_carries_like_a_number() -> None:
    values = np.zeros(4097, dtype=np.int64)
    values[0] = 2**21  # one more than a signed field of 22 bits holds
    opened = summed(SIGNED, [values])
    assert (opened[0], opened[4096]) == (-(2**21), 1)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32])
def test_signed_sums_take_every_integer_of_a_type(dtype: type) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max, 0], dtype=dtype)
    check_values(SIGNED, values)
    expected = [(int(value) + 2**21) % 2**22 - 2**21 for value in values]
    assert [int(word) % 2**22 for word in pack_block(SIGNED, values)[:3]] == [e % 2**22 for e in expected]


@pytest.mark.parametrize(
    ("parameters", "values"),
    [
        (BOUNDED, np.array([256])),
        (BOUNDED, np.array([-1])),
        (BOUNDED, np.array([-1], dtype=np.int8)),
        (SIGNED, np.array([2**63], dtype=np.uint64)),
        (SIGNED, np.array([1.0])),
        (SIGNED, np.array([True])),
        (SIGNED, np.zeros((2, 2), dtype=np.int64)),
        (SIGNED, np.array([], dtype=np.int64)),
    ],
)
def test_other_values_are_refused_without_being_named(parameters, values) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_values(parameters, values)
    assert "256" not in refused.value.message
