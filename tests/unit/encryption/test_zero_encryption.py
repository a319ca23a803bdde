"""Encryptions of zero are what SEAL's function gives, exactly, from secrets that are never used twice."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi
from exact_ring import centred, negacyclic

from usufruct.encryption import sampling
from usufruct.encryption import zero_encryption as zero_encryption_module
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.encryption.planner import BoundedValues, SignedSums, plan
from usufruct.encryption.sampling import SecretSampler
from usufruct.encryption.seal_raw import Scratch, open_seal
from usufruct.encryption.zero_encryption import BLOCKS_AT_ONCE, ZeroEncryption
from usufruct.errors import SealLayoutChanged

P = DEFAULT_PARAMETERS
OTHERS = [
    EncryptionParameters.checked(literal)
    for literal in (
        ParameterLiteral(2048, (34, 20), 20, 1, 20, 14, 4),
        ParameterLiteral(4096, (48, 20), 36, 2, 18, 16, 4),
        ParameterLiteral(4096, (55, 20), 43, 2, 21, 15, 64),
        ParameterLiteral(4096, (56, 19), 44, 4, 11, 8, 8),
        ParameterLiteral(8192, (56, 20), 43, 2, 21, 15, 64),
        ParameterLiteral(32768, (56, 21), 42, 2, 21, 15, 64),
    )
]
PLANNED = list(
    {
        (p.coeff_modulus, p.special_modulus): p
        for bits in (8, 12, 16, 22)
        for holders in (2, 3, 8, 64)
        for security in (128, 192)
        for need in (BoundedValues(bits), SignedSums(bits))
        for p in (plan(need, holders, security),)
    }.values()
)


class SealKey:
    """SEAL's key pair of one parameter set, with the public key as ours."""

    def __init__(self, parameters: EncryptionParameters) -> None:
        self.parameters, self.seal = parameters, open_seal(parameters)
        generator = sealapi.KeyGenerator(self.seal.context)
        self._public_key = sealapi.PublicKey()
        generator.create_public_key(self._public_key)
        self._decryptor = sealapi.Decryptor(self.seal.context, generator.secret_key())
        with Scratch() as scratch:
            self.public = self.seal.read_public_key(scratch, self._public_key)

    def open(self, block: np.ndarray) -> np.ndarray:
        plaintext = sealapi.Plaintext()
        with Scratch() as scratch:
            self._decryptor.decrypt(self.seal.make_ciphertext(scratch, block), plaintext)
            return self.seal.read_plaintext(scratch, plaintext)

    def zeros_of_seal(self, count: int) -> np.ndarray:
        encryptor, zero = sealapi.Encryptor(self.seal.context, self._public_key), sealapi.Ciphertext()
        blocks = []
        with Scratch() as scratch:
            for _ in range(count):
                encryptor.encrypt_zero(zero)
                blocks.append(self.seal.read_ciphertext(scratch, zero))
        return np.stack(blocks)

    def secret(self) -> np.ndarray:
        n = self.parameters.poly_modulus_degree
        secret = self.open(np.eye(1, 2 * n, n, dtype=np.uint64)[0] * np.uint64(self.parameters.scale))
        return centred(secret.astype(object), self.parameters.plain_modulus)

    def noise(self, blocks: np.ndarray) -> np.ndarray:
        """c0 + c1 s modulo q, near 0, of every block."""
        n, q, secret = self.parameters.poly_modulus_degree, self.parameters.coeff_modulus, self.secret()
        rows = [
            centred(block[:n].astype(object) + negacyclic(block[n:], secret), q).astype(float)
            for block in blocks
        ]
        return np.stack(rows)


@pytest.fixture(scope="module")
def seal_key() -> SealKey:
    return SealKey(P)


def whole_key(parameters: EncryptionParameters, public: np.ndarray) -> np.ndarray:
    """(b, a) modulo q p, shape [2, N]."""
    return public[:, 0].astype(object) * parameters.special_modulus + public[:, 1].astype(object)


def zeros_under(parameters: EncryptionParameters, public: np.ndarray, count: int) -> np.ndarray:
    blocks = np.empty((count, 2 * parameters.poly_modulus_degree), dtype=np.uint64)
    ZeroEncryption(parameters, public).fill(blocks)
    return blocks


# -- they are encryptions of zero ----------------------------------------------------------------------------


