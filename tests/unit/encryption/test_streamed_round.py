"""A round in chunks, with masks, commitments and the linear check: exact when everybody is honest, and refused
before anything is decrypted when anybody between the holders is not.
"""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from encrypted_round import EncryptedRound, P, mask_keys, public

from usufruct.encryption import chunks as chunks_module
from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.layout import Kind, join_planes, split_planes
from usufruct.encryption.linear_check import CheckedSum, LinearCheck, check_sum
from usufruct.encryption.sum import Summation, add_chunk
from usufruct.encryption.update import write_upload
from usufruct.encryption.zero_worker import zeros_made_here
from usufruct.errors import InvalidInput, RoundFailed

BLOCK = P.values_per_block
COUNT = 3 * BLOCK + 5


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is one block, so that short updates have several."""
    monkeypatch.setattr(chunks_module, "MAX_CHUNK_BYTES", 1)


@pytest.mark.parametrize("holders", [2, 3, 8])
def test_an_honest_masked_round_opens_to_the_exact_sum(small_chunks: None, holders: int) -> None:
    a_round = EncryptedRound.of(list(range(7, 7 + holders)), COUNT)
    assert a_round.uploads.chunks == 4
    np.testing.assert_array_equal(a_round.open(a_round.sum_chunks()), sum(a_round.updates.values()))
    assert a_round.key.used


@pytest.mark.parametrize("count", [1, BLOCK, 18 * BLOCK, 18 * BLOCK + 1])
def test_chunks_of_the_real_size_are_exact_at_every_edge(count: int) -> None:
    a_round = EncryptedRound.of([1, 2], count)
    np.testing.assert_array_equal(a_round.open(a_round.sum_chunks()), sum(a_round.updates.values()))


def test_a_streamed_upload_is_what_summing_whole_uploads_takes() -> None:
    a_round = EncryptedRound.of([1, 2, 3], COUNT)
    total = Summation(P, COUNT)
    for upload in a_round.outboxes.values():
        assert len(upload) == P.upload_bytes(COUNT)
        total.add(upload)
    assert total.result_bytes() == a_round.sums.header + b"".join(a_round.sum_chunks())


def test_without_the_whole_roster_a_masked_sum_opens_to_garbage_which_is_refused(small_chunks: None) -> None:
    """The signatures would have shown it; this is what the masks add."""
    a_round = EncryptedRound.of([1, 2, 3], COUNT)
    del a_round.outboxes[2]
    with pytest.raises(RoundFailed) as refused:
        a_round.open(a_round.sum_chunks())
    assert refused.value.reason == "SUM_INVALID"


def test_holders_who_saw_different_views_have_no_sum(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2, 3], COUNT, views={3: b"x" * 32})
    with pytest.raises(RoundFailed):
        a_round.open(a_round.sum_chunks())


# -- a lying aggregator --------------------------------------------------------------------------------------


def coefficients(chunk: Bytes) -> np.ndarray:
    return join_planes(memoryview(chunk), 2 * P.poly_modulus_degree, P.bytes_per_coefficient)


def as_chunk(values: np.ndarray) -> bytes:
    out = bytearray(P.block_bytes)
    split_planes(values, P.bytes_per_coefficient, memoryview(out))
    return bytes(out)


def test_the_ciphertext_that_opens_to_the_secret_key_is_refused_before_decryption(small_chunks: None) -> None:
    """c0 = 0, c1 = Delta decrypts to the secret key (research/soundness, rule 16)."""
    a_round = EncryptedRound.of([1, 2, 3], COUNT)
    attack = np.zeros(2 * P.poly_modulus_degree, dtype=np.uint64)
    attack[P.poly_modulus_degree] = P.scale
    chunks = a_round.sum_chunks()
    chunks[1] = as_chunk(attack)
    with pytest.raises(RoundFailed) as refused:
        a_round.open(chunks)
    assert refused.value.reason == "SUM_INVALID" and not a_round.key.used
    np.testing.assert_array_equal(a_round.open(a_round.sum_chunks()), sum(a_round.updates.values()))


Lie = Callable[[np.random.Generator, EncryptedRound, EncryptedRound], list[Bytes]]


def one_coefficient(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    values = coefficients(chunks[at])
    values[rng.integers(values.size)] += np.uint64(1) << np.uint64(rng.integers(56))
    values %= np.uint64(P.coeff_modulus)
    chunks[at] = as_chunk(values)
    return chunks


def a_constant(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    """A multiple of Delta on one coefficient: a change of one value, which opens without a trace."""
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    values = coefficients(chunks[at])
    values[rng.integers(P.poly_modulus_degree)] += np.uint64(P.scale) * np.uint64(rng.integers(1, 1000))
    values %= np.uint64(P.coeff_modulus)
    chunks[at] = as_chunk(values)
    return chunks


def missing(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    left_out = rng.choice(list(now.outboxes))
    chunks[at] = add_chunk(now.uploads, at, [now.chunks(d)[at] for d in now.outboxes if d != left_out])
    return chunks


def doubled(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    twice = rng.choice(list(now.outboxes))
    chunks[at] = add_chunk(now.uploads, at, [now.chunks(d)[at] for d in [*now.outboxes, twice]])
    return chunks


def replaced_by_another_holders(
    rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound
) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    out, again = rng.choice(list(now.outboxes), 2, replace=False)
    chunks[at] = add_chunk(now.uploads, at, [now.chunks(again if d == out else d)[at] for d in now.outboxes])
    return chunks


def replayed(rng: np.random.Generator, now: EncryptedRound, before: EncryptedRound) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    old = rng.choice(list(now.outboxes))
    chunks[at] = add_chunk(
        now.uploads, at, [(before if d == old else now).chunks(d)[at] for d in now.outboxes]
    )
    return chunks


def the_last_sum(rng: np.random.Generator, now: EncryptedRound, before: EncryptedRound) -> list[Bytes]:
    chunks, at = now.sum_chunks(), int(rng.integers(4))
    chunks[at] = before.sum_chunks()[at]
    return chunks


def swapped(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks = now.sum_chunks()
    one, other = rng.choice(4, 2, replace=False)
    chunks[one], chunks[other] = chunks[other], chunks[one]
    return chunks


def uniform(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks = now.sum_chunks()
    chunks[rng.integers(4)] = as_chunk(
        rng.integers(0, P.coeff_modulus, 2 * P.poly_modulus_degree, dtype=np.uint64)
    )
    return chunks


def zero(rng: np.random.Generator, now: EncryptedRound, _: EncryptedRound) -> list[Bytes]:
    chunks = now.sum_chunks()
    chunks[rng.integers(4)] = bytes(P.block_bytes)
    return chunks


LIES: list[Lie] = [
    one_coefficient,
    a_constant,
    missing,
    doubled,
    replaced_by_another_holders,
    replayed,
    the_last_sum,
    swapped,
    uniform,
    zero,
]


@pytest.fixture(scope="module")
def two_rounds() -> tuple[EncryptedRound, EncryptedRound]:
    """Of small chunks: this attempt and the one before it, under one key and the same mask keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "MAX_CHUNK_BYTES", 1)
        keys = mask_keys([1, 2, 3])
        before = EncryptedRound.of([1, 2, 3], COUNT, keys=keys, view=b"b" * 32, seed=2)
        return EncryptedRound.of([1, 2, 3], COUNT, keys=keys, key=before.key), before


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_whatever_else_than_the_sum_is_refused_before_decryption(
    small_chunks: None, two_rounds: tuple[EncryptedRound, EncryptedRound], lie: Lie
) -> None:
    """100 of each kind, 1,000 in all, under seeds of their own; each would pass with probability 2^-71."""
    now, before = two_rounds
    rng = np.random.default_rng(LIES.index(lie))
    for _ in range(100):
        chunks = lie(rng, now, before)
        with pytest.raises(RoundFailed) as refused:
            now.check(chunks, seed=rng.bytes(32))
        assert refused.value.reason == "SUM_INVALID"
    assert not now.key.used


