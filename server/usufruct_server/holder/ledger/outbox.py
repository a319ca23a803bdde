"""Encrypted uploads as files, so that a resend sends the same bytes and never draws new noise."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.errors import InvalidInput
from usufruct_server.holder.ledger.errors import UploadLost

_PARTIAL: Final = ".partial"

Writer = Callable[[BinaryIO], bytes]
"""Writes an upload into a file and returns its root, 32 bytes (:mod:`usufruct.encryption.commitment`)."""


@dataclass(frozen=True)
class StoredUpload:
    """One attempt's upload in the outbox.

    Attributes:
        round, attempt: which draw it carries.
        view_hash: 32 bytes; the round's view it was made for.
        root: of the hash tree over its chunks, 32 bytes.
        size_bytes: their number.
        path: the file.
    """

    round: int
    attempt: int
    view_hash: bytes
    root: bytes
    size_bytes: int
    path: Path

    def commitment(self, chunking: Chunking, see: Callable[[Bytes], None] = lambda chunk: None) -> Commitment:
        """The leaves of the file, read through once, a chunk at a time.

        Args:
            see: is shown each chunk; what it makes of them counts only if this returns.
        Raises:
            UploadLost: the file is gone, or its bytes are not those that were recorded.
        """
        leaves = []
        try:
            with self.path.open("rb") as file:
                for index, chunk in enumerate(chunking.read(file)):
                    leaves.append(leaf_of(chunking, index, chunk))
                    see(chunk)
        except (InvalidInput, OSError):
            raise self._lost() from None
        commitment = Commitment(chunking, tuple(leaves))
        if commitment.root != self.root:
            raise self._lost()
        return commitment

    def _lost(self) -> UploadLost:
        return UploadLost(
            "The stored upload is gone or damaged and will not be sent. Its attempt stays charged; start the next one.",
            round=self.round,
            attempt=self.attempt,
        )


class Outbox:
    """The folder of upload files beside the ledger. Knows files only; which of them count, the ledger
    says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, file_name: str) -> Path:
        """Where the file of this name is."""
        return self._folder / file_name

    def write(self, write: Writer) -> tuple[str, bytes, int]:
        """Store what ``write`` writes durably under a fresh name: written, synced, renamed, and the folder synced.

        Returns:
            file name, root, and size in bytes.
        """
        name = f"{secrets.token_hex(16)}.upload"
        partial = self.path(name + _PARTIAL)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                root = write(file)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path(name))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._sync_folder()
        return name, root, size

    def remove(self, file_name: str) -> None:
        """Delete a file; harmless if it is gone."""
        self.path(file_name).unlink(missing_ok=True)

    def sweep(self, wanted: set[str]) -> None:
        """Delete what a crash left between file and row."""
        for path in self._folder.iterdir():
            if path.name not in wanted and path.name.endswith((".upload", _PARTIAL)):
                path.unlink()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