def test_a_key_is_read_exactly(seal_key: SealKey) -> None:
    """b + a s is -e modulo q p, and nothing but the right numbers makes that small."""
    b, a = whole_key(P, seal_key.public)
    error = centred(b + negacyclic(a, seal_key.secret()), P.coeff_modulus * P.special_modulus).astype(int)
    assert np.abs(error).max() <= 21 and 3.0 < error.std() < 3.5


@pytest.mark.parametrize("parameters", [*PLANNED, *OTHERS], ids=lambda p: p.name)
def test_seal_opens_them_to_zero(parameters: EncryptionParameters) -> None:
    key = SealKey(parameters)
    for block in zeros_under(parameters, key.public, BLOCKS_AT_ONCE + 1):
        assert int(block.max()) < parameters.coeff_modulus
        assert not key.open(block).any()


def test_their_noise_is_that_of_theory_and_of_seals_own(seal_key: SealKey) -> None:
    """Of 81920 coefficients each: the estimate's deviation is 0.25 %; another 0.6 % is the secret's weight against 2N/3."""
    ours = seal_key.noise(zeros_under(P, seal_key.public, 20))
    theirs = seal_key.noise(seal_key.zeros_of_seal(20))
    weight = int(np.abs(seal_key.secret().astype(int)).sum())
    theory = math.sqrt((1 + weight) / 12)
    assumed = P.noise_deviation / math.sqrt(P.max_holders)
    assert abs(ours.std() / theory - 1) < 0.015 and abs(theirs.std() / theory - 1) < 0.015
    assert ours.std() < 1.04 * assumed
    assert abs(ours.mean()) < 7 * theory / math.sqrt(ours.size)
    # no coefficient of a block is noisier than another
    by_coefficient = np.sqrt((ours**2).mean(axis=0))
    assert 0.3 * theory < by_coefficient.min() and by_coefficient.max() < 1.8 * theory


# -- exactly the function ------------------------------------------------------------------------------------


