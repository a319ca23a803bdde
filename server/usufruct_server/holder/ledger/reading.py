"""Everything that can be asked of a ledger, for the server that writes it and for a person who only looks."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from usufruct.errors import InvalidInput
from usufruct.privacy import MAXIMUM_BUDGET_MICRO, Budget
from usufruct.privacy.bounds import checked_integer
from usufruct_server.holder.ledger import schema, verification
from usufruct_server.holder.ledger.errors import DatasetNotRegistered, LegUnknown
from usufruct_server.holder.ledger.records import LedgerRow, Leg, LegState, UsageBatch

MAXIMUM_RECORDS_READ: Final = 10_000


class LedgerReader:
    """A verified, read-only view of one moment of a ledger. A server may be writing it meanwhile.

    Raises:
        LedgerCorrupt: the ledger does not verify, or there is none at ``path``.
    """

    def __init__(self, path: Path) -> None:
        self._use(path, schema.open_for_reading(path))
        try:
            self._connection.execute("BEGIN")
            verification.verify(self._connection)
        except BaseException:
            self.close()
            raise

    def _use(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._guard = threading.RLock()

    def close(self) -> None:
        """Close the file. Harmless if it was closed before."""
        with self._guard:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- budgets and legs -----------------------------------------------------------------------------------

    def datasets(self) -> dict[int, Budget]:
        """The budget of every dataset registered here, by id."""
        with self._guard:
            budgets = verification.read_budgets(self._connection)
        return {dataset_id: budget for dataset_id, (_, budget) in sorted(budgets.items())}

    def budget(self, dataset_id: int) -> Budget:
        """The dataset's budget.

        Raises:
            DatasetNotRegistered: the ledger does not know it.
        """
        return self._dataset(dataset_id)[1]

    def order(self, dataset_id: int) -> int:
        """The dataset's Rényi order.

        Raises:
            DatasetNotRegistered: the ledger does not know it.
        """
        return self._dataset(dataset_id)[0]

    def jobs(self) -> tuple[Leg, ...]:
        """Every leg ever reserved, by dataset and job."""
        with self._guard:
            return tuple(verification.read_legs(self._connection))

    def leg(self, dataset_id: int, job_id: bytes) -> Leg:
        """One job on one dataset.

        Raises:
            LegUnknown: nothing was ever reserved for it.
        """
        row = self._one(
            "SELECT spec_hash, loss_per_attempt_micro, attempts, charged, state FROM legs "
            "WHERE dataset_id = ? AND job_id = ?",
            (dataset_id, job_id),
        )
        if row is None:
            raise LegUnknown(
                "Nothing is reserved for this job on this dataset; reserve it when its leg opens.",
                dataset_id=dataset_id,
                job_id="0x" + job_id.hex(),
            )
        spec_hash, loss_micro, attempts, charged, state = row
        return Leg(dataset_id, job_id, spec_hash, loss_micro, attempts, charged, LegState(state))

    def committed_micro(self, dataset_id: int, job_id: bytes) -> int:
        """The loss at which a leg was committed, 10^-6 nat.

        Raises:
            LegUnknown: it was not committed.
        """
        row = self._one(
            "SELECT amount_micro FROM entries WHERE kind = 'commit' AND dataset_id = ? AND job_id = ?",
            (dataset_id, job_id),
        )
        if row is None:
            raise LegUnknown("The leg was not committed.", dataset_id=dataset_id, job_id="0x" + job_id.hex())
        return self.leg(dataset_id, job_id).charged_micro + int(row[0])

    def charged_attempts(self, dataset_id: int, job_id: bytes) -> tuple[tuple[int, int], ...]:
        """Round and attempt of every charge of a leg, in the order they were made."""
        with self._guard:
            rows = self._connection.execute(
                "SELECT round, attempt FROM entries WHERE kind = 'charge' AND dataset_id = ? AND job_id = ? ORDER BY seq",
                (dataset_id, job_id),
            ).fetchall()
        return tuple((round_, attempt) for round_, attempt in rows)

    def rows(self) -> tuple[LedgerRow, ...]:
        """Every row of the hash chain, oldest first."""
        with self._guard:
            return tuple(verification.read_rows(self._connection))

    def has_row(self, hash_: bytes) -> bool:
        """Whether a row has this hash."""
        return self._one("SELECT 1 FROM entries WHERE hash = ?", (hash_,)) is not None

    def head(self) -> tuple[int, bytes]:
        """Number of rows, and hash of the last: what an anchor of this ledger names."""
        count, head = self._one("SELECT count, hash FROM heads WHERE chain = 'entries'", ())
        return count, head

    def export_json_lines(self, stream: IO[str]) -> int:
        """Write every row as one line of JSON; returns how many. Hashes let the reader check the chain
        again."""
        rows = self.rows()
        for row in rows:
            stream.write(json.dumps(row.as_dict(), sort_keys=True) + "\n")
        return len(rows)

    # -- usage ----------------------------------------------------------------------------------------------

    def usage_count(self) -> int:
        """How many usage records there are; also the next one's seq."""
        return int(self._one("SELECT count FROM heads WHERE chain = 'usage_records'", ())[0])

    def usage_records(self, first_seq: int, count: int) -> tuple[bytes, ...]:
        """Records ``first_seq`` and following, at most ``count`` and at most 10 000; empty past the end."""
        checked_integer("first_seq", first_seq, 0, MAXIMUM_BUDGET_MICRO, InvalidInput)
        checked_integer("count", count, 0, MAXIMUM_BUDGET_MICRO, InvalidInput)
        with self._guard:
            rows = self._connection.execute(
                "SELECT record FROM usage_records WHERE seq >= ? ORDER BY seq LIMIT ?",
                (first_seq, min(count, MAXIMUM_RECORDS_READ)),
            ).fetchall()
        return tuple(record for (record,) in rows)

    def usage_batches(self) -> tuple[UsageBatch, ...]:
        """Every batch, oldest first."""
        with self._guard:
            rows = self._connection.execute(
                "SELECT first_seq, count, root, previous_root, tx_hash FROM usage_batches ORDER BY first_seq"
            ).fetchall()
        return tuple(UsageBatch(*row) for row in rows)

    # -- inside ---------------------------------------------------------------------------------------------

    def _one(self, query: str, arguments: tuple[Any, ...]) -> Any:
        with self._guard:
            return self._connection.execute(query, arguments).fetchone()

    def _dataset(self, dataset_id: int) -> tuple[int, Budget]:
        row = self._one(
            "SELECT renyi_order, cap_micro, reserved_micro, spent_micro FROM budgets WHERE dataset_id = ?",
            (dataset_id,),
        )
        if row is None:
            raise DatasetNotRegistered(
                f"The ledger has no budget for dataset {dataset_id}; register it first.",
                dataset_id=dataset_id,
            )
        return row[0], Budget(*row[1:])
