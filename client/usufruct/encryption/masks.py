"""Pairwise masks modulo t: they hide every single update and vanish from the sum over the whole roster.

Holder i adds to its message words, modulo t,

    sum over j > i of F(k_ij) - sum over j < i of F(k_ij),      k_ij = HKDF-SHA256(X25519(i, j)),

F being AES-256 in counter mode. Every term stands in two masks of the roster, once with each sign. Source:
Bonawitz et al., Practical Secure Aggregation (CCS 2017), without its recovery of dropouts: who drops out
leaves a sum that opens to noise, and the round is repeated among the others under another view.

The secrets bind the round's view, so holders that were shown different weights, keys or rosters derive masks
that do not vanish (research/soundness, rule 15).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import InvalidInput, RoundFailed

PUBLIC_KEY_BYTES = 32

_TAG = b"usufruct pairwise mask v1\0"
_WORD_BYTES = 8
_CIPHER_BLOCK_BYTES = 16


class MaskKey:
    """One holder's key pair for one job. The secret stays in this object's memory and has no other form.

    The public half is signed by the holder's operator key elsewhere: whoever can replace it can unmask.
    """

    def __init__(self, job_id: bytes, dataset_id: int) -> None:
        if len(job_id) != 32:
            raise ValueError("a job id has 32 bytes")
        self.job_id, self.dataset_id = job_id, dataset_id
        self._private = X25519PrivateKey.generate()
        self._views: set[bytes] = set()

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes, for the other holders of the job."""
        return self._private.public_key().public_bytes_raw()

    def masks(
        self, parameters: EncryptionParameters, view_hash: bytes, public_keys: Mapping[int, bytes]
    ) -> MaskStream:
        """The masks of one view; once.

        Args:
            parameters: those of the round.
            view_hash: 32 bytes, :attr:`usufruct.domain.round_view.RoundView.hash`.
            public_keys: of every dataset of the roster, this one included; their signatures have been checked.

        Raises:
            RoundFailed: ``ROUND_VIEW_CHANGED``: this key has given the masks of this view before, and a second
                message under them would show the difference of the two. ``ROSTER_MISMATCH``: the roster lacks
                this holder, has it alone, is too large, or names one key twice.
            InvalidInput: a key of another length or of small order.
        """
        if len(view_hash) != 32:
            raise ValueError("a view hash has 32 bytes")
        if view_hash in self._views:
            raise RoundFailed(
                "The masks of this view have been used; resend the upload that carries them.",
                reason="ROUND_VIEW_CHANGED",
            )
        if not 2 <= len(public_keys) <= parameters.max_holders:
            raise RoundFailed(
                f"Masks need a roster of 2 to {parameters.max_holders} holders.", reason="ROSTER_MISMATCH"
            )
        if public_keys.get(self.dataset_id) != self.public_bytes:
            raise RoundFailed("The roster has another mask key for this dataset.", reason="ROSTER_MISMATCH")
        if len(set(public_keys.values())) != len(public_keys):
            raise RoundFailed("Two datasets of the roster have one mask key.", reason="ROSTER_MISMATCH")
        secrets = {
            peer: self._secret(parameters, view_hash, peer, key)
            for peer, key in public_keys.items()
            if peer != self.dataset_id
        }
        self._views.add(view_hash)
        return MaskStream(parameters, self.dataset_id, secrets)

    def _secret(
        self, parameters: EncryptionParameters, view_hash: bytes, peer: int, public_key: bytes
    ) -> bytes:
        """AES key and nonce that only this holder and ``peer`` can know, 40 bytes; the same at both."""
        ends = sorted([(self.dataset_id, self.public_bytes), (peer, public_key)])
        info = _TAG + self.job_id + parameters.parameter_id
        for dataset_id, key in ends:
            info += struct.pack("<Q", dataset_id) + key
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError:  # another length; or a point of small order, whose product everyone knows
            raise InvalidInput(
                f"The mask key of dataset {peer} is not an X25519 public key.",
                reason="PUBLIC_KEY_INVALID",
                field="mask_key",
                dataset_id=peer,
            ) from None
        return HKDF(hashes.SHA256(), length=40, salt=view_hash, info=info).derive(shared)


class MaskStream:
    """The masks of one holder in one view, by block; each block is given once. Not thread-safe.

    Get one with :meth:`MaskKey.masks`.

    *Guarantee*: over a whole roster of equal views the masks sum to 0 modulo t exactly. To whoever lacks the
    secrets of one other holder of the roster, masked messages are uniform modulo t (under X25519-HKDF and
    AES-256 as a pseudo-random function): only their sum over the roster can be learned, from any number of
    colluding others.
    """

    def __init__(
        self, parameters: EncryptionParameters, dataset_id: int, secrets: Mapping[int, bytes]
    ) -> None:
        self._parameters = parameters
        self._dataset_id = dataset_id
        self._secrets = dict(secrets)
        self._streams: dict[int, Any] = {}
        self._next = -1
        self._used: set[range] = set()

    def mask(self, first_block: int, messages: Coefficients) -> None:
        """Add the masks of whole blocks to ``messages``, in place, modulo t.

        Args:
            first_block: number of the first block in the upload.
            messages: words below t, C-contiguous, shape [blocks, N].

        Raises:
            RoundFailed: ``ROUND_VIEW_CHANGED``: a block has been masked before.
        """
        n = self._parameters.poly_modulus_degree
        if messages.ndim != 2 or messages.shape[1] != n or messages.dtype != np.uint64:
            raise ValueError("masks are added to whole blocks of 64-bit words")
        blocks = range(first_block, first_block + messages.shape[0])
        if any(blocks.start < used.stop and used.start < blocks.stop for used in self._used):
            raise RoundFailed("A block is masked once.", reason="ROUND_VIEW_CHANGED")
        if first_block != self._next:
            self._seek(first_block)
        self._next = blocks.stop
        self._note(blocks)
        zeros = bytes(messages.nbytes)
        # update_into asks for room of one cipher block more, less one byte, though it leaves it alone.
        buffer = bytearray(messages.nbytes + _CIPHER_BLOCK_BYTES - 1)
        words = np.frombuffer(buffer, dtype="<u8", count=messages.size).reshape(messages.shape)
        for peer, stream in self._streams.items():
            stream.update_into(zeros, buffer)
            # t divides 2^64, so sums that wrap around 2^64 are right modulo t.
            if peer > self._dataset_id:
                messages += words
            else:
                messages -= words
        messages &= np.uint64(self._parameters.plain_modulus - 1)
        words.fill(0)

    def _seek(self, block: int) -> None:
        """Start every key stream at ``block``; its counter is 8 bytes of nonce, then 8 bytes of position."""
        position = block * self._parameters.poly_modulus_degree * _WORD_BYTES // _CIPHER_BLOCK_BYTES
        for peer, secret in self._secrets.items():
            counter = secret[32:] + position.to_bytes(8, "big")
            self._streams[peer] = Cipher(algorithms.AES(secret[:32]), modes.CTR(counter)).encryptor()

    def _note(self, blocks: range) -> None:
        """Remember ``blocks`` as used; neighbours become one range, so a stream in order keeps one."""
        for used in list(self._used):
            if used.stop == blocks.start or blocks.stop == used.start:
                self._used.remove(used)
                blocks = range(min(used.start, blocks.start), max(used.stop, blocks.stop))
        self._used.add(blocks)
