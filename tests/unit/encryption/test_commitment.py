"""A root binds every chunk of an upload or sum: its bytes, place, length, kind, parameters and number."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.encryption import chunks as chunks_module
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment, leaf_of, proves
from usufruct.encryption.layout import Kind
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.errors import InvalidInput

P = DEFAULT_PARAMETERS


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is one block, so that short uploads have several."""
    monkeypatch.setattr(chunks_module, "MAX_CHUNK_BYTES", 1)


def chunks_of(number: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(P.block_bytes) for _ in range(number)]


def chunking(number: int, kind: Kind = Kind.UPLOAD) -> Chunking:
    return Chunking(P, kind, number * P.values_per_block)


def test_the_root_of_five_chunks_worked_out_step_by_step() -> None:
    chunks, header = chunks_of(5), chunking(5).header
    assert len(header) == 32 and header[:4] == b"USFR"

    def leaf(index: int) -> bytes:
        place = struct.pack("<QQ", index, 57_344)
        return hashlib.sha256(b"usufruct chunk v1\0" + header + place + chunks[index]).digest()

    def node(left: bytes, right: bytes) -> bytes:
        return hashlib.sha256(b"usufruct chunk node v1\0" + left + right).digest()

    top = node(node(node(leaf(0), leaf(1)), node(leaf(2), leaf(3))), leaf(4))
    shape = struct.pack("<QQ", 5, 57_344)
    root = hashlib.sha256(b"usufruct chunk root v1\0" + header + shape + top).digest()
    commitment = Commitment.over(chunking(5), chunks)
    assert commitment.root == root
    assert commitment.leaves[2] == leaf(2)
    assert commitment.proof(4) == (node(node(leaf(0), leaf(1)), node(leaf(2), leaf(3))),)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20).flatmap(lambda number: st.tuples(st.just(number), st.integers(0, number - 1))))
def test_a_proof_shows_its_chunk_in_its_place_and_nothing_else(where: tuple[int, int]) -> None:
    number, index = where
    shape, chunks = chunking(number), chunks_of(number)
    commitment = Commitment.over(shape, chunks)
    proof, root = commitment.proof(index), commitment.root
    assert len(proof) <= max(1, number - 1).bit_length()
    commitment.check(index, chunks[index])
    assert proves(shape, root, index, chunks[index], proof)
    altered = bytearray(chunks[index])
    altered[index] ^= 1
    assert not proves(shape, root, index, bytes(altered), proof)
    assert not proves(shape, bytes(32), index, chunks[index], proof)
    assert not proves(shape, root, index, chunks[index], (*proof, bytes(32)))
    assert not proof or not proves(shape, root, index, chunks[index], proof[:-1])
    assert not proves(chunking(number, Kind.SUM), root, index, chunks[index], proof)
    assert not proves(chunking(number + 1), root, index, chunks[index], proof)
    for other in range(number):
        if other != index:
            assert not proves(shape, root, other, chunks[index], proof)
            with pytest.raises(InvalidInput):
                commitment.check(other, chunks[index])


def test_other_bytes_order_number_kind_or_count_have_another_root() -> None:
    chunks = chunks_of(4)
    other = EncryptionParameters.checked(ParameterLiteral(max_holders=32))
    roots = [
        Commitment.over(chunking(4), chunks).root,
        Commitment.over(chunking(4), [chunks[1], chunks[0], *chunks[2:]]).root,
        Commitment.over(chunking(4), [chunks[0], chunks[1], chunks[3], chunks[2]]).root,
        Commitment.over(chunking(3), chunks[:3]).root,
        Commitment.over(chunking(4, Kind.SUM), chunks).root,
        Commitment.over(Chunking(P, Kind.UPLOAD, 4 * P.values_per_block - 1), chunks).root,
        Commitment.over(Chunking(other, Kind.UPLOAD, 4 * P.values_per_block), chunks).root,
        Commitment.over(chunking(4), [*chunks[:3], bytes(P.block_bytes)]).root,
    ]
    assert len(set(roots)) == len(roots)


def test_a_received_list_of_leaves_must_have_the_signed_root() -> None:
    shape, chunks = chunking(3), chunks_of(3)
    good = Commitment.over(shape, chunks)
    assert Commitment.received(shape, list(good.leaves), good.root) == good
    first, second, third = good.leaves
    for leaves in (
        [first, third, second],
        [first, second],
        [first, second, third, third],
        [first, second, third[:-1]],
        [first, second, bytes(32)],
        [],
    ):
        with pytest.raises(InvalidInput) as refused:
            Commitment.received(shape, leaves, good.root)
        assert refused.value.reason == "UPLOAD_INVALID"


@pytest.mark.parametrize("index", [-1, 3, 2**63])
def test_there_is_no_chunk_outside(index: int) -> None:
    shape, chunks = chunking(3), chunks_of(3)
    commitment = Commitment.over(shape, chunks)
    for attempt in (
        lambda: commitment.check(index, chunks[0]),
        lambda: commitment.proof(index),
        lambda: leaf_of(shape, index, chunks[0]),
        lambda: proves(shape, commitment.root, index, chunks[0], ()),
    ):
        with pytest.raises(InvalidInput):
            attempt()


@pytest.mark.parametrize("length", [0, 57_343, 57_345])
def test_a_chunk_of_another_length_has_no_leaf(length: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        leaf_of(chunking(3, Kind.SUM), 0, bytes(length))
    assert refused.value.reason == "SUM_INVALID" and refused.value.details["field"] == "length"


@given(st.integers(1, 10**9), st.sampled_from([1, 2**18, 2**20]))
def test_chunks_cover_every_byte_and_value_once(count: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "MAX_CHUNK_BYTES", most)
        shape = Chunking(P, Kind.UPLOAD, count)
        last = shape.chunks - 1
        assert shape.span(0).start == 32 and shape.values(0).start == 0
        assert shape.span(last).stop == P.upload_bytes(count) and shape.values(last).stop == count
        for index in {0, last // 2, max(0, last - 1)} - {last}:
            assert shape.span(index).stop == shape.span(index + 1).start
            assert shape.values(index).stop == shape.values(index + 1).start
            assert (
                len(shape.span(index)) == shape.blocks_per_chunk * P.block_bytes <= max(most, P.block_bytes)
            )
