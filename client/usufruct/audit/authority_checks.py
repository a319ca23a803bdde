"""Who decided what: acceptances, receipts, acknowledgements, lower losses, disputes, withdrawals, usage batches.

Every check here reads the transaction of an event: who sent it, and what is signed in its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from usufruct.audit.books import Books, LegBook
from usufruct.audit.evidence import CallFacts, Evidence
from usufruct.audit.findings import Finding, Place, Severity, at, impossible
from usufruct.chain import (
    LegEntry,
    LegState,
    acceptance_hash,
    acknowledgement_hash,
    decline_hash,
    failure_hash,
    lower_hash,
    signer,
    usage_batch_hash,
)
from usufruct.chain.events import LegDisputed, RecordCalled, UsageBatch, Withdrawn
from usufruct.domain import ids
from usufruct.errors import InvalidInput


def check_authority(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """Every statement about a leg, every usage batch, and what only the sender of a transaction may say."""
    for leg in books.legs.values():
        yield from _check_statements(evidence, books, leg)
        yield from _check_waiting(evidence, books, leg)
    for batches in books.batches.values():
        for batch in batches:
            yield from _check_batch(evidence, books, batch)
    for event in evidence.events:
        if isinstance(event, Withdrawn | LegDisputed | RecordCalled):
            yield from _check_sender(evidence, books, event)


def check_signer(
    evidence: Evidence, kind: str, call: CallFacts, digest: bytes, signature: bytes, expected: str, who: str, place: Place
) -> Iterator[Finding]:  # fmt: skip
    """``expected`` must have sent the transaction or signed in its arguments."""
    signed_by = signer_of(digest, signature)
    if expected in (call.sender, signed_by):
        return
    if not call.direct or expected in evidence.wallets:
        text = f"sent or signed through a contract: that {who} decided it cannot be shown, the contract has checked it"
        yield Finding(kind, place, text, Severity.NOTE)
        return
    text = f"sent by {call.sender}, signed by {signed_by or 'nobody'}; {who} is {expected}"
    yield Finding(kind, place, text)


def signer_of(digest: bytes, signature: bytes) -> str | None:
    """The key that made it; None where no key can have."""
    if len(signature) != 65:
        return None
    try:
        return signer(digest, signature)
    except InvalidInput:
        return None


def _check_batch(evidence: Evidence, books: Books, batch: UsageBatch) -> Iterator[Finding]:
    place = Place(holder_id=batch.holder_id, record=batch.first_sequence, transaction=batch.transaction_hash)
    call = evidence.calls.get(batch.transaction_hash)
    if call is None:
        yield Finding("transaction-missing", place, "the batch's transaction could not be fetched")
        return
    digest = usage_batch_hash(
        batch.holder_id, batch.root, batch.count, batch.prev_root, batch.first_sequence, evidence.chain_id,
        evidence.usage_log,
    )  # fmt: skip
    operator = books.operators.get(batch.transaction_hash, "")
    yield from check_signer(
        evidence, "batch-sender", call, digest, call.statement, operator, "the holder's operator key", place
    )


def _check_sender(
    evidence: Evidence, books: Books, event: Withdrawn | LegDisputed | RecordCalled
) -> Iterator[Finding]:
    """Nobody signs these: the sender of the transaction is who says so."""
    call = evidence.calls.get(event.transaction_hash)
    if call is None:
        yield Finding("transaction-missing", at(event), "a transaction could not be fetched")
        return
    match event:
        case Withdrawn():
            agrees = (call.sender, call.to) == (event.owner, event.to)
        case LegDisputed():
            leg = books.legs.get(ids.leg_id(event.job_id, event.dataset_id))
            payer = leg.entry.payer if leg else ""
            agrees = (call.sender, call.reason_hash) == (payer, event.reason_hash)
        case RecordCalled():
            agrees = call.sender == event.caller
    if call.direct and not agrees:
        yield impossible(event, f"{call.sender} sent the transaction, and says otherwise in it", "sender")


def _check_statements(evidence: Evidence, books: Books, leg: LegBook) -> Iterator[Finding]:
    """Acceptance, receipt, failure, decline, acknowledgement and Lower: each by the key whose decision it is."""
    place_on_chain = (evidence.chain_id, evidence.compute_access)
    locked = leg.locked.leg
    accepted = replace(locked, state=LegState.ACCEPTED)
    leg_id = ids.leg_id(leg.locked.job_id, leg.locked.dataset_id)
    holder = books.holders.get(leg.entry.holder_id)
    operator = leg.operator or (holder.operator if holder else "")
    for event, what, kind in (
        (leg.accepted, "acceptance", "acceptance-signature"),
        (leg.delivered, "delivery", "receipt-signature"),
        (leg.closed, "end", "end-signature"),
    ):
        if event is None:
            continue
        place = replace(leg.place, transaction=event.transaction_hash)
        call = evidence.calls.get(event.transaction_hash)
        if call is None:
            yield Finding("transaction-missing", place, f"the transaction of the {what} could not be fetched")
            continue
        if event is leg.accepted:
            digest = acceptance_hash(locked.stored_hash(), leg.accepted.fencing_epoch, *place_on_chain)
            who = leg.operator_at_acceptance
            yield from check_signer(
                evidence, kind, call, digest, call.statement, who, "the operator key", place
            )
        elif event is leg.delivered:
            digest = leg.delivered.receipt_hash
            yield from check_signer(
                evidence, kind, call, digest, call.statement, operator, "the operator key", place
            )
            yield from _check_lower(evidence, leg, call, leg.delivered.receipt.loss_micro, place)
        elif leg.closed is not None:
            yield from _check_end(evidence, leg, call, accepted, leg_id, place)


def _check_end(
    evidence: Evidence, leg: LegBook, call: CallFacts, accepted: LegEntry, leg_id: bytes, place: Place
) -> Iterator[Finding]:
    """The last step of a leg, where it needed somebody's word."""
    on_chain = (evidence.chain_id, evidence.compute_access)
    entry = leg.entry
    match entry.state:
        case LegState.ACKNOWLEDGED:
            digest = acknowledgement_hash(leg_id, entry.receipt_hash, *on_chain)
            yield from check_signer(
                evidence,
                "acknowledgement-signature",
                call,
                digest,
                call.acknowledgement,
                entry.builder,
                "the builder",
                place,
            )
        case LegState.DECLINED:
            digest = decline_hash(leg.locked.leg.stored_hash(), *on_chain)
            who = leg.operator_at_end
            yield from check_signer(
                evidence, "end-signature", call, digest, call.statement, who, "the operator key", place
            )
        case LegState.FAILED:
            digest = failure_hash(accepted.stored_hash(), entry.loss_micro, call.fencing_epoch, *on_chain)
            who = leg.operator_at_end
            yield from check_signer(
                evidence, "end-signature", call, digest, call.statement, who, "the operator key", place
            )
            yield from _check_lower(evidence, leg, call, entry.loss_micro, place)
            if call.direct and call.fencing_epoch != leg.fencing_epoch:
                text = f"failed in fencing epoch {call.fencing_epoch}, {leg.fencing_epoch} was in force"
                yield Finding("fencing-epoch", place, text)
        case LegState.CANCELLED if call.direct and call.sender not in (entry.payer, entry.builder):
            yield Finding(
                "end-signature", place, f"cancelled by {call.sender}, who neither built nor paid for it"
            )
        case LegState.RESOLVED if call.direct and call.sender != entry.arbiter:
            yield Finding(
                "end-signature", place, f"resolved by {call.sender}; the arbiter is {entry.arbiter}"
            )


