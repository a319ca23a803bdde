"""Bytes of another party: whatever is not exactly right is refused before it is used."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.encryption import layout, seal_raw
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import (
    DEFAULT_PARAMETERS,
    HEADER_BYTES,
    EncryptionParameters,
    ParameterLiteral,
)
from usufruct.encryption.public_key import public_key_from_bytes, public_key_to_bytes
from usufruct.encryption.seal_raw import Scratch, Seal
from usufruct.encryption.sum import Summation
from usufruct.encryption.update import encrypt_update
from usufruct.errors import InvalidInput, RoundFailed, SealLayoutChanged

P = DEFAULT_PARAMETERS
COUNT = 10_000


@pytest.fixture(scope="module")
def key() -> RoundKey:
    return RoundKey.generate(P)


@pytest.fixture(scope="module")
def upload(key: RoundKey) -> bytes:
    return encrypt_update(P, key.public_key_bytes, np.arange(COUNT) % 65536)


def with_coefficient(data: bytes, index: int, value: int) -> bytes:
    """``data`` with coefficient ``index`` of its first block set to ``value``."""
    out, size = bytearray(data), 8192
    struct.pack_into("<I", out, HEADER_BYTES + 4 * index, value & 0xFFFFFFFF)
    struct.pack_into("<H", out, HEADER_BYTES + 4 * size + 2 * index, value >> 32 & 0xFFFF)
    struct.pack_into("<B", out, HEADER_BYTES + 6 * size + index, value >> 48)
    return bytes(out)


def spoil(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def hostile_uploads(upload: bytes) -> dict[str, tuple[bytes, str]]:
    other = EncryptionParameters.checked(ParameterLiteral(max_holders=32))
    return {
        "empty": (b"", "length"),
        "header only": (upload[:32], "length"),
        "one byte short": (upload[:-1], "length"),
        "one byte long": (upload + b"\0", "length"),
        "one block short": (upload[: -P.block_bytes], "length"),
        "magic": (spoil(upload, 0, b"SEAL"), "magic"),
        "version": (spoil(upload, 4, b"\x02\x00"), "version"),
        "kind": (spoil(upload, 6, b"\x03\x00"), "kind"),
        "parameter id": (spoil(upload, 8, other.parameter_id), "parameter_id"),
        "count": (spoil(upload, 24, struct.pack("<Q", COUNT - 1)), "count"),
        "coefficient q": (with_coefficient(upload, 17, P.coeff_modulus), "coefficient"),
        "coefficient 2^56-1": (with_coefficient(upload, 8191, 2**56 - 1), "coefficient"),
    }


NAMES = list(hostile_uploads(bytes(200_000)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_bytes", [None, 1000, 57_344, 100_000])
def test_a_hostile_upload_is_refused_and_changes_nothing(
    key: RoundKey, upload: bytes, name: str, chunk_bytes: int | None
) -> None:
    bad, field = hostile_uploads(upload)[name]
    total = Summation(P, COUNT)
    total.add(upload)
    before = total.result_bytes()

    def attack() -> None:
        if chunk_bytes is None:
            total.add(bad)
            return
        incoming = total.incoming()
        for start in range(0, len(bad), chunk_bytes):
            incoming.feed(bad[start : start + chunk_bytes])
        total.commit(incoming)

    with pytest.raises(InvalidInput) as refused:
        attack()
    assert refused.value.reason == "UPLOAD_INVALID"
    assert refused.value.details["field"] == field
    assert total.result_bytes() == before and total.uploads == 1


def test_an_upload_that_was_refused_half_way_cannot_be_added_all_the_same(upload: bytes) -> None:
    total = Summation(P, COUNT)
    incoming = total.incoming()
    with pytest.raises(InvalidInput):
        incoming.feed(with_coefficient(upload, 17, P.coeff_modulus))
    assert incoming.missing_bytes == 0
    with pytest.raises(InvalidInput):
        total.commit(incoming)
    assert total.uploads == 0


def test_the_largest_coefficient_is_accepted(upload: bytes) -> None:
    total = Summation(P, COUNT)
    total.add(with_coefficient(upload, 17, P.coeff_modulus - 1))
    assert total.uploads == 1


@pytest.mark.parametrize("chunk_bytes", [1, 33, 4096, 57_344, 524_288])
def test_an_upload_in_chunks_of_any_size_is_the_same_upload(upload: bytes, chunk_bytes: int) -> None:
    if chunk_bytes == 1:
        upload_count = 1
        piece = encrypt_update(P, RoundKey.generate(P).public_key_bytes, np.array([5]))
    else:
        upload_count, piece = COUNT, upload
    whole, chunked = Summation(P, upload_count), Summation(P, upload_count)
    whole.add(piece)
    incoming = chunked.incoming()
    for start in range(0, len(piece), chunk_bytes):
        incoming.feed(piece[start : start + chunk_bytes])
    assert incoming.missing_bytes == 0 and bytes(incoming.data) == piece
    chunked.commit(incoming)
    assert chunked.result_bytes() == whole.result_bytes()


def test_an_upload_of_another_round_size_is_refused(key: RoundKey, upload: bytes) -> None:
    small = encrypt_update(P, key.public_key_bytes, np.arange(5))
    total, other = Summation(P, COUNT), Summation(P, 5)
    with pytest.raises(InvalidInput):
        total.add(small)
    incoming = other.incoming()
    incoming.feed(small)
    with pytest.raises(InvalidInput):
        total.commit(incoming)


def test_a_sum_takes_at_most_its_holders(key: RoundKey) -> None:
    upload = encrypt_update(P, key.public_key_bytes, np.array([1]))
    total = Summation(P, 1)
    for _ in range(P.max_holders):
        total.add(upload)
    with pytest.raises(RoundFailed) as refused:
        total.add(upload)
    assert refused.value.reason == "TOO_MANY"


def test_an_empty_sum_is_no_sum() -> None:
    with pytest.raises(RoundFailed):
        Summation(P, 3).result_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_sum_is_refused_before_the_key_is_used(upload: bytes, name: str) -> None:
    key = RoundKey.generate(P)
    as_sum = spoil(upload, 6, b"\x03\x00")
    bad = upload if name == "kind" else hostile_uploads(as_sum)[name][0]
    with pytest.raises(InvalidInput) as refused:
        key.decrypt(bad, COUNT, 1)
    assert refused.value.reason == "SUM_INVALID"
    assert not key.used


@pytest.mark.parametrize("holders", [0, 65, -1])
def test_an_impossible_number_of_holders_is_refused(upload: bytes, holders: int) -> None:
    with pytest.raises(InvalidInput):
        RoundKey.generate(P).decrypt(spoil(upload, 6, b"\x03\x00"), COUNT, holders)


@pytest.mark.parametrize("index", [4096, 6000, 8191])
def test_one_altered_bit_of_c1_is_noticed(index: int) -> None:
    """It is multiplied by the secret key, so it disturbs about two thirds of its block's coefficients."""
    fresh = RoundKey.generate(P)
    total = Summation(P, COUNT)
    total.add(encrypt_update(P, fresh.public_key_bytes, np.zeros(COUNT, dtype=np.int64)))
    data = bytearray(total.result_bytes())
    data[HEADER_BYTES + 6 * 8192 + index] ^= 0x40  # bit 54 of one coefficient
    with pytest.raises((RoundFailed, InvalidInput)) as refused:
        fresh.decrypt(bytes(data), COUNT, 1)
    assert refused.value.reason == "SUM_INVALID"


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 100_000))
def test_random_bytes_are_never_a_public_key(junk: bytes, padding: int) -> None:
    for data in (junk, junk + bytes(padding), junk + bytes(P.public_key_bytes - len(junk))):
        with pytest.raises(InvalidInput) as refused:
            public_key_from_bytes(P, data)
        assert refused.value.reason == "PUBLIC_KEY_INVALID"


