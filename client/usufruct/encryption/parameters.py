"""What a round is encrypted with: an unchecked literal becomes checked, immutable parameters.

Needs neither SEAL nor torch: the aggregator and an auditor import this module.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from types import MappingProxyType

from usufruct.errors import ConfigError, InvalidInput

HEADER_BYTES = 32
"""Length of the header in front of every public key, upload and sum (see
:mod:`usufruct.encryption.layout`).
"""

SECURE_COEFF_MOD_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Largest total bits of the coefficient modulus for 128-bit security with ternary secrets, special prime
included. Source: Homomorphic Encryption Standard (2018), table 1; SEAL enforces the same as ``TC128``."""

MAX_FAILURE_LOG2 = -128.0
"""Decryption of one coefficient may fail with at most this probability (log2)."""

ERROR_STANDARD_DEVIATION = 3.2
"""Standard deviation of SEAL's fresh error (centred binomial, 21 bits)."""


def is_prime(n: int) -> bool:
    """Whether ``n`` < 2^64 is prime.

    Miller-Rabin with the first twelve primes as bases, which is exact below 3.3e24 (Sorenson & Webster 2015).
    """
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if not 0 <= n < 1 << 64:
        raise ValueError("the primality test is exact below 2^64 only")
    if n < 2:
        return False
    for p in bases:
        if n % p == 0:
            return n == p
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def _largest_prime(bits: int, step: int, least: int) -> int:
    """The largest prime of ``bits`` bits that is 1 modulo ``step``, above ``least``."""
    candidate = ((1 << bits) - 2) // step * step + 1
    while candidate > least:
        if is_prime(candidate):
            return candidate
        candidate -= step
    raise ConfigError(f"There is no prime of {bits} bits that is 1 modulo {step}; choose more bits.")


@dataclass(frozen=True)
class ParameterLiteral:
    """Parameters as a person writes them; nothing is checked yet.

    Attributes:
        poly_modulus_degree: N, coefficients of one polynomial; a power of two.
        coeff_mod_bit_sizes: bits of the ciphertext prime q and of SEAL's special prime.
        plain_modulus_bits: the plain modulus is 2 to this power.
        fields_per_coefficient: values packed into one coefficient.
        field_bits: width of one such field; it has to hold the *sum* over all holders.
        value_bits: width of one holder's value.
        max_holders: most uploads in one sum.
    """

    poly_modulus_degree: int = 4096
    coeff_mod_bit_sizes: tuple[int, int] = (56, 20)
    plain_modulus_bits: int = 44
    fields_per_coefficient: int = 2
    field_bits: int = 22
    value_bits: int = 16
    max_holders: int = 64


