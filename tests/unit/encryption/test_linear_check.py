"""The linear check is the inner product that its formula says, exactly, and random in every part."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.encryption.chunks import Chunking
from usufruct.encryption.layout import Kind, split_planes
from usufruct.encryption.linear_check import (
    REPETITIONS,
    Challenge,
    LinearCheck,
    check_value,
    checks_agree,
    row_length,
)
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.errors import InvalidInput

P = DEFAULT_PARAMETERS
CHALLENGE = Challenge(b"s" * 32, b"v" * 32, b"r" * 32)
LARGE = EncryptionParameters.checked(ParameterLiteral(8192, (56, 20), 43, 2, 21, 15, 64))
SMALL = EncryptionParameters.checked(ParameterLiteral(4096, (48, 20), 36, 2, 18, 16, 4))


def as_chunk(parameters: EncryptionParameters, blocks: np.ndarray) -> bytes:
    out = bytearray(len(blocks) * parameters.block_bytes)
    for index, block in enumerate(blocks):
        start = index * parameters.block_bytes
        split_planes(
            block, parameters.bytes_per_coefficient, memoryview(out)[start : start + parameters.block_bytes]
        )
    return bytes(out)


def by_the_formula(parameters: EncryptionParameters, chunks: list[np.ndarray]) -> tuple[int, ...]:
    """u' D v mod q in Python's integers."""
    row = row_length(parameters)
    drawn = np.frombuffer(CHALLENGE.expand(b"v", 2 * row * REPETITIONS), dtype="<u2").astype(int)
    v = ((drawn & 511) - 256).reshape(row, REPETITIONS).astype(object)
    totals = np.zeros(REPETITIONS, dtype=object)
    for index, blocks in enumerate(chunks):
        d = blocks.astype(object).reshape(-1, row)
        u = np.frombuffer(
            CHALLENGE.expand(b"u" + index.to_bytes(8, "little"), 8 * REPETITIONS * len(d)), "<u8"
        )
        totals += (u.astype(object).reshape(-1, REPETITIONS) * (d @ v)).sum(axis=0)
    return tuple(int(total) % parameters.coeff_modulus for total in totals)


@pytest.mark.parametrize("parameters", [P, SMALL, LARGE], ids=["56 bits", "48 bits", "N = 8192"])
@pytest.mark.parametrize("extreme", [False, True])
def test_it_is_the_product_in_integers(parameters: EncryptionParameters, extreme: bool) -> None:
    uploads = Chunking(
        parameters, Kind.UPLOAD, parameters.values_per_block * (uploads_blocks(parameters) + 2)
    )
    rng = np.random.default_rng(3)
    q, n = parameters.coeff_modulus, 2 * parameters.poly_modulus_degree
    chunks = [
        np.full((len(uploads.blocks(i)), n), 2 ** (8 * parameters.bytes_per_coefficient) - 1, dtype=np.uint64)
        if extreme
        else rng.integers(0, q, (len(uploads.blocks(i)), n), dtype=np.uint64)
        for i in range(uploads.chunks)
    ]
    assert uploads.chunks == 2
    value = check_value(CHALLENGE, uploads, [as_chunk(parameters, blocks) for blocks in chunks])
    assert value == by_the_formula(parameters, chunks)


def uploads_blocks(parameters: EncryptionParameters) -> int:
    return Chunking(parameters, Kind.UPLOAD, 1).blocks_per_chunk


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 8191), st.integers(1, P.coeff_modulus - 1)
)
def test_it_is_linear_and_sees_one_changed_coefficient(
    seed: int, holders: int, where: int, change: int
) -> None:
    rng = np.random.default_rng(seed)
    q = P.coeff_modulus
    updates = rng.integers(0, q, (holders, 1, 2 * P.poly_modulus_degree), dtype=np.uint64)
    uploads, sums = (Chunking(P, kind, 5) for kind in (Kind.UPLOAD, Kind.SUM))
    challenge = Challenge(rng.bytes(32), bytes(32), bytes(32))
    values = [check_value(challenge, uploads, [as_chunk(P, update)]) for update in updates]
    total = updates.sum(axis=0) % np.uint64(q)
    assert checks_agree(check_value(challenge, sums, [as_chunk(P, total)]), values, q)
    total[0, where] = (int(total[0, where]) + change) % q
    assert not checks_agree(check_value(challenge, sums, [as_chunk(P, total)]), values, q)


def test_every_part_of_the_challenge_changes_every_value() -> None:
    uploads = Chunking(P, Kind.UPLOAD, 5)
    chunk = as_chunk(P, np.ones((1, 2 * P.poly_modulus_degree), dtype=np.uint64))
    parts = [b"s" * 32, b"v" * 32, b"r" * 32]
    values = [check_value(CHALLENGE, uploads, [chunk])]
    for index in range(3):
        other = list(parts)
        other[index] = b"x" * 32
        values.append(check_value(Challenge(*other), uploads, [chunk]))
    flat = [part for value in values for part in value]
    assert len(set(flat)) == len(flat) == 4 * REPETITIONS


def test_one_repetition_misses_a_change_about_as_often_as_it_may() -> None:
    """D v = 0 has probability 2^-9 for the worst D, one entry: of 64,000 draws 125 in expectation, standard
    deviation 11; 60 to 190 is 5.8 of them. So the repetitions are what makes the check sound.
    """
    zero_draws = 0
    for seed in range(2):
        drawn = Challenge(seed.to_bytes(32, "big"), bytes(32), bytes(32)).expand(b"v", 2 * 32_000)
        zero_draws += int((np.frombuffer(drawn, "<u2") & 511 == 256).sum())
    assert 60 < zero_draws < 190


def test_missing_and_surplus_chunks_are_refused() -> None:
    uploads = Chunking(P, Kind.UPLOAD, 5)
    check = LinearCheck(CHALLENGE, uploads)
    with pytest.raises(InvalidInput):
        check.result()
    check.add(bytes(P.block_bytes))
    assert check.result() == (0,) * REPETITIONS
    for surplus in (bytes(P.block_bytes), b""):
        with pytest.raises(InvalidInput):
            check.add(surplus)


@pytest.mark.parametrize("lengths", [(31, 32, 32), (32, 0, 32), (32, 32, 33)])
def test_a_malformed_challenge_is_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        Challenge(*(bytes(length) for length in lengths))


def test_it_needs_neither_seal_nor_torch_nor_a_cipher() -> None:
    code = (
        "import sys, usufruct.encryption.linear_check, usufruct.encryption.commitment, usufruct.encryption.sum;"
        "print({'tenseal', 'torch', 'zstandard', 'cryptography'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
