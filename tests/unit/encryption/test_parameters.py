"""Parameters: what is accepted is secure and exact; everything else is refused."""

from __future__ import annotations

import dataclasses

import pytest
import sympy
import tenseal.sealapi as sealapi
from hypothesis import given
from hypothesis import strategies as st

from usufruct.encryption.parameters import (
    DEFAULT_PARAMETERS,
    MAX_FAILURE_LOG2,
    SECURE_COEFF_MOD_BITS,
    EncryptionParameters,
    ParameterLiteral,
    is_prime,
)
from usufruct.errors import ConfigError


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_primality_agrees_with_sympy_on_random_numbers(n: int) -> None:
    assert is_prime(n) == sympy.isprime(n)


@given(st.integers(min_value=2, max_value=(1 << 63)))
def test_primality_agrees_with_sympy_on_primes(n: int) -> None:
    assert is_prime(sympy.nextprime(n))


@pytest.mark.parametrize("n", [0, 1, 4, 561, 1105, 2047, 3215031751, 3825123056546413051, 25326001])
def test_carmichael_numbers_and_strong_pseudoprimes_are_no_primes(n: int) -> None:
    assert not is_prime(n)


def test_default_primes_are_the_largest_of_their_form() -> None:
    q, special = DEFAULT_PARAMETERS.coeff_modulus, DEFAULT_PARAMETERS.special_modulus
    assert q == max(
        c * 2**44 + 1
        for c in range(2**12 - 64, 2**12)
        if sympy.isprime(c * 2**44 + 1) and (c * 2**44 + 1) < 2**56
    )
    assert special == max(p for p in range(1, 2**20, 8192) if p > 1 and sympy.isprime(p))
    assert q % DEFAULT_PARAMETERS.plain_modulus == 1
    assert DEFAULT_PARAMETERS.scale == 4048


def test_default_costs_seven_bytes_a_parameter() -> None:
    p = DEFAULT_PARAMETERS
    assert p.bytes_per_coefficient == 7
    assert p.upload_bytes_per_parameter() == 7.0
    assert p.upload_bytes(8192) == 32 + 8192 * 7
    assert p.upload_bytes(8193) == 32 + 2 * 8192 * 7
    assert p.upload_bytes_per_parameter(1_000_000) == pytest.approx(7.05, abs=0.01)


def test_default_stays_far_from_decryption_failure() -> None:
    assert DEFAULT_PARAMETERS.failure_log2 < -180


LEVELS = {128: sealapi.SEC_LEVEL_TYPE.TC128, 192: sealapi.SEC_LEVEL_TYPE.TC192}


def test_seal_enforces_the_table_itself() -> None:
    """109 bits at N = 4096 for 128-bit security, 75 for 192: SEAL's own check refuses one bit more."""

    def accepted(q_bits: int, special_bits: int, security_bits: int) -> bool:
        literal = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        literal.set_poly_modulus_degree(4096)
        literal.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [q_bits, special_bits]))
        literal.set_plain_modulus(1 << 40)
        return bool(sealapi.SEALContext(literal, True, LEVELS[security_bits]).parameters_set())

    assert accepted(56, 53, 128)
    assert not accepted(56, 54, 128)
    assert accepted(56, 19, 192)
    assert not accepted(56, 20, 192)


