"""Who signed what: grants, sponsorships, acceptances, receipts, acknowledgements, lower losses, usage batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from usufruct.audit.books import Books, JobBook, LegBook
from usufruct.audit.evidence import CallFacts, Evidence
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.chain import (
    LegEntry,
    LegState,
    acceptance_hash,
    acknowledgement_hash,
    decline_hash,
    failure_hash,
    grant_hash,
    lower_hash,
    signer,
    sponsorship_hash,
    usage_batch_hash,
)
from usufruct.domain import ids
from usufruct.domain.grant import SignedGrant
from usufruct.errors import InvalidInput


def check_authority(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """Every leg's grant and statements, and who opened each job and appended each usage batch."""
    for leg in books.legs.values():
        yield from _check_grant(evidence, books, leg)
        yield from _check_statements(evidence, books, leg)
        yield from _check_waiting(evidence, books, leg)
    for job in books.jobs.values():
        yield from _check_opening(evidence, books, job)
    for holder_id, batches in books.batches.items():
        for batch in batches:
            place = Place(
                holder_id=holder_id, record=batch.first_sequence, transaction=batch.transaction_hash
            )
            call = evidence.calls.get(batch.transaction_hash)
            if call is None:
                yield Finding("transaction-missing", place, "the batch's transaction could not be fetched")
                continue
            digest = usage_batch_hash(
                holder_id, batch.root, batch.count, batch.prev_root, batch.first_sequence, evidence.chain_id,
                evidence.usage_log,
            )  # fmt: skip
            operator = books.operators.get(batch.transaction_hash, "")
            yield from _check_signer(
                "batch-sender", call, digest, call.statement, operator, "the holder's operator key", place
            )


def _check_opening(evidence: Evidence, books: Books, job: JobBook) -> Iterator[Finding]:
    """The builder opened the job, and whoever pays for it agreed."""
    opened = job.opened
    place = Place(job_id=opened.job_id, transaction=opened.transaction_hash)
    call = evidence.calls.get(opened.transaction_hash)
    if call is None:
        yield Finding(
            "transaction-missing", place, "the transaction that opened the job could not be fetched"
        )
        return
    if not call.direct:
        return
    if call.sender != opened.builder:
        yield Finding("job-sender", place, f"opened by {call.sender}, who is not its builder")
    payers = {leg.entry.payer for leg in books.legs_of(opened.job_id)}
    if payers <= {opened.builder}:
        return
    signed = call.sponsorship
    if signed is None or payers != {signed.sponsorship.payer}:
        yield Finding("sponsorship", place, "paid for by somebody who signed no sponsorship of it")
        return
    digest = sponsorship_hash(signed.sponsorship, evidence.chain_id, evidence.compute_access)
    legs = books.legs_of(opened.job_id)
    units = sum(leg.entry.price_units for leg in legs)
    if (signed.sponsorship.job_id, signed.sponsorship.spec_hash) != (opened.job_id, opened.spec_hash) or (
        units > signed.sponsorship.units or {leg.entry.token for leg in legs} != {signed.sponsorship.token}
    ):
        yield Finding(
            "sponsorship", place, "the sponsorship is for another job, another token, or less money"
        )
    if _signer(digest, signed.signature) != signed.sponsorship.payer:
        text = "the sponsorship does not bear its payer's own signature; a contract wallet's cannot be shown"
        yield Finding(
            "sponsorship",
            place,
            text,
            Severity.NOTE if _is_wallet(signed.signature) else Severity.DISCREPANCY,
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
    for text in _grant_terms(signed, leg, job.opened.purpose_hash if job else b""):
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
    if leg.reserved_micro > min(grant.loss_per_job_micro, grant.loss_total_micro):
        yield f"the grant allows {grant.loss_per_job_micro} for a job, {leg.reserved_micro} were reserved"


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
            yield from _check_signer(kind, call, digest, call.statement, who, "the operator key", place)
        elif event is leg.delivered:
            digest = leg.delivered.receipt_hash
            yield from _check_signer(kind, call, digest, call.statement, operator, "the operator key", place)
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
            yield from _check_signer(
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
            yield from _check_signer(
                "end-signature", call, digest, call.statement, who, "the operator key", place
            )
        case LegState.FAILED:
            digest = failure_hash(accepted.stored_hash(), entry.loss_micro, call.fencing_epoch, *on_chain)
            who = leg.operator_at_end
            yield from _check_signer(
                "end-signature", call, digest, call.statement, who, "the operator key", place
            )
            yield from _check_lower(evidence, leg, call, entry.loss_micro, place)
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
    signed_by = _signer(digest, call.lower)
    if signed_by == leg.entry.builder:
        return
    unknown = not call.direct or _is_wallet(call.lower)
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


def _check_signer(
    kind: str, call: CallFacts, digest: bytes, signature: bytes, expected: str, who: str, place: Place
) -> Iterator[Finding]:
    """``expected`` must have sent the transaction or signed in its arguments."""
    signed_by = _signer(digest, signature)
    if expected in (call.sender, signed_by):
        return
    if not call.direct or _is_wallet(signature):
        text = f"sent or signed through a contract: that {who} decided it cannot be shown, the contract has checked it"
        yield Finding(kind, place, text, Severity.NOTE)
        return
    text = f"sent by {call.sender}, signed by {signed_by or 'nobody'}; {who} is {expected}"
    yield Finding(kind, place, text)


def _is_wallet(signature: bytes) -> bool:
    """Whether it can only be a contract wallet's: those may sign with anything but the 65 bytes of a key."""
    return bool(signature) and len(signature) != 65


def _signer(digest: bytes, signature: bytes) -> str | None:
    if len(signature) != 65:
        return None
    try:
        return signer(digest, signature)
    except InvalidInput:
        return None
