"""The end of a job: every leg's receipt is checked against what was seen here, delivered, and its payment released.

A receipt that says otherwise than this builder saw is delivered, because the holder has done its part, and *not*
acknowledged: what then is for a person to decide.
"""

from __future__ import annotations

from usufruct.builder.book import JobBook, Say
from usufruct.builder.peers import holder_of
from usufruct.builder.receipts import agreed_loss_micro, findings_in, receipt_on_chain
from usufruct.builder.steps import Step, due_step, take_steps
from usufruct.chain import LegEntry, LegState, receipt_hash, sign_lower, signer
from usufruct.domain.training_job import LegTerms
from usufruct.errors import PeerError


def finish_legs(book: JobBook, say: Say) -> None:
    """Finishes every leg that has not ended; keeps each result. Repeating it goes on where it stopped.

    Raises:
        PeerError: a holder cannot be reached; the others have been finished.
        ChainError: the chain cannot be reached, or refused.
    """
    failures = take_steps(book, book.spec.legs, finish_leg, say)
    for dataset_id in sorted(failures):
        raise failures[dataset_id]


def finish_leg(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step:
    """Brings one leg as near to its end as this builder can."""
    due = due_step(book, leg)
    if due is not None:
        return due
    if leg.state is LegState.LOCKED:  # its holder took no part
        return Step("cancel", book.sender.cancel(leg))
    if leg.state is LegState.ACCEPTED:
        return _deliver(book, terms, leg)
    if not any(leg.receipt_hash):
        return Step()
    receipt = receipt_on_chain(book.chain, leg)  # delivered by the holder, or by us in an earlier process
    findings = findings_in(book, leg, receipt, receipt.fencing_epoch)  # the contract has checked the epoch
    if findings or leg.state is not LegState.DELIVERED:
        return Step(findings=findings)
    return Step("acknowledge", book.sender.acknowledge(leg))


def _deliver(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step:
    """Has the holder sign its receipt, checks it, and delivers it: acknowledged at once if all is well."""
    chain, sender = book.chain, book.sender
    entry, peer = holder_of(book.network, terms)
    try:
        charged = peer.leg(leg.job_id).attempts_charged
        lower = agreed_loss_micro(book.spec, book.state, terms, charged)
        signature = b""
        if lower < leg.loss_micro:
            signature = sign_lower(
                book.network.account, leg.leg_id, lower, chain.chain_id, chain.compute_access
            )
        receipt, signed = peer.finish_leg(leg.job_id, book.state.rounds_done, lower, signature)
    finally:
        peer.close()
    digest = receipt_hash(receipt, chain.chain_id, chain.compute_access)
    if signer(digest, signed) != entry.operator:
        raise PeerError(
            f"{peer.name} did not sign its receipt with the operator key that the chain names.",
            reason="BAD_SIGNATURE",
            dataset_id=leg.dataset_id,
        )
    agreed = signature if receipt.loss_micro < leg.loss_micro else b""
    findings = findings_in(book, leg, receipt, entry.fencing_epoch)
    if findings:
        return Step("deliver", sender.deliver(leg, receipt, signed, agreed), findings)
    return Step("deliverAndAcknowledge", sender.deliver_and_acknowledge(leg, receipt, signed, agreed, b""))
