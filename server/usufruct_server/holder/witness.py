"""What bears witness that a ledger is the newest: a small file outside the state directory, true for one boot only.

The chain names the row of a server's last start; of the charges after it nothing on chain tells, and a backup taken since
then lacks some and is found out by nobody else. So every charge is noted here as well, and a ledger that lacks the
charge noted last is an older copy.

*Guarantee*: if a witness vouches for a ledger, then every charge that a server made with this witness since the row
that the chain names is in it. It vouches for nothing after the machine was booted again: what comes back from a disk
image, or is put on another machine, has no witness. It does not help against a file that is put back together
with the ledger while the machine runs, nor against a whole machine that goes on from a snapshot of its memory.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usufruct.errors import ConfigError
from usufruct_server.holder.ledger import LedgerReader

_MOST_EXPECTED: Final = 15


def boot_id() -> str:
    """Names this boot of this machine; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Witness:
    """One holder's witness. One server uses it at a time, under the ledger's lock; a copy of the server may share it.

    Args:
        folder: made if it is missing; never to be backed up with the state directory.
        holder: names the holder: chain, contract and number.
        boot: names this boot.
    Raises:
        ConfigError: the folder is another user's, or others may write into it.
    """

    def __init__(self, folder: Path, holder: str, boot: Callable[[], str] = boot_id) -> None:
        self._boot = boot()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made ({error.strerror}); name another folder as [holder] witness_dir."
            ) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ConfigError(
                f"{folder} must be a folder of this user that nobody else may write into; name another one as "
                "[holder] witness_dir."
            )
        self.path = folder / hashlib.sha256(holder.encode()).hexdigest()[:32]

    def vouches(self, ledger: LedgerReader, anchored: bytes) -> bool:
        """Whether nothing that was charged with this witness since it was last noted is missing in the ledger.

        Args:
            anchored: hash of the row that the chain names: noted here or later, or expected here, so that no server
                elsewhere has charged since.
        """
        boot, noted, *expected = self._read()
        places = {row.hash.hex(): row.seq for row in ledger.rows()}
        if not boot or boot != self._boot or noted not in places:
            return False
        return anchored.hex() in expected or places[noted] >= places.get(anchored.hex(), len(places))

    def expect(self, row: bytes) -> None:
        """Notes a row that a start is about to anchor, beside what was noted before. Only where :meth:`vouches` was true."""
        boot, noted, *expected = self._read()
        self._write(boot, noted, *expected[-_MOST_EXPECTED:], row.hex())

    def note(self, row: bytes) -> None:
        """Notes the ledger's last row. Call it after each charge, before anything is drawn.

        Raises:
            OSError: nothing may be drawn.
        """
        self._write(self._boot, row.hex())

    def _read(self) -> list[str]:
        try:
            lines = self.path.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            lines = []
        return lines if len(lines) >= 2 else ["", ""]

    def _write(self, *lines: str) -> None:
        """Whole or not at all, for a kill. Not synced: after a loss of power it would count for nothing."""
        new = self.path.with_suffix(f".{secrets.token_hex(8)}")  # a process id may be another container's too
        new.write_text("\n".join(lines) + "\n", encoding="ascii")
        new.replace(self.path)
