"""Proposals and legs of this holder, in SQLite (WAL), beside the ledger.

The server writes what it received and decided; `usufruct holder grant|refuse` writes a person's decision from another
process. What privacy was spent stands in the ledger and nowhere else.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from usufruct.domain.grant import SignedGrant
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import ConfigError, InvalidInput, Refused
from usufruct.v1 import jobs_pb2
from usufruct.wire.jobs import signed_grant_from_proto, signed_grant_to_proto, spec_from_bytes

_FORMAT = 3
_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS proposals (
    job_id BLOB NOT NULL, dataset_id INTEGER NOT NULL, request_id TEXT NOT NULL, builder TEXT NOT NULL,
    spec BLOB NOT NULL, spec_hash BLOB NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, note TEXT NOT NULL,
    decision TEXT NOT NULL, signed_grant BLOB, document_hash BLOB, received_seconds INTEGER NOT NULL,
    decided_seconds INTEGER, logged INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, dataset_id), UNIQUE (builder, request_id, dataset_id)
) STRICT;
CREATE TABLE IF NOT EXISTS legs (
    job_id BLOB NOT NULL, dataset_id INTEGER NOT NULL, state TEXT NOT NULL, started_seconds INTEGER NOT NULL,
    ended_seconds INTEGER, rounds_done INTEGER, last_round INTEGER NOT NULL DEFAULT 0, receipt TEXT, receipt_hash BLOB,
    transaction_hash BLOB, lower_signature BLOB, PRIMARY KEY (job_id, dataset_id)
) STRICT;
CREATE TABLE IF NOT EXISTS attempts (
    job_id BLOB NOT NULL, dataset_id INTEGER NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    offer_hash BLOB NOT NULL, view_hash BLOB, mask_key BLOB, PRIMARY KEY (job_id, dataset_id, attempt)
) STRICT;
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


class ProposalStatus(StrEnum):
    """How a proposal stands."""

    PENDING = "pending"
    GRANTED = "granted"
    REFUSED = "refused"


class LegStatus(StrEnum):
    """How a leg stands at the holder.

    RUNNING: started; rounds may run. DELIVERING: its rounds have ended, its receipt is on its way. DELIVERED: the receipt
    is on chain. ENDED: and nothing changes any more. RELEASING: given up at no loss, if its builder ends it so on chain.
    RELEASED: ended at no loss. FAILED: ended without a receipt, at a loss.
    """

    RUNNING = "running"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    ENDED = "ended"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"


@dataclass(frozen=True)
class StoredProposal:
    """One proposal.

    Attributes:
        spec_bytes, spec_hash: exactly what was received.
        reason: of the catalogue, when refused. note: for the person at the holder.
        decision: "", or "grant" / "refuse" where a person has decided and the server has not acted yet.
        document_hash: EIP-712 hash of the grant, when granted.
        logged: whether the usage log has the outcome.
    """

    job_id: bytes
    dataset_id: int
    request_id: str
    builder: str
    spec_bytes: bytes
    spec_hash: bytes
    state: ProposalStatus
    reason: str
    note: str
    decision: str
    signed_grant: SignedGrant | None
    document_hash: bytes
    received_seconds: int
    decided_seconds: int | None
    logged: bool

    @property
    def spec(self) -> TrainingJobSpec:
        """The spec, read from its bytes."""
        return spec_from_bytes(self.spec_bytes)


@dataclass(frozen=True)
class StoredLeg:
    """One leg that was started here. The fields from ``ended_seconds`` on are set by its settlement.

    Attributes:
        transaction_hash: of the delivery, where the holder sent it itself.
        lower_signature: the builder's consent that only what was charged is spent; empty: the whole reservation is.
    """

    job_id: bytes
    dataset_id: int
    state: LegStatus
    started_seconds: int
    ended_seconds: int | None
    rounds_done: int | None
    last_round: int
    receipt: LegReceipt | None
    receipt_hash: bytes
    transaction_hash: bytes
    lower_signature: bytes


@dataclass(frozen=True)
class StoredAttempt:
    """What an attempt of a round is bound to, for good.

    Attributes:
        offer_hash: since before its charge.
        view_hash: since before anything was encrypted for it; empty until then.
        mask_key: the holder's public mask key in that view; empty until then.
    """

    round: int
    offer_hash: bytes
    view_hash: bytes
    mask_key: bytes


class JobStore:
    """The SQLite file. Safe from several threads and several processes; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600, exist_ok=True)
        self._guard = threading.RLock()
        # psow=0: no write touches a sector of what was synced before, which a power cut might tear
        place = f"{path.absolute().as_uri()}?psow=0"
        self._connection = sqlite3.connect(
            place, uri=True, isolation_level=None, check_same_thread=False, timeout=10
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._connection.executescript(_TABLES)
            elif version != _FORMAT:
                raise ConfigError(
                    f"{path} has format {version}; this version of Usufruct reads {_FORMAT}.", file=str(path)
                )
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{path} cannot be read as the holder's job store ({error}).", file=str(path)
            ) from error

    def close(self) -> None:
        """Closes the file."""
        with self._guard:
            self._connection.close()

    # -- proposals ----------------------------------------------------------------------------------------------

    def add_proposal(self, proposal: StoredProposal) -> StoredProposal:
        """Stores a proposal. The same again: the stored one.

        Raises:
            InvalidInput: REQUEST_ID_REUSED.
            Refused: WRONG_SPEC: the job was proposed before with another spec.
        """
        with self._writing() as connection:
            known = self._proposal("job_id = ? AND dataset_id = ?", (proposal.job_id, proposal.dataset_id))
            if known:
                if known.spec_hash != proposal.spec_hash:
                    raise Refused("this job was proposed before with another spec", reason="WRONG_SPEC")
                return known
            if self.proposal_of_request(proposal.builder, proposal.request_id, proposal.dataset_id):
                raise InvalidInput(
                    "request_id was used for another job", reason="REQUEST_ID_REUSED", field="request_id"
                )
            p = proposal
            connection.execute(
                "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (p.job_id, p.dataset_id, p.request_id, p.builder, p.spec_bytes, p.spec_hash, p.state.value, p.reason, p.note,
                 p.decision, _grant_bytes(p.signed_grant), p.document_hash, p.received_seconds, p.decided_seconds,
                 int(p.logged)),
            )  # fmt: skip
        return proposal

    def proposal(self, job_id: bytes, dataset_id: int) -> StoredProposal | None:
        """One proposal, or None."""
        return self._proposal("job_id = ? AND dataset_id = ?", (job_id, dataset_id))

    def proposal_of_request(self, builder: str, request_id: str, dataset_id: int) -> StoredProposal | None:
        """The proposal that this request made, or None."""
        return self._proposal(
            "builder = ? AND request_id = ? AND dataset_id = ?", (builder, request_id, dataset_id)
        )

    def proposals(self, state: ProposalStatus | None = None) -> list[StoredProposal]:
        """All proposals, or those of one state, oldest first."""
        where, arguments = ("WHERE state = ?", (state.value,)) if state else ("", ())
        with self._guard:
            rows = self._connection.execute(
                f"SELECT * FROM proposals {where} ORDER BY received_seconds, job_id", arguments
            ).fetchall()
        return [_proposal(row) for row in rows]

    def open_proposals(self, builder: str) -> tuple[int, int]:
        """How many proposals wait or are granted and not started: of one builder, and in all."""
        query = (
            "SELECT coalesce(sum(builder = ?), 0), count(*) FROM proposals p WHERE state <> 'refused' AND NOT EXISTS "
            "(SELECT 1 FROM legs l WHERE l.job_id = p.job_id AND l.dataset_id = p.dataset_id)"
        )
        with self._guard:
            mine, all_ = self._connection.execute(query, (builder,)).fetchone()
        return int(mine), int(all_)

    def has_grant(self, builder: str) -> bool:
        """Whether any proposal of a builder has been granted here."""
        query = "SELECT 1 FROM proposals WHERE builder = ? AND state = 'granted' LIMIT 1"
        with self._guard:
            return self._connection.execute(query, (builder,)).fetchone() is not None

    def unsettled(self) -> list[StoredProposal]:
        """Proposals that a person decided, or whose outcome the usage log does not have yet."""
        with self._guard:
            rows = self._connection.execute(
                "SELECT * FROM proposals WHERE (state = 'pending' AND decision <> '') OR (state <> 'pending' AND logged = 0)"
            ).fetchall()
        return [_proposal(row) for row in rows]

    def decide(self, job_id: bytes, dataset_id: int, decision: str, note: str) -> None:
        """Notes a person's decision, ``"grant"`` or ``"refuse"``; the server acts on it.

        Raises:
            InvalidInput: NOT_FOUND when the proposal does not wait in the inbox.
        """
        with self._writing() as connection:
            changed = connection.execute(
                "UPDATE proposals SET decision = ?, note = ? WHERE job_id = ? AND dataset_id = ? AND state = 'pending'",
                (decision, note, job_id, dataset_id),
            ).rowcount
        if changed != 1:
            raise InvalidInput(
                "no such proposal waits in the inbox", reason="NOT_FOUND", dataset_id=dataset_id
            )

    def settle_proposal(
        self, job_id: bytes, dataset_id: int, state: ProposalStatus, *, reason: str = "", note: str = "",
        signed_grant: SignedGrant | None = None, document_hash: bytes = b"", now_seconds: int,
    ) -> StoredProposal:  # fmt: skip
        """Moves a pending proposal to its outcome; one that has an outcome keeps it."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE proposals SET state = ?, reason = ?, note = ?, signed_grant = ?, document_hash = ?, decided_seconds = ? "
                "WHERE job_id = ? AND dataset_id = ? AND state = 'pending'",
                (
                    state.value,
                    reason,
                    note,
                    _grant_bytes(signed_grant),
                    document_hash,
                    now_seconds,
                    job_id,
                    dataset_id,
                ),
            )
        found = self.proposal(job_id, dataset_id)
        assert found is not None
        return found

    def mark_logged(self, job_id: bytes, dataset_id: int) -> None:
        """Notes that the usage log has the proposal's outcome."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE proposals SET logged = 1 WHERE job_id = ? AND dataset_id = ?", (job_id, dataset_id)
            )

    # -- legs ---------------------------------------------------------------------------------------------------

    def start_leg(self, job_id: bytes, dataset_id: int, now_seconds: int) -> StoredLeg:
        """Notes that a leg runs; one that was started before stays as it is."""
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO legs (job_id, dataset_id, state, started_seconds) VALUES (?, ?, 'running', ?)",
                (job_id, dataset_id, now_seconds),
            )
        found = self.leg(job_id, dataset_id)
        assert found is not None
        return found

    def leg(self, job_id: bytes, dataset_id: int) -> StoredLeg | None:
        """One leg, or None when it was never started."""
        with self._guard:
            row = self._connection.execute(
                "SELECT * FROM legs WHERE job_id = ? AND dataset_id = ?", (job_id, dataset_id)
            ).fetchone()
        return _leg(row) if row else None

    def legs(self, *states: LegStatus) -> list[StoredLeg]:
        """All legs, or those in one of ``states``."""
        with self._guard:
            rows = self._connection.execute("SELECT * FROM legs ORDER BY started_seconds, job_id").fetchall()
        return [leg for leg in map(_leg, rows) if not states or leg.state in states]

    def update_leg(self, job_id: bytes, dataset_id: int, **columns: Any) -> StoredLeg:
        """Sets columns of a leg; ``receipt`` takes a :class:`LegReceipt`, ``state`` a :class:`LegStatus`."""
        values = {name: _column(value) for name, value in columns.items()}
        assert values.keys() <= set(StoredLeg.__dataclass_fields__)
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self._writing() as connection:
            connection.execute(
                f"UPDATE legs SET {assignments} WHERE job_id = ? AND dataset_id = ?",
                (*values.values(), job_id, dataset_id),
            )
        found = self.leg(job_id, dataset_id)
        assert found is not None
        return found

    # -- attempts -----------------------------------------------------------------------------------------------

    def note_offer(
        self, job_id: bytes, dataset_id: int, round_: int, attempt: int, offer_hash: bytes
    ) -> StoredAttempt:
        """Binds an attempt to an offer, durably, before it is charged; returns what it was bound to first."""
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO attempts VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                (job_id, dataset_id, round_, attempt, offer_hash),
            )
        return self._noted(job_id, dataset_id, attempt)

    def note_view(
        self, job_id: bytes, dataset_id: int, attempt: int, view_hash: bytes, mask_key: bytes
    ) -> StoredAttempt:
        """Binds an attempt to a view, durably, before anything is encrypted; returns what it was bound to first."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE attempts SET view_hash = ?, mask_key = ? WHERE job_id = ? AND dataset_id = ? AND attempt = ? "
                "AND view_hash IS NULL",
                (view_hash, mask_key, job_id, dataset_id, attempt),
            )
        return self._noted(job_id, dataset_id, attempt)

    def attempt(self, job_id: bytes, dataset_id: int, attempt: int) -> StoredAttempt | None:
        """What an attempt is bound to, or None."""
        query = (
            "SELECT round, offer_hash, view_hash, mask_key FROM attempts "
            "WHERE job_id = ? AND dataset_id = ? AND attempt = ?"
        )
        with self._guard:
            row = self._connection.execute(query, (job_id, dataset_id, attempt)).fetchone()
        return StoredAttempt(row[0], row[1], row[2] or b"", row[3] or b"") if row else None

    def _noted(self, job_id: bytes, dataset_id: int, attempt: int) -> StoredAttempt:
        found = self.attempt(job_id, dataset_id, attempt)
        assert found is not None
        return found

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _proposal(self, where: str, arguments: tuple[Any, ...]) -> StoredProposal | None:
        with self._guard:
            row = self._connection.execute(f"SELECT * FROM proposals WHERE {where}", arguments).fetchone()
        return _proposal(row) if row else None


def _proposal(row: tuple[Any, ...]) -> StoredProposal:
    (
        job,
        dataset,
        request,
        builder,
        spec,
        spec_hash,
        state,
        reason,
        note,
        decision,
        grant,
        document,
        received,
        decided,
        logged,
    ) = row
    return StoredProposal(
        job, dataset, request, builder, spec, spec_hash, ProposalStatus(state), reason, note, decision,
        signed_grant_from_proto(jobs_pb2.SignedGrant.FromString(grant)) if grant else None,
        document or b"", received, decided, bool(logged),
    )  # fmt: skip


def _leg(row: tuple[Any, ...]) -> StoredLeg:
    job, dataset, state, started, ended, rounds, last_round, receipt, receipt_hash, transaction, lower = row
    return StoredLeg(
        job, dataset, LegStatus(state), started, ended, rounds, last_round,
        _receipt(receipt) if receipt else None, receipt_hash or b"", transaction or b"", lower or b"",
    )  # fmt: skip


def _column(value: Any) -> Any:
    if isinstance(value, LegReceipt):
        return json.dumps(
            {k: "0x" + v.hex() if isinstance(v, bytes) else int(v) for k, v in asdict(value).items()}
        )
    return value.value if isinstance(value, StrEnum) else value


def _receipt(text: str) -> LegReceipt:
    raw: dict[str, Any] = {
        k: bytes.fromhex(v[2:]) if isinstance(v, str) else v for k, v in json.loads(text).items()
    }
    return LegReceipt(**raw)


def _grant_bytes(grant: SignedGrant | None) -> bytes | None:
    return signed_grant_to_proto(grant).SerializeToString(deterministic=True) if grant else None
