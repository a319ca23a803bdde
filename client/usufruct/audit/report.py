"""What the auditor reads: the log of every use, the budgets, and the verdict in words. Also as plain data for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from usufruct.audit.books import LegBook
from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding
from usufruct.audit.reconcile import Judgement
from usufruct.audit.usage_log import ReadRecord
from usufruct.domain.ids import leg_id, to_hex
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import UsufructError
from usufruct.privacy import epsilon

DEFAULT_DELTA = 1e-5


def verdict(judgement: Judgement) -> str:
    """The verdict in one sentence."""
    counted = counts(judgement)
    if judgement.verified:
        waiting = (
            f" ({counted['records_waiting']} of them wait for their root)"
            if counted["records_waiting"]
            else ""
        )
        return (
            f"Verified: {_number(counted['jobs'], 'job')}, {_number(counted['legs'], 'leg')}, "
            f"{_number(counted['records'], 'usage record')}{waiting}, {_number(counted['receipts'], 'receipt')} recomputed, "
            f"{_number(counted['payments'], 'payment')}; nothing differs."
        )
    found = judgement.discrepancies
    return f"NOT verified: {_number(len(found), 'finding')}; the first: {found[0]}"


def counts(judgement: Judgement) -> dict[str, int]:
    """How much was looked at."""
    legs = judgement.books.legs.values()
    kinds = Counter(entry.record.kind for entry in judgement.records)
    return {
        "holders": len(judgement.books.holders),
        "datasets": len(judgement.books.datasets),
        "jobs": len(judgement.books.jobs),
        "legs": len(legs),
        "receipts": sum(1 for leg in legs if leg.delivered),
        "payments": sum(1 for leg in legs if leg.closed and leg.closed.holder_units),
        "refunds": sum(1 for leg in legs if leg.closed and leg.closed.payer_units),
        "batches": sum(len(batches) for batches in judgement.books.batches.values()),
        "records": len(judgement.records),
        "records_waiting": sum(1 for entry in judgement.records if not entry.root),
        "attempts_charged": kinds[UsageKind.CHARGED],
        "refusals": kinds[UsageKind.REFUSED],
    }


def budgets(evidence: Evidence, delta: float) -> list[dict[str, Any]]:
    """One row per dataset, from storage: budget, what is used of it, and its translation into epsilon at ``delta``."""
    rows = []
    for dataset_id, stored in sorted(evidence.storage.datasets.items()):
        used = stored.spent_micro + stored.reserved_micro
        rows.append(
            {
                "dataset_id": dataset_id,
                "holder_id": stored.holder_id,
                "order": stored.order,
                "cap_micro": stored.cap_micro,
                "committed_micro": stored.spent_micro,
                "reserved_micro": stored.reserved_micro,
                "left_micro": stored.cap_micro - used,
                "delta": delta,
                "epsilon_committed": _epsilon(stored.spent_micro, stored.order, delta),
                "epsilon_cap": _epsilon(stored.cap_micro, stored.order, delta),
            }
        )
    return rows


def legs(evidence: Evidence, judgement: Judgement, delta: float) -> list[dict[str, Any]]:
    """One row per leg: grant, state, money, loss."""
    return [_leg(evidence, leg, delta) for leg in judgement.books.legs.values()]


def jobs(judgement: Judgement) -> list[dict[str, Any]]:
    """One row per job."""
    return [
        {
            "job_id": to_hex(job_id),
            "builder": job.opened.builder,
            "spec_hash": to_hex(job.opened.spec_hash),
            "purpose_hash": to_hex(job.opened.purpose_hash),
            "block": job.opened.block_number,
            "transaction": to_hex(job.opened.transaction_hash),
            "accept_by_seconds": job.opened.accept_by_seconds,
            "min_legs": job.opened.min_legs,
            "legs": job.opened.legs,
            "accepted": job.accepted,
            "states": dict(Counter(leg.entry.state.name for leg in judgement.books.legs_of(job_id))),
        }
        for job_id, job in judgement.books.jobs.items()
    ]


def usage(judgement: Judgement) -> list[dict[str, Any]]:
    """One row per usage record, refusals too."""
    return [_record(entry) for entry in judgement.records]


def calls(judgement: Judgement) -> list[dict[str, Any]]:
    """One row per usage record that somebody called for on chain."""
    return [
        {
            "holder_id": holder_id,
            "sequence": sequence,
            "state": call.state.name,
            "answer_by_seconds": call.answer_by_seconds,
            "was_silent": call.silent,
        }
        for (holder_id, sequence), call in judgement.books.calls.items()
    ]


def money(judgement: Judgement) -> list[dict[str, Any]]:
    """One row per deposit and per holder's earnings."""
    books = judgement.books
    rows: list[dict[str, Any]] = [
        {"account": owner, "token": token, "deposit_units": units}
        for (token, owner), units in books.deposits.items()
    ]
    for (token, holder_id), units in books.earnings.items():
        withdrawn = books.withdrawn.get((token, holder_id), 0)
        rows.append(
            {
                "holder_id": holder_id,
                "token": token,
                "earned_units": units + withdrawn,
                "withdrawn_units": withdrawn,
            }
        )
    return rows


