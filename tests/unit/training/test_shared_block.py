"""The memory that the server shares with a trainer child: of one size, wiped, and never trusted while it can change."""

from __future__ import annotations

import gc
import io
import mmap
import os

import numpy as np
import pytest

from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import DEFAULT_PARAMETERS
from usufruct.encryption.sum import Summation
from usufruct.encryption.update import ValueSource, write_upload
from usufruct.encryption.zero_worker import zeros_made_here
from usufruct.errors import InvalidInput, RoundFailed
from usufruct_server.holder.training.block import SharedBlock

COUNT = 3 * DEFAULT_PARAMETERS.values_per_block + 5


def _write(block: SharedBlock, values: np.ndarray) -> None:
    block.write(0, memoryview(values.astype("<i4").tobytes()))


def _upload(key: RoundKey, values: ValueSource) -> bytes:
    file = io.BytesIO()
    zeros = zeros_made_here(DEFAULT_PARAMETERS, key.public_key_bytes)
    write_upload(DEFAULT_PARAMETERS, COUNT, zeros, None, values, file)
    return file.getvalue()


def _opened(key: RoundKey, upload: bytes) -> np.ndarray:
    total = Summation(DEFAULT_PARAMETERS, COUNT)
    total.add(upload)
    return key.decrypt(total.result_bytes(), COUNT, 1)


def test_what_is_written_is_read_from_any_place() -> None:
    block, values = SharedBlock(4 * COUNT), np.random.default_rng(0).integers(-(2**31), 2**31, COUNT)
    half = 4 * (COUNT // 2)
    data = memoryview(values.astype("<i4").tobytes())
    block.write(half, data[half:])
    block.write(0, data[:half])
    for start, stop in ((0, COUNT), (0, 1), (COUNT - 7, COUNT), (5, 5)):
        got = block.values(start, stop)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, values[start:stop])
    block.close()


def test_nobody_who_has_it_can_change_its_size() -> None:
    """Else a child could cut it off under a server, or fill the machine's memory through it."""
    block = SharedBlock(8192)
    for size in (0, 8191, 8193, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(block.descriptor, size)
    with pytest.raises(OSError, match="not permitted"):
        block.write(8192, memoryview(b"more"))
    assert os.fstat(block.descriptor).st_size == 8192
    block.close()


def test_it_takes_memory_as_it_is_written_and_none_after_the_attempt() -> None:
    block = SharedBlock(1 << 30)
    assert os.fstat(block.descriptor).st_blocks == 0
    block.write(0, memoryview(bytes(1 << 20)))
    assert os.fstat(block.descriptor).st_blocks * 512 == 1 << 20
    kept = os.dup(block.descriptor)  # as a child has it
    block.close()
    assert os.fstat(kept).st_blocks == 0
    os.close(kept)


def test_what_a_child_still_has_mapped_is_wiped() -> None:
    block = SharedBlock(4 * COUNT)
    _write(block, np.arange(1, COUNT + 1))
    with mmap.mmap(block.descriptor, 0) as mapped:
        assert np.frombuffer(mapped, "<i4").all()
        block.close()
        assert not np.frombuffer(mapped, "<i4").any()
    block.close()  # once more is harmless
    with pytest.raises(OSError, match="Bad file descriptor"):
        block.values(0, 1)


def test_one_that_is_forgotten_closes_its_descriptor() -> None:
    """A builder's stream may be given up while its weights arrive; then nobody else closes the block."""
    block = SharedBlock(4096)
    descriptor = block.descriptor
    os.fstat(descriptor)
    del block
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_update_that_ends_early_is_no_update() -> None:
    block = SharedBlock(4 * COUNT)
    with pytest.raises(RoundFailed) as caught:
        block.values(COUNT - 1, COUNT + 1)
    assert caught.value.reason == "TRAINER_FAILED"
    block.close()


def test_what_was_checked_is_what_is_encrypted_though_a_child_changes_it_at_once() -> None:
    """A child that writes again whenever the server has looked: integers that would spill over into other fields."""
    block, key = SharedBlock(4 * COUNT), RoundKey.generate(DEFAULT_PARAMETERS)
    honest = np.random.default_rng(1).integers(0, DEFAULT_PARAMETERS.max_value + 1, COUNT)
    looks: list[int] = []

    def values(start: int, stop: int) -> np.ndarray:
        _write(block, honest)
        taken = block.values(start, stop)
        _write(block, np.full(COUNT, -1))
        looks.append(stop - start)
        return taken

    upload = _upload(key, values)
    np.testing.assert_array_equal(_opened(key, upload), honest)
    assert sum(looks) == COUNT  # every value is looked at once
    block.close()


@pytest.mark.parametrize("value", [-1, -(2**31), DEFAULT_PARAMETERS.max_value + 1, 2**31 - 1])
@pytest.mark.parametrize("place", [0, COUNT - 1])
def test_integers_that_are_no_update_are_refused(value: int, place: int) -> None:
    block = SharedBlock(4 * COUNT)
    values = np.zeros(COUNT, np.int64)
    values[place] = value
    _write(block, values)
    with pytest.raises(InvalidInput, match="lie within"):
        _upload(RoundKey.generate(DEFAULT_PARAMETERS), block.values)
    block.close()
