"""The planner: what it picks is secure, exact and small; what cannot be exact is refused; names lead back."""

from __future__ import annotations

import contextlib
import functools
import struct
from pathlib import Path

import numpy as np
import pytest
import tenseal as ts
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from usufruct import encryption
from usufruct.encryption import (
    DEFAULT_PARAMETERS,
    BoundedValues,
    EncryptionParameters,
    SignedSums,
    parameter_set,
    plan,
    seal_raw,
)
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import MAX_FAILURE_LOG2, SECURE_COEFF_MOD_BITS
from usufruct.encryption.planner import MAX_HOLDERS, MIN_HOLDERS
from usufruct.encryption.seal_raw import Seal, open_seal
from usufruct.encryption.sum import Summation
from usufruct.encryption.update import encrypt_update
from usufruct.errors import ConfigError, InvalidInput, SealLayoutChanged

VALUE_BITS = (8, 12, 16)  # what a job spec may ask for
HOLDERS = range(MIN_HOLDERS, MAX_HOLDERS + 1)


@functools.cache
def every_pick() -> tuple[EncryptionParameters, ...]:
    """All sets of all jobs: 8-, 12- and 16-bit values, and signed sums of any width that can be had."""
    picks = []
    for security_bits in (128, 192):
        for holders in HOLDERS:
            for need in [*map(BoundedValues, VALUE_BITS), *map(SignedSums, range(2, 44))]:
                picks.append(plan(need, holders, security_bits))
    return tuple(picks)


def of_one_ring() -> list[EncryptionParameters]:
    """Of the picks with equal ring, field width and kind the one with the most holders, so the most noise."""
    most: dict[tuple, EncryptionParameters] = {}
    for p in every_pick():
        ring = (p.coeff_modulus, p.special_modulus, p.plain_modulus, p.literal.field_bits, p.signed)
        if ring not in most or most[ring].max_holders < p.max_holders:
            most[ring] = p
    return list(most.values())


@pytest.mark.parametrize("security_bits", [128, 192])
@pytest.mark.parametrize(
    ("need", "holders", "fields", "bytes_per_parameter"),
    [
        (BoundedValues(16), 64, (2, 22), 7.0),
        (BoundedValues(16), 32, (2, 21), 7.0),
        (BoundedValues(16), 4, (2, 18), 6.0),
        (BoundedValues(12), 8, (3, 15), 14 / 3),
        (BoundedValues(8), 8, (4, 11), 3.5),
        (BoundedValues(8), 2, (5, 9), 2.8),
        (SignedSums(22), 2, (2, 22), 7.0),
        (SignedSums(22), 64, (2, 22), 7.0),
    ],
)
def test_the_sets_of_the_design(need, holders, fields, bytes_per_parameter, security_bits) -> None:
    p = plan(need, holders, security_bits)
    assert (p.literal.fields_per_coefficient, p.literal.field_bits) == fields
    assert p.upload_bytes_per_parameter() == pytest.approx(bytes_per_parameter)
    assert p.literal.security_bits == security_bits


def test_small_cohorts_stay_below_a_float() -> None:
    for holders in range(2, 9):
        assert plan(BoundedValues(12), holders).upload_bytes_per_parameter() <= 4.7
        assert plan(BoundedValues(8), holders).upload_bytes_per_parameter() <= 3.5


def test_the_default_is_what_is_planned_for_any_cohort_of_16_bit_values() -> None:
    assert plan(BoundedValues(16), 64) == DEFAULT_PARAMETERS


def test_every_pick_is_exact_and_its_name_leads_back() -> None:
    for p in every_pick():
        literal = p.literal
        assert p.failure_log2 <= MAX_FAILURE_LOG2
        assert p.coeff_modulus % p.plain_modulus == 1 and p.coeff_modulus % (2 * p.poly_modulus_degree) == 1
        assert literal.fields_per_coefficient * literal.field_bits == literal.plain_modulus_bits
        assert p.signed or p.max_holders * p.max_value < 1 << literal.field_bits
        assert len(p.name) <= 64  # what a job spec has room for
        assert parameter_set(p.name) == p


