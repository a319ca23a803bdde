"""Encrypted uploads as files, so that a resend sends the same bytes and never draws new noise."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usufruct_server.holder.ledger.errors import UploadLost

_CHUNK_BYTES: Final = 1 << 20
_PARTIAL: Final = ".partial"


@dataclass(frozen=True)
class StoredUpload:
    """One attempt's upload in the outbox.

    Attributes:
        round, attempt: which draw it carries.
        view_hash: 32 bytes; the round's view it was made for.
        digest: SHA-256 of the bytes.
        size_bytes: their number.
        path: the file.
    """

    round: int
    attempt: int
    view_hash: bytes
    digest: bytes
    size_bytes: int
    path: Path

    def chunks(self, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes in order. The digest is checked over the whole file before the first chunk is given out.

        Raises:
            UploadLost: the file is gone, or its bytes are not those that were recorded.
        """
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                if digest != self.digest or file.tell() != self.size_bytes:
                    raise self._lost()
                file.seek(0)
                while chunk := file.read(chunk_bytes):
                    yield chunk
        except OSError as error:
            raise self._lost() from error

    def read(self) -> bytes:
        """All bytes at once; see :meth:`chunks`."""
        return b"".join(self.chunks())

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

    def write(self, payload: bytes | Iterable[bytes]) -> tuple[str, bytes, int]:
        """Store ``payload`` durably under a fresh name: written, synced, renamed, and the folder synced.

        Returns:
            file name, SHA-256 digest, and size in bytes.
        """
        name = f"{secrets.token_hex(16)}.upload"
        partial = self.path(name + _PARTIAL)
        digest, size = hashlib.sha256(), 0
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in [payload] if isinstance(payload, bytes) else payload:
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path(name))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._sync_folder()
        return name, digest.digest(), size

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
