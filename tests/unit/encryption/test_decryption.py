"""Decryption by Fourier transform gives what SEAL's gives, up to the last bit of noise it may bear."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal.sealapi as sealapi
from exact_ring import negacyclic

from usufruct.encryption import decryption as decryption_module
from usufruct.encryption.decryption import Decryption
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.encryption.seal_raw import Scratch, open_seal
from usufruct.errors import SealLayoutChanged

P = DEFAULT_PARAMETERS
OTHERS = [
    ParameterLiteral(2048, (34, 20), 20, 1, 20, 14, 4),
    ParameterLiteral(4096, (48, 20), 36, 2, 18, 16, 4),
    ParameterLiteral(8192, (56, 20), 43, 2, 21, 15, 64),
]


def both(parameters: EncryptionParameters) -> tuple[Decryption, object]:
    seal = open_seal(parameters)
    generator = sealapi.KeyGenerator(seal.context)
    public_key = sealapi.PublicKey()
    generator.create_public_key(public_key)
    decryptor = sealapi.Decryptor(seal.context, generator.secret_key())
    return Decryption(seal, decryptor, public_key), decryptor


def by_seal(parameters: EncryptionParameters, decryptor: object, block: np.ndarray) -> np.ndarray:
    seal, plaintext = open_seal(parameters), sealapi.Plaintext()
    with Scratch() as scratch:
        decryptor.decrypt(seal.make_ciphertext(scratch, block), plaintext)  # type: ignore[attr-defined]
        return seal.read_plaintext(scratch, plaintext)


@pytest.mark.parametrize("literal", [ParameterLiteral(), *OTHERS], ids=["56", "34", "48", "N = 8192"])
def test_it_agrees_with_seal_on_extreme_ciphertexts(literal: ParameterLiteral) -> None:
    """c1 of anything, c0 such that the noise is as large as it may be: (Delta - 1) / 2 less the scaling's 1."""
    parameters = EncryptionParameters.checked(literal)
    ours, decryptor = both(parameters)
    n, q, t, scale = (
        parameters.poly_modulus_degree,
        parameters.coeff_modulus,
        parameters.plain_modulus,
        parameters.scale,
    )
    rng = np.random.default_rng(1)
    secret = by_seal(
        parameters, decryptor, np.eye(1, 2 * n, n, dtype=np.uint64)[0] * np.uint64(scale)
    ).astype(object)
    secret[secret == t - 1] = -1
    halves = [
        np.zeros(n, dtype=np.uint64),
        np.full(n, q - 1, dtype=np.uint64),
        np.full(n, q // 2, dtype=np.uint64),
        np.full(n, q // 2 + 1, dtype=np.uint64),
        rng.integers(0, q, n, dtype=np.uint64),
    ]
    for c1 in halves:
        product = negacyclic(c1.astype(object), secret)
        messages = rng.integers(0, t, n).astype(object)
        messages[:2] = 0, t - 1
        noise = rng.choice([-(scale // 2 - 2), 0, scale // 2 - 2], n).astype(object)
        c0 = (messages * scale + noise - product) % q
        block = np.concatenate([c0.astype(np.uint64), c1])
        np.testing.assert_array_equal(ours.open(block[None])[0], messages.astype(np.uint64))
        np.testing.assert_array_equal(by_seal(parameters, decryptor, block), messages.astype(np.uint64))


def test_several_blocks_are_those_opened_one_by_one() -> None:
    ours, _ = both(P)
    blocks = np.random.default_rng(2).integers(0, P.coeff_modulus, (5, 8192), dtype=np.uint64)
    together = ours.open(blocks)
    for block, message in zip(blocks, together, strict=True):
        np.testing.assert_array_equal(ours.open(block[None])[0], message)


def test_larger_rings_take_more_digits() -> None:
    pairs = [both(EncryptionParameters.checked(literal))[0]._pairs for literal in OTHERS]
    assert pairs == [1, 1, 2]


def test_an_inexact_transform_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both(P)
    exact = np.fft.ifft

    def inexact(values: np.ndarray, axis: int, out: np.ndarray) -> np.ndarray:
        exact(values, axis=axis, out=out)
        out[0, 0] += 0.3
        return out

    monkeypatch.setattr(decryption_module.np.fft, "ifft", inexact)
    with pytest.raises(SealLayoutChanged):
        ours.open(np.zeros((1, 8192), dtype=np.uint64))


def test_a_seal_that_decrypts_otherwise_fails_when_a_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    RoundKey.generate(P)
    honest = Decryption.open
    monkeypatch.setattr(Decryption, "open", lambda self, blocks: honest(self, blocks) ^ np.uint64(1))
    with pytest.raises(SealLayoutChanged):
        RoundKey.generate(P)


def test_a_forgotten_secret_opens_nothing() -> None:
    ours, _ = both(P)
    blocks = np.random.default_rng(2).integers(0, P.coeff_modulus, (1, 8192), dtype=np.uint64)
    before = ours.open(blocks)
    ours.forget()
    assert (ours.open(blocks) != before).mean() > 0.99