def test_answers_of_another_seed_view_sum_or_roster_do_not_pass(
    small_chunks: None,
    two_rounds: tuple[EncryptedRound, EncryptedRound],
) -> None:
    now, before = two_rounds
    chunks = now.sum_chunks()
    total = Commitment.over(now.sums, chunks)
    challenge = now.challenge(total)
    good = now.answers(challenge)
    check_sum(challenge, total, chunks, lambda: good)
    bad = [
        now.answers(now.challenge(total, b"t" * 32)),
        before.answers(before.challenge(total)),
        now.answers(now.challenge(Commitment.over(before.sums, before.sum_chunks()))),
        {d: good[d] for d in (1, 2)},
        {**good, 4: good[1]},
        {**good, 1: good[2]},
        {**good, 1: tuple((part + (k == 7)) % P.coeff_modulus for k, part in enumerate(good[1]))},
        {**good, 1: good[1][:-1]},
        {**good, 1: tuple(part - P.coeff_modulus for part in good[1])},
        {},
    ]
    for answers in bad:
        with pytest.raises(RoundFailed) as refused:
            check_sum(challenge, total, chunks, lambda answers=answers: answers)
        assert refused.value.reason == "SUM_INVALID"
    for root, its_chunks in (
        (before, before.sum_chunks()),
        (now, [*chunks[:3], chunks[0]]),
        (now, chunks[:3]),
    ):
        other = Commitment.over(root.sums, before.sum_chunks()) if root is before else total
        with pytest.raises(InvalidInput):
            check_sum(challenge, other, its_chunks, lambda: good)


