"""A leg's receipt: checked, field by field, against the spec and what this builder saw."""

from __future__ import annotations

from typing import Any

from usufruct.builder.book import JobBook
from usufruct.builder.store import JobState
from usufruct.chain import Chain, LegEntry, receipt_hash
from usufruct.chain.events import LegDelivered
from usufruct.domain import ids
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
)
from usufruct.domain.training_job import LegTerms, TrainingJobSpec
from usufruct.errors import ChainError
from usufruct.privacy import receipt_figures
from usufruct.wire import jobs


def receipt_on_chain(chain: Chain, leg: LegEntry) -> LegReceipt:
    """The receipt of a delivered leg, whose EIP-712 hash is the one that the contract stores.

    Raises:
        ChainError: the node has no such event.
    """
    dataset = leg.dataset_id.to_bytes(32, "big")
    for event in chain.find_events("ComputeAccess", "LegDelivered", leg.job_id, dataset):
        if not isinstance(event, LegDelivered):
            continue
        if receipt_hash(event.receipt, chain.chain_id, chain.compute_access) == leg.receipt_hash:
            return event.receipt
    raise ChainError("The node has no event for a receipt that its storage names; use another node.")


def findings_in(book: JobBook, leg: LegEntry, receipt: LegReceipt, fencing_epoch: int) -> tuple[str, ...]:
    """:func:`check_receipt` for a leg of this book."""
    return check_receipt(book.spec, book.spec_bytes, book.state, leg, receipt, fencing_epoch)


def check_receipt(
    spec: TrainingJobSpec,
    spec_bytes: bytes,
    state: JobState,
    leg: LegEntry,
    receipt: LegReceipt,
    fencing_epoch: int,
) -> tuple[str, ...]:
    """What a receipt says otherwise than the spec and this builder's own record; empty when all is well.

    Args:
        fencing_epoch: the holder's, at the time of the receipt.
    """
    terms = spec.leg(leg.dataset_id)
    wanted: dict[str, Any] = {
        "version": RECEIPT_VERSION,
        "accountant_version": ACCOUNTANT_VERSION,
        "fencing_epoch": fencing_epoch,
        "leg_id": ids.leg_id(spec.job_id, leg.dataset_id),
        "job_id": spec.job_id,
        "dataset_id": leg.dataset_id,
        "spec_hash": jobs.spec_hash(spec_bytes),
        "grant_hash": leg.grant_hash,
        **receipt_figures(spec, leg.dataset_id),
    }
    findings = [
        f"{field} is {_shown(getattr(receipt, field))}, expected {_shown(value)}"
        for field, value in wanted.items()
        if getattr(receipt, field) != value
    ]
    if not state.rounds_done <= receipt.rounds_done <= state.rounds_done + bool(state.ended_early):
        findings.append(f"rounds_done is {receipt.rounds_done}, expected {state.rounds_done}")
    seen = int(state.attempts_charged.get(str(leg.dataset_id), 0))
    if not seen <= receipt.attempts_charged < state.next_attempt:
        findings.append(
            f"attempts_charged is {receipt.attempts_charged}, and {seen} to {state.next_attempt - 1} were sent"
        )
    else:
        whole = spec.reservation_micro(leg.dataset_id)
        charged = receipt.attempts_charged * terms.loss_per_attempt_micro
        if receipt.loss_micro not in (whole, charged):
            findings.append(
                f"loss_micro is {receipt.loss_micro}, expected {whole}, or {charged} for what was charged"
            )
    return tuple(findings)


def agreed_loss_micro(spec: TrainingJobSpec, state: JobState, terms: LegTerms, attempts_charged: int) -> int:
    """What a leg has spent, if its holder says of its charges what this builder knows; else its whole reservation.

    *Guarantee*: never below what this builder has seen charged, so that its consent cannot undercount.

    Args:
        attempts_charged: as the holder says now.
    """
    seen = int(state.attempts_charged.get(str(terms.dataset_id), 0))
    if not seen <= attempts_charged < state.next_attempt:
        return spec.reservation_micro(terms.dataset_id)
    return attempts_charged * terms.loss_per_attempt_micro


def _shown(value: Any) -> str:
    return ids.to_hex(value) if isinstance(value, bytes) else str(value)
