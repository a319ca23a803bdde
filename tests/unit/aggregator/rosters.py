"""Uploads for a lock-step: any coefficients below q, made chunk by chunk, so that no test holds a whole upload."""

from __future__ import annotations

import numpy as np

from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.layout import Kind, split_planes

MEMBERS = (3, 5, 8)


def chunking(chunks: int) -> Chunking:
    """Uploads of so many chunks, the last one with one block."""
    whole = Chunking(DEFAULT_PARAMETERS, Kind.UPLOAD, 1)
    values = DEFAULT_PARAMETERS.values_per_block * (whole.blocks_per_chunk * (chunks - 1)) + 1
    return Chunking(DEFAULT_PARAMETERS, Kind.UPLOAD, values)


def chunk(uploads: Chunking, member: int, index: int) -> bytes:
    """Chunk ``index`` of a member's upload; the same whenever it is asked for."""
    rng = np.random.default_rng([member, index])
    size = 2 * DEFAULT_PARAMETERS.poly_modulus_degree
    out = bytearray(len(uploads.span(index)))
    with memoryview(out) as view:
        for start in range(0, len(out), DEFAULT_PARAMETERS.block_bytes):
            block = rng.integers(0, DEFAULT_PARAMETERS.coeff_modulus, size, dtype=np.uint64)
            with view[start : start + DEFAULT_PARAMETERS.block_bytes] as target:
                split_planes(block, DEFAULT_PARAMETERS.bytes_per_coefficient, target)
    return bytes(out)


def commitment(uploads: Chunking, member: int) -> Commitment:
    """Of a member's upload."""
    return Commitment.over(uploads, (chunk(uploads, member, index) for index in range(uploads.chunks)))
