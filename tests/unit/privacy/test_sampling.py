"""Noise and samples: what is refused, what the words become, and that nothing repeats after a fork."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest

from usufruct.privacy import MechanismInvalid, gaussian, poisson_mask
from usufruct.privacy.sampling import included, standard_normals

BLOCK = 1 << 16


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf"), None])
def test_noise_of_no_width_is_refused(deviation: float) -> None:
    with pytest.raises(MechanismInvalid):
        gaussian(10, deviation)


@pytest.mark.parametrize("count", [0, 1, 2, 3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_every_count_is_served_in_full(count: int) -> None:
    noise = gaussian(count, 2.0)
    assert noise.shape == (count,)
    assert noise.dtype == np.float64
    assert np.count_nonzero(noise) == count, "a coordinate without noise"
    assert np.unique(noise).size == count, "noise repeats within a call"
    assert poisson_mask(count, 0.5).shape == (count,)


def test_no_two_calls_share_a_sample() -> None:
    assert np.intersect1d(gaussian(50_000, 1.0), gaussian(50_000, 1.0)).size == 0


def test_noise_and_mask_are_independent_of_numpys_seed() -> None:
    np.random.seed(7)
    first = gaussian(100, 1.0)
    np.random.seed(7)
    assert not np.array_equal(first, gaussian(100, 1.0))


def test_the_extreme_words_give_finite_samples_and_the_whole_tail() -> None:
    words = np.array([0, 2**64 - 1, 1, 0, 0, 0], dtype=np.uint64)
    samples = standard_normals(words)
    assert np.isfinite(samples).all()
    assert samples[0] == pytest.approx(math.sqrt(2 * 65 * math.log(2)))
    assert 0 < abs(samples[1]) < 2e-8, "the open interval has no zero radius"


def test_box_muller_is_the_textbook_formula() -> None:
    words = np.frombuffer(bytes(range(256)), dtype=np.uint64)
    half = words.size // 2
    samples = standard_normals(words)
    for i in range(half):
        radius = math.sqrt(-2 * math.log((int(words[i]) + 0.5) / 2**64))
        angle = 2 * math.pi * (int(words[half + i]) + 0.5) / 2**64
        assert samples[i] == pytest.approx(radius * math.cos(angle), abs=1e-14)
        assert samples[half + i] == pytest.approx(radius * math.sin(angle), abs=1e-14)


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


def _drawn_in_a_child() -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, gaussian(64, 1.0).tobytes() + poisson_mask(512, 0.5).tobytes())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        drawn = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return drawn


def test_nothing_repeats_after_a_fork() -> None:
    gaussian(64, 1.0)  # whatever state there might be, the children inherit it
    draws = [_drawn_in_a_child(), _drawn_in_a_child()]
    draws.append(gaussian(64, 1.0).tobytes() + poisson_mask(512, 0.5).tobytes())
    noise = [np.frombuffer(drawn[:512]) for drawn in draws]
    masks = {drawn[512:] for drawn in draws}
    assert all(len(drawn) == 1024 for drawn in draws)
    assert np.unique(np.concatenate(noise)).size == 3 * 64
    assert len(masks) == 3