@dataclass(frozen=True)
class EncryptionParameters:
    """Checked BFV parameters for exact sums. Make them with :meth:`checked`; the constructor checks as well.

    *Guarantee*: every instance meets SEAL's 128-bit table, and a sum of up to ``max_holders`` values of
    ``value_bits`` bits decrypts exactly but for a probability of 2^:attr:`failure_log2` a coefficient.
    """

    literal: ParameterLiteral
    coeff_modulus: int
    special_modulus: int

    @classmethod
    def checked(cls, literal: ParameterLiteral) -> EncryptionParameters:
        """Check ``literal`` and find its primes (the largest that fit, so the same everywhere).

        Raises:
            ConfigError: the literal is malformed, not secure, or its sums would not be exact.
        """
        _check_literal(literal)
        n, bits = literal.poly_modulus_degree, literal.coeff_mod_bit_sizes
        # q = 1 modulo the plain modulus makes BFV's scaling one integer product, and q = 1 modulo 2N gives
        # SEAL its transform: the step is the larger of the two powers of two.
        step = max(1 << literal.plain_modulus_bits, 2 * n)
        coeff_modulus = _largest_prime(bits[0], step, 1 << (bits[0] - 1))
        special_modulus = _largest_prime(bits[1], 2 * n, 1 << (bits[1] - 1))
        return cls(literal=literal, coeff_modulus=coeff_modulus, special_modulus=special_modulus)

    def __post_init__(self) -> None:
        literal = self.literal
        _check_literal(literal)
        q_bits, special_bits = literal.coeff_mod_bit_sizes
        step = max(self.plain_modulus, 2 * literal.poly_modulus_degree)
        for name, prime, bits, one_modulo in (
            ("coeff_modulus", self.coeff_modulus, q_bits, step),
            ("special_modulus", self.special_modulus, special_bits, 2 * literal.poly_modulus_degree),
        ):
            if prime.bit_length() != bits or prime % one_modulo != 1 or not is_prime(prime):
                raise ConfigError(
                    f"{name} must be a prime of {bits} bits, 1 modulo {one_modulo}.", field=name
                )
        if self.coeff_modulus == self.special_modulus:
            raise ConfigError("coeff_modulus and special_modulus must differ.", field="special_modulus")
        if self.failure_log2 > MAX_FAILURE_LOG2:
            raise ConfigError(
                f"A sum of {literal.max_holders} uploads would decrypt wrongly with probability "
                f"2^{self.failure_log2:.0f} a coefficient; choose fewer holders or a smaller plain modulus.",
                field="max_holders",
            )

    # -- the ring --------------------------------------------------------------------------------------------

    @property
    def poly_modulus_degree(self) -> int:
        """N: coefficients of one polynomial."""
        return self.literal.poly_modulus_degree

    @property
    def plain_modulus(self) -> int:
        """t, a power of two."""
        return 1 << self.literal.plain_modulus_bits

    @property
    def scale(self) -> int:
        """Delta = floor(q / t). Because q = 1 modulo t, round(q*m/t) differs from Delta*m by at most 1."""
        return self.coeff_modulus >> self.literal.plain_modulus_bits

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one coefficient of a full sum decrypts wrongly.

        The error of an encryption of zero after SEAL's switch away from the special prime p is a sum of
        rounding terms (1 + 2N/3)/12 and the fresh error 3.2^2 * (1 + 4N/3) / p^2, both close to Gaussian for
        N in the thousands; each holder's scaling adds less than 1 to the worst case. A coefficient fails when
        the sum leaves half a step, (Delta - holders) / 2; two-sided Gaussian tail bound.
        """
        n, holders = self.poly_modulus_degree, self.literal.max_holders
        variance = (1 + 2 * n / 3) / 12
        variance += ERROR_STANDARD_DEVIATION**2 * (1 + 4 * n / 3) / self.special_modulus**2
        room = self.scale / 2 - holders
        if room <= 0:
            return 0.0
        return min(0.0, 1 - room * room / (2 * variance * holders) / math.log(2))

    # -- values and bytes ------------------------------------------------------------------------------------

    @property
    def max_holders(self) -> int:
        """Most uploads in one sum."""
        return self.literal.max_holders

    @property
    def max_value(self) -> int:
        """Largest value of one holder; the least is 0."""
        return (1 << self.literal.value_bits) - 1

    @property
    def values_per_block(self) -> int:
        """Values in one ciphertext."""
        return self.poly_modulus_degree * self.literal.fields_per_coefficient

    @property
    def bytes_per_coefficient(self) -> int:
        """Bytes of one ciphertext coefficient on the wire."""
        return -(-self.coeff_modulus.bit_length() // 8)

    @property
    def bytes_per_special_coefficient(self) -> int:
        """Bytes of one public-key coefficient modulo the special prime."""
        return -(-self.special_modulus.bit_length() // 8)

    @property
    def block_bytes(self) -> int:
        """Bytes of one ciphertext (two polynomials) on the wire."""
        return 2 * self.poly_modulus_degree * self.bytes_per_coefficient

    def blocks_for(self, count: int) -> int:
        """Ciphertexts that carry ``count`` values."""
        if count < 1:
            raise ConfigError("An update has at least one value.", field="count", requested=count)
        return -(-count // self.values_per_block)

    def upload_bytes(self, count: int) -> int:
        """Exact length of an upload (and of a sum) of ``count`` values, header included."""
        return HEADER_BYTES + self.blocks_for(count) * self.block_bytes

    def upload_bytes_per_parameter(self, count: int | None = None) -> float:
        """Wire bytes a parameter: at ``count`` parameters, or in the limit of large models."""
        if count is None:
            return self.block_bytes / self.values_per_block
        return self.upload_bytes(count) / count

    @property
    def public_key_bytes(self) -> int:
        """Exact length of a public key, header included: two polynomials modulo both primes."""
        a_coefficient = self.bytes_per_coefficient + self.bytes_per_special_coefficient
        return HEADER_BYTES + 2 * self.poly_modulus_degree * a_coefficient

    @property
    def name(self) -> str:
        """Name of these parameters in a job spec, such as ``bfv-4096-56.20-t44-2x22-v16-h64``."""
        literal = self.literal
        q_bits, special_bits = literal.coeff_mod_bit_sizes
        return (
            f"bfv-{literal.poly_modulus_degree}-{q_bits}.{special_bits}-t{literal.plain_modulus_bits}-"
            f"{literal.fields_per_coefficient}x{literal.field_bits}-v{literal.value_bits}-h{literal.max_holders}"
        )

    @property
    def parameter_id(self) -> bytes:
        """16 bytes that name these parameters in every header: all parties of a round must agree on them."""
        literal = self.literal
        text = (
            f"usufruct.encryption.v1:bfv:{literal.poly_modulus_degree}:{self.coeff_modulus}:{self.special_modulus}:"
            f"{literal.plain_modulus_bits}:{literal.fields_per_coefficient}:{literal.field_bits}:"
            f"{literal.value_bits}:{literal.max_holders}"
        )
        return hashlib.sha256(text.encode("ascii")).digest()[:16]


def _check_literal(literal: ParameterLiteral) -> None:
    n = literal.poly_modulus_degree
    if n not in SECURE_COEFF_MOD_BITS:
        raise ConfigError(
            f"poly_modulus_degree must be one of {sorted(SECURE_COEFF_MOD_BITS)}.",
            field="poly_modulus_degree",
        )
    if len(literal.coeff_mod_bit_sizes) != 2:
        raise ConfigError(
            "coeff_mod_bit_sizes has two entries: the ciphertext prime and the special prime.",
            field="coeff_mod_bit_sizes",
        )
    q_bits, special_bits = literal.coeff_mod_bit_sizes
    if not (24 <= q_bits <= 56 and 14 <= special_bits <= 60):
        # 56: sums of up to 2^8 uploads then fit 64-bit integers without reduction.
        raise ConfigError(
            "The ciphertext prime has 24 to 56 bits, the special prime 14 to 60.", field="coeff_mod_bit_sizes"
        )
    if q_bits + special_bits > SECURE_COEFF_MOD_BITS[n]:
        raise ConfigError(
            f"{q_bits + special_bits} bits of coefficient modulus are too many for 128-bit security at "
            f"poly_modulus_degree {n}; the limit is {SECURE_COEFF_MOD_BITS[n]}.",
            field="coeff_mod_bit_sizes",
        )
    if not 1 <= literal.plain_modulus_bits < q_bits:
        raise ConfigError(
            "The plain modulus must be smaller than the ciphertext prime.", field="plain_modulus_bits"
        )
    if literal.fields_per_coefficient < 1 or literal.value_bits < 1 or literal.max_holders < 1:
        raise ConfigError("fields_per_coefficient, value_bits and max_holders are at least 1.")
    if literal.max_holders > 256:
        raise ConfigError("At most 256 uploads fit one sum without reduction.", field="max_holders")
    if literal.fields_per_coefficient * literal.field_bits > literal.plain_modulus_bits:
        raise ConfigError("The fields of a coefficient do not fit the plain modulus.", field="field_bits")
    if literal.max_holders * ((1 << literal.value_bits) - 1) >= 1 << literal.field_bits:
        raise ConfigError(
            f"The sum of {literal.max_holders} values of {literal.value_bits} bits does not fit a field of "
            f"{literal.field_bits} bits, so it would not be exact.",
            field="field_bits",
        )


DEFAULT_PARAMETERS = EncryptionParameters.checked(ParameterLiteral())
"""7.0 bytes a parameter; 16-bit values of up to 64 holders; q = c * 2^44 + 1."""

PARAMETER_SETS: MappingProxyType[str, EncryptionParameters] = MappingProxyType(
    {DEFAULT_PARAMETERS.name: DEFAULT_PARAMETERS}
)
"""The sets that a job spec may name."""


def parameter_set(name: str) -> EncryptionParameters:
    """The parameter set that another party named.

    Raises:
        InvalidInput: ``SPEC_INVALID``: there is no such set in this version.
    """
    if name not in PARAMETER_SETS:
        raise InvalidInput(
            f"There is no such encryption parameter set; this version knows {', '.join(PARAMETER_SETS)}.",
            reason="SPEC_INVALID",
            field="encryption.parameters",
        )
    return PARAMETER_SETS[name]
