"""Uploads and sums on disk for as long as a round is open: files without a name, which no crash leaves behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from tempfile import TemporaryFile

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.errors import Refused


class SpoolClosed(Exception):
    """The round has ended while this was at work; whoever asked knows why."""


class Spool:
    """Room for the chunks of one upload or one sum. Thread-safe.

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
        size_bytes = chunking.span(chunking.chunks - 1).stop - self._start
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
        """Keep ``chunk`` as chunk ``index``; writing the same again changes nothing.

        Raises:
            InvalidInput: another length. SpoolClosed.
        """
        self._chunking.require_length(index, chunk)
        offset, rest = self._chunking.span(index).start - self._start, memoryview(chunk)
        with self._lock:
            while rest:
                written = os.pwrite(self._descriptor(), rest, offset)
                offset, rest = offset + written, rest[written:]

    def read(self, index: int) -> bytes:
        """Chunk ``index`` as it was written; zeros where it was not.

        Raises:
            InvalidInput: there is no such chunk. SpoolClosed.
        """
        span = self._chunking.span(index)
        with self._lock:
            return os.pread(self._descriptor(), len(span), span.start - self._start)

    def close(self) -> None:
        """Forget everything; nobody reads or writes afterwards."""
        with self._lock:
            self._file.close()

    def _descriptor(self) -> int:
        """Call with the lock held: a number that was closed may be another file's by now."""
        if self._file.closed:
            raise SpoolClosed
        return self._file.fileno()
