"""Keys, words and Poisson masks: what is refused, what the words become, and that nothing ever repeats."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from usufruct.privacy import MechanismInvalid, discrete_gaussian, keystream, poisson_mask, skellam_table
from usufruct.privacy.sampling import included

BLOCK = keystream.BLOCK_WORDS
TABLE = skellam_table(10**9)


def test_words_are_aes_256_in_counter_mode_from_zero() -> None:
    key = bytes(range(32))
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    counted = b"".join(ecb.update(counter.to_bytes(16, "big")) for counter in range(50))
    assert keystream.expand(key, 99).tobytes() == counted[: 99 * 8]
    assert keystream.expand(key, BLOCK + 5)[:99].tobytes() == counted[: 99 * 8]


@pytest.mark.parametrize("count", [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_every_count_is_served_in_full(count: int) -> None:
    assert (
        poisson_mask(count, 0.5).shape
        == TABLE.draw(count).shape
        == discrete_gaussian(count).shape
        == (count,)
    )
    noise = TABLE.draw(count)
    assert noise.dtype == np.int64
    # Deviation 31,623: of up to 98,311 draws some one or two are zero, and none is left undrawn.
    assert np.count_nonzero(noise == 0) < 20


def test_the_operating_system_is_asked_for_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    genuine = os.urandom

    def counted(count: int) -> bytes:
        asked.append(count)
        return genuine(count)

    monkeypatch.setattr(keystream.os, "urandom", counted)
    TABLE.draw(3 * BLOCK + 1)
    poisson_mask(BLOCK + 1, 0.5)
    assert len(asked) >= 6
    assert set(asked) == {32}


def test_a_restored_image_repeats_nothing_even_where_its_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines restored from one snapshot ask a kernel that has not noticed: the clocks still tell the keys apart."""
    monkeypatch.setattr(keystream.os, "urandom", lambda count: b"\x07" * count)
    assert np.intersect1d(keystream.fresh_words(1000), keystream.fresh_words(1000)).size == 0


@pytest.mark.parametrize("duplicate", [copy, deepcopy, pickle.dumps])
def test_a_table_cannot_be_copied_or_stored(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(TypeError):
        duplicate(TABLE)


def test_nothing_is_drawn_from_numpys_generator() -> None:
    np.random.seed(7)
    first = TABLE.draw(100)
    np.random.seed(7)
    assert not np.array_equal(first, TABLE.draw(100))


def _drawn() -> bytes:
    return TABLE.draw(64).tobytes() + discrete_gaussian(64).tobytes() + poisson_mask(512, 0.5).tobytes()


def _drawn_in_a_child(generations: int = 1) -> bytes:
    """What a fork of this process draws, or a fork of a fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, _drawn_in_a_child(generations - 1) if generations > 1 else _drawn())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        drawn = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return drawn


def test_nothing_repeats_over_forks_of_one_image() -> None:
    """Whatever state there might be, the children inherit it: two processes of one image, a fork of a fork, the parent.

    Five sets of 64 samples of deviation 2^27: a coincidence of two within 0.5 % (chance of a single equal pair about
    10^-4) is no repeat, so whole sets are compared: any two share at most two samples (chance of a third below 10^-12).
    """
    _drawn()
    draws = [_drawn_in_a_child(), _drawn_in_a_child(), _drawn_in_a_child(2), _drawn(), _drawn()]
    assert all(len(drawn) == 1536 for drawn in draws)
    for i, left in enumerate(draws):
        for right in draws[i + 1 :]:
            assert np.intersect1d(np.frombuffer(left[:512]), np.frombuffer(right[:512])).size <= 4
            assert np.intersect1d(np.frombuffer(left[512:1024]), np.frombuffer(right[512:1024])).size <= 2
            assert left[1024:] != right[1024:]


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 2.0**-11, 1e-9])
def test_the_mask_is_an_integer_threshold_that_never_exceeds_the_rate(rate: float) -> None:
    threshold = math.floor(Fraction(rate) * 2**64)
    assert Fraction(threshold, 2**64) <= Fraction(rate) < Fraction(threshold + 1, 2**64)
    if rate == 1.0:
        assert included(np.array([0, 2**64 - 1], dtype=np.uint64), rate).all()
    else:
        words = np.array([threshold - 1, threshold, threshold + 1], dtype=np.uint64)
        assert included(words, rate).tolist() == [True, False, False]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan"), None])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(MechanismInvalid):
        poisson_mask(10, rate)


def test_full_batches_take_everyone() -> None:
    assert poisson_mask(3 * BLOCK + 1, 1.0).all()
