"""A holder's update, encrypted: bounded integers in, an upload and its commitment out."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.encryption.layout import Kind, split_planes
from usufruct.encryption.masks import MaskStream
from usufruct.encryption.packing import Integers, check_values, pack_block
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.zero_worker import ZeroSource, zeros_made_here
from usufruct.errors import InvalidInput

ValueSource = Callable[[int, int], Integers]
"""The values from one position up to another. Asked in order, for each position once."""


def write_upload(
    parameters: EncryptionParameters,
    count: int,
    zeros: ZeroSource,
    masks: MaskStream | None,
    values: ValueSource,
    file: BinaryIO,
) -> Commitment:
    """Encrypt one update into ``file``, chunk by chunk: c0 + Delta * (m + mask mod t) modulo q.

    Args:
        parameters: those of the round.
        count: values of the update.
        zeros: under the round's public key; used once a block, ``parameters.blocks_for(count)`` times.
        masks: of the round's view; None leaves the update open to whoever has key and upload.
        values: gives integers within least_value..max_value, an array of exactly the length asked for.
        file: where the upload goes, header first; written in order, not flushed. A resend sends this file.

    Returns:
        The commitment to its chunks.

    Raises:
        InvalidInput: values that are not bounded integers. ``file`` then holds a part that must not be sent,
            and masks that were given are used up.

    Memory: about five chunks (5 MiB), whatever ``count`` is.

    *Guarantee*: IND-CPA under ring-LWE at 128 bits against whoever lacks the round's key, as long as ``zeros``
    keeps its word. With ``masks``, whoever has the key learns no more than the sum over the roster.
    """
    chunking = Chunking(parameters, Kind.UPLOAD, count)
    file.write(chunking.header)
    leaves = []
    for index in range(chunking.chunks):
        span = chunking.values(index)
        chunk = encrypt_chunk(chunking, index, zeros, masks, values(span.start, span.stop))
        leaves.append(leaf_of(chunking, index, chunk))
        file.write(chunk)
    return Commitment(chunking, tuple(leaves))


def encrypt_chunk(
    chunking: Chunking, index: int, zeros: ZeroSource, masks: MaskStream | None, values: Integers
) -> bytearray:
    """Chunk ``index`` of an upload from the values that it carries; see :func:`write_upload`.

    Raises:
        InvalidInput: ``values`` are not as many bounded integers as the chunk carries.
    """
    parameters, blocks = chunking.parameters, chunking.blocks(index)
    n, size = parameters.poly_modulus_degree, parameters.values_per_block
    modulus, scale = np.uint64(parameters.coeff_modulus), np.uint64(parameters.scale)
    check_values(parameters, values)
    if values.size != len(chunking.values(index)):
        raise InvalidInput(
            f"{values.size} values where {len(chunking.values(index))} were asked for.",
            reason="INTERNAL",
            field="values",
        )
    messages = np.empty((len(blocks), n), dtype=np.uint64)
    for row, start in zip(messages, range(0, values.size, size), strict=True):
        row[:] = pack_block(parameters, values[start : start + size])
    if masks is not None:
        masks.mask(blocks.start, messages)
    messages *= scale  # below q: m < t and Delta = (q - 1) / t
    chunk = bytearray(len(chunking.span(index)))
    with memoryview(chunk) as view:
        for position, message in enumerate(messages):
            block = zeros()
            c0 = block[:n]
            c0 += message
            # c0 < 2q; where c0 < q, c0 - q wraps to a larger number, so the minimum is c0 modulo q
            np.minimum(c0, c0 - modulus, out=c0)
            start = position * parameters.block_bytes
            with view[start : start + parameters.block_bytes] as target:
                split_planes(block, parameters.bytes_per_coefficient, target)
    return chunk


def encrypt_update(parameters: EncryptionParameters, public_key_bytes: bytes, values: Integers) -> bytes:
    """Encrypt one whole update in memory, without masks: :func:`write_upload` with zeros made on the spot.

    Args:
        parameters: those of the round; the public key's header must name them.
        public_key_bytes: from the builder; every coefficient is range-checked.
        values: integers within least_value..max_value, shape [count].

    Returns:
        ``parameters.upload_bytes(values.size)`` bytes.

    Raises:
        InvalidInput: ``PUBLIC_KEY_INVALID``, or values that are not bounded integers.

    *Guarantee*: that of :func:`write_upload` without masks: a hostile public key, or its holder together with
    the aggregator, exposes the values; so encrypt nothing that is not already differentially private.
    """
    zeros = zeros_made_here(parameters, public_key_bytes)
    check_values(parameters, values)
    file = io.BytesIO()
    write_upload(parameters, values.size, zeros, None, lambda start, stop: values[start:stop], file)
    return file.getvalue()
