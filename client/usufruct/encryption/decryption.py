"""Decryption of many ciphertexts at once, in numpy: c0 + c1 * s mod q, rounded to the plaintext.

SEAL's decryptor opens one ciphertext at a time and spends most of its time on loading and saving objects. Here
the product with the ternary secret s is a complex Fourier transform. c1 is split into digits near 0 that stand,
two at a time, in the real and the imaginary part of one vector; its product with the real s keeps them apart.
Twisting by the powers of exp(i pi / N) makes the cyclic product negacyclic.

The products of digits and s are integers, so rounding makes them exact if the transform errs by less than 1/2.
Two things see to that. By design its error is at most

    |digits| (2 h max|s^| + h sqrt(N) |s|) < 3/4,      h = 8 log2(N) 2^-53,  |.| the 2-norm,

h being the relative error of one transform and its twist in the 2-norm (Higham, Accuracy and Stability of
Numerical Algorithms, theorem 24.2: 7 log2(N) 2^-53); the parameters get as many digits as this needs. And of
every transform no value may lie farther than 1/4 from an integer: with an error below 3/4, it is below 1/4.

That it gives what SEAL's own decryptor gives is proved whenever a key is made.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.seal_raw import Scratch, Seal
from usufruct.errors import SealLayoutChanged


class Decryption:
    """Opens ciphertexts under one secret key, which it holds in memory until :meth:`forget`.

    *Guarantee*: gives what SEAL's decryptor gives wherever the noise is within its bound.
    """

    def __init__(self, seal: Seal, decryptor: Any, public_key: Any) -> None:
        """The secret of SEAL's ``decryptor``; ``public_key`` is SEAL's of the same key, for the proof.

        Raises:
            SealLayoutChanged: SEAL decrypts otherwise than this module.
        """
        self._parameters = seal.parameters
        n = self._parameters.poly_modulus_degree
        secret = _secret(seal, decryptor)
        self._twist = np.exp(1j * np.pi * np.arange(n) / n)
        self._secret = np.fft.fft(secret * self._twist)
        self._pairs = 1
        while self._error_bound(float(np.linalg.norm(secret))) >= 0.75:
            self._pairs += 1
        self._prove(seal, decryptor, public_key)

    def open(self, blocks: Coefficients) -> Coefficients:
        """The plaintexts of ``blocks``, shape [blocks, 2N], each coefficient below q; shape [blocks, N], below t."""
        parameters, bits = self._parameters, self._digit_bits
        n, modulus, half = parameters.poly_modulus_degree, parameters.coeff_modulus, 1 << (bits - 1)
        phase, rest = blocks[:, :n].astype(np.int64), blocks[:, n:].astype(np.int64)
        rest -= np.where(rest > modulus // 2, modulus, 0)
        digits = np.empty(rest.shape, dtype=np.complex128)
        places = 0
        for _ in range(self._pairs):
            carried = (rest + half) >> bits  # what is left when the digit nearest to 0 has been taken
            digits.real = rest - (carried << bits)
            if places + 2 * bits >= modulus.bit_length():
                digits.imag = carried
            else:
                rest = (carried + half) >> bits
                digits.imag = carried - (rest << bits)
            product = self._times_secret(digits)
            for part in (product.real, product.imag):
                self._add_scaled(phase, _whole(part), places)
                places += bits
        phase -= np.where(phase > modulus // 2, modulus, 0)
        message = np.rint(phase / parameters.scale).astype(np.int64)
        phase -= message * parameters.scale  # doubles may have rounded to a neighbour: what is left tells
        message += phase > parameters.scale // 2
        message -= phase < -(parameters.scale // 2)
        message &= parameters.plain_modulus - 1
        return message.view(np.uint64)

    def forget(self) -> None:
        """Overwrite the secret."""
        self._secret.fill(0)

    @property
    def _digit_bits(self) -> int:
        return -(-self._parameters.coeff_modulus.bit_length() // (2 * self._pairs))

    def _error_bound(self, secret_norm: float) -> float:
        n = self._parameters.poly_modulus_degree
        transform = 8 * math.log2(n) * 2.0**-53
        digits = math.sqrt(2 * n) * (2.0 ** (self._digit_bits - 1) + 1)
        return digits * transform * (2 * float(np.abs(self._secret).max()) + math.sqrt(n) * secret_norm)

    def _times_secret(self, digits: NDArray[np.complex128]) -> NDArray[np.complex128]:
        product: NDArray[np.complex128] = np.multiply(digits, self._twist)
        np.fft.fft(product, axis=-1, out=product)
        product *= self._secret
        np.fft.ifft(product, axis=-1, out=product)
        product *= self._twist.conj()
        return product

    def _add_scaled(self, phase: NDArray[np.int64], whole: NDArray[np.float64], places: int) -> None:
        """phase += whole * 2^places mod q, staying within 0..q-1."""
        modulus = self._parameters.coeff_modulus
        factor = pow(2, places, modulus)
        # |whole| < 2^45, so the quotient in doubles is right to far less than 1. The true difference is below q
        # in size and so is what 64 bits keep of it.
        quotient = np.rint(whole * (factor / modulus)).astype(np.int64)
        quotient *= modulus
        rest = whole.astype(np.int64)
        rest *= factor
        phase += rest
        phase -= quotient
        as_unsigned = phase.view(np.uint64)  # of x, x + q and x - q modulo 2^64 the least is x mod q
        np.minimum(as_unsigned, as_unsigned + np.uint64(modulus), out=as_unsigned)
        np.minimum(as_unsigned, as_unsigned - np.uint64(modulus), out=as_unsigned)

    def _prove(self, seal: Seal, decryptor: Any, public_key: Any) -> None:
        """Open a random message with SEAL and here."""
        parameters = self._parameters
        n = parameters.poly_modulus_degree
        ciphertext, plaintext = sealapi.Ciphertext(), sealapi.Plaintext()
        sealapi.Encryptor(seal.context, public_key).encrypt_zero(ciphertext)
        message = np.random.default_rng().integers(0, parameters.plain_modulus, n, dtype=np.uint64)
        with Scratch() as scratch:
            block = seal.read_ciphertext(scratch, ciphertext)
            block[:n] += message * np.uint64(parameters.scale)
            block[:n] %= np.uint64(parameters.coeff_modulus)
            decryptor.decrypt(seal.make_ciphertext(scratch, block), plaintext)
            theirs = seal.read_plaintext(scratch, plaintext)
        if not (np.array_equal(self.open(block[None])[0], message) and np.array_equal(theirs, message)):
            raise SealLayoutChanged("SEAL and this version decrypt one ciphertext to different messages.")


def _secret(seal: Seal, decryptor: Any) -> NDArray[np.int64]:
    """The ternary secret, shape [N]: what (0, Delta) decrypts to, since 0 + Delta * s is an encryption of s."""
    parameters = seal.parameters
    ciphertext = np.zeros(2 * parameters.poly_modulus_degree, dtype=np.uint64)
    ciphertext[parameters.poly_modulus_degree] = parameters.scale
    plaintext = sealapi.Plaintext()
    with Scratch() as scratch:
        decryptor.decrypt(seal.make_ciphertext(scratch, ciphertext), plaintext)
        secret = seal.read_plaintext(scratch, plaintext).astype(np.int64)
    secret[secret == parameters.plain_modulus - 1] = -1
    if int(secret.max()) > 1 or int(secret.min()) < -1 or not secret.any():
        raise SealLayoutChanged("This SEAL's secret keys are not ternary.")
    return secret


def _whole(part: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = np.rint(part)
    if float(np.abs(part - whole).max()) > 0.25:
        raise SealLayoutChanged("The Fourier transform of this numpy is less exact than it must be.")
    return whole
