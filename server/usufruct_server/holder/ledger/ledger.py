"""The holder's durable privacy ledger: what was reserved, charged and committed, and what has to be sent
again.

The rule that everything here serves: *charge before draw*. When :meth:`Ledger.charge` has returned, the
charge is on the disk; noise may be drawn once. Whatever happens afterwards, the charge stays.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from usufruct.errors import InvalidInput
from usufruct.privacy import MAXIMUM_BUDGET_MICRO, MAXIMUM_LOSS_MICRO, Budget, checked_order
from usufruct.privacy.bounds import checked_integer
from usufruct_server.holder.ledger import schema, verification
from usufruct_server.holder.ledger.errors import (
    AttemptAlreadyCharged,
    AttemptNotCharged,
    AttemptsExhausted,
    DatasetConflict,
    LedgerWriteFailed,
    LegClosed,
    ReservationConflict,
    UploadChanged,
    UploadLost,
    UsageRefused,
)
from usufruct_server.holder.ledger.lock import ExclusiveLock
from usufruct_server.holder.ledger.outbox import Outbox, StoredUpload, Writer
from usufruct_server.holder.ledger.reading import LedgerReader
from usufruct_server.holder.ledger.records import (
    CHAIN_START,
    ROW_VERSION,
    Charge,
    Kind,
    LedgerRow,
    Leg,
    LegState,
    UsageBatch,
    usage_hash,
)

MAXIMUM_ATTEMPTS: Final = 1_000_000
MAXIMUM_USAGE_RECORD_BYTES: Final = 1 << 20
_MAXIMUM_INDEX: Final = 2**31 - 1
_HASH_BYTES: Final = 32


class Ledger(LedgerReader):
    """The one writer of a ledger. Safe to use from several threads; not across a fork.

    Opening verifies every hash and total (:func:`~usufruct_server.holder.ledger.verification.verify`) and
    sweeps upload files that a crash left without a row. The outbox is the folder ``<name>.outbox`` beside
    the file.

    Guarantee: every method that changes something returns after its transaction is on the disk (SQLite WAL,
    ``synchronous=FULL``, about 4 ms), and a kill at any moment leaves it done or not done, never half.

    Args:
        path: the SQLite file; created if it is not there.
        clock: UTC seconds, for the time column.
        noted: told the hash of the last row after each charge, before :meth:`charge` returns; where it fails, nothing may
            be drawn.

    Raises:
        LedgerLocked: another process, or this one, has it open.
        LedgerCorrupt: it does not verify; the message says what to do.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        noted: Callable[[bytes], None] = lambda head: None,
    ) -> None:
        path = Path(path)
        self._clock, self._noted = clock, noted
        self._process = os.getpid()
        self._failed = False
        self._file_lock = ExclusiveLock(path)
        try:
            self._use(path, schema.open_for_writing(path))
            try:
                verification.verify(self._connection)
                self._outbox = Outbox(path.with_name(path.name + ".outbox"))
                names = self._connection.execute("SELECT file_name FROM uploads WHERE file_name IS NOT NULL")
                self._outbox.sweep({name for (name,) in names})
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._file_lock.release()
            raise

    def close(self) -> None:
        """Close the file and give the lock back. Harmless if it was closed before."""
        super().close()
        self._file_lock.release()

    # -- starts ---------------------------------------------------------------------------------------------

    def note_start(self) -> bytes:
        """Append a row with 32 random bytes; returns its hash, 32 bytes.

        *Guarantee*: no copy of this ledger that was made before has this row, nor will have. Whoever anchors the hash
        elsewhere can tell such a copy from this ledger.
        """
        with self._writing():
            self._append(Kind.START, 0, 0, job_id=secrets.token_bytes(_HASH_BYTES))
        return self.head()[1]

    # -- budgets --------------------------------------------------------------------------------------------

    def register_dataset(
        self, dataset_id: int, cap_micro: int, order: int, inherited_micro: int = 0
    ) -> Budget:
        """Give a dataset its lifetime budget at one order. Again with the same figures: nothing happens.

        A lower cap than before takes effect at once, as long as what is reserved and spent fits under it; a
        higher one is refused here.

        Args:
            inherited_micro: what is spent of it already when this ledger first meets it: by an earlier version of the
                dataset. Later it is ignored.

        Raises:
            DatasetConflict: other order, higher cap, or a cap below what is reserved and spent.
            BudgetShort: more is inherited than the cap.
        """
        _check_dataset_id(dataset_id)
        checked_integer("cap_micro", cap_micro, 1, MAXIMUM_BUDGET_MICRO, InvalidInput)
        checked_order(order)
        with self._writing():
            known = verification.read_budgets(self._connection).get(dataset_id)
            if known is None:
                budget = Budget(cap_micro)
                self._append(Kind.REGISTER, dataset_id, cap_micro, order=order)
                if inherited_micro:
                    budget = budget.reserve(inherited_micro).charge(inherited_micro)
                    self._append(Kind.INHERIT, dataset_id, inherited_micro)
                self._connection.execute(
                    "INSERT INTO budgets VALUES (?, ?, ?, 0, ?)",
                    (dataset_id, order, cap_micro, budget.spent_micro),
                )
                return budget
            known_order, budget = known
            if known_order != order or cap_micro > budget.cap_micro:
                raise DatasetConflict(
                    f"Dataset {dataset_id} has a cap of {budget.cap_micro} at order {known_order} in this ledger, and "
                    f"cannot get {cap_micro} at order {order}; register the data as a new dataset.",
                    dataset_id=dataset_id,
                    order=order,
                )
            if cap_micro < budget.reserved_micro + budget.spent_micro:
                raise DatasetConflict(
                    f"Dataset {dataset_id} has already reserved and spent more than {cap_micro}.",
                    dataset_id=dataset_id,
                    limit=cap_micro,
                )
            if cap_micro < budget.cap_micro:
                budget = budget.lower_cap(cap_micro)
                self._append(Kind.LOWER_CAP, dataset_id, cap_micro)
                self._store_budget(dataset_id, budget)
            return budget

    def reserve(
        self, dataset_id: int, job_id: bytes, loss_per_attempt_micro: int, attempts: int, spec_hash: bytes
    ) -> Leg:
        """Reserve ``attempts`` times the loss of one. Again with the same figures: the leg as it stands.

        A leg that was released may be reserved anew, for it never drew.

        Raises:
            BudgetShort: it does not fit under the cap.
            ReservationConflict: the leg was reserved with other figures or another spec.
            LegClosed: it was committed.
            DatasetNotRegistered: the dataset has no budget here.
        """
        _check_leg(dataset_id, job_id)
        checked_integer("loss_per_attempt_micro", loss_per_attempt_micro, 1, MAXIMUM_LOSS_MICRO, InvalidInput)
        checked_integer("attempts", attempts, 1, MAXIMUM_ATTEMPTS, InvalidInput)
        _check_hash("spec_hash", spec_hash)
        new = Leg(dataset_id, job_id, spec_hash, loss_per_attempt_micro, attempts, 0, LegState.RESERVED)
        with self._writing():
            budget = self.budget(dataset_id)
            known = self._known_leg(dataset_id, job_id)
            if known is not None and known.state is not LegState.RELEASED:
                if (known.spec_hash, known.loss_per_attempt_micro, known.attempts) != (
                    spec_hash,
                    loss_per_attempt_micro,
                    attempts,
                ):
                    raise ReservationConflict(
                        "This job was reserved before with other figures or another spec.",
                        dataset_id=dataset_id,
                        job_id="0x" + job_id.hex(),
                    )
                if known.state is LegState.COMMITTED:
                    raise _closed(known)
                return known
            budget = budget.reserve(new.reservation_micro)
            self._append(
                Kind.RESERVE,
                dataset_id,
                new.reservation_micro,
                job_id=job_id,
                attempts=attempts,
                spec_hash=spec_hash,
            )
            self._store_budget(dataset_id, budget)
            self._connection.execute(
                "INSERT OR REPLACE INTO legs VALUES (?, ?, ?, ?, ?, 0, 'reserved')",
                (dataset_id, job_id, spec_hash, loss_per_attempt_micro, attempts),
            )
            return new

    def charge(self, dataset_id: int, job_id: bytes, round: int, attempt: int) -> Charge:
        """Charge one attempt, durably. Call before anything is sampled or drawn; then draw at most once.

        Guarantee: when this returns, the charge survives a kill and a loss of power (as far as the disk
        keeps what fsync confirmed); if it raises, nothing may be drawn. No attempt is charged twice, none
        beyond the reservation.

        Raises:
            AttemptAlreadyCharged: this round and attempt were charged before; a stored upload may be sent
            again. AttemptsExhausted: the reservation is used up. LegClosed: the leg was committed or
            released. LegUnknown: nothing is reserved. LedgerWriteFailed: the disk failed.
        """
        _check_attempt(dataset_id, job_id, round, attempt)
        with self._writing():
            leg = self.leg(dataset_id, job_id)
            if self._is_charged(dataset_id, job_id, round, attempt):
                raise AttemptAlreadyCharged(
                    f"Attempt {attempt} of round {round} was charged before. Send its stored upload again, or start "
                    "the next attempt.",
                    dataset_id=dataset_id,
                    round=round,
                    attempt=attempt,
                )
            if leg.state is not LegState.RESERVED:
                raise _closed(leg)
            if leg.charged >= leg.attempts:
                raise AttemptsExhausted(
                    f"All {leg.attempts} attempts of this job have been charged; it ends here.",
                    dataset_id=dataset_id,
                    round=round,
                    attempt=attempt,
                    limit=leg.attempts,
                )
            loss_micro = leg.loss_per_attempt_micro
            budget = self.budget(dataset_id).charge(loss_micro)
            seq = self._append(
                Kind.CHARGE, dataset_id, loss_micro, job_id=job_id, round=round, attempt=attempt
            )
            self._store_budget(dataset_id, budget)
            charged = leg.charged + 1
            self._connection.execute(
                "UPDATE legs SET charged = ? WHERE dataset_id = ? AND job_id = ?",
                (charged, dataset_id, job_id),
            )
        self._note_head()
        return Charge(seq, round, attempt, loss_micro, charged, leg.attempts - charged)

    def commit(self, dataset_id: int, job_id: bytes, loss_micro: int | None = None) -> int:
        """End a leg at a loss: its whole reservation, unless less was agreed on.

        Args:
            loss_micro: at least what was charged, at most the reservation; None for the whole of it. What is
                between it and the reservation is free again.

        Returns:
            the loss of the leg in every book, in 10^-6 nat. Again, with whatever loss: the same integer.

        Raises:
            LegClosed: the leg was released.
            LegUnknown: nothing is reserved.
            InvalidInput: the loss is below what was charged, or above the reservation.
        """
        _check_leg(dataset_id, job_id)
        with self._writing():
            leg = self.leg(dataset_id, job_id)
            if leg.state is LegState.RELEASED:
                raise _closed(leg)
            if leg.state is LegState.RESERVED:
                whole = leg.reservation_micro
                loss = whole if loss_micro is None else loss_micro
                checked_integer("loss_micro", loss, leg.charged_micro, whole, InvalidInput)
                amount = loss - leg.charged_micro
                self._append(Kind.COMMIT, dataset_id, amount, job_id=job_id)
                self._store_budget(dataset_id, verification.committed(self.budget(dataset_id), leg, amount))
                self._store_state(leg, LegState.COMMITTED)
            return self.committed_micro(dataset_id, job_id)

    def release(self, dataset_id: int, job_id: bytes) -> None:
        """Give back the reservation of a leg that never charged, for example one that never opened. Again:
        nothing.

        Raises:
            LegClosed: the leg was committed, or has charged an attempt; commit it instead.
            LegUnknown: nothing is reserved.
        """
        _check_leg(dataset_id, job_id)
        with self._writing():
            leg = self.leg(dataset_id, job_id)
            if leg.state is LegState.RELEASED:
                return
            if leg.state is LegState.COMMITTED or leg.charged:
                raise _closed(leg)
            budget = self.budget(dataset_id).release(leg.reservation_micro)
            self._append(Kind.RELEASE, dataset_id, leg.reservation_micro, job_id=job_id)
            self._store_budget(dataset_id, budget)
            self._store_state(leg, LegState.RELEASED)

    # -- outbox ---------------------------------------------------------------------------------------------

    def record_upload(
        self,
        dataset_id: int,
        job_id: bytes,
        round: int,
        attempt: int,
        view_hash: bytes,
        write: Writer,
    ) -> StoredUpload:
        """Keep an attempt's encrypted upload, durably, before any of it is sent.

        The file is written, synced and renamed first, then the row. Again with the same view and root: the
        stored one.

        Args:
            write: writes the upload into a file that only this user can read, and returns its root.

        Raises:
            AttemptNotCharged: nobody charged this attempt.
            UploadChanged: another upload or view is stored for it, or its round is over.
        """
        _check_attempt(dataset_id, job_id, round, attempt)
        _check_hash("view_hash", view_hash)
        if not self._is_charged(dataset_id, job_id, round, attempt):
            raise AttemptNotCharged(
                "An upload was to be kept for an attempt that was never charged.",
                round=round,
                attempt=attempt,
            )
        name, root, size = self._outbox.write(write)
        kept = False
        try:
            with self._writing():
                row = self._upload_row(dataset_id, job_id, round, attempt)
                if row is None:
                    self._connection.execute(
                        "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (dataset_id, job_id, round, attempt, view_hash, root, size, name),
                    )
                    row, kept = (view_hash, root, size, name), True
                elif row[:2] != (view_hash, root) or row[3] is None:
                    raise UploadChanged(
                        "This attempt has another upload already, or its round is over; start the next attempt.",
                        round=round,
                        attempt=attempt,
                    )
        finally:
            # After a failed commit nobody knows whether the row is there; then the next start sweeps.
            if not kept and not self._failed:
                self._outbox.remove(name)
        return self._stored(round, attempt, row)

    def upload(self, dataset_id: int, job_id: bytes, round: int, attempt: int) -> StoredUpload | None:
        """The stored upload of an attempt, to be sent again; None if there is none or its round is over.

        Raises:
            UploadLost: the file that the ledger names is gone.
        """
        _check_attempt(dataset_id, job_id, round, attempt)
        row = self._upload_row(dataset_id, job_id, round, attempt)
        if row is None or row[3] is None:
            return None
        stored = self._stored(round, attempt, row)
        if not stored.path.is_file():
            raise UploadLost(round=round, attempt=attempt)
        return stored

    def forget_upload(self, dataset_id: int, job_id: bytes, round: int) -> int:
        """Delete the uploads of every attempt of a round that is over; returns how many.

        That they existed is remembered, so that no other upload can take their place.
        """
        _check_attempt(dataset_id, job_id, round, 0)
        where = "dataset_id = ? AND job_id = ? AND round = ? AND file_name IS NOT NULL"
        with self._writing():
            names = self._connection.execute(
                f"SELECT file_name FROM uploads WHERE {where}",
                (dataset_id, job_id, round),
            ).fetchall()
            self._connection.execute(
                f"UPDATE uploads SET file_name = NULL WHERE {where}",
                (dataset_id, job_id, round),
            )
        for (name,) in names:
            self._outbox.remove(name)
        return len(names)

    # -- usage ----------------------------------------------------------------------------------------------

    def append_usage_record(self, record_bytes: bytes) -> int:
        """Append one usage record, durably; returns its gapless seq, from 0."""
        if not isinstance(record_bytes, bytes) or not 0 < len(record_bytes) <= MAXIMUM_USAGE_RECORD_BYTES:
            raise UsageRefused(f"A usage record is 1 to {MAXIMUM_USAGE_RECORD_BYTES} bytes.")
        with self._writing():
            seq, head = self._one("SELECT count, hash FROM heads WHERE chain = 'usage_records'", ())
            head = usage_hash(seq, record_bytes, head)
            self._connection.execute("INSERT INTO usage_records VALUES (?, ?, ?)", (seq, record_bytes, head))
            self._connection.execute(
                "UPDATE heads SET count = ?, hash = ? WHERE chain = 'usage_records'", (seq + 1, head)
            )
        return int(seq)

    def append_usage_batch(self, first_seq: int, count: int, root: bytes) -> UsageBatch:
        """Close records ``first_seq .. first_seq + count - 1`` under a Merkle root, to be published.

        Raises:
            UsageRefused: the batch does not follow the last one, or names records that do not exist.
        """
        checked_integer("first_seq", first_seq, 0, MAXIMUM_BUDGET_MICRO, InvalidInput)
        checked_integer("count", count, 1, _MAXIMUM_INDEX, InvalidInput)
        _check_hash("root", root)
        with self._writing():
            last = self._one(
                "SELECT first_seq + count, root FROM usage_batches ORDER BY first_seq DESC LIMIT 1", ()
            )
            next_seq, previous_root = last if last is not None else (0, CHAIN_START)
            if first_seq != next_seq or first_seq + count > self.usage_count():
                raise UsageRefused(
                    f"The next usage batch starts at record {next_seq} and there are {self.usage_count()} records."
                )
            self._connection.execute(
                "INSERT INTO usage_batches VALUES (?, ?, ?, ?, NULL)", (first_seq, count, root, previous_root)
            )
        return UsageBatch(first_seq, count, root, previous_root, None)

    def mark_usage_batch_sent(self, first_seq: int, tx_hash: bytes) -> None:
        """Note the transaction that publishes a batch; a replacement transaction overwrites it.

        Raises:
            UsageRefused: no batch starts there.
        """
        _check_hash("tx_hash", tx_hash)
        with self._writing():
            changed = self._connection.execute(
                "UPDATE usage_batches SET tx_hash = ? WHERE first_seq = ?", (tx_hash, first_seq)
            ).rowcount
            if changed != 1:
                raise UsageRefused(f"No usage batch starts at record {first_seq}.")

    # -- inside ---------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One ``BEGIN IMMEDIATE`` transaction; rolled back on any error, on the disk when the block has
        ended."""
        with self._guard:
            if self._failed or os.getpid() != self._process:
                raise LedgerWriteFailed(
                    "The ledger takes no more writes: an earlier one failed, or this process was forked from the one that "
                    "opened it. Restart the server."
                )
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                # Whether it reached the disk is unknown: count on nothing until the ledger has been read again.
                self._failed = True
                raise LedgerWriteFailed(
                    f"The ledger could not be written ({error}). Nothing may be drawn. Check the disk, then restart the "
                    "server."
                ) from error

    def _note_head(self) -> None:
        with self._guard:  # of two charges at one time, the later row is noted last
            try:
                self._noted(self.head()[1])
            except OSError as error:
                raise LedgerWriteFailed(
                    f"The charge could not be noted outside the ledger ({error.strerror}). Nothing may be drawn. Check "
                    "[holder] witness_dir."
                ) from error

    def _append(self, kind: Kind, dataset_id: int, amount_micro: int, **columns: Any) -> int:
        count, head = self._one("SELECT count, hash FROM heads WHERE chain = 'entries'", ())
        fields: dict[str, Any] = dict.fromkeys(
            ("order", "job_id", "attempts", "round", "attempt", "spec_hash")
        )
        fields |= columns
        row = LedgerRow(
            seq=count,
            version=ROW_VERSION,
            time_seconds=int(self._clock()),
            kind=kind,
            dataset_id=dataset_id,
            amount_micro=amount_micro,
            previous_hash=head,
            hash=b"",
            **fields,
        )
        digest = row.computed_hash()
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.seq, row.version, row.time_seconds, kind.value, dataset_id, amount_micro, row.order),
                *(row.job_id, row.attempts, row.round, row.attempt, row.spec_hash, head, digest),
            ),
        )
        self._connection.execute(
            "UPDATE heads SET count = ?, hash = ? WHERE chain = 'entries'", (count + 1, digest)
        )
        return int(count)

    def _store_budget(self, dataset_id: int, budget: Budget) -> None:
        self._connection.execute(
            "UPDATE budgets SET cap_micro = ?, reserved_micro = ?, spent_micro = ? WHERE dataset_id = ?",
            (budget.cap_micro, budget.reserved_micro, budget.spent_micro, dataset_id),
        )

    def _store_state(self, leg: Leg, state: LegState) -> None:
        self._connection.execute(
            "UPDATE legs SET state = ? WHERE dataset_id = ? AND job_id = ?",
            (state.value, leg.dataset_id, leg.job_id),
        )

    def _known_leg(self, dataset_id: int, job_id: bytes) -> Leg | None:
        known = self._one(
            "SELECT count(*) FROM legs WHERE dataset_id = ? AND job_id = ?", (dataset_id, job_id)
        )[0]
        return self.leg(dataset_id, job_id) if known else None

    def _is_charged(self, dataset_id: int, job_id: bytes, round_: int, attempt: int) -> bool:
        return bool(
            self._one(
                "SELECT count(*) FROM entries WHERE kind = 'charge' AND dataset_id = ? AND job_id = ? AND round = ? "
                "AND attempt = ?",
                (dataset_id, job_id, round_, attempt),
            )[0]
        )

    def _stored(self, round_: int, attempt: int, row: Any) -> StoredUpload:
        view_hash, root, size_bytes, file_name = row
        return StoredUpload(round_, attempt, view_hash, root, size_bytes, self._outbox.path(file_name))

    def _upload_row(self, dataset_id: int, job_id: bytes, round_: int, attempt: int) -> Any:
        return self._one(
            "SELECT view_hash, digest, size_bytes, file_name FROM uploads "
            "WHERE dataset_id = ? AND job_id = ? AND round = ? AND attempt = ?",
            (dataset_id, job_id, round_, attempt),
        )


def _closed(leg: Leg) -> LegClosed:
    return LegClosed(
        f"The leg is {leg.state.value} with {leg.charged} attempts charged.",
        dataset_id=leg.dataset_id,
        job_id="0x" + leg.job_id.hex(),
    )


def _check_dataset_id(dataset_id: int) -> None:
    checked_integer("dataset_id", dataset_id, 0, 2**63 - 1, InvalidInput)


def _check_leg(dataset_id: int, job_id: bytes) -> None:
    _check_dataset_id(dataset_id)
    _check_hash("job_id", job_id)


def _check_attempt(dataset_id: int, job_id: bytes, round_: int, attempt: int) -> None:
    _check_leg(dataset_id, job_id)
    checked_integer("round", round_, 0, _MAXIMUM_INDEX, InvalidInput)
    checked_integer("attempt", attempt, 0, _MAXIMUM_INDEX, InvalidInput)


def _check_hash(field: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != _HASH_BYTES:
        raise InvalidInput(f"{field} must be {_HASH_BYTES} bytes.", field=field)
