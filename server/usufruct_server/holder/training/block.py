"""Memory of one attempt that the server and its trainer child share: the builder's weights, and then the update.

The server writes the weights where the child reads them, and the child its integers where the encoder reads them:
neither is copied from process to process. The update takes the place of the weights, which it no longer needs.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

import numpy as np
from numpy.typing import NDArray

from usufruct.errors import RoundFailed

VALUE_BYTES = 4
"""Of a weight (float32) and of an integer of the update (int32), little-endian."""


class SharedBlock:
    """An anonymous memory file: no name, on no disk (turn swap off), of a size that nobody can change any more.

    The server alone passes it on, to one child, for one attempt. It has it never mapped: it writes into it and takes
    copies out of it, so that nothing it looks at can change under its eyes.

    Args:
        size_bytes: most that it will hold. Memory is taken as it is written.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.descriptor = os.memfd_create("usufruct-attempt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, size_bytes)
        fcntl.fcntl(
            self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )

    def write(self, position: int, data: memoryview) -> None:
        """Writes all of ``data``, from ``position`` on.

        Raises:
            OSError: it does not fit, or there is no memory.
        """
        while data:
            written = os.pwrite(self.descriptor, data, position)
            position, data = position + written, data[written:]

    def values(self, start: int, stop: int) -> NDArray[np.int32]:
        """A copy of the integers from ``start`` up to ``stop``, which nobody else can change; whatever they are.

        Raises:
            RoundFailed: TRAINER_FAILED: so many do not fit in.
        """
        values = np.empty(stop - start, "<i4")
        if os.preadv(self.descriptor, [values.data], VALUE_BYTES * start) != values.nbytes:
            raise RoundFailed("the update ends early", reason="TRAINER_FAILED")
        return values.astype(np.int32, copy=False)

    def close(self) -> None:
        """Wipes it: its memory is given back, and a child that still has it reads zeros. May be called again."""
        if self._close.alive:
            with mmap.mmap(self.descriptor, self.size_bytes) as mapped:
                mapped.madvise(mmap.MADV_REMOVE)
            self._close()
            self.descriptor = -1  # its number may soon be another file's