@pytest.mark.parametrize("row", range(4))
def test_a_public_key_coefficient_out_of_range_is_refused(key: RoundKey, row: int) -> None:
    coefficients = public_key_from_bytes(P, key.public_key_bytes).copy()
    prime = P.coeff_modulus if row % 2 == 0 else P.special_modulus
    coefficients.reshape(4, -1)[row, 99] = prime - 1
    assert public_key_to_bytes(P, public_key_from_bytes(P, public_key_to_bytes(P, coefficients)))
    coefficients.reshape(4, -1)[row, 99] = prime
    with pytest.raises(InvalidInput) as refused:
        encrypt_update(P, public_key_to_bytes(P, coefficients), np.array([1]))
    assert refused.value.reason == "PUBLIC_KEY_INVALID" and refused.value.details["field"] == "coefficient"


def test_a_public_key_is_80_kib_of_ours_and_no_seal_object(key: RoundKey) -> None:
    assert len(key.public_key_bytes) == 32 + 2 * 4096 * (7 + 3)
    assert key.public_key_bytes[:4] == b"USFR"
    assert struct.pack("<H", 0xA15E) + b"\x10" not in key.public_key_bytes[:200]


@pytest.mark.parametrize(
    "values",
    [
        np.array([-1]),
        np.array([65536]),
        np.array([0, 2**40]),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([0.5]),
        np.array([], dtype=np.int64),
        np.zeros((2, 2), dtype=np.int64),
        [1, 2],
    ],
    ids=["negative", "2^16", "2^40", "2^64-1", "float", "empty", "matrix", "list"],
)
def test_only_bounded_integers_are_encrypted(key: RoundKey, values: np.ndarray) -> None:
    with pytest.raises(InvalidInput) as refused:
        encrypt_update(P, key.public_key_bytes, values)
    assert refused.value.details["field"] == "values"


