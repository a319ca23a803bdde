"""Picks encryption parameters for a job, and finds them again by the name that its spec carries.

Needs neither SEAL nor numpy: every party of a round plans for itself and must come to the same set. SEAL is asked
about security, by its own table, before a key is made (:mod:`usufruct.encryption.seal_raw`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from usufruct.encryption.parameters import (
    DEFAULT_PARAMETERS,
    SECURE_COEFF_MOD_BITS,
    EncryptionParameters,
    ParameterLiteral,
)
from usufruct.errors import ConfigError, InvalidInput

POLY_MODULUS_DEGREE = 4096
"""The smallest degree whose secure modulus leaves room for a 56-bit q at 192 bits; a larger one gains no bytes."""

SPECIAL_PRIME_BITS = 20
"""Bits of the special prime where the security level allows them: enough to divide the fresh noise (236) away.
At 192 bits 19 are left beside a 56-bit q, which do as well."""

MIN_HOLDERS, MAX_HOLDERS = 2, 64

_NAME = re.compile(
    r"bfv-4096-[0-9]{2}\.[0-9]{2}-t[0-9]{1,2}-[0-9]{1,2}x([0-9]{1,2})-(?:v([0-9]{1,2})|sum)-n([0-9]{1,2})-s([0-9]{3})"
)


@dataclass(frozen=True)
class BoundedValues:
    """What ``local`` noise needs: each holder's values are within 0..2^bits - 1."""

    bits: int


@dataclass(frozen=True)
class SignedSums:
    """What ``distributed`` noise needs: one signed field of ``bits`` for the sum of value, noise and headroom,
    whatever the number of holders.
    """

    bits: int


def plan(need: BoundedValues | SignedSums, holders: int, security_bits: int = 128) -> EncryptionParameters:
    """The parameters with the fewest bytes a parameter that are secure and exact; deterministic.

    Fields are as wide as they need to be and fill the plain modulus t; q has as many bits as its bytes on the
    wire. Of sets with equally many bytes the one with the most fields a coefficient is taken.

    Args:
        need: what a field has to hold.
        holders: most uploads in one sum, 2 to 64.
        security_bits: 128 or 192, by SEAL's tables.

    Returns:
        The set. Its ``failure_log2``, ``noise_headroom`` and ``upload_bytes_per_parameter()`` state what was picked.

    Raises:
        ConfigError: no set of this version is secure and exact for it; ``field`` says what to lower.
    """
    if not MIN_HOLDERS <= holders <= MAX_HOLDERS:
        raise ConfigError(f"A sum is of {MIN_HOLDERS} to {MAX_HOLDERS} holders.", field="holders")
    if security_bits not in SECURE_COEFF_MOD_BITS:
        raise ConfigError(
            f"security_bits must be one of {sorted(SECURE_COEFF_MOD_BITS)}.", field="security_bits"
        )
    field = "value_bits" if isinstance(need, BoundedValues) else "field_bits"
    if need.bits < (1 if isinstance(need, BoundedValues) else 2):
        raise ConfigError(f"{field} is too small to carry anything.", field=field)
    width = need.bits
    if isinstance(need, BoundedValues):
        width = (holders * ((1 << need.bits) - 1)).bit_length()
    sizes = [
        (size / fields, -fields, size) for size in range(3, 8) for fields in range(1, 8 * size // width + 1)
    ]
    for _, minus_fields, size in sorted(sizes):
        q_bits, fields = 8 * size, -minus_fields
        special_bits = min(
            SPECIAL_PRIME_BITS, SECURE_COEFF_MOD_BITS[security_bits][POLY_MODULUS_DEGREE] - q_bits
        )
        literal = ParameterLiteral(
            poly_modulus_degree=POLY_MODULUS_DEGREE,
            coeff_mod_bit_sizes=(q_bits, special_bits),
            plain_modulus_bits=fields * width,
            fields_per_coefficient=fields,
            field_bits=width,
            value_bits=need.bits if isinstance(need, BoundedValues) else None,
            max_holders=holders,
            security_bits=security_bits,
        )
        try:
            return EncryptionParameters.checked(literal)
        except ConfigError:  # no prime of this form, or not exact enough: the next costs more bytes
            continue
    raise ConfigError(
        f"No parameters of this version carry exact sums of {holders} holders in fields of {width} bits; lower {field}.",
        field=field,
        limit=width,
    )


@functools.lru_cache(maxsize=64)
def parameter_set(name: str) -> EncryptionParameters:
    """The parameter set that another party named: planned anew from the name, which must then be its own.

    Raises:
        InvalidInput: ``SPEC_INVALID``: this version's planner picks no set of that name.
    """
    parsed = _NAME.fullmatch(name)
    try:
        if parsed is not None:
            width, value_bits, holders, security_bits = parsed.groups()
            need = BoundedValues(int(value_bits)) if value_bits else SignedSums(int(width))
            parameters = plan(need, int(holders), int(security_bits))
            if parameters.name == name:
                return parameters
    except ConfigError:
        pass
    raise InvalidInput(
        "This version plans no encryption parameters of that name; one that it knows is "
        f"{DEFAULT_PARAMETERS.name}.",
        reason="SPEC_INVALID",
        field="encryption.parameters",
    )
