"""A holder's update, encrypted: bounded integers in, upload bytes out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tenseal.sealapi as sealapi

from usufruct.encryption.keys import public_key_from_bytes
from usufruct.encryption.layout import Coefficients, Header, Kind, split_planes
from usufruct.encryption.packing import Integers, check_values, pack_block
from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.encryption.seal_raw import Scratch, open_seal

ZeroSource = Callable[[], Coefficients]
"""Gives a fresh encryption of zero, shape [2N], at every call; never the same twice."""


def encrypt_update(parameters: EncryptionParameters, public_key_bytes: bytes, values: Integers) -> bytes:
    """Encrypt one update under the round's public key.

    Args:
        parameters: those of the round; the public key's header must name them.
        public_key_bytes: from the builder; every coefficient is range-checked.
        values: integers within 0..max_value, shape [count].

    Returns:
        ``parameters.upload_bytes(values.size)`` bytes.

    Raises:
        InvalidInput: ``PUBLIC_KEY_INVALID``, or values that are not bounded integers.

    *Guarantee*: IND-CPA under ring-LWE at 128 bits against whoever lacks the round's key. Every block carries
    an encryption of zero made for it alone and not kept. A hostile public key exposes the values (pairwise
    masks, a later version, close this); so encrypt nothing that is not already differentially private.
    """
    seal = open_seal(parameters)
    coefficients = public_key_from_bytes(parameters, public_key_bytes)
    check_values(parameters, values)
    with Scratch() as scratch:
        encryptor = sealapi.Encryptor(seal.context, seal.make_public_key(scratch, coefficients))
        ciphertext = sealapi.Ciphertext()

        def fresh_zero() -> Coefficients:
            encryptor.encrypt_zero(ciphertext)
            return seal.read_ciphertext(scratch, ciphertext)

        return add_values(parameters, fresh_zero, values)


def add_values(parameters: EncryptionParameters, zeros: ZeroSource, values: Integers) -> bytes:
    """Upload bytes from encryptions of zero and checked values: c0 + Delta * m modulo q, block by block.

    ``zeros`` is where encryptions made in advance will come from; this function uses each exactly once.
    """
    out = bytearray(parameters.upload_bytes(values.size))
    out[:HEADER_BYTES] = Header(Kind.UPLOAD, parameters.parameter_id, values.size).to_bytes()
    n, size = parameters.poly_modulus_degree, parameters.values_per_block
    modulus, scale = np.uint64(parameters.coeff_modulus), np.uint64(parameters.scale)
    with memoryview(out) as view:
        for index in range(parameters.blocks_for(values.size)):
            block = zeros()
            message = pack_block(parameters, values[index * size : (index + 1) * size])
            message *= scale  # below q: m < 2^44 and Delta = (q - 1) / 2^44
            c0 = block[:n]
            c0 += message
            # c0 < 2q; where c0 < q, c0 - q wraps to a larger number, so the minimum is c0 modulo q
            np.minimum(c0, c0 - modulus, out=c0)
            start = HEADER_BYTES + index * parameters.block_bytes
            with view[start : start + parameters.block_bytes] as target:
                split_planes(block, parameters.bytes_per_coefficient, target)
    return bytes(out)
