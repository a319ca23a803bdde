"""By whose permission a leg was opened, and by whose money: the job's builder, its grants, its sponsorship."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from usufruct.audit.authority_checks import signer_of
from usufruct.audit.books import Books, JobBook, LegBook
from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding, Place, Severity, at, impossible
from usufruct.chain import grant_hash, sponsorship_hash
from usufruct.chain.events import GrantCancelled
from usufruct.domain import ids
from usufruct.domain.grant import Grant, SignedSponsorship


def check_grants(evidence: Evidence, books: Books) -> Iterator[Finding]:
    """Every job's opening and every leg's grant."""
    for job in books.jobs.values():
        yield from _check_opening(evidence, books, job)
    for leg in books.legs.values():
        yield from _check_grant(evidence, books, leg)
    for event in evidence.events:
        if isinstance(event, GrantCancelled):
            yield from _check_cancelled(evidence, event)


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
    legs = books.legs_of(opened.job_id)
    payers = {leg.entry.payer for leg in legs}
    if payers <= {opened.builder}:
        return
    if call.sponsorship is None or payers != {call.sponsorship.sponsorship.payer}:
        yield Finding("sponsorship", place, "paid for by somebody who signed no sponsorship of it")
        return
    now = evidence.block_times.get(opened.block_number, 0)
    for text in _sponsorship_terms(call.sponsorship, job, legs, now):
        yield Finding("sponsorship", place, text)
    digest = sponsorship_hash(call.sponsorship.sponsorship, evidence.chain_id, evidence.compute_access)
    payer = call.sponsorship.sponsorship.payer
    if signer_of(digest, call.sponsorship.signature) != payer:
        text = f"the sponsorship does not bear the signature of its payer {payer}"
        yield Finding("sponsorship", place, text, _unless_wallet(evidence, payer))


def _sponsorship_terms(
    signed: SignedSponsorship, job: JobBook, legs: list[LegBook], now: int
) -> Iterator[str]:
    promise = signed.sponsorship
    if (promise.job_id, promise.spec_hash) != (job.opened.job_id, job.opened.spec_hash):
        yield "the sponsorship is for another job or spec"
    if {leg.entry.token for leg in legs} != {promise.token}:
        yield "the sponsorship is in another token"
    units = sum(leg.entry.price_units for leg in legs)
    if units > promise.units:
        yield f"{units} units were locked, the sponsorship is for {promise.units}"
    if now > promise.deadline_seconds:
        yield "the sponsorship had run out"


def _check_grant(evidence: Evidence, books: Books, leg: LegBook) -> Iterator[Finding]:
    entry, place = leg.entry, replace(leg.place, transaction=leg.locked.transaction_hash)
    call = evidence.calls.get(leg.locked.transaction_hash)
    if call is None or not call.direct:
        if call is not None:
            text = "the job was opened through another contract: its grants cannot be shown, the contract has checked them"
            yield Finding("grant-unseen", place, text, Severity.NOTE)
        return
    matching = [
        signed
        for signed in call.grants
        if grant_hash(signed.grant, evidence.chain_id, evidence.registry) == entry.grant_hash
    ]
    if not matching:
        yield Finding("grant-missing", place, "no grant in the transaction has the hash that the leg names")
        return
    signed, job = matching[0], books.jobs.get(leg.locked.job_id)
    now = evidence.block_times.get(leg.locked.block_number, 0)
    for text in _grant_terms(signed.grant, leg, job.opened.purpose_hash if job else b""):
        yield Finding("grant-terms", place, text)
    for text in _grant_limits(signed.grant, leg, now):
        yield Finding("grant-limits", place, text)
    signed_by = signer_of(entry.grant_hash, signed.signature)
    if signed_by != leg.operator_at_lock:
        text = f"the grant is signed by {signed_by or 'no key'}, the operator key was {leg.operator_at_lock}"
        yield Finding("grant-signature", place, text, _unless_wallet(evidence, leg.operator_at_lock))


def _check_cancelled(evidence: Evidence, event: GrantCancelled) -> Iterator[Finding]:
    call = evidence.calls.get(event.transaction_hash)
    if call is None:
        yield Finding(
            "transaction-missing", at(event), "the transaction that cancelled a grant could not be fetched"
        )
        return
    for signed in call.grants:
        named = grant_hash(signed.grant, evidence.chain_id, evidence.registry)
        if (named, signed.grant.dataset_id) != (event.grant_hash, event.dataset_id):
            yield impossible(event, "its transaction cancels another grant", "grant-terms")


def _grant_terms(grant: Grant, leg: LegBook, purpose_hash: bytes) -> Iterator[str]:
    """What was opened is what was granted."""
    entry = leg.entry
    if (grant.dataset_id, grant.grantee) != (entry.dataset_id, entry.builder):
        yield "the grant is for another dataset or builder"
    if grant.spec_hash not in (ids.ZERO_HASH, entry.spec_hash) or grant.purpose_hash != purpose_hash:
        yield "the grant is for another spec or purpose"
    if (grant.token, grant.price_units) != (entry.token, entry.price_units):
        yield f"the grant's price is {grant.price_units}, {entry.price_units} were locked"
    if leg.reserved_micro > grant.loss_per_job_micro:
        yield f"the grant allows {grant.loss_per_job_micro} for a job, {leg.reserved_micro} were reserved"
    uses, loss_micro = leg.granted
    if uses > grant.max_uses or loss_micro > grant.loss_total_micro:
        yield (
            f"use {uses} of {grant.max_uses}, for {loss_micro} of {grant.loss_total_micro} x 10^-6 nat together"
        )


def _grant_limits(grant: Grant, leg: LegBook, now: int) -> Iterator[str]:
    """The grant was in force when it was used, and inside the limits that the admin key had set."""
    if grant.revocation_epoch != leg.revocation_epoch:
        yield f"the grant is of revocation epoch {grant.revocation_epoch}, {leg.revocation_epoch} was in force"
    if not grant.not_before_seconds <= now <= grant.deadline_seconds:
        yield f"used at {now}, the grant is for {grant.not_before_seconds} to {grant.deadline_seconds}"
    terms = leg.terms
    if terms is None:
        return
    if (
        grant.loss_per_job_micro > terms.max_loss_per_job_micro
        or grant.loss_total_micro > terms.max_loss_per_grant_micro
    ):
        yield "the grant allows more loss than its operator might grant"
    if grant.deadline_seconds > now + terms.max_grant_term_seconds:
        yield "the grant ends later than its operator might grant"


def _unless_wallet(evidence: Evidence, account: str) -> Severity:
    """What a contract wallet has signed cannot be shown here; the contract has asked it."""
    return Severity.NOTE if account in evidence.wallets else Severity.DISCREPANCY