def test_the_readme_states_what_is_planned() -> None:
    readme = (Path(encryption.__file__).parent / "README.md").read_text()
    power = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹−", "0123456789-")
    rows = [
        [cell.strip() for cell in line.translate(power).strip("|").split("|")]
        for line in readme.splitlines()
        if line.startswith("| `bfv-")
    ]
    assert len(rows) > 10
    for name, modulus, security, headroom, failure, size in rows:
        p = parameter_set(name.split("`")[1])
        literal = p.literal
        limit = SECURE_COEFF_MOD_BITS[literal.security_bits][p.poly_modulus_degree]
        assert modulus == f"{p.scale}·2{literal.plain_modulus_bits}+1"
        assert security == f"{sum(literal.coeff_mod_bit_sizes)} of {limit}"
        assert headroom == f"{p.noise_headroom:.1f}"
        assert p.failure_log2 <= int(failure) < p.failure_log2 + 1
        assert size == f"{p.upload_bytes_per_parameter():.2f}"


def test_one_party_more_or_wider_values_never_cost_fewer_bytes() -> None:
    for holders in HOLDERS:
        costs = [plan(BoundedValues(bits), holders).upload_bytes_per_parameter() for bits in VALUE_BITS]
        assert costs == sorted(costs)
    for bits in VALUE_BITS:
        costs = [plan(BoundedValues(bits), holders).upload_bytes_per_parameter() for holders in HOLDERS]
        assert costs == sorted(costs)


def test_every_ring_sums_its_extremes_exactly_under_seal() -> None:
    """As many real encryptions as the set allows, with the extremes of every field beside random values."""
    for parameters in of_one_ring():
        sum_extremes_under_seal(parameters)


def sum_extremes_under_seal(p: EncryptionParameters) -> None:
    rng = np.random.default_rng(5)
    holders, count = p.max_holders, p.values_per_block
    low, high = p.least_sum, p.least_sum + (1 << p.literal.field_bits) - 1
    if p.signed:  # shares of any size, whose sums are the extremes of the field or anything between
        totals = rng.integers(low, high + 1, count)
        totals[:1000], totals[1000:2000], totals[-1000:] = low, high, rng.choice([low, high], 1000)
        updates = list(rng.integers(-(2**40), 2**40, (holders - 1, count)))
        updates.append(totals - np.sum(updates, axis=0))
    else:
        updates = list(rng.integers(0, p.max_value + 1, (holders, count)))
        for values in updates:
            values[:1000], values[1000:2000] = p.max_value, 0
    key, total = RoundKey.generate(p), Summation(p, count)
    for values in updates:
        total.add(encrypt_update(p, key.public_key_bytes, values))
    opened = key.decrypt(total.result_bytes(), count, holders)
    np.testing.assert_array_equal(opened, np.sum(updates, axis=0), err_msg=p.name)


@pytest.mark.parametrize(
    "parameters",
    [plan(BoundedValues(8), 5), plan(BoundedValues(16), 5, 192), plan(SignedSums(20), 5)],
    ids=lambda p: p.name,
)
def test_planned_sets_agree_with_tenseals_own_vectors(parameters: EncryptionParameters) -> None:
    """The reference: ``ts.bfv_vector``, the same values, the same sums; it too takes negative numbers."""
    context = ts.context(ts.SCHEME_TYPE.BFV, 4096, plain_modulus=1032193, coeff_mod_bit_sizes=[54, 55])
    rng = np.random.default_rng(12)
    least, most = (-50_000, 50_000) if parameters.signed else (0, parameters.max_value)
    updates = [rng.integers(least, most + 1, 3000) for _ in range(5)]
    reference = ts.bfv_vector(context, updates[0].tolist())
    key, total = RoundKey.generate(parameters), Summation(parameters, 3000)
    for index, values in enumerate(updates):
        if index:
            reference += ts.bfv_vector(context, values.tolist())
        total.add(encrypt_update(parameters, key.public_key_bytes, values))
    opened = key.decrypt(total.result_bytes(), 3000, 5)
    np.testing.assert_array_equal(opened, np.array(reference.decrypt()))


