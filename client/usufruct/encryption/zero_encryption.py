"""Encryptions of zero under a public key, several at once, in numpy; by the very function that SEAL computes.

With u ternary and e_0, e_1 centred binomial, the encryption of zero under (k_0, k_1) = (b, a) modulo q p is

    c_j = round((k_j u + e_j) / p) mod q.

A coefficient k = k' p + k'', with k' taken near 0 modulo q and |k''| < p/2, gives c_j = k'_j u + r_j modulo q with
r_j = round((k''_j u + e_j) / p), for k' u is whole. p is odd, so nothing lies half-way and there is one nearest number;
another representative of k modulo q p changes (k u + e) / p by a multiple of q.

The products modulo X^N + 1 are Fourier transforms. A real polynomial is one of M = N/2 complex coefficients,
a_j + i a_(j+M), modulo X^M - i; twisting by the powers of exp(i pi / N) makes that a cyclic product. k' is cut into
digits near 0 whose products are whole numbers, so rounding makes them exact if the transforms err by less than 1/2.
For any u, and this key, they err by less than 1/4:

    |u| (max|k^| (2h + 4 2^-53) + sqrt(M) h' |k|) 1.01 < 1/4,    |u| <= sqrt(N),   h = (10 log2 M + 3) 2^-53,

|.| being the 2-norm, k^ the transform of the digits, h the relative error of one transform and its twist in the 2-norm,
h' the same in the longer numbers that k^ is computed in. (Higham, Accuracy and Stability of Numerical Algorithms,
theorem 24.2, with twiddle factors that err by 4 * 2^-53: pocketfft makes each of two rounded ones. The twist errs by
less than 3 * 2^-53, product and rounding of k^ by less than 4.) A uniform key takes digits of 28 bits or so; for a key
with a line in its spectrum they are as many as this needs. k'' stays whole, which is why p has at most 21 bits.
"""

from __future__ import annotations

import functools
import math
import os
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.sampling import SecretSampler
from usufruct.errors import SealLayoutChanged

BLOCKS_AT_ONCE = 4
"""Blocks made together: their arrays stay near a core and numpy's calls are shared."""

_TO_WHOLE = 1.5 * 2.0**52
"""Added to a double below 2^51 in size, it leaves the nearest whole number in the low bits of the sum."""

_BITS_OF_TO_WHOLE = int(np.float64(_TO_WHOLE).view(np.uint64))