# -- the key opens what was checked, once --------------------------------------------------------------------


def test_a_checked_sum_cannot_be_made_by_hand(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2], BLOCK)
    with pytest.raises(ValueError, match="check_sum"):
        CheckedSum(Commitment.over(a_round.sums, a_round.sum_chunks()), 2, object())


def test_other_chunks_than_the_checked_ones_are_not_decrypted(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2], COUNT)
    chunks = a_round.sum_chunks()
    checked = a_round.check(chunks)
    for other in ([*chunks[:2], chunks[1], chunks[3]], chunks[:3], [*chunks, chunks[0]]):
        opened = a_round.key.open_sum(checked, other)
        with pytest.raises(InvalidInput) as refused:
            list(opened)
        assert refused.value.reason == "SUM_INVALID"
        with pytest.raises(RoundFailed) as used:
            a_round.key.open_sum(checked, chunks)
        assert used.value.reason == "KEY_USED"
        a_round = EncryptedRound.of([1, 2], COUNT)  # the key was used up by the try
        chunks = a_round.sum_chunks()
        checked = a_round.check(chunks)


def test_a_checked_sum_of_another_key_is_refused(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2], COUNT)
    chunks = a_round.sum_chunks()
    with pytest.raises(RoundFailed) as refused:
        list(RoundKey.generate(P).open_sum(a_round.check(chunks), chunks))
    assert refused.value.reason == "SUM_INVALID"


def test_the_key_is_used_even_if_nobody_reads_what_it_opens(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2], COUNT)
    chunks = a_round.sum_chunks()
    a_round.key.open_sum(a_round.check(chunks), chunks)
    assert a_round.key.used


# -- adding ranges -------------------------------------------------------------------------------------------


def test_any_party_can_add_a_chunk_again_in_any_order(small_chunks: None) -> None:
    a_round = EncryptedRound.of([1, 2, 3], COUNT)
    total = a_round.sum_chunks()
    assert add_chunk(a_round.uploads, 2, [a_round.chunks(d)[2] for d in (3, 1, 2)]) == total[2]
    assert add_chunk(a_round.uploads, 2, [a_round.chunks(d)[2] for d in (1, 2)]) != total[2]