@pytest.mark.parametrize("security_bits", LEVELS)
def test_the_security_table_is_seals(security_bits: int) -> None:
    for degree, bits in SECURE_COEFF_MOD_BITS[security_bits].items():
        assert sealapi.CoeffModulus.MaxBitCount(degree, LEVELS[security_bits]) == bits


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"poly_modulus_degree": 4095}, "poly_modulus_degree"),
        ({"poly_modulus_degree": 2048}, "coeff_mod_bit_sizes"),  # 76 bits are too many for 2048
        ({"coeff_mod_bit_sizes": (56, 22)}, "coeff_mod_bit_sizes"),  # more than a product is exact for
        ({"coeff_mod_bit_sizes": (57, 20)}, "coeff_mod_bit_sizes"),
        ({"security_bits": 192}, "coeff_mod_bit_sizes"),  # 76 > 75
        ({"security_bits": 256}, "security_bits"),
        ({"field_bits": 1, "value_bits": None}, "field_bits"),
        ({"coeff_mod_bit_sizes": (56,)}, "coeff_mod_bit_sizes"),
        ({"plain_modulus_bits": 56}, "plain_modulus_bits"),
        ({"plain_modulus_bits": 48}, "max_holders"),  # exact in the fields, but the noise reaches half a step
        ({"field_bits": 23}, "field_bits"),  # 2 x 23 > 44
        ({"value_bits": 17}, "field_bits"),  # 64 x (2^17 - 1) needs 23 bits
        ({"max_holders": 65}, "field_bits"),
        ({"max_holders": 257, "value_bits": 8}, "max_holders"),
    ],
)
def test_what_is_not_secure_or_not_exact_is_refused(change: dict, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        EncryptionParameters.checked(dataclasses.replace(ParameterLiteral(), **change))
    assert refused.value.details["field"] == field


def test_the_widest_sum_is_exactly_what_a_field_holds() -> None:
    p = DEFAULT_PARAMETERS
    assert p.max_holders * p.max_value < 1 << p.literal.field_bits <= (p.max_holders + 1) * p.max_value


def test_the_constructor_checks_as_well() -> None:
    with pytest.raises(ConfigError):
        EncryptionParameters(ParameterLiteral(), coeff_modulus=2**55 + 1, special_modulus=1032193)
    with pytest.raises(ConfigError):
        dataclasses.replace(DEFAULT_PARAMETERS, special_modulus=1032193 - 8192)


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_PARAMETERS.coeff_modulus = 3  # type: ignore[misc]


@given(
    st.builds(
        ParameterLiteral,
        poly_modulus_degree=st.sampled_from([2048, 4096, 8192]),
        coeff_mod_bit_sizes=st.tuples(st.integers(30, 56), st.integers(18, 21)),
        plain_modulus_bits=st.integers(16, 46),
        fields_per_coefficient=st.integers(1, 4),
        field_bits=st.integers(6, 30),
        value_bits=st.none() | st.integers(4, 20),
        max_holders=st.integers(1, 64),
        security_bits=st.sampled_from([128, 192]),
    )
)
def test_whatever_is_accepted_is_exact_and_has_its_own_id(literal: ParameterLiteral) -> None:
    try:
        p = EncryptionParameters.checked(literal)
    except ConfigError:
        return
    assert p.failure_log2 <= MAX_FAILURE_LOG2
    assert p.signed or p.max_holders * p.max_value < 1 << literal.field_bits
    assert sum(literal.coeff_mod_bit_sizes) <= sealapi.CoeffModulus.MaxBitCount(
        literal.poly_modulus_degree, LEVELS[literal.security_bits]
    )
    assert literal.fields_per_coefficient * literal.field_bits <= literal.plain_modulus_bits
    assert p.scale * (p.plain_modulus - 1) < p.coeff_modulus
    assert p == EncryptionParameters.checked(literal)
    assert (p.parameter_id == DEFAULT_PARAMETERS.parameter_id) == (p == DEFAULT_PARAMETERS)


def test_signed_sums_and_bounded_values_of_one_ring_have_different_ids() -> None:
    bounded = ParameterLiteral(max_holders=2)
    signed = dataclasses.replace(bounded, value_bits=None)
    of_bounded, of_signed = (EncryptionParameters.checked(literal) for literal in (bounded, signed))
    assert of_bounded.coeff_modulus == of_signed.coeff_modulus
    assert of_bounded.parameter_id != of_signed.parameter_id
    assert (of_bounded.least_value, of_bounded.max_value) == (0, 65535)
    assert (of_signed.least_value, of_signed.max_value) == (-(2**63), 2**63 - 1)
    assert (of_bounded.least_sum, of_signed.least_sum) == (0, -(2**21))


def test_the_default_states_its_noise() -> None:
    """sqrt(64 * (1 + 2 * 4096 / 3) / 12) = 120.7; half a step is 2024, less one for each holder."""
    assert DEFAULT_PARAMETERS.noise_deviation == pytest.approx(120.7, abs=0.1)
    assert DEFAULT_PARAMETERS.noise_headroom == pytest.approx((2024 - 64) / 120.7, rel=1e-3)
