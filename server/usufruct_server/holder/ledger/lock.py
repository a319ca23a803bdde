"""One ledger, one server: an exclusive lock beside the file, held as long as the ledger is open."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from usufruct_server.holder.ledger.errors import LedgerLocked


class ExclusiveLock:
    """An advisory ``flock`` on ``<ledger>.lock``. The kernel drops it when the process dies, however it dies.

    The descriptor is closed on exec, so that a trainer started by the server does not keep the lock alive
    after it.

    Raises:
        LedgerLocked: another ledger object, here or in another process, holds it; names that process.
    """

    def __init__(self, ledger_path: Path) -> None:
        path = ledger_path.with_name(ledger_path.name + ".lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise LedgerLocked(
                f"{ledger_path.name} is open in process {owner}. Stop that server first; two servers on one ledger would "
                "spend one budget twice.",
                field="ledger",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Harmless if it was given back before."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
