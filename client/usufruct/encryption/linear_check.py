"""The random linear check: that a sum is the sum of the uploads, before it is decrypted.

A lying aggregator could hand over a ciphertext of its choice, and what that opens to could carry the secret key
(research/soundness, rule 16). So when the sum has been delivered and its root is fixed, the builder reveals a
random seed; from it follows a vector r that nobody could know before. Each holder signs <c_i, r> mod q of the
very upload that it sent, and the builder compares their sum with <sum, r> mod q.

Coefficients stand in a matrix D whose rows have :func:`row_length` entries, and r is a product: for each of
:data:`REPETITIONS` k, <D, r_k> = u_k' D v_k mod q, with v_k of signed :data:`WEIGHT_BITS`-bit integers and u_k of 64-bit integers,
one a row, all from SHAKE-256 of seed and context.

*Guarantee*: let the difference of the two sides, fixed before the seed is drawn, be D != 0 mod q. For each k,
D v_k = 0 has probability at most 2^-9, since one entry of v_k times a number prime to q decides it and 2^9 < q;
and else u_k' (D v_k) = 0 has probability at most 1/q + 2^-64. The k are independent, so all of them miss it with
probability below (2^-9 + 2^-23)^8 < 2^-71 for every q above 2^23, with SHAKE-256 as a random oracle. It says nothing of a
holder that lies about its own upload.

Needs numpy only, no key and no SEAL, so that every party can run it and an auditor run it again.
"""

from __future__ import annotations

import hashlib
import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.commitment import DIGEST_BYTES, Commitment
from usufruct.encryption.layout import Kind, plane_types
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import InvalidInput, RoundFailed

SEED_BYTES = 32
REPETITIONS = 8
WEIGHT_BITS = 9
MAX_ROW = 1 << 12
"""Most entries of a row. A plane has at most 32 bits and a weight is at most 2^8 in size, so a row's product is at most
2^(32 + 8 + 12) = 2^52 in size, and so is every partial sum of it: doubles hold them all exactly (up to 2^53),
in whatever order or with whatever fused instructions they are added."""

_ROWS_AT_ONCE = 8
"""Rows of one matrix product: few enough that OpenBLAS keeps to one thread. Its others wait for work by spinning,
which on busy cores costs a hundred times the product (measured: 160 ns a value instead of 1.8)."""

_TAG = b"usufruct linear check v1\0"

CheckValue = tuple[int, ...]
"""<c, r_k> mod q for every repetition k."""


@dataclass(frozen=True)
class Challenge:
    """What the builder reveals once it has the whole sum, and what it is about.

    Attributes:
        seed: 32 fresh random bytes, kept until then.
        view_hash: of the round's attempt, 32 bytes.
        sum_root: root of the sum's commitment, 32 bytes.
    """

    seed: bytes
    view_hash: bytes
    sum_root: bytes

    def __post_init__(self) -> None:
        if not len(self.seed) == len(self.view_hash) == len(self.sum_root) == SEED_BYTES == DIGEST_BYTES:
            raise InvalidInput(
                "A challenge has a seed, a view and a root of 32 bytes each.", field="challenge"
            )

    def expand(self, purpose: bytes, length: int) -> bytes:
        """``length`` bytes that nobody knew before the seed."""
        return hashlib.shake_256(_TAG + self.seed + self.view_hash + self.sum_root + purpose).digest(length)


def row_length(parameters: EncryptionParameters) -> int:
    """Entries of a row of D: whole rows make up a polynomial pair."""
    return min(2 * parameters.poly_modulus_degree, MAX_ROW)