class ZeroEncryption:
    """Makes encryptions of zero under one public key. Not thread-safe; may be forked.

    *Guarantee*: every block is an independent ring-LWE encryption of zero under the key, distributed exactly as SEAL's
    but for the key stream (:class:`usufruct.encryption.sampling.SecretSampler`), so with the noise that
    ``EncryptionParameters.failure_log2`` counts on. No block is given twice, in this process or in one forked from it.
    What u, e and the bits behind them leave in this object's arrays is overwritten before a call returns; the state of
    AES is the library's.
    """

    def __init__(self, parameters: EncryptionParameters, public_key: Coefficients) -> None:
        """``public_key`` as :func:`usufruct.encryption.public_key.public_key_from_bytes` has checked it.

        Raises:
            SealLayoutChanged: this numpy's Fourier transform is not exact enough.
        """
        self._parameters = parameters
        n, rows = parameters.poly_modulus_degree, BLOCKS_AT_ONCE
        self._prepare(public_key)
        self._sampler = SecretSampler(n, rows)
        self._ternary = np.empty((rows, 1, n // 2), dtype=np.complex128)
        self._product = np.empty((rows, 2, n // 2), dtype=np.complex128)
        self._errors = np.empty((rows, 2, n), dtype=np.int8)
        self._quotient, self._share = np.empty((2, rows, 2, n))
        self._sum = np.empty((rows, 2, n), dtype=np.uint64)
        self._ahead = np.empty((rows, 2 * n), dtype=np.uint64)
        self._taken = rows  # of them
        self._check_transform()
        _alive.add(self)

    def fill(self, blocks: Coefficients) -> None:
        """Overwrite ``blocks``, C-contiguous and of shape [any, 2N], with encryptions of zero: c0, then c1, below q."""
        try:
            for start in range(0, len(blocks), BLOCKS_AT_ONCE):
                self._fill(blocks[start : start + BLOCKS_AT_ONCE])
        finally:
            self._wipe()

    def take(self) -> Coefficients:
        """One encryption of zero, shape [2N]. It is the caller's to overwrite until the next call, which wipes it."""
        if self._taken == BLOCKS_AT_ONCE:
            self.fill(self._ahead)
            self._taken = 0
        else:
            self._ahead[self._taken - 1].fill(0)
        row: Coefficients = self._ahead[self._taken]
        self._taken += 1
        return row

    def restart(self) -> None:
        """Forget what is made ahead and go on under a fresh key stream."""
        self._taken = BLOCKS_AT_ONCE
        self._sampler.restart()

    # -- the key ---------------------------------------------------------------------------------------------

    def _prepare(self, public_key: Coefficients) -> None:
        """Transform the key's parts: k'' of both polynomials, and k' in as many digits as it takes."""
        parameters = self._parameters
        q, p, n = parameters.coeff_modulus, parameters.special_modulus, parameters.poly_modulus_degree
        high, low = (public_key[:, part].astype(np.int64) for part in (0, 1))
        high += low > p // 2
        low -= np.where(low > p // 2, p, 0)
        high -= np.where(high > q // 2, q, 0)
        self._twist = _long_twist(n).astype(np.complex128)
        self._untwist = self._twist.conj()
        self._low, self.error_bound = self._transformed(low)
        digits = 0
        bound = math.inf
        while bound >= 0.25:
            digits += 1
            self._digit_bits = -(-q.bit_length() // digits)
            parts = [self._transformed(digit) for digit in _digits(high, self._digit_bits, digits)]
            bound = max(error for _, error in parts)
        self.error_bound = max(self.error_bound, bound)
        self._high = [spectrum for spectrum, _ in parts]

    def _transformed(self, digits: NDArray[np.int64]) -> tuple[NDArray[np.complex128], float]:
        """The transforms of two polynomials, shape [2, M], divided by M; the bound of their products' error."""
        m = digits.shape[1] // 2
        long = np.empty((2, m), dtype=np.clongdouble)
        long.real, long.imag = digits[:, :m], digits[:, m:]
        long *= _long_twist(2 * m)
        spectrum = np.fft.fft(long, axis=-1, out=long).astype(np.complex128)
        operations = 10 * math.log2(m) + 3
        largest = float(np.abs(spectrum).max()) * (2 * operations + 4) * 2.0**-53
        of_key = float(np.finfo(np.longdouble).eps) / 2 * operations * math.sqrt(m)
        of_key *= float(np.linalg.norm(digits.astype(np.float64), axis=-1).max())
        return spectrum / m, 1.01 * math.sqrt(2 * m) * (largest + of_key)

    def _check_transform(self) -> None:
        """Notice a Fourier transform that is not what the bound above counts on."""
        ternary = self._draw(1)
        for spectrum in (self._low, *self._high):
            product = self._times(spectrum, ternary)
            if float(np.abs(product - np.rint(product)).max()) >= 0.25:
                raise SealLayoutChanged("The Fourier transform of this numpy is less exact than it must be.")
        self._wipe()

    # -- blocks ----------------------------------------------------------------------------------------------

    def _fill(self, blocks: Coefficients) -> None:
        """At most BLOCKS_AT_ONCE blocks. Doubles stand as the transforms give them: coefficients j and j + M side by side."""
        q, rows = self._parameters.coeff_modulus, len(blocks)
        total, quotient, share = self._sum[:rows], self._quotient[:rows], self._share[:rows]
        ternary = self._draw(rows)
        # The sum of all terms as 64 bits keep it, less the multiple of q nearest to it, which doubles know to far less
        # than 1. Every _TO_WHOLE adds its own bits as often as its term counts.
        product = self._times(self._low, ternary)
        product += self._errors[:rows]
        product *= 1 / self._parameters.special_modulus
        product += _TO_WHOLE
        total[:] = product.view(np.uint64)
        extra = _BITS_OF_TO_WHOLE * (1 - q)
        quotient.fill(_TO_WHOLE)
        for digit, spectrum in enumerate(self._high):
            places = digit * self._digit_bits
            product = self._times(spectrum, ternary)
            quotient += np.multiply(product, 2.0**places / q, out=share)
            product += _TO_WHOLE
            whole = product.view(np.uint64)
            whole <<= np.uint64(places)
            total += whole
            extra += _BITS_OF_TO_WHOLE << places
        multiple = quotient.view(np.uint64)
        multiple *= np.uint64(q)
        total -= multiple
        total -= np.uint64(extra % (1 << 64))
        # between -q and q now: of x and x + q modulo 2^64 the least is x mod q
        above = np.add(total, np.uint64(q), out=multiple)
        halves = blocks.reshape(rows, 2, 2, -1)
        for half in (0, 1):
            np.minimum(total[:, :, half::2], above[:, :, half::2], out=halves[:, :, half])

    def _draw(self, rows: int) -> NDArray[np.complex128]:
        """Draw u and e for ``rows`` blocks; the transforms of u, shape [rows, 1, M]."""
        ternary = self._ternary[:rows]
        self._sampler.draw(ternary.view(np.float64)[:, 0], self._errors[:rows])
        ternary *= self._twist
        np.fft.fft(ternary, axis=-1, out=ternary)
        return ternary

    def _times(
        self, spectrum: NDArray[np.complex128], ternary: NDArray[np.complex128]
    ) -> NDArray[np.float64]:
        """The products of two polynomials, given by ``spectrum``, and each u, shape [rows, 2, N], nearly whole."""
        product = np.multiply(spectrum, ternary, out=self._product[: len(ternary)])
        np.fft.ifft(product, axis=-1, norm="forward", out=product)
        product *= self._untwist
        return product.view(np.float64)

    def _wipe(self) -> None:
        self._sampler.wipe()
        for array in (self._ternary, self._product, self._errors, self._quotient, self._share, self._sum):
            array.fill(0)


@functools.lru_cache(maxsize=4)
def _long_twist(n: int) -> NDArray[np.clongdouble]:
    """The powers 0 to N/2 - 1 of exp(i pi / N)."""
    pi = 4 * np.arctan(np.longdouble(1))
    twist: NDArray[np.clongdouble] = np.exp(1j * pi * np.arange(n // 2) / n)
    return twist


def _digits(numbers: NDArray[np.int64], bits: int, count: int) -> Iterator[NDArray[np.int64]]:
    """``count`` digits near 0 to the base 2^bits, lowest first; the last is what is left."""
    for _ in range(count - 1):
        carried = (numbers + (1 << (bits - 1))) >> bits
        yield numbers - (carried << bits)
        numbers = carried
    yield numbers


_alive: weakref.WeakSet[ZeroEncryption] = weakref.WeakSet()


def _restart_all() -> None:
    for zeros in list(_alive):
        zeros.restart()


os.register_at_fork(after_in_child=_restart_all)  # a fork would go on with its parent's key stream