@pytest.mark.parametrize("value", [P.coeff_modulus, 2**56 - 1])
def test_a_chunk_with_a_coefficient_out_of_range_is_refused_by_name(small_chunks: None, value: int) -> None:
    good = as_chunk(np.full(2 * P.poly_modulus_degree, P.coeff_modulus - 1, dtype=np.uint64))
    values = np.zeros(2 * P.poly_modulus_degree, dtype=np.uint64)
    values[8191] = value
    uploads = Chunking(P, Kind.UPLOAD, COUNT)
    with pytest.raises(InvalidInput) as refused:
        add_chunk(uploads, 0, [good, as_chunk(values), good])
    assert refused.value.reason == "UPLOAD_INVALID" and refused.value.details["position"] == 1
    with pytest.raises(InvalidInput) as refused:
        add_chunk(uploads, 0, [good, good, good[:-1]])
    assert refused.value.details["position"] == 2


@pytest.mark.parametrize("holders", [1, 2, 3, 63, 64])
def test_the_sum_of_a_chunk_is_the_sum_modulo_q(small_chunks: None, holders: int) -> None:
    rng = np.random.default_rng(holders)
    all_values = rng.integers(0, P.coeff_modulus, (holders, 2 * P.poly_modulus_degree), dtype=np.uint64)
    all_values[:, :4096] = P.coeff_modulus - 1
    uploads = Chunking(P, Kind.UPLOAD, COUNT)
    total = coefficients(add_chunk(uploads, 3, [as_chunk(values) for values in all_values]))
    assert total.tolist() == (all_values.astype(object).sum(axis=0) % P.coeff_modulus).tolist()


def test_no_chunk_and_a_chunk_too_many_are_refused(small_chunks: None) -> None:
    uploads, chunk = Chunking(P, Kind.UPLOAD, COUNT), bytes(P.block_bytes)
    for number, reason in ((0, "ROUND_INCOMPLETE"), (65, "TOO_MANY")):
        with pytest.raises(RoundFailed) as refused:
            add_chunk(uploads, 0, [chunk] * number)
        assert refused.value.reason == reason


# -- writing -------------------------------------------------------------------------------------------------


def test_values_are_asked_for_in_order_once_and_refused_when_they_are_not_as_asked() -> None:
    key, asked = RoundKey.generate(P), []
    count = 19 * BLOCK

    def values(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return np.zeros(stop - start, dtype=np.int64)

    write_upload(P, count, zeros_made_here(P, key.public_key_bytes), None, values, io.BytesIO())
    assert asked == [(0, 18 * BLOCK), (18 * BLOCK, count)]
    for bad in (np.zeros(count - 1, dtype=np.int64), np.zeros(1), np.full(18 * BLOCK, 65536)):
        with pytest.raises(InvalidInput):
            write_upload(
                P,
                count,
                zeros_made_here(P, key.public_key_bytes),
                None,
                lambda start, stop, bad=bad: bad,
                io.BytesIO(),
            )


class Nowhere(io.RawIOBase):
    def write(self, data: object) -> int:
        return len(data)  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_update() -> None:
    """Writing, adding, checking: 10 chunks of 1 MiB pass, and never more than 8 MiB are held."""
    count = 180 * BLOCK
    keys = mask_keys([1, 2])
    masks = keys[1].masks(P, b"m" * 32, public(keys))
    zero_block = np.zeros(2 * P.poly_modulus_degree, dtype=np.uint64)  # only its size matters here
    uploads, chunk = Chunking(P, Kind.UPLOAD, count), bytes(18 * P.block_bytes)
    a_round = EncryptedRound.of([1, 2], 1)
    challenge = a_round.challenge(Commitment.over(a_round.sums, a_round.sum_chunks()))

    def write() -> None:
        write_upload(
            P, count, lambda: zero_block, masks, lambda a, b: np.zeros(b - a, dtype=np.uint16), Nowhere()
        )

    def add() -> None:
        for index in range(10):
            add_chunk(uploads, index, [chunk, chunk, chunk])

    def check() -> None:
        linear = LinearCheck(challenge, uploads)
        for _ in range(10):
            linear.add(chunk)
        assert linear.result() == (0,) * 8

    for work in (write, add, check):
        tracemalloc.start()
        try:
            work()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20, work.__name__
        finally:
            tracemalloc.stop()
