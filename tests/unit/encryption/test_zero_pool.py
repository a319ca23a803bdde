"""Encryptions of zero come from spare processes, each once and under the round's key, whatever befalls them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import DEFAULT_PARAMETERS
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import ConfigError, InvalidInput

P = DEFAULT_PARAMETERS
SLOTS_PER_MIB = 16


@pytest.fixture(scope="module")
def warm_pool() -> Iterator[ZeroPool]:
    with ZeroPool(P, workers=2, ring_mib=1) as pool:
        yield pool


@pytest.fixture
def pool(warm_pool: ZeroPool) -> Iterator[ZeroPool]:
    yield warm_pool
    warm_pool.stop()


def wait_until_filled(pool: ZeroPool, slots: int) -> None:
    """Until the workers have told of ``slots`` filled slots."""
    while sum(worker.ready for worker in pool._alive) < slots:
        assert select.select([worker.notices for worker in pool._alive], [], [], 60)[0]
        pool._hear()


def ended(process_id: int) -> bool:
    """Whether the process ends within a minute."""
    try:
        watched = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 60)[0])
    finally:
        os.close(watched)


def opens_to_zero(key: RoundKey, block: np.ndarray) -> bool:
    assert key._decryption is not None
    return not key._decryption.open(block[None]).any()


def test_every_block_is_a_zero_under_the_rounds_key_and_none_comes_twice(pool: ZeroPool) -> None:
    """Far more than the ring holds: some from the ring, and where it is empty made on the spot."""
    key = RoundKey.generate(P)
    pool.start(key.public_key_bytes, 60)
    wait_until_filled(pool, SLOTS_PER_MIB)
    seen = set()
    for _ in range(60):
        block = pool.take()
        assert block.shape == (8192,) and int(block.max()) < P.coeff_modulus and opens_to_zero(key, block)
        seen.add(block.tobytes())
        block += np.uint64(1)  # the caller may overwrite it
    assert len(seen) == 60


def test_a_full_ring_stops_the_workers_and_taking_lets_them_go_on(pool: ZeroPool) -> None:
    key = RoundKey.generate(P)
    pool.start(key.public_key_bytes, 1000)
    wait_until_filled(pool, SLOTS_PER_MIB)
    assert [(worker.ready, worker.owed) for worker in pool._alive] == [(8, 0), (8, 0)]
    assert os.fstat(pool._file).st_size == 1 << 20
    for _ in range(SLOTS_PER_MIB):
        assert opens_to_zero(key, pool.take())
    wait_until_filled(pool, SLOTS_PER_MIB // 2)


def test_workers_make_no_more_than_the_round_needs(pool: ZeroPool) -> None:
    pool.start(RoundKey.generate(P).public_key_bytes, 5)
    wait_until_filled(pool, 5)
    assert sum(worker.owed for worker in pool._alive) == 0


def test_a_taken_block_is_wiped_by_the_next_call(pool: ZeroPool) -> None:
    pool.start(RoundKey.generate(P).public_key_bytes, 20)
    wait_until_filled(pool, SLOTS_PER_MIB)
    first = pool.take()
    assert first.all()
    second = pool.take()
    assert not first.any() and second.all()
    pool.stop()
    assert not second.any()


def test_a_new_round_gives_nothing_of_the_last(pool: ZeroPool) -> None:
    """Ended in the middle of a block, whose notice comes when the next round has begun or before."""
    old, new = RoundKey.generate(P), RoundKey.generate(P)
    for stop_between in (True, False) * 4:
        pool.start(old.public_key_bytes, 1000)
        wait_until_filled(pool, 1)
        pool.take()
        if stop_between:
            pool.stop()
            select.select([worker.notices for worker in pool._alive], [], [], 0.01)
        pool.start(new.public_key_bytes, 12)
        wait_until_filled(pool, 12)
        assert [(worker.ready, worker.owed) for worker in pool._alive] == [(6, 0), (6, 0)]
        for _ in range(14):
            block = pool.take().copy()
            assert opens_to_zero(new, block) and not opens_to_zero(old, block)


def test_a_round_that_was_begun_ahead_keeps_what_was_made_and_another_key_gets_none_of_it(
    pool: ZeroPool,
) -> None:
    ahead, other = RoundKey.generate(P), RoundKey.generate(P)
    for begun, then, kept in ((ahead, ahead, 12), (ahead, other, 0)):
        pool.start(begun.public_key_bytes, 12)
        wait_until_filled(pool, 12)
        pool.start(then.public_key_bytes, 12)
        assert sum(worker.ready for worker in pool._alive) == kept
        wait_until_filled(pool, 12)
        assert all(opens_to_zero(then, pool.take()) for _ in range(12))
        pool.start(then.public_key_bytes, 12)  # a block was taken: this is another round under the same key
        assert sum(worker.ready for worker in pool._alive) == 0
        wait_until_filled(pool, 12)
        pool.stop()


def test_an_empty_ring_makes_nobody_wait(pool: ZeroPool) -> None:
    """The workers are stopped, so nothing can come from them."""
    key = RoundKey.generate(P)
    for process in pool.worker_processes:
        os.kill(process, signal.SIGSTOP)
    try:
        pool.start(key.public_key_bytes, 3)
        assert all(opens_to_zero(key, pool.take()) for _ in range(3))
    finally:
        for process in pool.worker_processes:
            os.kill(process, signal.SIGCONT)


def test_a_killed_worker_is_done_without_and_replaced_at_the_next_round(
    pool: ZeroPool, caplog: pytest.LogCaptureFixture
) -> None:
    key = RoundKey.generate(P)
    pool.start(key.public_key_bytes, 40)
    before = pool.worker_processes
    wait_until_filled(pool, SLOTS_PER_MIB)
    for process in before:
        os.kill(process, signal.SIGKILL)
        assert ended(process)
    taken = {pool.take().tobytes() for _ in range(40)}
    assert len(taken) == 40 and pool.worker_processes == ()
    assert "status -9" in caplog.text
    pool.start(key.public_key_bytes, 3)
    assert len(pool.worker_processes) == 2 and not set(pool.worker_processes) & set(before)
    wait_until_filled(pool, 3)
    assert all(opens_to_zero(key, pool.take()) for _ in range(3))


def test_workers_are_of_the_lowest_priority_and_have_loaded_neither_seal_nor_torch(pool: ZeroPool) -> None:
    pool.start(RoundKey.generate(P).public_key_bytes, 4)
    wait_until_filled(pool, 4)
    for process in pool.worker_processes:
        assert os.getpriority(os.PRIO_PROCESS, process) == 19
        with open(f"/proc/{process}/maps") as maps:
            loaded = maps.read()
        assert "numpy" in loaded and "tenseal" not in loaded and "torch" not in loaded


def test_the_ring_has_no_name_on_any_file_system(pool: ZeroPool) -> None:
    assert os.readlink(f"/proc/self/fd/{pool._file}").startswith("/memfd:")
    assert os.fstat(pool._file).st_nlink == 0


def test_a_bad_public_key_leaves_the_pool_without_a_round(pool: ZeroPool) -> None:
    with pytest.raises(InvalidInput) as refused:
        pool.start(bytes(P.public_key_bytes), 3)
    assert refused.value.reason == "PUBLIC_KEY_INVALID"
    with pytest.raises(ValueError, match="start"):
        pool.take()


@pytest.mark.parametrize(("workers", "mebibytes"), [(-1, 64), (17, 1), (1, 0)])
def test_a_ring_too_small_is_refused(workers: int, mebibytes: int) -> None:
    with pytest.raises(ConfigError):
        ZeroPool(P, workers=workers, ring_mib=mebibytes)


def test_a_pool_without_workers_makes_every_block_itself() -> None:
    key = RoundKey.generate(P)
    with ZeroPool(P, workers=0) as alone:
        alone.start(key.public_key_bytes, 2)
        assert all(opens_to_zero(key, alone.take()) for _ in range(3))


def test_closing_ends_the_workers_and_frees_the_ring() -> None:
    pool = ZeroPool(P, workers=1, ring_mib=1)
    pool.start(RoundKey.generate(P).public_key_bytes, 4)
    wait_until_filled(pool, 4)
    (process,), held = pool.worker_processes, pool.take()
    pool.close()
    assert ended(process) and not held.any()


def test_no_worker_outlives_a_killed_parent() -> None:
    """Killed while its workers are at work and while they wait."""
    for blocks in (4, 10_000):
        code = f"""
import select, sys
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import DEFAULT_PARAMETERS as P
from usufruct.encryption.zeros import ZeroPool
pool = ZeroPool(P, workers=2, ring_mib=512)
pool.start(RoundKey.generate(P).public_key_bytes, {blocks})
for worker in pool._alive:
    select.select([worker.notices], [], [])
print(*pool.worker_processes, flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            workers = [int(word) for word in parent.stdout.readline().split()]
            assert len(workers) == 2
            parent.kill()
            parent.wait()
        assert all(ended(worker) for worker in workers)