@pytest.mark.parametrize(
    ("need", "holders", "security_bits", "field"),
    [
        (BoundedValues(16), 1, 128, "holders"),
        (BoundedValues(16), 65, 128, "holders"),
        (BoundedValues(16), 8, 256, "security_bits"),
        (BoundedValues(0), 8, 128, "value_bits"),
        (BoundedValues(39), 64, 128, "value_bits"),
        (SignedSums(1), 8, 128, "field_bits"),
        (SignedSums(45), 64, 128, "field_bits"),  # the noise would reach half a step
        (SignedSums(64), 2, 192, "field_bits"),
    ],
)
def test_what_cannot_be_exact_is_refused(need, holders, security_bits, field) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(need, holders, security_bits)
    assert refused.value.details["field"] == field


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ckks",
        DEFAULT_PARAMETERS.name + " ",
        DEFAULT_PARAMETERS.name.upper(),
        DEFAULT_PARAMETERS.name.replace("n64", "n064"),
        DEFAULT_PARAMETERS.name.replace("n64", "n٦٤"),  # digits of another script
        DEFAULT_PARAMETERS.name.replace("56.20", "55.20"),
        DEFAULT_PARAMETERS.name.replace("s128", "s192"),  # its special prime has 19 bits
        DEFAULT_PARAMETERS.name.replace("v16", "v17"),
        DEFAULT_PARAMETERS.name.replace("v16", "v08"),
        DEFAULT_PARAMETERS.name.replace("n64", "n65"),
        DEFAULT_PARAMETERS.name.replace("n64", "n1"),
        DEFAULT_PARAMETERS.name.replace("2x22", "2x0"),
        DEFAULT_PARAMETERS.name.replace("n64", "n8"),  # eight holders need less
        "bfv-8192-56.20-t44-2x22-v16-n64-s128",
        "bfv-4096-56.20-t44-2x22-sum-n64-s999",
    ],
)
def test_a_name_that_is_not_planned_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parameter_set(name)
    assert refused.value.reason == "SPEC_INVALID"
    assert name == "" or name not in refused.value.message


@given(st.from_regex(r"bfv-[0-9.]{1,9}-t[0-9]{1,3}-[0-9x]{1,5}-(v[0-9]{1,2}|sum)-n[0-9]{1,3}-s[0-9]{2,3}"))
def test_no_made_up_name_gets_a_set_of_another_name(name: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert parameter_set(name).name == name


def test_seal_is_asked_about_the_security_that_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """If our table were wrong, SEAL's would refuse the set before it is used."""
    from usufruct.encryption import parameters

    table = {**parameters.SECURE_COEFF_MOD_BITS, 192: {4096: 109}}
    monkeypatch.setattr(parameters, "SECURE_COEFF_MOD_BITS", table)
    literal = parameters.ParameterLiteral(security_bits=192)
    with pytest.raises(SealLayoutChanged):
        open_seal(EncryptionParameters.checked(literal))


@pytest.mark.parametrize(
    "parameters",
    [plan(BoundedValues(16), 3), plan(BoundedValues(8), 2, 192), plan(SignedSums(24), 64)],
    ids=lambda p: p.name,
)
@pytest.mark.parametrize("struct_name", ["_OUTER", "_CIPHERTEXT", "_PLAINTEXT"])
def test_the_start_up_proof_of_every_planned_set_is_loud(
    monkeypatch: pytest.MonkeyPatch, parameters: EncryptionParameters, struct_name: str
) -> None:
    """A SEAL whose objects have a field more is noticed before anything is encrypted, in whatever ring."""
    Seal(parameters)
    known = getattr(seal_raw, struct_name)
    monkeypatch.setattr(seal_raw, struct_name, struct.Struct(known.format + "8x"))
    with pytest.raises(SealLayoutChanged):
        Seal(parameters)


def test_a_seal_that_compresses_otherwise_is_noticed() -> None:
    with seal_raw.Scratch() as scratch, pytest.raises(SealLayoutChanged):
        scratch.decompress(b"not zstandard", 100)
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(101))
    with seal_raw.Scratch() as scratch:
        assert scratch.decompress(packed, 101) == bytes(101)
        with pytest.raises(SealLayoutChanged):
            scratch.decompress(packed, 100)
