"""What a round is encrypted with: an unchecked literal becomes checked, immutable parameters.

Needs neither SEAL nor torch: the aggregator and an auditor import this module.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

from usufruct.errors import ConfigError

HEADER_BYTES = 32
"""Length of the header in front of every public key, upload and sum (see
:mod:`usufruct.encryption.layout`).
"""

SECURE_COEFF_MOD_BITS = {
    128: {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881},
    192: {1024: 19, 2048: 37, 4096: 75, 8192: 152, 16384: 305, 32768: 611},
}
"""Largest total bits of the coefficient modulus by security level and poly_modulus_degree, for ternary secrets,
special prime included. Source: Homomorphic Encryption Standard (2018), table 1. SEAL has the same as ``TC128`` and
``TC192`` and is asked before a key is made (:func:`usufruct.encryption.seal_raw.open_seal`)."""

MAX_FAILURE_LOG2 = -128.0
"""Decryption of one coefficient may fail with at most this probability (log2)."""

ERROR_STANDARD_DEVIATION = math.sqrt(21 / 2)
"""Standard deviation of the fresh error, centred binomial of 21 pairs of bits as SEAL's."""


@functools.lru_cache(maxsize=256)  # planning meets the same few primes again and again
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


@functools.lru_cache(maxsize=256)
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
        value_bits: width of one holder's value, which is then within 0..2^value_bits - 1. None: a holder's value
            is any int64, and a field holds the sum as a signed number; that it fits is up to whoever calibrates
            value, noise and headroom.
        max_holders: most uploads in one sum.
        security_bits: 128 or 192, by SEAL's tables.
    """

    poly_modulus_degree: int = 4096
    coeff_mod_bit_sizes: tuple[int, int] = (56, 20)
    plain_modulus_bits: int = 44
    fields_per_coefficient: int = 2
    field_bits: int = 22
    value_bits: int | None = 16
    max_holders: int = 64
    security_bits: int = 128


@dataclass(frozen=True)
class EncryptionParameters:
    """Checked BFV parameters for exact sums. Make them with :meth:`checked`; the constructor checks as well.

    *Guarantee*: every instance meets SEAL's table for ``security_bits``. The words of up to ``max_holders`` uploads
    sum up exactly modulo t but for a probability of 2^:attr:`failure_log2` a coefficient, and with ``value_bits``
    so do the values.
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
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of a full sum, before it is rounded away.

        The error of an encryption of zero after the division by the special prime p is a sum of rounding
        terms (1 + 2N/3)/12 and the fresh error 21/2 * (1 + 4N/3) / p^2, both close to Gaussian for
        N in the thousands.
        """
        n = self.poly_modulus_degree
        variance = (1 + 2 * n / 3) / 12
        variance += ERROR_STANDARD_DEVIATION**2 * (1 + 4 * n / 3) / self.special_modulus**2
        return math.sqrt(variance * self.literal.max_holders)

    @property
    def noise_headroom(self) -> float:
        """Standard deviations of the noise that fit the room it has, (Delta - 2 * holders) / 2.

        Half a step is Delta / 2; scaling by Delta instead of q/t, and every carry of the words over t, take less
        than 1 for each holder at the worst.
        """
        return (self.scale / 2 - self.literal.max_holders) / self.noise_deviation

    @property
    def failure_log2(self) -> float:
        """log2 of the probability that one coefficient of a full sum decrypts wrongly: the two-sided Gaussian tail
        bound 2 exp(-x^2 / 2) at x = :attr:`noise_headroom`.
        """
        if self.noise_headroom <= 0:
            return 0.0
        return min(0.0, 1 - self.noise_headroom**2 / 2 / math.log(2))

    # -- values and bytes ------------------------------------------------------------------------------------

    @property
    def max_holders(self) -> int:
        """Most uploads in one sum."""
        return self.literal.max_holders

    @property
    def signed(self) -> bool:
        """Whether fields hold signed sums of int64 values (see ``ParameterLiteral.value_bits``)."""
        return self.literal.value_bits is None

    @property
    def least_value(self) -> int:
        """Least value of one holder: 0, or that of int64."""
        return -(1 << 63) if self.signed else 0

    @property
    def max_value(self) -> int:
        """Largest value of one holder."""
        bits = self.literal.value_bits
        return (1 << (63 if bits is None else bits)) - 1

    @property
    def least_sum(self) -> int:
        """Least sum that a field can hold: 0 or -2^(field_bits - 1). The largest is 2^field_bits - 1 above it."""
        return -(1 << (self.literal.field_bits - 1)) if self.signed else 0

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
        """Name of these parameters in a job spec, such as ``bfv-4096-56.20-t44-2x22-v16-n64-s128``; with
        ``sum`` in the place of ``v16`` where fields hold signed sums. It states the whole literal.
        """
        literal = self.literal
        q_bits, special_bits = literal.coeff_mod_bit_sizes
        values = "sum" if literal.value_bits is None else f"v{literal.value_bits}"
        return (
            f"bfv-{literal.poly_modulus_degree}-{q_bits}.{special_bits}-t{literal.plain_modulus_bits}-"
            f"{literal.fields_per_coefficient}x{literal.field_bits}-{values}-n{literal.max_holders}-"
            f"s{literal.security_bits}"
        )

    @functools.cached_property
    def parameter_id(self) -> bytes:
        """16 bytes that name these parameters in every header: all parties of a round must agree on them."""
        text = f"usufruct.encryption.v1:{self.name}:{self.coeff_modulus}:{self.special_modulus}"
        return hashlib.sha256(text.encode("ascii")).digest()[:16]


def _check_literal(literal: ParameterLiteral) -> None:
    n = literal.poly_modulus_degree
    if literal.security_bits not in SECURE_COEFF_MOD_BITS:
        raise ConfigError(
            f"security_bits must be one of {sorted(SECURE_COEFF_MOD_BITS)}.", field="security_bits"
        )
    secure_bits = SECURE_COEFF_MOD_BITS[literal.security_bits]
    if n not in secure_bits:
        raise ConfigError(
            f"poly_modulus_degree must be one of {sorted(secure_bits)}.",
            field="poly_modulus_degree",
        )
    if len(literal.coeff_mod_bit_sizes) != 2:
        raise ConfigError(
            "coeff_mod_bit_sizes has two entries: the ciphertext prime and the special prime.",
            field="coeff_mod_bit_sizes",
        )
    q_bits, special_bits = literal.coeff_mod_bit_sizes
    if not (24 <= q_bits <= 56 and 14 <= special_bits <= 21):
        # 56: sums of up to 2^8 uploads then fit 64-bit integers without reduction.
        # 21: products with a key's remainders by it are exact in doubles, in the largest ring.
        raise ConfigError(
            "The ciphertext prime has 24 to 56 bits, the special prime 14 to 21.", field="coeff_mod_bit_sizes"
        )
    if q_bits + special_bits > secure_bits[n]:
        raise ConfigError(
            f"{q_bits + special_bits} bits of coefficient modulus are too many for {literal.security_bits}-bit "
            f"security at poly_modulus_degree {n}; the limit is {secure_bits[n]}.",
            field="coeff_mod_bit_sizes",
        )
    if not 1 <= literal.plain_modulus_bits < q_bits:
        raise ConfigError(
            "The plain modulus must be smaller than the ciphertext prime.", field="plain_modulus_bits"
        )
    value_bits = literal.value_bits
    if min(literal.fields_per_coefficient, literal.max_holders, 1 if value_bits is None else value_bits) < 1:
        raise ConfigError("fields_per_coefficient, value_bits and max_holders are at least 1.")
    if literal.field_bits < 2:
        raise ConfigError("A field has at least 2 bits.", field="field_bits")
    if literal.max_holders > 256:
        raise ConfigError("At most 256 uploads fit one sum without reduction.", field="max_holders")
    if literal.fields_per_coefficient * literal.field_bits > literal.plain_modulus_bits:
        raise ConfigError("The fields of a coefficient do not fit the plain modulus.", field="field_bits")
    if value_bits is not None and literal.max_holders * ((1 << value_bits) - 1) >= 1 << literal.field_bits:
        raise ConfigError(
            f"The sum of {literal.max_holders} values of {value_bits} bits does not fit a field of "
            f"{literal.field_bits} bits, so it would not be exact.",
            field="field_bits",
        )


DEFAULT_PARAMETERS = EncryptionParameters.checked(ParameterLiteral())
"""7.0 bytes a parameter; 16-bit values of up to 64 holders; q = c * 2^44 + 1."""
