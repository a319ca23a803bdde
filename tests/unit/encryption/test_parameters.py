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
    parameter_set,
)
from usufruct.errors import ConfigError, InvalidInput


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


def test_seal_accepts_the_default_at_192_bits_too_with_one_bit_less() -> None:
    """SEAL's own table, asked through its own check: 76 bits at N = 4096 are inside 128-bit security (limit
    109).
    """

    def accepted(q_bits: int, level: object) -> bool:
        literal = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
        literal.set_poly_modulus_degree(4096)
        literal.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [q_bits, 20]))
        literal.set_plain_modulus(1 << 40)
        return bool(sealapi.SEALContext(literal, True, level).parameters_set())

    assert accepted(56, sealapi.SEC_LEVEL_TYPE.TC128)
    assert accepted(55, sealapi.SEC_LEVEL_TYPE.TC192)
    assert not accepted(56, sealapi.SEC_LEVEL_TYPE.TC192)


@pytest.mark.parametrize("degree", sorted(SECURE_COEFF_MOD_BITS))
def test_the_security_table_is_seals(degree: int) -> None:
    assert (
        sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128)
        == SECURE_COEFF_MOD_BITS[degree]
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"poly_modulus_degree": 4095}, "poly_modulus_degree"),
        ({"poly_modulus_degree": 2048}, "coeff_mod_bit_sizes"),  # 76 bits are too many for 2048
        ({"coeff_mod_bit_sizes": (56, 56)}, "coeff_mod_bit_sizes"),  # 112 > 109
        ({"coeff_mod_bit_sizes": (57, 20)}, "coeff_mod_bit_sizes"),
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
        coeff_mod_bit_sizes=st.tuples(st.integers(30, 56), st.integers(18, 24)),
        plain_modulus_bits=st.integers(16, 46),
        fields_per_coefficient=st.integers(1, 4),
        field_bits=st.integers(6, 30),
        value_bits=st.integers(4, 20),
        max_holders=st.integers(1, 64),
    )
)
def test_whatever_is_accepted_is_exact_and_has_its_own_id(literal: ParameterLiteral) -> None:
    try:
        p = EncryptionParameters.checked(literal)
    except ConfigError:
        return
    assert p.failure_log2 <= MAX_FAILURE_LOG2
    assert p.max_holders * p.max_value < 1 << literal.field_bits
    assert literal.fields_per_coefficient * literal.field_bits <= literal.plain_modulus_bits
    assert p.scale * (p.plain_modulus - 1) < p.coeff_modulus
    assert p == EncryptionParameters.checked(literal)
    assert (p.parameter_id == DEFAULT_PARAMETERS.parameter_id) == (p == DEFAULT_PARAMETERS)


def test_a_job_names_its_parameter_set() -> None:
    assert parameter_set(DEFAULT_PARAMETERS.name) is DEFAULT_PARAMETERS
    with pytest.raises(InvalidInput) as refused:
        parameter_set("ckks")
    assert refused.value.reason == "SPEC_INVALID"
