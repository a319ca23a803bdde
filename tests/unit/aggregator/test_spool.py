"""Spools: in memory while there is room, else on a disk where room is taken at once and has no name; gone when closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rosters import chunk, chunking

from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.layout import Kind
from usufruct.errors import InvalidInput, Refused
from usufruct_server.aggregator.spool import DiskSpool, MemorySpool, Spool, SpoolClosed, Spools

UPLOADS = chunking(3)
SIZE_BYTES = sum(len(UPLOADS.span(index)) for index in range(3))


@pytest.fixture(params=["memory", "disk"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    spool = Spools(tmp_path, SIZE_BYTES if request.param == "memory" else SIZE_BYTES - 1).make(UPLOADS)
    assert isinstance(spool, MemorySpool if request.param == "memory" else DiskSpool)
    yield spool
    spool.close()


def test_chunks_are_read_as_they_were_written_in_any_order(spool: Spool) -> None:
    assert spool.read(2) == bytes(len(UPLOADS.span(2)))
    for index in (2, 0, 1, 0):
        spool.write(index, chunk(UPLOADS, 3, index))
    assert [spool.read(index) for index in range(3)] == [chunk(UPLOADS, 3, index) for index in range(3)]


def test_a_spool_has_no_name_and_is_nobody_elses(tmp_path: Path) -> None:
    spool = DiskSpool(UPLOADS, tmp_path)
    status = os.fstat(spool._file.fileno())
    assert list(tmp_path.iterdir()) == [] and status.st_nlink == 0
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == sum(len(UPLOADS.span(index)) for index in range(3))
    assert status.st_blocks * 512 >= status.st_size  # taken, not promised
    spool.close()


def test_a_closed_spool_neither_takes_nor_gives(spool: Spool) -> None:
    spool.close()
    spool.close()
    with pytest.raises(SpoolClosed):
        spool.read(0)
    with pytest.raises(SpoolClosed):
        spool.write(2, chunk(UPLOADS, 3, 2))


def test_a_chunk_of_another_length_or_place_is_refused(spool: Spool) -> None:
    for wrong in (lambda: spool.write(0, b"short"), lambda: spool.write(3, b""), lambda: spool.read(3)):
        with pytest.raises(InvalidInput):
            wrong()


def test_memory_is_taken_as_far_as_there_is_room_and_given_back_once(tmp_path: Path) -> None:
    spools = Spools(tmp_path, 2 * SIZE_BYTES + 1)
    made = [spools.make(UPLOADS) for _ in range(3)]
    assert [type(each) for each in made] == [MemorySpool, MemorySpool, DiskSpool]
    for _ in range(2):
        made[0].close()
    again = [spools.make(UPLOADS) for _ in range(2)]
    assert [type(each) for each in again] == [MemorySpool, DiskSpool]
    for each in [*made, *again]:
        each.close()


def test_where_the_disk_has_no_room_nothing_is_begun(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Refused) as refused:
        DiskSpool(Chunking(DEFAULT_PARAMETERS, Kind.UPLOAD, 10**16), tmp_path)
    assert refused.value.reason == "TOO_LARGE"
    assert len(os.listdir("/proc/self/fd")) == descriptors
