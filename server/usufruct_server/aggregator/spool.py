"""Uploads and sums for as long as a round is open: small ones in memory, as far as there is room for them, all others on disk in
files without a name, which no crash leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.errors import Refused


class SpoolClosed(Exception):
    """The round has ended while this was at work; whoever asked knows why."""


class Spool(Protocol):
    """Room for the chunks of one upload or one sum. Thread-safe."""

    def write(self, index: int, chunk: Bytes) -> None:
        """Keep ``chunk`` as chunk ``index``; writing the same again changes nothing.

        Raises:
            InvalidInput: another length. SpoolClosed.
        """

    def read(self, index: int) -> bytes:
        """Chunk ``index`` as it was written; zeros where it was not.

        Raises:
            InvalidInput: there is no such chunk. SpoolClosed.
        """

    def close(self) -> None:
        """Forget everything; nobody reads or writes afterwards."""


class Spools:
    """Makes the spools of one aggregator. Thread-safe.

    Args:
        folder: the file system of those on disk.
        memory_bytes: most that all spools in memory have together; a file costs a round more than its addition.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._free_bytes = memory_bytes

    def make(self, chunking: Chunking) -> Spool:
        """A spool for these chunks.

        Raises:
            Refused: ``TOO_LARGE``: there is no room, neither in memory nor on the disk.
        """
        size = _size_bytes(chunking)
        with self._lock:
            in_memory = size <= self._free_bytes
            if in_memory:
                self._free_bytes -= size
        return (
            MemorySpool(chunking, lambda: self._give_back(size))
            if in_memory
            else DiskSpool(chunking, self._folder)
        )

    def _give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._free_bytes += size_bytes


class MemorySpool:
    """The chunks as they came.

    Args:
        on_close: called once.
    """

    def __init__(self, chunking: Chunking, on_close: Callable[[], None]) -> None:
        self._chunking, self._on_close = chunking, on_close
        self._lock = threading.Lock()
        self._chunks: dict[int, bytes] | None = {}

    def write(self, index: int, chunk: Bytes) -> None:
        """See :class:`Spool`."""
        self._chunking.require_length(index, chunk)
        with self._lock:
            self._kept()[index] = bytes(chunk)

    def read(self, index: int) -> bytes:
        """See :class:`Spool`."""
        span = self._chunking.span(index)
        with self._lock:
            return self._kept().get(index) or bytes(len(span))

    def close(self) -> None:
        """See :class:`Spool`."""
        with self._lock:
            if self._chunks is None:
                return
            self._chunks = None
        self._on_close()

    def _kept(self) -> dict[int, bytes]:
        if self._chunks is None:
            raise SpoolClosed
        return self._chunks


class DiskSpool:
    """The chunks in a file.

    The file has no name (``O_TMPFILE``, or unlinked when made) and mode 0600; its bytes are gone when it is closed or
    the process ends, however it ends. The room is taken when it is made, so that a full disk is noticed before a byte is
    received.

    Args:
        chunking: of what is kept; without its header.
        folder: the file system that the bytes go to.

    Raises:
        Refused: ``TOO_LARGE``: there is no such room on the disk.
    """

    def __init__(self, chunking: Chunking, folder: Path) -> None:
        self._chunking = chunking
        self._start = chunking.span(0).start
        self._lock = threading.Lock()
        size_bytes = _size_bytes(chunking)
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 closed by close()
        try:
            os.posix_fallocate(self._file.fileno(), 0, size_bytes)
        except OSError as error:
            self._file.close()
            raise Refused(
                "The aggregator has no room on its disk for a round of this size.",
                reason="TOO_LARGE",
                requested=size_bytes,
            ) from error

    def write(self, index: int, chunk: Bytes) -> None:
        """See :class:`Spool`."""
        self._chunking.require_length(index, chunk)
        offset, rest = self._chunking.span(index).start - self._start, memoryview(chunk)
        with self._lock:
            while rest:
                written = os.pwrite(self._descriptor(), rest, offset)
                offset, rest = offset + written, rest[written:]

    def read(self, index: int) -> bytes:
        """See :class:`Spool`."""
        span = self._chunking.span(index)
        with self._lock:
            return os.pread(self._descriptor(), len(span), span.start - self._start)

    def close(self) -> None:
        """See :class:`Spool`."""
        with self._lock:
            self._file.close()

    def _descriptor(self) -> int:
        """Call with the lock held: a number that was closed may be another file's by now."""
        if self._file.closed:
            raise SpoolClosed
        return self._file.fileno()


def _size_bytes(chunking: Chunking) -> int:
    return chunking.span(chunking.chunks - 1).stop - chunking.span(0).start