class LinearCheck:
    """<c, r_k> mod q of one upload or sum, chunk by chunk in order.

    Memory: the coefficients of one chunk as doubles, 3 to 4 MiB.
    """

    def __init__(self, challenge: Challenge, chunking: Chunking) -> None:
        parameters = chunking.parameters
        self._challenge, self._chunking = challenge, chunking
        self._row = row_length(parameters)
        self._types = plane_types(parameters.bytes_per_coefficient)
        drawn = np.frombuffer(challenge.expand(b"v", 2 * self._row * REPETITIONS), dtype="<u2")
        weights = (drawn & ((1 << WEIGHT_BITS) - 1)).astype(np.float64) - (1 << (WEIGHT_BITS - 1))
        self._weights = weights.reshape(self._row, REPETITIONS)
        self._planes = np.empty(
            (len(self._types), chunking.blocks_per_chunk, 2 * parameters.poly_modulus_degree)
        )
        self._sums = [0] * REPETITIONS
        self._next = 0

    def add(self, chunk: Bytes) -> None:
        """Take the next chunk. Its coefficients may be any; who has signed them answers for them.

        Raises:
            InvalidInput: another length, or a chunk too many.
        """
        chunking, index = self._chunking, self._next
        chunking.require_length(index, chunk)
        products = self._products(memoryview(chunk))
        rows = products.shape[1]
        drawn = self._challenge.expand(b"u" + struct.pack("<Q", index), 8 * REPETITIONS * rows)
        factors = np.frombuffer(drawn, dtype="<u8").reshape(rows, REPETITIONS).T.tolist()
        shift = 0
        for dtype, plane in zip(self._types, products, strict=True):
            for k, column in enumerate(plane.T.tolist()):  # u_k' (D v_k) in Python's integers
                self._sums[k] += sum(map(operator.mul, factors[k], column)) << shift
            shift += 8 * dtype.itemsize
        modulus = chunking.parameters.coeff_modulus
        self._sums = [total % modulus for total in self._sums]
        self._next += 1

    def result(self) -> CheckValue:
        """The values, each below q.

        Raises:
            InvalidInput: chunks are missing.
        """
        if self._next != self._chunking.chunks:
            raise InvalidInput(
                f"{self._next} of {self._chunking.chunks} chunks have been checked.",
                reason=self._chunking.reason,
                field="chunk",
            )
        return tuple(self._sums)

    def _products(self, chunk: memoryview) -> NDArray[np.int64]:
        """The planes' parts of D v_k, exact, low plane first; shape [planes, rows, k]."""
        parameters = self._chunking.parameters
        coefficients = 2 * parameters.poly_modulus_degree
        blocks = np.frombuffer(chunk, dtype=np.uint8).reshape(-1, parameters.block_bytes)
        planes = self._planes[:, : len(blocks)]  # a view: contiguous in its last two axes
        offset = 0
        for plane, dtype in zip(planes, self._types, strict=True):
            end = offset + coefficients * dtype.itemsize
            plane[:] = blocks[:, offset:end].view(dtype)
            offset = end
        rows = planes.reshape(len(self._types), -1, self._row)
        products = np.empty((*rows.shape[:2], REPETITIONS))
        for start in range(0, rows.shape[1], _ROWS_AT_ONCE):
            few = slice(start, start + _ROWS_AT_ONCE)
            np.matmul(rows[:, few], self._weights, out=products[:, few])
        return products.astype(np.int64)


def check_value(challenge: Challenge, chunking: Chunking, chunks: Iterable[Bytes]) -> CheckValue:
    """<c, r_k> mod q of a whole upload or sum: what a holder signs."""
    check = LinearCheck(challenge, chunking)
    for chunk in chunks:
        check.add(chunk)
    return check.result()


def checks_agree(total: CheckValue, holders: Iterable[CheckValue], coeff_modulus: int) -> bool:
    """Whether the holders' values sum to the sum's, modulo q, in every repetition."""
    values = list(holders)
    if not values or any(
        len(value) != REPETITIONS or not all(0 <= part < coeff_modulus for part in value)
        for value in [total, *values]
    ):
        return False
    return all(
        (sum(column) - part) % coeff_modulus == 0 for part, *column in zip(total, *values, strict=True)
    )


_PASSED = object()


@dataclass(frozen=True)
class CheckedSum:
    """A sum that has passed the check; the only thing a round's key opens. :func:`check_sum` alone makes it.

    Attributes:
        commitment: to the very chunks that were checked.
        holders: how many uploads the sum is of.
    """

    commitment: Commitment
    holders: int
    passed: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.passed is not _PASSED:
            raise ValueError("a checked sum comes from check_sum")


def check_sum(
    challenge: Challenge,
    commitment: Commitment,
    chunks: Iterable[Bytes],
    answers: Callable[[], Mapping[int, CheckValue]],
) -> CheckedSum:
    """Compare the sum with what the holders answered.

    Args:
        challenge: the one that the holders answered; it names the sum's root.
        commitment: of the sum, as its aggregator signed it before the seed was revealed.
        chunks: of the sum, in order; each is checked against the commitment.
        answers: gives, by dataset, the values that each holder of the roster signed; it has checked their signatures.
            The whole roster, nobody twice. Called after the sum has been read through.

    Raises:
        RoundFailed: ``SUM_INVALID``: the values do not agree, so the aggregator did not add what it was sent.
            Nothing has been decrypted and the round's key is unused.
        InvalidInput: ``SUM_INVALID``: a chunk that is not the one committed to, or another root.
    """
    chunking = commitment.chunking
    if chunking.kind is not Kind.SUM or challenge.sum_root != commitment.root:
        raise InvalidInput("The challenge is about another sum.", reason="SUM_INVALID", field="root")

    def committed() -> Iterator[Bytes]:
        for index, chunk in enumerate(chunks):
            commitment.check(index, chunk)
            yield chunk

    total = check_value(challenge, chunking, committed())
    holders = answers()
    if not checks_agree(total, holders.values(), chunking.parameters.coeff_modulus):
        raise RoundFailed(
            "The sum is not the sum of the holders' updates; nothing was decrypted. Do not trust this aggregator.",
            reason="SUM_INVALID",
            holders=len(holders),
        )
    return CheckedSum(commitment, len(holders), _PASSED)