def with_secrets(zeros: ZeroEncryption, ternary: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The block that ``zeros`` makes from u, shape [N], and e, shape [2, N]."""
    n = len(ternary)

    def draw(into_ternary: np.ndarray, into_errors: np.ndarray) -> None:
        for half in (0, 1):  # coefficients j and j + N/2 stand side by side
            part = slice(half * n // 2, (half + 1) * n // 2)
            into_ternary[0, half::2] = ternary[part]
            into_errors[0, :, half::2] = errors[:, part]

    zeros._sampler.draw = draw  # type: ignore[method-assign]
    blocks = np.empty((1, 2 * n), dtype=np.uint64)
    zeros.fill(blocks)
    return blocks[0]


def reference(
    parameters: EncryptionParameters, public: np.ndarray, ternary: np.ndarray, errors: np.ndarray
) -> np.ndarray:
    """round((k u + e) / p) mod q, in Python's integers."""
    p, q = parameters.special_modulus, parameters.coeff_modulus
    halves = [
        (negacyclic(k, ternary) + e.astype(object) + p // 2) // p % q
        for k, e in zip(whole_key(parameters, public), errors, strict=True)
    ]
    return np.concatenate(halves).astype(np.uint64)


def lines(parameters: EncryptionParameters) -> tuple[np.ndarray, np.ndarray]:
    """A key whose digits are large and all lie in one line of its spectrum, and the u that lies in it as well."""
    n = parameters.poly_modulus_degree
    sign = np.where(np.cos(np.pi * 3 * np.arange(n) / n) > 0, 1, -1)
    half = (1 << 27) - 1
    high = (sign * half * ((1 << 28) + 1)) % parameters.coeff_modulus
    low = (sign * (parameters.special_modulus // 2)) % parameters.special_modulus
    public = np.stack([high, low]).astype(np.uint64)
    # -1 where the reversed sequence is the line: then one coefficient sums up all of them
    return np.stack([public, public]), -np.roll(sign[::-1], 1)


def keys_of(parameters: EncryptionParameters) -> dict[str, np.ndarray]:
    n, q, p = parameters.poly_modulus_degree, parameters.coeff_modulus, parameters.special_modulus
    rng = np.random.default_rng(7)

    def constant(high: int, low: int) -> np.ndarray:
        part = np.stack([np.full(n, high, dtype=np.uint64), np.full(n, low, dtype=np.uint64)])
        return np.stack([part, part])

    uniform = [
        np.stack([rng.integers(0, q, n, dtype=np.uint64), rng.integers(0, p, n, dtype=np.uint64)])
        for _ in range(2)
    ]
    return {
        "uniform": np.stack(uniform),
        "q - 1": constant(q - 1, p - 1),
        "q / 2": constant(q // 2, p // 2),
        "q / 2 + 1": constant(q // 2 + 1, p // 2 + 1),
        "q - 1, p / 2 + 1": constant(q - 1, p // 2 + 1),
        "lines": lines(parameters)[0],
    }


@pytest.mark.parametrize("name", ["uniform", "q - 1", "q / 2", "q / 2 + 1", "q - 1, p / 2 + 1", "lines"])
@pytest.mark.parametrize("parameters", [P, *OTHERS[:-1]], ids=lambda p: p.name)
def test_every_coefficient_is_that_of_slow_integers(parameters: EncryptionParameters, name: str) -> None:
    """Uniform and extreme keys, uniform and extreme secrets."""
    public, n = keys_of(parameters)[name], parameters.poly_modulus_degree
    zeros, rng = ZeroEncryption(parameters, public), np.random.default_rng(8)
    secrets = [
        (rng.integers(-1, 2, n), rng.integers(-21, 22, (2, n))),
        (np.ones(n, dtype=int), np.full((2, n), 21)),
        (lines(parameters)[1], np.full((2, n), -21)),
    ]
    for ternary, errors in secrets:
        expected = reference(parameters, public, ternary, errors)
        np.testing.assert_array_equal(with_secrets(zeros, ternary, errors), expected)


@pytest.mark.parametrize("parameters", [P, *OTHERS], ids=lambda p: p.name)
def test_products_err_less_than_the_bound_and_the_bound_allows_rounding(
    parameters: EncryptionParameters,
) -> None:
    n = parameters.poly_modulus_degree
    for public in keys_of(parameters).values():
        zeros = ZeroEncryption(parameters, public)
        assert zeros.error_bound < 0.25
        for ternary in (np.ones(n), lines(parameters)[1]):
            with_secrets(zeros, ternary, np.zeros((2, n)))
            for spectrum in (zeros._low, *zeros._high):
                product = zeros._times(spectrum, zeros._draw(1))
                assert np.abs(product - np.rint(product)).max() <= zeros.error_bound


def test_a_uniform_key_takes_two_digits_and_one_with_a_line_takes_more() -> None:
    keys = keys_of(P)
    uniform, line = (ZeroEncryption(P, keys[name]) for name in ("uniform", "lines"))
    assert len(uniform._high) == 2 and uniform.error_bound < 0.05
    assert len(line._high) == 3


@pytest.mark.parametrize("n", [2048, 4096, 8192, 16384, 32768])
def test_remainders_by_any_special_prime_need_no_digits(n: int) -> None:
    """The largest remainders of 21 bits, all in one line, in every ring."""
    parameters = EncryptionParameters.checked(ParameterLiteral(n, (33, 21), 18, 1, 18, 14, 4))
    zeros = ZeroEncryption(parameters, keys_of(parameters)["lines"])
    sign = np.where(np.cos(np.pi * np.arange(n) / n) > np.sin(np.pi * np.arange(n) / n), 1, -1)
    _, bound = zeros._transformed(np.stack([sign, sign]) * (1 << 20))
    assert bound < 0.25


def test_a_numpy_whose_transform_is_inexact_is_refused(
    monkeypatch: pytest.MonkeyPatch, seal_key: SealKey
) -> None:
    exact = np.fft.ifft

    def inexact(*arguments: Any, **options: Any) -> np.ndarray:
        product = exact(*arguments, **options)
        product[0, 0, 0] += 0.3
        return product

    monkeypatch.setattr(zero_encryption_module.np.fft, "ifft", inexact)
    with pytest.raises(SealLayoutChanged):
        ZeroEncryption(P, seal_key.public)


# -- the secrets ---------------------------------------------------------------------------------------------


@pytest.fixture
def fixed_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key stream in every run, so that a statistical test gives one answer."""
    monkeypatch.setattr(sampling.os, "urandom", lambda size: bytes(range(size)))


def draws(rows: int) -> tuple[np.ndarray, np.ndarray]:
    sampler = SecretSampler(4096, rows)
    ternary, errors = np.empty((rows, 4096)), np.empty((rows, 2, 4096), dtype=np.int8)
    sampler.draw(ternary, errors)
    return ternary, errors


def chi_squared(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_ternary_polynomials_are_uniform(fixed_key: None) -> None:
    """409600 coefficients; a fair sampler exceeds 27.6 (two degrees of freedom) once in 10^6 keys."""
    ternary, _ = draws(100)
    counts = np.array([(ternary == value).sum() for value in (-1, 0, 1)])
    assert counts.sum() == ternary.size
    assert chi_squared(counts, np.full(3, ternary.size / 3)) < 27.6


def test_errors_are_centred_binomial_of_21_pairs(fixed_key: None) -> None:
    """819200 coefficients in the 27 classes -13..13, tails in the outermost; 26 degrees of freedom: 78 once in 10^6."""
    _, errors = draws(100)
    chances = np.array([math.comb(42, 21 + value) for value in range(-21, 22)]) / 2**42

    def classes(numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([[numbers[:9].sum()], numbers[9:34], [numbers[34:].sum()]])

    counts = np.bincount(errors.reshape(-1).astype(int) + 21, minlength=43)
    assert len(counts) == 43
    assert chi_squared(classes(counts), classes(chances) * errors.size) < 78


def test_the_three_polynomials_of_a_block_and_their_neighbours_are_independent(fixed_key: None) -> None:
    """Correlations of 409600 pairs deviate by 0.0016; none of 15 by more than 6 of that."""
    ternary, errors = draws(100)
    series = [ternary, errors[:, 0], errors[:, 1]]
    series += [np.roll(part, 1, axis=1) for part in series]
    table = np.corrcoef(np.stack([part.reshape(-1) for part in series])) - np.eye(6)
    assert np.abs(table).max() < 6 / math.sqrt(ternary.size)


def test_each_third_of_the_words_makes_one_ternary_value_and_zero_is_drawn_again() -> None:
    """Of x in 1..2^62 - 1 the three classes are equally large: their ends, in words of 62 bits and two more."""
    sampler, third = SecretSampler(8, 1), (2**62 - 1) // 3
    ends = [1, third, third + 1, 2 * third, 2 * third + 1, 3 * third, 1, 1]
    offered = [[*ends[:-1], 0], ends]

    def give(words: np.ndarray) -> None:
        words.fill(0)
        words[:8] = [x << 2 | 3 for x in offered.pop(0)]

    sampler._random = give  # type: ignore[method-assign]
    ternary, errors = np.empty((1, 8)), np.empty((1, 2, 8), dtype=np.int8)
    sampler.draw(ternary, errors)
    assert ternary[0].tolist() == [-1, -1, 0, 0, 1, 1, -1, -1] and not offered
    assert (errors == -21).all()


def digests(take: Callable[[], np.ndarray], count: int) -> list[bytes]:
    return [hashlib.sha256(take().tobytes()).digest() for _ in range(count)]


def test_neither_calls_nor_makers_nor_forks_repeat_a_block(seal_key: SealKey) -> None:
    """Forked with blocks made ahead, which the child has as well and must not give."""
    first, second = (ZeroEncryption(P, seal_key.public) for _ in range(2))
    given = digests(first.take, 1) + digests(second.take, BLOCKS_AT_ONCE + 2)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            mine = digests(first.take, 2 * BLOCKS_AT_ONCE) + digests(second.take, 2 * BLOCKS_AT_ONCE)
            os.write(write, b"".join(mine))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    given += [told[at : at + 32] for at in range(0, len(told), 32)]
    given += digests(first.take, 2 * BLOCKS_AT_ONCE) + digests(second.take, 2 * BLOCKS_AT_ONCE)
    assert len(given) == 3 + BLOCKS_AT_ONCE + 8 * BLOCKS_AT_ONCE
    assert len(set(given)) == len(given)


def test_secrets_and_taken_blocks_are_overwritten(seal_key: SealKey) -> None:
    zeros = ZeroEncryption(P, seal_key.public)
    block = zeros.take()
    for _ in range(2 * BLOCKS_AT_ONCE):
        held = block.copy()
        assert held.any()
        following = zeros.take()
        assert (block != held).mean() > 0.99
        block = following
    left = [zeros._ternary, zeros._product, zeros._errors, zeros._quotient, zeros._share, zeros._sum]
    assert not any(array.any() for array in [*left, zeros._sampler._words])