# -- the layout of SEAL's objects ----------------------------------------------------------------------------


@pytest.mark.parametrize("struct_name", ["_CIPHERTEXT", "_PLAINTEXT"])
def test_another_object_layout_fails_loudly(monkeypatch: pytest.MonkeyPatch, struct_name: str) -> None:
    """A SEAL whose objects have eight bytes more, as 4.0 had over 3.7."""
    known = getattr(seal_raw, struct_name)

    class Longer:
        size = known.size + 8

        @staticmethod
        def pack(*fields: object) -> bytes:
            return known.pack(*fields) + bytes(8)

    monkeypatch.setattr(seal_raw, struct_name, Longer)
    with pytest.raises(SealLayoutChanged):
        Seal(P)


def test_a_scaling_that_is_not_seals_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncryptionParameters, "scale", property(lambda self: 4047))
    with pytest.raises(SealLayoutChanged):
        Seal(P)


@pytest.mark.parametrize("memory_file", [True, False])
def test_scratch_is_private_and_vanishes(monkeypatch: pytest.MonkeyPatch, memory_file: bool) -> None:
    if not memory_file:
        monkeypatch.delattr(os, "memfd_create")
    with Scratch() as scratch:
        path = scratch.path
        scratch.write(b"abc", b"def")
        assert scratch.read() == b"abcdef"
        scratch.write(b"x")
        assert scratch.read() == b"x"
        assert path.startswith("/proc/self/fd/" if memory_file else "/dev/shm/")
        if not memory_file:
            assert os.stat(path).st_mode & 0o777 == 0o600
            assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    assert memory_file or not os.path.exists(os.path.dirname(path))


def test_scratch_without_memory_files_still_encrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    key = RoundKey.generate(P)
    total = Summation(P, 3)
    total.add(encrypt_update(P, key.public_key_bytes, np.array([1, 2, 3])))
    assert key.decrypt(total.result_bytes(), 3, 1).tolist() == [1, 2, 3]


def test_a_key_is_read_from_seal_and_no_descriptor_is_kept() -> None:
    seal = seal_raw.open_seal(P)
    key = seal_raw.sealapi.PublicKey()
    seal_raw.sealapi.KeyGenerator(seal.context).create_public_key(key)
    before = set(os.listdir("/proc/self/fd"))
    with Scratch() as scratch:
        assert seal.read_public_key(scratch, key).shape == (2, 2, 4096)
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("module", ["sum", "update", "zero_worker"])
def test_neither_adding_nor_encrypting_loads_seal_or_torch(module: str) -> None:
    code = f"import sys, usufruct.encryption.{module}; print({{'tenseal', 'torch', 'zstandard'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_planes_are_little_endian_low_bytes_first() -> None:
    """A golden vector, worked out by hand, so that the wire cannot drift."""
    coefficients = np.array([0x01020304050607, 0x11121314151617], dtype=np.uint64)
    out = bytearray(14)
    layout.split_planes(coefficients, 7, memoryview(out))
    assert out.hex() == "0706050417161514030213120111"
    assert layout.join_planes(memoryview(out), 2, 7).tolist() == coefficients.tolist()
    assert layout.Header(layout.Kind.UPLOAD, P.parameter_id, 258).to_bytes().hex() == (
        "5553465201000200" + P.parameter_id.hex() + "0201000000000000"
    )
