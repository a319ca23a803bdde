"""Sums of encrypted updates are exact, for every number of holders and at the extremes."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usufruct.encryption.keys import RoundKey
from usufruct.encryption.packing import pack_block, unpack_block
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.encryption.sum import Summation
from usufruct.encryption.update import encrypt_update
from usufruct.errors import RoundFailed

P = DEFAULT_PARAMETERS


def encrypted_sum(updates: list[np.ndarray], parameters: EncryptionParameters = P) -> np.ndarray:
    key = RoundKey.generate(parameters)
    total = Summation(parameters, updates[0].size)
    for values in updates:
        total.add(encrypt_update(parameters, key.public_key_bytes, values))
    return key.decrypt(total.result_bytes(), updates[0].size, len(updates))


@pytest.mark.parametrize("holders", [1, 2, 3, 7, 16, 33, 64])
def test_the_sum_is_exact_for_two_to_64_holders(holders: int) -> None:
    rng = np.random.default_rng(holders)
    updates = [rng.integers(0, P.max_value + 1, 9000, dtype=np.int64) for _ in range(holders)]
    for values in updates:  # worst cases beside random ones
        values[:100], values[100:200] = P.max_value, 0
    np.testing.assert_array_equal(encrypted_sum(updates), np.sum(updates, axis=0))


@pytest.mark.parametrize("value", [0, 1, P.max_value])
def test_the_sum_of_64_equal_extremes_is_exact_everywhere(value: int) -> None:
    updates = [np.full(P.values_per_block, value)] * 64
    assert (encrypted_sum(updates) == 64 * value).all()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(2, 6).flatmap(
        lambda holders: st.integers(1, 300).flatmap(
            lambda count: st.lists(hnp.arrays(np.uint16, count), min_size=holders, max_size=holders)
        )
    )
)
def test_the_sum_is_exact_for_any_values(updates: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(
        encrypted_sum(updates), np.sum([u.astype(np.int64) for u in updates], axis=0)
    )


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 8191, 8192, 8193, 3 * 8192])
def test_every_length_round_trips(count: int) -> None:
    values = np.arange(count) * 7919 % (P.max_value + 1)
    np.testing.assert_array_equal(encrypted_sum([values, values]), 2 * values)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_type_does(dtype: type) -> None:
    values = np.array([0, 1, 65535], dtype=dtype)
    assert encrypted_sum([values, values]).tolist() == [0, 2, 131070]


@pytest.mark.parametrize(
    "literal",
    [
        ParameterLiteral(
            max_holders=8, value_bits=12, fields_per_coefficient=2, field_bits=15, plain_modulus_bits=44
        ),
        ParameterLiteral(4096, (48, 20), 36, 2, 18, 16, 4),
        ParameterLiteral(8192, (56, 20), 43, 2, 21, 15, 64),
        ParameterLiteral(4096, (56, 19), 44, 4, 11, 8, 8),
    ],
)
def test_other_accepted_parameters_are_exact_too(literal: ParameterLiteral) -> None:
    p = EncryptionParameters.checked(literal)
    rng = np.random.default_rng(5)
    updates = [rng.integers(0, p.max_value + 1, 5000) for _ in range(p.max_holders)]
    updates[0][:], updates[1][:50] = p.max_value, p.max_value
    np.testing.assert_array_equal(encrypted_sum(updates, p), np.sum(updates, axis=0))


@given(hnp.arrays(np.uint32, st.integers(1, 8192), elements=st.integers(0, (1 << 22) - 1)))
def test_packing_keeps_every_field(values: np.ndarray) -> None:
    message = pack_block(P, values)
    assert message.shape == (4096,) and int(message.max()) < P.plain_modulus
    fields = unpack_block(P, message)
    np.testing.assert_array_equal(fields[: values.size], values)
    assert not fields[values.size :].any()


def test_the_fast_path_agrees_with_tenseals_own_vectors() -> None:
    """The reference: ``ts.bfv_vector`` with a batching plain modulus, the same values, the same sum."""
    context = ts.context(ts.SCHEME_TYPE.BFV, 4096, plain_modulus=1032193, coeff_mod_bit_sizes=[54, 55])
    rng = np.random.default_rng(11)
    updates = [rng.integers(0, P.max_value + 1, 2000) for _ in range(5)]
    reference = ts.bfv_vector(context, updates[0].tolist())
    for values in updates[1:]:
        reference += ts.bfv_vector(context, values.tolist())
    expected = np.array(reference.decrypt())
    np.testing.assert_array_equal(encrypted_sum(updates), expected)
    np.testing.assert_array_equal(expected, np.sum(updates, axis=0))


def test_a_key_opens_one_sum_only() -> None:
    key = RoundKey.generate(P)
    values = np.array([1, 2, 3])
    total = Summation(P, 3)
    total.add(encrypt_update(P, key.public_key_bytes, values))
    result = total.result_bytes()
    assert not key.used
    assert key.decrypt(result, 3, 1).tolist() == [1, 2, 3]
    assert key.used
    with pytest.raises(RoundFailed) as refused:
        key.decrypt(result, 3, 1)
    assert refused.value.reason == "KEY_USED"


def test_a_wrong_key_gives_garbage_which_is_refused() -> None:
    """1000 uniform 22-bit fields all within 0..2*65535 would be a chance of 2^-5000."""
    right, wrong = RoundKey.generate(P), RoundKey.generate(P)
    total = Summation(P, 1000)
    for _ in range(2):
        total.add(encrypt_update(P, right.public_key_bytes, np.arange(1000)))
    with pytest.raises(RoundFailed) as refused:
        wrong.decrypt(total.result_bytes(), 1000, 2)
    assert refused.value.reason == "SUM_INVALID"
    np.testing.assert_array_equal(right.decrypt(total.result_bytes(), 1000, 2), 2 * np.arange(1000))


def test_two_encryptions_of_one_update_share_nothing() -> None:
    key = RoundKey.generate(P)
    values = np.zeros(8192, dtype=np.int64)
    first, second = (encrypt_update(P, key.public_key_bytes, values)[32:] for _ in range(2))
    same = np.mean(np.frombuffer(first, np.uint8) == np.frombuffer(second, np.uint8))
    # about 1/256 by chance; 57,344 bytes: five standard deviations are 0.0014. The highest plane is not quite
    # uniform because q is not 2^56, which adds less than that.
    assert same < 1 / 256 + 0.003
