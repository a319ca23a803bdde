"""The SQLite file: tables, and how it is opened.

``entries`` is the truth, append-only and hash-chained. ``budgets`` and ``legs`` hold the totals that follow
from it, so that a charge reads two rows and not the history; they are recomputed and compared whenever the
ledger is opened. ``heads`` names the last row of each chain, so that rows cut off at the end are noticed as
well.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from usufruct_server.holder.ledger.errors import LedgerCorrupt

FORMAT_VERSION: Final = 2
_APPLICATION_ID: Final = 0x55534C47
"""``USLG``: so that `file` and we can tell a ledger from any other SQLite file."""

_TABLES: Final = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY CHECK (seq >= 0),
    version INTEGER NOT NULL,
    time_seconds INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('start', 'register', 'inherit', 'lower_cap', 'reserve', 'charge', 'commit', 'release')),
    dataset_id INTEGER NOT NULL CHECK (dataset_id >= 0),
    amount_micro INTEGER NOT NULL CHECK (amount_micro >= 0),
    renyi_order INTEGER,
    job_id BLOB CHECK (job_id IS NULL OR length(job_id) = 32),
    attempts INTEGER,
    round INTEGER,
    attempt INTEGER,
    spec_hash BLOB CHECK (spec_hash IS NULL OR length(spec_hash) = 32),
    previous_hash BLOB NOT NULL CHECK (length(previous_hash) = 32),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT; CREATE UNIQUE INDEX one_charge_per_attempt ON entries (dataset_id, job_id, round, attempt) WHERE
kind = 'charge';

CREATE TABLE budgets (
    dataset_id INTEGER PRIMARY KEY,
    renyi_order INTEGER NOT NULL,
    cap_micro INTEGER NOT NULL CHECK (cap_micro >= 0),
    reserved_micro INTEGER NOT NULL CHECK (reserved_micro >= 0),
    spent_micro INTEGER NOT NULL CHECK (spent_micro >= 0),
    CHECK (reserved_micro + spent_micro <= cap_micro)
) STRICT;

CREATE TABLE legs (
    dataset_id INTEGER NOT NULL REFERENCES budgets,
    job_id BLOB NOT NULL CHECK (length(job_id) = 32),
    spec_hash BLOB NOT NULL CHECK (length(spec_hash) = 32),
    loss_per_attempt_micro INTEGER NOT NULL CHECK (loss_per_attempt_micro > 0),
    attempts INTEGER NOT NULL CHECK (attempts > 0),
    charged INTEGER NOT NULL CHECK (charged BETWEEN 0 AND attempts),
    state TEXT NOT NULL CHECK (state IN ('reserved', 'committed', 'released')),
    PRIMARY KEY (dataset_id, job_id)
) STRICT;

CREATE TABLE uploads (
    dataset_id INTEGER NOT NULL,
    job_id BLOB NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    view_hash BLOB NOT NULL CHECK (length(view_hash) = 32),
    digest BLOB NOT NULL CHECK (length(digest) = 32), -- root of the hash tree over the upload's chunks
    size_bytes INTEGER NOT NULL,
    file_name TEXT,
    PRIMARY KEY (dataset_id, job_id, round, attempt)
) STRICT;

CREATE TABLE usage_records (
    seq INTEGER PRIMARY KEY CHECK (seq >= 0),
    record BLOB NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE usage_batches (
    first_seq INTEGER PRIMARY KEY CHECK (first_seq >= 0),
    count INTEGER NOT NULL CHECK (count > 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    previous_root BLOB NOT NULL CHECK (length(previous_root) = 32),
    tx_hash BLOB CHECK (tx_hash IS NULL OR length(tx_hash) = 32)
) STRICT;

CREATE TABLE heads (
    chain TEXT PRIMARY KEY CHECK (chain IN ('entries', 'usage_records')),
    count INTEGER NOT NULL CHECK (count >= 0),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
INSERT INTO heads VALUES ('entries', 0, zeroblob(32)), ('usage_records', 0, zeroblob(32));

CREATE TRIGGER entries_are_kept BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER usage_is_kept BEFORE DELETE ON usage_records BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER usage_stays BEFORE UPDATE ON usage_records BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The file at ``path``, created with mode 0600 if it is new, in WAL mode with ``synchronous=FULL``.

    ``psow=0``: no write touches a sector that holds what was synced before, for a power cut may leave such a sector torn
    (sqlite.org/psow.html); SQLite pads the log for it.

    Raises:
        LedgerCorrupt: the file is not a ledger of this format.
    """
    path.touch(mode=0o600, exist_ok=True)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?psow=0", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if version == 0 and tables == 0:
            # One transaction: a ledger that was killed here is an empty file, and is made again.
            connection.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
            )
        _check_format(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise not_a_ledger(path) from error
    except LedgerCorrupt:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The file at ``path``, read-only; a server may have it open.

    Raises:
        LedgerCorrupt: there is no file, or it is not a ledger of this format.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        _check_format(connection, path)
    except sqlite3.DatabaseError as error:
        raise not_a_ledger(path) from error
    return connection


def not_a_ledger(path: Path) -> LedgerCorrupt:
    """The error for a file that SQLite or we cannot read as a ledger."""
    return LedgerCorrupt(
        f"{path.name} is missing, damaged, or not a ledger of format {FORMAT_VERSION}. Do not delete it: it is the only "
        "record of the privacy that was spent. Put the undamaged file back, and never an older copy.",
        field="ledger",
    )


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) != (_APPLICATION_ID, FORMAT_VERSION):
        raise not_a_ledger(path)