def _check_lower(
    evidence: Evidence, leg: LegBook, call: CallFacts, loss_micro: int, place: Place
) -> Iterator[Finding]:
    """Less than the reservation is spent only with the builder's own signature, whoever sends it."""
    if loss_micro >= leg.reserved_micro:
        return
    leg_id = ids.leg_id(leg.locked.job_id, leg.locked.dataset_id)
    digest = lower_hash(leg_id, loss_micro, evidence.chain_id, evidence.compute_access)
    signed_by = signer_of(digest, call.lower)
    if signed_by == leg.entry.builder:
        return
    unknown = not call.direct or leg.entry.builder in evidence.wallets
    text = f"it spends {loss_micro} of {leg.reserved_micro} reserved; the builder's consent is " + (
        "a contract wallet's, which the contract has checked"
        if unknown
        else f"signed by {signed_by or 'nobody'}"
    )
    yield Finding("lower-signature", place, text, Severity.NOTE if unknown else Severity.DISCREPANCY)


def _check_waiting(evidence: Evidence, books: Books, leg: LegBook) -> Iterator[Finding]:
    """Notes about legs that anyone may push on."""
    entry, now = leg.entry, evidence.block_time_seconds
    job = books.jobs.get(entry.job_id)
    text = ""
    match entry.state:
        case LegState.LOCKED | LegState.ACCEPTED if (
            job is not None and now > job.opened.accept_by_seconds
            and (entry.state is LegState.LOCKED or job.started is None)
        ):  # fmt: skip
            text = "not accepted in time, or too few others were: anyone may release it"
        case LegState.ACCEPTED if now > entry.deliver_by_seconds:
            text = "never delivered, and its deadline has passed: anyone may expire it"
        case LegState.DELIVERED if now > entry.until_seconds:
            text = "delivered, and its challenge window is over: anyone may settle it"
        case LegState.DELIVERED:
            text = "delivered, and not acknowledged by the builder yet"
        case LegState.DISPUTED if now > entry.until_seconds:
            text = "disputed, and the arbiter's time is over: anyone may refund it"
        case LegState.DISPUTED:
            text = "disputed, and not decided yet"
    if text:
        yield Finding("leg-waiting", leg.place, text, Severity.NOTE)
