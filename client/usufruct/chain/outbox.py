"""The durable outbox of one key: what was decided to be sent, written down before anyone hears of it.

One SQLite file (mode 0600) per key. It holds signed raw transactions and no secret; whoever reads it can at most
broadcast what was to be broadcast anyway. Every method is one transaction that is flushed before it returns.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from usufruct.chain.answers import TransactionReceipt, read_receipt
from usufruct.errors import ConfigError

FORMAT_VERSION: Final = 1
_APPLICATION_ID: Final = 0x55534F42
"""``USOB``: so that `file` and we can tell an outbox from any other SQLite file."""

_TABLES: Final = """
CREATE TABLE owner (
    chain_id INTEGER NOT NULL,
    sender TEXT NOT NULL
) STRICT;

CREATE TABLE transactions (
    purpose TEXT PRIMARY KEY,
    doing TEXT NOT NULL,
    target TEXT,
    data BLOB NOT NULL,
    nonce INTEGER NOT NULL UNIQUE CHECK (nonce >= 0),
    state TEXT NOT NULL CHECK (state IN ('pending', 'mined', 'final')),
    receipt TEXT CHECK ((receipt IS NULL) = (state = 'pending'))
) STRICT;

CREATE TABLE attempts (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    purpose TEXT NOT NULL REFERENCES transactions ON DELETE CASCADE,
    raw BLOB NOT NULL,
    gas INTEGER NOT NULL CHECK (gas > 0),
    max_fee_wei INTEGER NOT NULL CHECK (max_fee_wei >= 0),
    tip_wei INTEGER CHECK (tip_wei <= max_fee_wei),
    signed_seconds INTEGER NOT NULL
) STRICT;
"""


class State(StrEnum):
    """Where a transaction stands. A reorganisation takes MINED back to PENDING; FINAL never changes."""

    PENDING = "pending"
    MINED = "mined"
    FINAL = "final"


@dataclass(frozen=True)
class Attempt:
    """One signed form of a transaction; at most one of those with the same nonce is ever mined.

    Attributes:
        hash: 32 bytes. raw: as it is broadcast.
        max_fee_wei: the most to pay per gas. tip_wei: of that, what goes on top of the base fee; None before EIP-1559.
        signed_seconds: when, UTC.
    """

    hash: bytes
    raw: bytes
    gas: int
    max_fee_wei: int
    tip_wei: int | None
    signed_seconds: int


@dataclass(frozen=True)
class Entry:
    """One transaction of the outbox.

    Attributes:
        purpose: the caller's name for it; unique.
        to: None creates a contract. doing: for messages.
        attempts: in order of signing; none once it is final.
        receipt: where it is mined; whether it reverted is said there.
    """

    purpose: str
    doing: str
    to: str | None
    data: bytes
    nonce: int
    state: State
    receipt: TransactionReceipt | None
    attempts: tuple[Attempt, ...]

    @property
    def reverted(self) -> bool:
        """Whether it is mined and was without effect."""
        return self.receipt is not None and not self.receipt.succeeded


class Outbox:
    """The transactions of one key on one chain. Not for several threads at once: :class:`Account` takes care of that.

    Args:
        path: None keeps it in memory, where a crash loses it.
    Raises:
        ConfigError: LEDGER_LOCKED: another process has it open; or it is another key's, or no outbox.
    """

    def __init__(self, path: Path | None, chain_id: int, sender: str) -> None:
        self._lock = None if path is None else _lock(path)
        try:
            self._database = _open(path, chain_id, sender)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another process open it. Harmless when repeated."""
        if hasattr(self, "_database"):
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def find(self, purpose: str) -> Entry | None:
        """The transaction of this purpose."""
        return next(iter(self._entries("purpose = ?", purpose)), None)

    def open_entries(self, first_nonce: int = 0) -> list[Entry]:
        """All that are not final, in order of their nonces: in that order they can be mined."""
        return self._entries("state != 'final' AND nonce >= ?", first_nonce)

    def has_used(self, nonce: int) -> bool:
        """Whether a transaction of this outbox has the nonce, final or not."""
        return bool(self._database.execute("SELECT 1 FROM transactions WHERE nonce = ?", (nonce,)).fetchone())

    def next_nonce(self, counted: int) -> int:
        """The first nonce that neither the chain (``counted``) nor this outbox has used."""
        highest = self._database.execute("SELECT max(nonce) FROM transactions").fetchone()[0]
        return counted if highest is None else max(counted, highest + 1)

    def add(self, purpose: str, doing: str, to: str | None, data: bytes, nonce: int, signed: Attempt) -> None:
        """Writes a new transaction and its first attempt."""
        with self._write() as database:
            database.execute(
                "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, 'pending', NULL)",
                (purpose, doing, to, data, nonce),
            )
            self._insert(purpose, signed)

    def add_attempt(self, purpose: str, signed: Attempt) -> None:
        """Writes another attempt with the same nonce."""
        with self._write():
            self._insert(purpose, signed)

    def begin_anew(self, purpose: str, to: str | None, data: bytes, nonce: int, signed: Attempt) -> None:
        """Gives a transaction another nonce. Only when it is final that no attempt so far ever has an effect."""
        with self._write() as database:
            database.execute("DELETE FROM attempts WHERE purpose = ?", (purpose,))
            database.execute(
                "UPDATE transactions SET target = ?, data = ?, nonce = ?, state = 'pending', receipt = NULL "
                "WHERE purpose = ?",
                (to, data, nonce, purpose),
            )
            self._insert(purpose, signed)

    def mark(self, purpose: str, state: State, receipt: TransactionReceipt | None) -> None:
        """Writes where it stands. The attempts of a final one are of no use any more."""
        text = None if receipt is None else json.dumps(receipt.to_json())
        with self._write() as database:
            database.execute(
                "UPDATE transactions SET state = ?, receipt = ? WHERE purpose = ? AND state != 'final'",
                (state.value, text, purpose),
            )
            if state is State.FINAL:
                database.execute("DELETE FROM attempts WHERE purpose = ?", (purpose,))

    def forget(self, purpose: str) -> None:
        """Removes a transaction. Only when it is final that no attempt of it ever has an effect."""
        with self._write() as database:
            database.execute("DELETE FROM transactions WHERE purpose = ?", (purpose,))

    # -- inside --------------------------------------------------------------------------------------------------

    def _entries(self, condition: str, *values: Any) -> list[Entry]:
        rows = self._database.execute(
            f"SELECT * FROM transactions WHERE {condition} ORDER BY nonce",  # conditions are ours
            values,
        )
        return [self._entry(*row) for row in rows.fetchall()]

    def _entry(
        self, purpose: str, doing: str, to: str | None, data: bytes, nonce: int, state: str, receipt: str | None
    ) -> Entry:  # fmt: skip
        attempts = self._database.execute(
            "SELECT hash, raw, gas, max_fee_wei, tip_wei, signed_seconds FROM attempts WHERE purpose = ? ORDER BY rowid",
            (purpose,),
        ).fetchall()
        return Entry(
            purpose, doing, to, data, nonce, State(state),
            None if receipt is None else read_receipt(json.loads(receipt)),
            tuple(Attempt(*row) for row in attempts),
        )  # fmt: skip

    def _insert(self, purpose: str, signed: Attempt) -> None:
        self._database.execute(
            "INSERT INTO attempts (hash, purpose, raw, gas, max_fee_wei, tip_wei, signed_seconds) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (signed.hash, purpose, signed.raw, signed.gas, signed.max_fee_wei, signed.tip_wei, signed.signed_seconds),
        )  # fmt: skip

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise


def _lock(path: Path) -> int:
    """An advisory ``flock`` beside the file. The kernel drops it when the process dies, however it dies."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"{path.name} is open in another process that sends with this key. Stop that one first, or give this one an "
            "outbox of its own.",
            reason="LEDGER_LOCKED",
        ) from error
    return descriptor


def _open(path: Path | None, chain_id: int, sender: str) -> sqlite3.Connection:
    if path is not None:
        path.touch(mode=0o600, exist_ok=True)
        path.chmod(0o600)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)  # the file's name is as durable as what it holds
        os.close(folder)
    # psow=0: no write touches a sector of what was synced before, which a power cut might tear
    place = ":memory:" if path is None else f"{path.absolute().as_uri()}?psow=0"
    database = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        if (
            database.execute("PRAGMA user_version").fetchone()[0] == 0
            and not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        ):
            database.execute(
                "BEGIN IMMEDIATE"
            )  # an outbox that is killed here is an empty file, and is made again
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute("INSERT INTO owner VALUES (?, ?)", (chain_id, sender))
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            database.execute("COMMIT")
        found = (
            database.execute("PRAGMA application_id").fetchone()[0],
            database.execute("PRAGMA user_version").fetchone()[0],
        )
        if found != (_APPLICATION_ID, FORMAT_VERSION):
            raise sqlite3.DatabaseError("not an outbox")
        owner = database.execute("SELECT chain_id, sender FROM owner").fetchone()
    except sqlite3.DatabaseError as error:
        database.close()
        raise ConfigError(
            f"{path and path.name} is damaged, or no outbox of format {FORMAT_VERSION}. Do not delete it: it knows what was "
            "sent and not yet mined."
        ) from error
    if owner != (chain_id, sender):
        database.close()
        raise ConfigError(
            f"{path and path.name} is the outbox of {owner[1]} on chain {owner[0]}, and this is {sender} on chain {chain_id}."
        )
    return database
