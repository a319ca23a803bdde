"""Who signed what, and what was paid for it: grants, receipts, acknowledgements, usage batches, payments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from usufruct.audit.books import Books, LegBook
from usufruct.audit.evidence import CallFacts, Evidence
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.chain import LegState, acknowledgement_hash, grant_hash, signer
from usufruct.domain import ids
from usufruct.domain.grant import SignedGrant
from usufruct.errors import InvalidInput


def check_authority(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """Every leg's grant, receipt, acknowledgement and money, and who appended each usage batch."""
    for leg in books.legs.values():
        yield from _check_grant(evidence, books, leg)
        yield from _check_delivery(evidence, leg)
        yield from _check_payment(evidence, leg)
    for job in books.jobs.values():
        call = evidence.calls.get(job.transaction_hash)
        place = Place(job_id=job.job_id, transaction=job.transaction_hash)
        if call is None:
            yield Finding(
                "transaction-missing", place, "the transaction that opened the job could not be fetched"
            )
        elif call.direct and call.sender != job.builder:
            yield Finding("job-sender", place, f"opened by {call.sender}, who is not its builder")
    for holder_id, batches in books.batches.items():
        for batch in batches:
            call = evidence.calls.get(batch.transaction_hash)
            place = Place(
                holder_id=holder_id, record=batch.first_sequence, transaction=batch.transaction_hash
            )
            operator = books.operators.get(batch.transaction_hash, "")
            if call is None:
                yield Finding("transaction-missing", place, "the batch's transaction could not be fetched")
            elif call.direct and call.sender != operator:
                yield Finding(
                    "batch-sender", place, f"appended by {call.sender}, who is not the holder's operator key"
                )


def _check_grant(evidence: Evidence, books: Books, leg: LegBook) -> Iterator[Finding]:
    entry, place = leg.entry, replace(leg.place, transaction=leg.locked.transaction_hash)
    call = evidence.calls.get(leg.locked.transaction_hash)
    if call is None or not call.direct:
        if call is not None:
            text = "the job was opened through another contract: its grants cannot be shown, the contract has checked them"
            yield Finding("grant-unseen", place, text, Severity.NOTE)
        return
    matching = [
        s
        for s in call.grants
        if grant_hash(s.grant, evidence.chain_id, evidence.registry) == entry.grant_hash
    ]
    if not matching:
        yield Finding("grant-missing", place, "no grant in the transaction has the hash that the leg names")
        return
    signed = matching[0]
    job = books.jobs.get(leg.locked.job_id)
    for text in _grant_terms(signed, leg, job.purpose_hash if job else b""):
        yield Finding("grant-terms", place, text)
    signed_by = _signer(entry.grant_hash, signed.signature)
    if signed_by != leg.operator_at_lock:
        text = f"the grant is signed by {signed_by or 'no key'}, the operator key was {leg.operator_at_lock}"
        yield Finding("grant-signature", place, text)


def _grant_terms(signed: SignedGrant, leg: LegBook, purpose_hash: bytes) -> Iterator[str]:
    grant, entry = signed.grant, leg.entry
    if (grant.dataset_id, grant.grantee) != (entry.dataset_id, entry.builder):
        yield "the grant is for another dataset or builder"
    if grant.spec_hash not in (ids.ZERO_HASH, entry.spec_hash) or grant.purpose_hash != purpose_hash:
        yield "the grant is for another spec or purpose"
    if (grant.token, grant.price_units) != (entry.token, entry.price_units):
        yield f"the grant's price is {grant.price_units}, {entry.price_units} were locked"
    if entry.loss_reserved_micro > min(grant.loss_per_job_micro, grant.loss_total_micro):
        yield f"the grant allows {grant.loss_per_job_micro} for a job, {entry.loss_reserved_micro} were reserved"


def _check_delivery(evidence: Evidence, leg: LegBook) -> Iterator[Finding]:
    event = leg.delivered
    if event is None:
        return
    place = replace(leg.place, transaction=event.transaction_hash)
    call = evidence.calls.get(event.transaction_hash)
    if call is None:
        yield Finding("transaction-missing", place, "the transaction of the delivery could not be fetched")
        return
    yield from _check_signer(
        "receipt-signature", call, event.receipt_hash, leg.operator, "the operator key", place
    )


def _check_payment(evidence: Evidence, leg: LegBook) -> Iterator[Finding]:
    entry, paid, refunded = leg.entry, leg.paid, leg.refunded
    if paid is not None:
        place = replace(leg.place, transaction=paid.transaction_hash)
        if (paid.holder_id, paid.token, paid.units) != (entry.holder_id, entry.token, entry.price_units):
            text = (
                f"{paid.units} units were paid to holder {paid.holder_id}, the price is {entry.price_units}"
            )
            yield Finding("payment-differs", place, text)
        call = evidence.calls.get(paid.transaction_hash)
        if call is None:
            yield Finding(
                "transaction-missing", place, "the transaction of the acknowledgement could not be fetched"
            )
        else:
            leg_id = ids.leg_id(entry.job_id, entry.dataset_id)
            digest = acknowledgement_hash(
                leg_id, entry.receipt_hash, evidence.chain_id, evidence.compute_access
            )
            yield from _check_signer(
                "acknowledgement-signature", call, digest, entry.builder, "the builder", place
            )
    if refunded is not None:
        place = replace(leg.place, transaction=refunded.transaction_hash)
        expected = (entry.payer, entry.token, entry.price_units, entry.loss_reserved_micro)
        if (refunded.payer, refunded.token, refunded.units, refunded.loss_spent_micro) != expected:
            yield Finding("refund-differs", place, "payer, amount or loss of the refund are not the leg's")
    if entry.state is LegState.DELIVERED:
        yield Finding(
            "leg-unpaid", leg.place, "delivered, and not acknowledged by the builder", Severity.NOTE
        )
    if entry.state is LegState.LOCKED and evidence.block_time_seconds > entry.deliver_by_seconds:
        text = "never delivered, and its deadline has passed: anyone may have it refunded"
        yield Finding("leg-expired", leg.place, text, Severity.NOTE)


def _check_signer(
    kind: str, call: CallFacts, digest: bytes, expected: str, who: str, place: Place
) -> Iterator[Finding]:
    """``expected`` must have sent the transaction or signed in its arguments."""
    signed_by = _signer(digest, call.signature)
    if expected in (call.sender, signed_by):
        return
    if not call.direct:
        text = (
            f"sent through another contract: that {who} signed cannot be shown, the contract has checked it"
        )
        yield Finding(kind, place, text, Severity.NOTE)
        return
    yield Finding(
        kind, place, f"sent by {call.sender}, signed by {signed_by or 'nobody'}; {who} is {expected}"
    )


def _signer(digest: bytes, signature: bytes) -> str | None:
    if len(signature) != 65:
        return None
    try:
        return signer(digest, signature)
    except InvalidInput:
        return None
