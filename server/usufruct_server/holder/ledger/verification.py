"""Replay of the whole ledger: every hash, every step of the arithmetic, every total."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from usufruct.errors import UsufructError
from usufruct.privacy import Budget
from usufruct_server.holder.ledger.errors import LedgerCorrupt
from usufruct_server.holder.ledger.records import (
    CHAIN_START,
    ROW_VERSION,
    Kind,
    LedgerRow,
    Leg,
    LegState,
    usage_hash,
)

_ROWS = (
    "SELECT seq, version, time_seconds, kind, dataset_id, amount_micro, renyi_order, job_id, attempts, round, attempt, "
    "spec_hash, previous_hash, hash FROM entries ORDER BY seq"
)
_LEGS = (
    "SELECT dataset_id, job_id, spec_hash, loss_per_attempt_micro, attempts, charged, state FROM legs "
    "ORDER BY dataset_id, job_id"
)


def read_rows(connection: sqlite3.Connection) -> Iterator[LedgerRow]:
    """Every row of the chain, oldest first, unchecked."""
    for seq, version, time_seconds, kind, *others in connection.execute(_ROWS):
        dataset_id, amount_micro, order, job_id, attempts, round_, attempt, spec_hash, previous, digest = (
            others
        )
        yield LedgerRow(
            seq,
            version,
            time_seconds,
            Kind(kind),
            dataset_id,
            amount_micro,
            order,
            job_id,
            attempts,
            round_,
            attempt,
            spec_hash,
            previous,
            digest,
        )


def read_legs(connection: sqlite3.Connection) -> Iterator[Leg]:
    """Every leg as the totals have it."""
    for dataset_id, job_id, spec_hash, loss_micro, attempts, charged, state in connection.execute(_LEGS):
        yield Leg(dataset_id, job_id, spec_hash, loss_micro, attempts, charged, LegState(state))


def read_budgets(connection: sqlite3.Connection) -> dict[int, tuple[int, Budget]]:
    """Order and budget of every dataset as the totals have them."""
    rows = connection.execute(
        "SELECT dataset_id, renyi_order, cap_micro, reserved_micro, spent_micro FROM budgets"
    )
    return {dataset_id: (order, Budget(*amounts)) for dataset_id, order, *amounts in rows}


def committed(budget: Budget, leg: Leg, amount_micro: int) -> Budget:
    """The budget after a leg has ended: ``amount_micro`` of what it had left is spent, the rest is free again."""
    given_back = leg.remaining_micro - amount_micro
    budget = budget.commit(amount_micro)
    return budget.release(given_back) if given_back else budget


def verify(connection: sqlite3.Connection) -> None:
    """Check that rows, totals, heads and usage records agree.

    Guarantee: any single row that was altered, removed, added or reordered by another program, and any
    total that does not follow from the rows, is found. An intruder who rewrites the whole file
    consistently, or puts an older copy back, is not: that is for the anchor on chain to find.

    Raises:
        LedgerCorrupt: names the first row or total that does not fit.
    """
    try:
        replayed = _Replay()
        count, head = 0, CHAIN_START
        for row in read_rows(connection):
            if row.seq != count or row.previous_hash != head or row.hash != row.computed_hash():
                raise _corrupt(f"row {count} of the ledger was altered, or a row before it is missing")
            replayed.apply(row)
            count, head = count + 1, row.hash
        _check_head(connection, "entries", count, head)
        if read_budgets(connection) != replayed.budgets:
            raise _corrupt("the totals of a dataset do not follow from the rows")
        if {(leg.dataset_id, leg.job_id): leg for leg in read_legs(connection)} != replayed.legs:
            raise _corrupt("the totals of a leg do not follow from the rows")
        _verify_usage(connection)
        _verify_uploads(connection)
    except (sqlite3.DatabaseError, ValueError, TypeError, OverflowError) as error:
        raise _corrupt("the file is damaged") from error


@dataclass
class _Replay:
    budgets: dict[int, tuple[int, Budget]] = field(default_factory=dict)
    legs: dict[tuple[int, bytes], Leg] = field(default_factory=dict)

    def apply(self, row: LedgerRow) -> None:
        try:
            self._apply(row)
        except (KeyError, ValueError, UsufructError) as error:
            raise _corrupt(f"row {row.seq} of the ledger does not follow from the rows before it") from error

    def _apply(self, row: LedgerRow) -> None:
        _require(row.version == ROW_VERSION)
        if row.kind is Kind.START:
            _require(row.dataset_id == 0 and row.amount_micro == 0 and row.job_id is not None)
            return
        if row.kind is Kind.REGISTER:
            _require(row.dataset_id not in self.budgets and row.order is not None)
            self.budgets[row.dataset_id] = (int(row.order or 0), Budget(row.amount_micro))
            return
        order, budget = self.budgets[row.dataset_id]
        if row.kind is Kind.INHERIT:
            _require(budget == Budget(budget.cap_micro) and row.amount_micro > 0)
            self.budgets[row.dataset_id] = (order, budget.reserve(row.amount_micro).charge(row.amount_micro))
            return
        if row.kind is Kind.LOWER_CAP:
            self.budgets[row.dataset_id] = (order, budget.lower_cap(row.amount_micro))
            return
        key = (row.dataset_id, row.job_id or b"")
        if row.kind is Kind.RESERVE:
            _require(key not in self.legs or self.legs[key].state is LegState.RELEASED)
            attempts = int(row.attempts or 0)
            _require(attempts > 0 and row.amount_micro % attempts == 0)
            leg = Leg(
                row.dataset_id,
                key[1],
                row.spec_hash or b"",
                row.amount_micro // attempts,
                attempts,
                0,
                LegState.RESERVED,
            )
            budget = budget.reserve(row.amount_micro)
        else:
            leg = self.legs[key]
            _require(leg.state is LegState.RESERVED)
            if row.kind is Kind.CHARGE:
                _require(leg.charged < leg.attempts and row.amount_micro == leg.loss_per_attempt_micro)
                budget, leg = budget.charge(row.amount_micro), replace(leg, charged=leg.charged + 1)
            elif row.kind is Kind.COMMIT:
                _require(row.amount_micro <= leg.remaining_micro)
                budget = committed(budget, leg, row.amount_micro)
                leg = replace(leg, state=LegState.COMMITTED)
            else:
                _require(leg.charged == 0 and row.amount_micro == leg.reservation_micro)
                budget, leg = budget.release(row.amount_micro), replace(leg, state=LegState.RELEASED)
        self.budgets[row.dataset_id], self.legs[key] = (order, budget), leg


def _verify_usage(connection: sqlite3.Connection) -> None:
    count, head = 0, CHAIN_START
    for seq, record, stored in connection.execute("SELECT seq, record, hash FROM usage_records ORDER BY seq"):
        if seq != count or stored != usage_hash(seq, record, head):
            raise _corrupt(f"usage record {count} was altered, or one before it is missing")
        count, head = count + 1, stored
    _check_head(connection, "usage_records", count, head)
    next_seq, root = 0, CHAIN_START
    batches = connection.execute(
        "SELECT first_seq, count, root, previous_root FROM usage_batches ORDER BY first_seq"
    )
    for first_seq, length, batch_root, previous_root in batches:
        if first_seq != next_seq or previous_root != root:
            raise _corrupt(f"the usage batch at record {next_seq} was altered or is missing")
        next_seq, root = first_seq + length, batch_root
    if next_seq > count:
        raise _corrupt("usage records that were batched are missing")


def _verify_uploads(connection: sqlite3.Connection) -> None:
    orphans = connection.execute(
        "SELECT count(*) FROM uploads AS u WHERE NOT EXISTS (SELECT 1 FROM entries AS e WHERE e.kind = 'charge' AND "
        "e.dataset_id = u.dataset_id AND e.job_id = u.job_id AND e.round = u.round AND e.attempt = u.attempt)"
    ).fetchone()[0]
    if orphans:
        raise _corrupt("the outbox has an upload that was never charged")


def _check_head(connection: sqlite3.Connection, chain: str, count: int, head: bytes) -> None:
    stored = connection.execute("SELECT count, hash FROM heads WHERE chain = ?", (chain,)).fetchone()
    if stored != (count, head):
        raise _corrupt(f"the last rows of {chain} are missing")


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("the row does not follow")


def _corrupt(what: str) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"The ledger does not verify: {what}. It stays closed, for nobody can say what was spent. Put the undamaged file "
        "back (never an older copy), or retire the datasets in it and register them anew with what is certainly left "
        "of their budgets.",
        field="ledger",
    )
