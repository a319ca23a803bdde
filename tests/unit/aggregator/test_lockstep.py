"""Adding in step: whatever the order of arrival, every range is added once, exactly, as soon as it can be."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosters import MEMBERS, chunk, chunking, commitment

from usufruct.encryption.commitment import Commitment
from usufruct.encryption.sum import add_chunk
from usufruct.errors import InvalidInput, RoundFailed
from usufruct_server.aggregator.lockstep import Lockstep
from usufruct_server.aggregator.spool import DiskSpool, SpoolClosed, Spools

UPLOADS = chunking(3)
CHUNKS = {member: [chunk(UPLOADS, member, index) for index in range(3)] for member in MEMBERS}
COMMITMENTS = {member: commitment(UPLOADS, member) for member in MEMBERS}
SUM = [add_chunk(UPLOADS, index, [CHUNKS[member][index] for member in MEMBERS]) for index in range(3)]


def begun(folder: Path, on_progress=lambda: None) -> Lockstep:
    lockstep = Lockstep(UPLOADS, MEMBERS, Spools(folder, 0), on_progress)
    for member in MEMBERS:
        lockstep.begin(member, COMMITMENTS[member])
    return lockstep


def sum_of(lockstep: Lockstep) -> list[bytes]:
    return [lockstep.sum_chunk(index) for index in range(lockstep.added)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([member for member in MEMBERS for _ in range(3)]))
def test_every_range_is_added_once_its_last_chunk_is_there(tmp_path: Path, order: list[int]) -> None:
    seen: list[int] = []
    lockstep = begun(tmp_path, lambda: seen.append(lockstep.added))
    arrived = dict.fromkeys(MEMBERS, 0)
    for member in order:
        lockstep.put(member, arrived[member], CHUNKS[member][arrived[member]])
        arrived[member] += 1
        assert lockstep.added == min(arrived.values())
        assert lockstep.has_whole(member) == (arrived[member] == 3)
    assert seen == [1, 2, 3] and sum_of(lockstep) == SUM
    assert lockstep.sum_commitment == Commitment.over(lockstep.sums, SUM)
    lockstep.close()


def test_nothing_is_added_before_every_upload_has_begun(tmp_path: Path) -> None:
    lockstep = Lockstep(UPLOADS, MEMBERS, Spools(tmp_path, 0), lambda: None)
    for member in MEMBERS[:2]:
        lockstep.begin(member, COMMITMENTS[member])
        for index in range(3):
            lockstep.put(member, index, CHUNKS[member][index])
    assert lockstep.added == 0
    lockstep.begin(8, COMMITMENTS[8])
    lockstep.put(8, 0, CHUNKS[8][0])
    assert sum_of(lockstep) == SUM[:1]
    lockstep.close()


def test_streams_side_by_side_and_twice_add_the_same(tmp_path: Path) -> None:
    """Every member sends twice at once, as after a lost connection that nobody has noticed yet."""
    lockstep, together = begun(tmp_path), threading.Barrier(6)

    def send(member: int) -> None:
        together.wait(10)
        for index in range(3):
            lockstep.put(member, index, CHUNKS[member][index])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, MEMBERS * 2))
    assert sum_of(lockstep) == SUM
    lockstep.close()


def test_other_bytes_than_committed_to_change_nothing(tmp_path: Path) -> None:
    lockstep = begun(tmp_path)
    with pytest.raises(InvalidInput):
        lockstep.put(3, 0, CHUNKS[5][0])
    with pytest.raises(RoundFailed) as refused:
        lockstep.begin(3, COMMITMENTS[5])
    assert refused.value.reason == "UPLOAD_CHANGED" and lockstep.spoilt is None
    for member in MEMBERS:
        for index in range(3):
            lockstep.put(member, index, CHUNKS[member][index])
    assert sum_of(lockstep) == SUM
    lockstep.close()


def test_an_upload_committed_to_that_cannot_be_added_names_its_member(tmp_path: Path) -> None:
    told: list[int | None] = []
    lockstep = Lockstep(UPLOADS, MEMBERS, Spools(tmp_path, 0), lambda: told.append(lockstep.spoilt))
    spoilt = [b"\xff" * len(part) for part in CHUNKS[3]]
    lockstep.begin(3, Commitment.over(UPLOADS, spoilt))
    with pytest.raises(InvalidInput) as refused:
        lockstep.put(3, 0, spoilt[0])
    assert refused.value.details["field"] == "coefficient"
    assert lockstep.spoilt == 3 and told == [3] and not lockstep.has_whole(3)
    lockstep.close()


def test_a_range_that_could_not_be_written_is_added_by_the_next_who_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockstep = begun(tmp_path)
    for member in MEMBERS[:2]:
        lockstep.put(member, 0, CHUNKS[member][0])
    write, failures = DiskSpool.write, [OSError("the disk has gone")]

    def fails_once(self: DiskSpool, index: int, data: bytes) -> None:
        if isinstance(data, bytearray) and failures:  # the sum's chunk
            raise failures.pop()
        write(self, index, data)

    monkeypatch.setattr(DiskSpool, "write", fails_once)
    with pytest.raises(OSError, match="gone"):
        lockstep.put(8, 0, CHUNKS[8][0])
    assert lockstep.added == 0
    lockstep.put(8, 0, CHUNKS[8][0])
    assert sum_of(lockstep) == SUM[:1]
    lockstep.close()


def test_after_the_end_nothing_is_taken_or_given(tmp_path: Path) -> None:
    lockstep = begun(tmp_path)
    for member in MEMBERS:
        lockstep.put(member, 0, CHUNKS[member][0])
    lockstep.close()
    for late in (
        lambda: lockstep.put(3, 1, CHUNKS[3][1]),
        lambda: lockstep.sum_chunk(0),
        lambda: lockstep.upload_chunk(3, 0),
        lambda: lockstep.begin(3, COMMITMENTS[3]),
    ):
        with pytest.raises(SpoolClosed):
            late()


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """One range's chunks and its sum, whatever the number of ranges: 3 + 1 of at most 1 MiB, and what checks them."""

    def peak(chunks: int) -> int:
        uploads = chunking(chunks)
        commitments = {member: commitment(uploads, member) for member in MEMBERS}
        lockstep = Lockstep(uploads, MEMBERS, Spools(tmp_path, 0), lambda: None)
        tracemalloc.start()
        for member in MEMBERS:
            lockstep.begin(member, commitments[member])
        for index in range(chunks):
            for member in MEMBERS:
                data = chunk(uploads, member, index)
                lockstep.put(member, index, data)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert lockstep.added == chunks
        lockstep.close()
        return most

    few, many = peak(3), peak(9)
    assert many < 8 << 20  # the nine chunks of a single upload are more
    assert many < few + (1 << 20)
