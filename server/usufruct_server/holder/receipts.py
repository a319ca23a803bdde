"""Writes leg receipts: everything that recomputing a leg's loss needs."""

from __future__ import annotations

from usufruct.domain import ids
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    updates_hash,
)
from usufruct.domain.usage_record import UsageKind
from usufruct.privacy import receipt_figures
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.job_store import StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.usage_log import UsageLog


def write_receipt(
    proposal: StoredProposal,
    leg: StoredLeg,
    loss_micro: int,
    fencing_epoch: int,
    *,
    ledger: Ledger,
    usage: UsageLog,
    publisher: Publisher,
) -> LegReceipt:
    """The receipt of a leg whose rounds have ended and whose usage records are published.

    Args:
        loss_micro: what the leg spends, 10^-6 nat.
    """
    spec = proposal.spec
    last = usage.last_sequence(leg.dataset_id, leg.job_id)
    assert leg.ended_seconds is not None
    assert leg.rounds_done is not None
    return LegReceipt(
        version=RECEIPT_VERSION,
        accountant_version=ACCOUNTANT_VERSION,
        fencing_epoch=fencing_epoch,
        leg_id=ids.leg_id(leg.job_id, leg.dataset_id),
        job_id=leg.job_id,
        dataset_id=leg.dataset_id,
        spec_hash=proposal.spec_hash,
        grant_hash=proposal.document_hash,
        attempts_charged=ledger.leg(leg.dataset_id, leg.job_id).charged,
        rounds_done=leg.rounds_done,
        loss_micro=loss_micro,
        usage_head=publisher.root_with(last) if last is not None else bytes(32),
        updates_hash=_updates_hash(leg, ledger),
        started_seconds=leg.started_seconds,
        ended_seconds=leg.ended_seconds,
        **receipt_figures(spec, leg.dataset_id),
    )


def _updates_hash(leg: StoredLeg, ledger: Ledger) -> bytes:
    """Over the SUBMITTED records of the leg, in their order."""
    digests: list[bytes] = []
    position = 0
    while page := ledger.usage_records(position, 1000):
        for record in map(record_from_bytes, page):
            mine = (record.dataset_id, record.job_id) == (leg.dataset_id, leg.job_id)
            if mine and record.kind is UsageKind.SUBMITTED:
                digests.append(record.upload_digest)
        position += len(page)
    return updates_hash(digests)