@dataclass(frozen=True)
class Only:
    """What is to be shown. ``job`` is the beginning of a job's id; what is not set allows any."""

    job: str = ""
    dataset: int | None = None
    holder: int | None = None

    def of(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that fit; a row that names no holder, say, fits every holder."""
        return [
            row
            for row in rows
            if row.get("job_id", self.job).startswith(self.job)
            and self.dataset in (None, row.get("dataset_id", self.dataset))
            and self.holder in (None, row.get("holder_id", self.holder))
        ]

    def findings(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings whose place fits; one that names no holder, say, fits every holder."""
        return [
            finding
            for finding in findings
            if finding.place.job_id is None or to_hex(finding.place.job_id).startswith(self.job)
            if self.dataset in (None, finding.place.dataset_id or self.dataset)
            if self.holder in (None, finding.place.holder_id or self.holder)
        ]


def as_dict(evidence: Evidence, judgement: Judgement, delta: float, only: Only = Only()) -> dict[str, Any]:
    """The verdict, which is on everything, and what it rests on, for JSON."""
    return {
        "verified": judgement.verified,
        "verdict": verdict(judgement),
        **network(evidence),
        "counts": counts(judgement),
        "datasets": only.of(budgets(evidence, delta)),
        "findings": [finding.as_dict() for finding in only.findings(judgement.discrepancies)],
        "notes": [finding.as_dict() for finding in only.findings(judgement.notes)],
    }


def log_as_dict(
    evidence: Evidence, judgement: Judgement, delta: float, only: Only = Only()
) -> dict[str, Any]:
    """Every job, leg, grant, loss, payment and refusal, for JSON."""
    wanted = only.of(legs(evidence, judgement, delta))
    shown = {leg["job_id"] for leg in wanted}
    return {
        **network(evidence),
        "jobs": [job for job in only.of(jobs(judgement)) if job["job_id"] in shown],
        "legs": wanted,
        "usage": only.of(usage(judgement)),
        "calls": only.of(calls(judgement)),
        "money": only.of(money(judgement)),
        "datasets": only.of(budgets(evidence, delta)),
        "unreadable": [
            finding.as_dict() for finding in judgement.findings if finding.kind.startswith("record-")
        ],
    }


def network(evidence: Evidence) -> dict[str, Any]:
    """Which network, and the final block everything was read at."""
    return {
        "chain_id": evidence.chain_id,
        "compute_access": evidence.compute_access,
        "block": evidence.block_number,
        "block_time": utc(evidence.block_time_seconds),
    }


def utc(seconds: int) -> str:
    """UTC time as text; the number itself where it is no time that a calendar knows."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _leg(evidence: Evidence, leg: LegBook, delta: float) -> dict[str, Any]:
    entry = leg.entry
    dataset = evidence.storage.datasets.get(entry.dataset_id)
    receipt = leg.delivered.receipt if leg.delivered else None
    committed, closed = leg.committed_micro, leg.closed
    return {
        "job_id": to_hex(entry.job_id),
        "leg_id": to_hex(leg_id(leg.locked.job_id, leg.locked.dataset_id)),
        "dataset_id": entry.dataset_id,
        "holder_id": entry.holder_id,
        "builder": entry.builder,
        "payer": entry.payer,
        "arbiter": entry.arbiter,
        "state": entry.state.name,
        "grant_hash": to_hex(entry.grant_hash),
        "token": entry.token,
        "price_units": entry.price_units,
        "fee_bps": entry.fee_bps,
        "paid_units": closed.holder_units if closed else 0,
        "fee_units": closed.fee_units if closed else 0,
        "refunded_units": closed.payer_units if closed else 0,
        "bond_units": leg.disputed.bond_units if leg.disputed else 0,
        "order": dataset.order if dataset else 0,
        "loss_reserved_micro": leg.reserved_micro,
        "loss_committed_micro": committed,
        "delta": delta,
        "epsilon": _epsilon(committed, dataset.order, delta) if dataset else None,
        "attempts_charged": receipt.attempts_charged if receipt else None,
        "attempts_reserved": receipt.attempts_reserved if receipt else None,
        "rounds_done": receipt.rounds_done if receipt else None,
        "mechanism": receipt.mechanism if receipt else None,
        "noise_multiplier_micro": receipt.noise_multiplier_micro if receipt else None,
        "min_honest": receipt.min_honest if receipt else None,
        "max_colluding": receipt.max_colluding if receipt else None,
        "receipt_hash": to_hex(entry.receipt_hash) if receipt else None,
        "opened_in": to_hex(leg.locked.transaction_hash),
        "delivered_in": to_hex(leg.delivered.transaction_hash) if leg.delivered else None,
        "accepted_in": to_hex(leg.accepted.transaction_hash) if leg.accepted else None,
        "closed_in": to_hex(closed.transaction_hash) if closed else None,
    }


def _record(entry: ReadRecord) -> dict[str, Any]:
    record = entry.record
    return {
        "holder_id": entry.holder_id,
        "sequence": record.sequence,
        "time": utc(record.time_seconds),
        "kind": record.kind.name,
        "dataset_id": record.dataset_id,
        "job_id": to_hex(record.job_id) if record.job_id else "",
        "builder": record.builder,
        "round": record.round,
        "attempt": record.attempt,
        "loss_micro": record.loss_micro,
        "reason": record.reason,
        "document_hash": to_hex(record.document_hash) if record.document_hash else "",
        "upload_digest": to_hex(record.upload_digest) if record.upload_digest else "",
        "sum_digest": to_hex(record.sum_digest) if record.sum_digest else "",
        "root": to_hex(entry.root) if entry.root else "",
    }


def _epsilon(loss_micro: int, order: int, delta: float) -> float | None:
    """None where nothing was lost: the translation states its floor even then."""
    if loss_micro == 0:
        return None
    try:
        return epsilon(loss_micro, order, delta)
    except UsufructError:
        return None


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
