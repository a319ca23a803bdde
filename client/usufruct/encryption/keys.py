"""A round's key: made by the builder, opens one sum, forgotten."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.decryption import Decryption
from usufruct.encryption.layout import Kind, blocks_of, read_block
from usufruct.encryption.linear_check import CheckedSum
from usufruct.encryption.packing import unpack_block
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.public_key import public_key_to_bytes
from usufruct.encryption.seal_raw import Scratch, open_seal
from usufruct.errors import InvalidInput, RoundFailed

_BLOCKS_AT_ONCE = 2
"""Blocks opened together: their arrays stay in a core's cache (measured: 11 ns a value, 14 with 4, 32 with 18)."""


class RoundKey:
    """A fresh BFV key pair for one attempt of one round.

    *Guarantee*: the secret key stays in this object's memory; it has no serialised form. It decrypts one sum
    and then refuses: nothing derived from a second, chosen ciphertext can leak it (research/soundness, rule
    16).
    """

    def __init__(self, parameters: EncryptionParameters) -> None:
        seal = open_seal(parameters)
        generator = sealapi.KeyGenerator(seal.context)
        public_key = sealapi.PublicKey()
        generator.create_public_key(public_key)
        self._parameters = parameters
        decryptor = sealapi.Decryptor(seal.context, generator.secret_key())
        self._decryption: Decryption | None = Decryption(seal, decryptor, public_key)
        with Scratch() as scratch:
            self._public_key_bytes = public_key_to_bytes(
                parameters, seal.read_public_key(scratch, public_key)
            )

    @classmethod
    def generate(cls, parameters: EncryptionParameters) -> RoundKey:
        """A fresh key from the operating system's randomness (SEAL seeds itself from it), 3-5 ms."""
        return cls(parameters)

    @property
    def public_key_bytes(self) -> bytes:
        """The public key as every holder gets it (:mod:`usufruct.encryption.public_key`)."""
        return self._public_key_bytes

    @property
    def used(self) -> bool:
        """Whether this key has opened its sum."""
        return self._decryption is None

    def open_sum(self, checked: CheckedSum, chunks: Iterable[Bytes]) -> Iterator[NDArray[np.int64]]:
        """Open a sum chunk by chunk; once.

        Args:
            checked: what the linear check of this sum gave; without it nothing is decrypted.
            chunks: of the very sum that was checked, in order; each is compared with its commitment.

        Returns:
            The exact sums of each chunk's values, int64. Use none before the last has come: garbage may show
            late.

        Raises:
            InvalidInput: ``SUM_INVALID``: of another chunk than the checked one, or a coefficient out of range.
            RoundFailed: ``KEY_USED``; or ``SUM_INVALID`` when the decrypted values cannot be a sum of updates:
                another key, or masks that do not vanish.

        Memory: a few chunks.
        """
        commitment = checked.commitment
        if commitment.chunking.parameters != self._parameters:
            raise InvalidInput(
                "The sum has other parameters than the key.", reason="SUM_INVALID", field="parameter_id"
            )

        def committed() -> Iterator[Bytes]:
            for index, chunk in enumerate(chunks):
                commitment.check(index, chunk)
                yield chunk

        return self._open(self._take_decryption(), commitment.chunking, committed(), checked.holders)

    def decrypt(self, sum_bytes: bytes, count: int, holders: int) -> NDArray[np.int64]:
        """Open a whole sum that no linear check has passed; once. Who gives ``sum_bytes`` must be trusted.

        Args:
            sum_bytes: what :meth:`Summation.result_bytes` gave; every byte is checked first.
            count: values in every upload.
            holders: uploads in the sum.

        Returns:
            The exact sums, int64, shape [count]: within 0..holders * max_value, or of the size of a signed field.

        Raises:
            InvalidInput: ``SUM_INVALID``: wrong length, header or range; nothing was decrypted and the key is
                unused.
            RoundFailed: as :meth:`open_sum`.
        """
        parameters = self._parameters
        if self.used:
            raise RoundFailed(reason="KEY_USED")
        if not 1 <= holders <= parameters.max_holders:
            raise InvalidInput(
                f"A sum has 1 to {parameters.max_holders} uploads.", reason="SUM_INVALID", field="holders"
            )
        for _ in blocks_of(parameters, sum_bytes, Kind.SUM, count, reason="SUM_INVALID"):
            pass  # every block is checked before the key is used
        chunking = Chunking(parameters, Kind.SUM, count)
        chunks = chunking.read(io.BytesIO(sum_bytes))
        return np.concatenate(list(self._open(self._take_decryption(), chunking, chunks, holders)))

    def _take_decryption(self) -> Decryption:
        decryption, self._decryption = self._decryption, None
        if decryption is None:
            raise RoundFailed(reason="KEY_USED")
        return decryption

    def _open(
        self, decryption: Decryption, chunking: Chunking, chunks: Iterable[Bytes], holders: int
    ) -> Iterator[NDArray[np.int64]]:
        parameters, opened = self._parameters, 0
        try:
            for index, chunk in enumerate(chunks):
                blocks = memoryview(chunk)
                parts = []
                for start in range(0, len(chunk), _BLOCKS_AT_ONCE * parameters.block_bytes):
                    end = min(start + _BLOCKS_AT_ONCE * parameters.block_bytes, len(chunk))
                    coefficients = [
                        read_block(parameters, blocks[at : at + parameters.block_bytes], reason="SUM_INVALID")
                        for at in range(start, end, parameters.block_bytes)
                    ]
                    messages = decryption.open(np.stack(coefficients))
                    parts += [unpack_block(parameters, message) for message in messages]
                sums = np.concatenate(parts)
                count = len(chunking.values(index))
                if int(sums[:count].max()) > holders * parameters.max_value or sums[count:].any():
                    raise RoundFailed(
                        "The decrypted values cannot be the sum of the roster's updates: another key, another "
                        "roster or altered bytes. Start the next attempt.",
                        reason="SUM_INVALID",
                    )
                opened += 1
                yield sums[:count]
            if opened != chunking.chunks:
                raise InvalidInput("The sum ends early.", reason="SUM_INVALID", field="length")
        finally:
            decryption.forget()
