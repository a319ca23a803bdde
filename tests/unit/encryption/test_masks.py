"""Masks hide every update and vanish over the whole roster of one view, and over nothing else."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from encrypted_round import JOB, P, mask_keys, public
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.encryption.masks import MaskKey
from usufruct.encryption.parameters import EncryptionParameters, ParameterLiteral
from usufruct.errors import InvalidInput, RoundFailed

N, T = P.poly_modulus_degree, P.plain_modulus
VIEW = b"w" * 32


def mask_of(
    key: MaskKey, keys: dict[int, bytes], *, view: bytes = VIEW, first: int = 0, blocks: int = 1
) -> np.ndarray:
    words = np.zeros((blocks, N), dtype=np.uint64)
    key.masks(P, view, keys).mask(first, words)
    return words


@pytest.mark.parametrize("holders", [2, 3, 4, 7, 16, 33, 64])
def test_masks_vanish_over_the_roster(holders: int) -> None:
    keys = mask_keys(list(range(1, holders + 1)))
    masks = [mask_of(key, public(keys)) for key in keys.values()]
    assert all(int(mask.max()) < T for mask in masks)
    assert not (sum(masks) % np.uint64(T)).any()  # 64 words below 2^44: no overflow
    assert (sum(masks[1:]) % np.uint64(T) != 0).mean() > 0.99


@settings(deadline=None, max_examples=20)
@given(
    st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=6),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**40),
    st.integers(1, 3),
)
def test_masks_vanish_for_any_roster_view_and_range(
    datasets: set[int], view: bytes, first: int, blocks: int
) -> None:
    keys = mask_keys(list(datasets))
    masks = [mask_of(key, public(keys), view=view, first=first, blocks=blocks) for key in keys.values()]
    assert not (sum(masks) % np.uint64(T)).any()


def test_masks_of_different_views_do_not_vanish() -> None:
    keys = mask_keys([1, 2, 3])
    masks = [mask_of(key, public(keys), view=bytes([min(number, 2)]) * 32) for number, key in keys.items()]
    assert (sum(masks) % np.uint64(T) != 0).mean() > 0.99


@pytest.mark.parametrize("what", ["job", "dataset", "parameters"])
def test_masks_of_different_jobs_datasets_or_parameters_do_not_vanish(what: str) -> None:
    one, two = MaskKey(JOB, 1), MaskKey(bytes(32) if what == "job" else JOB, 2)
    names = {1: one.public_bytes, 2: two.public_bytes}
    theirs = {0: one.public_bytes, 2: two.public_bytes} if what == "dataset" else names
    parameters = EncryptionParameters.checked(ParameterLiteral(max_holders=32)) if what == "parameters" else P
    words = np.zeros((2, 1, N), dtype=np.uint64)
    one.masks(P, VIEW, names).mask(0, words[0])
    two.masks(parameters, VIEW, theirs).mask(0, words[1])
    assert ((words[0] + words[1]) % np.uint64(T) != 0).mean() > 0.99


def test_a_range_of_a_stream_is_the_same_wherever_it_begins() -> None:
    keys = mask_keys([4, 5, 9])

    def again() -> MaskKey:  # the same key as a fresh object, since a view's masks are given once
        copy = MaskKey(JOB, 5)
        copy._private = keys[5]._private
        return copy

    whole = mask_of(again(), public(keys), blocks=7)
    stream = again().masks(P, VIEW, public(keys))
    pieces = np.zeros((7, N), dtype=np.uint64)
    for first, stop in [(5, 7), (0, 2), (2, 3), (3, 5)]:
        stream.mask(first, pieces[first:stop])
    np.testing.assert_array_equal(pieces, whole)
    assert len(np.unique(whole)) > 0.999 * whole.size  # no key stream repeats itself


def test_the_mask_is_the_one_that_the_formula_says() -> None:
    keys = mask_keys([10, 11])
    shared = keys[10]._private.exchange(X25519PublicKey.from_public_bytes(keys[11].public_bytes))
    info = b"usufruct pairwise mask v1\0" + JOB + P.parameter_id
    info += struct.pack("<Q", 10) + keys[10].public_bytes + struct.pack("<Q", 11) + keys[11].public_bytes
    secret = HKDF(hashes.SHA256(), length=40, salt=VIEW, info=info).derive(shared)
    stream = (
        Cipher(algorithms.AES(secret[:32]), modes.CTR(secret[32:] + bytes(8)))
        .encryptor()
        .update(bytes(8 * N))
    )
    expected = np.frombuffer(stream, dtype="<u8") % T
    np.testing.assert_array_equal(mask_of(keys[10], public(keys))[0], expected)
    np.testing.assert_array_equal(mask_of(keys[11], public(keys))[0], (T - expected) % T)


def test_mask_words_are_uniform_modulo_t() -> None:
    """Chi-square over 256 ranges of 2^17 words: mean 255, standard deviation 22.6; 400 is 6.4 of them."""
    keys = mask_keys([1, 2, 3])
    words = mask_of(keys[2], public(keys), blocks=32).ravel()
    counts = np.bincount((words >> np.uint64(36)).astype(np.int64), minlength=256)
    assert ((counts - words.size / 256) ** 2 / (words.size / 256)).sum() < 400


def test_a_view_has_one_stream_and_a_block_one_mask() -> None:
    keys = mask_keys([1, 2])
    stream = keys[1].masks(P, VIEW, public(keys))
    with pytest.raises(RoundFailed) as refused:
        keys[1].masks(P, VIEW, public(keys))
    assert refused.value.reason == "ROUND_VIEW_CHANGED"
    words = np.zeros((3, N), dtype=np.uint64)
    stream.mask(5, words)
    for first in (3, 5, 7):
        with pytest.raises(RoundFailed):
            stream.mask(first, words)
    stream.mask(2, words)
    stream.mask(8, words)
    with pytest.raises(RoundFailed):
        stream.mask(2, words)


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        (1).to_bytes(32, "little"),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        b"short",
    ],
    ids=["0", "1", "p-1", "p", "order 8", "order 8, other", "short"],
)
def test_a_key_of_small_order_is_refused(point: bytes) -> None:
    """Their product with any secret is 0, so everyone would know the mask. Source: RFC 7748, section 6.1."""
    key = MaskKey(JOB, 1)
    with pytest.raises(InvalidInput) as refused:
        key.masks(P, VIEW, {1: key.public_bytes, 2: point})
    assert refused.value.reason == "PUBLIC_KEY_INVALID" and refused.value.details["dataset_id"] == 2


def test_a_roster_without_this_holder_alone_too_large_or_with_one_key_twice_is_refused() -> None:
    keys = mask_keys(list(range(1, 66)))
    names = public(keys)
    for roster in (
        {1: names[1]},
        {2: names[2], 3: names[3]},
        {1: names[2], 2: names[1]},
        {1: names[1], 2: names[2], 3: names[2]},
        names,
    ):
        with pytest.raises(RoundFailed) as refused:
            keys[1].masks(P, VIEW, roster)
        assert refused.value.reason == "ROSTER_MISMATCH"
