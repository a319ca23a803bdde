"""The end of a job: every leg's receipt is checked against what was seen here, delivered, and its payment released.

A receipt that says otherwise than this builder saw is delivered, because the holder has done its part, and *not*
acknowledged: what then is for a person to decide.
"""

from __future__ import annotations

from usufruct.builder.book import JobBook, Say
from usufruct.builder.peers import holder_of
from usufruct.builder.receipts import agreed_loss_micro, findings_in, receipt_on_chain
from usufruct.builder.steps import Step, due_step, take_steps
from usufruct.chain import LegEntry, LegState, failure_hash, receipt_hash, sign_lower, signer
from usufruct.domain.training_job import LegTerms
from usufruct.errors import PeerError, UsufructError


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
        unused = terms not in book.members and release_leg(book, terms, leg)
        return unused or _deliver(book, terms, leg)
    if not any(leg.receipt_hash):
        return Step()
    receipt = receipt_on_chain(book.chain, leg)  # delivered by the holder, or by us in an earlier process
    findings = findings_in(book, leg, receipt, receipt.fencing_epoch)  # the contract has checked the epoch
    if findings or leg.state is not LegState.DELIVERED:
        return Step(findings=findings)
    return Step("acknowledge", book.sender.acknowledge(leg))


def release_leg(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step | None:
    """Holder and builder agree that nothing of an accepted leg was charged: money and budget are free again.

    None where that is not so.
    """
    if leg.state is not LegState.ACCEPTED or book.state.attempts_charged.get(str(leg.dataset_id)):
        return None
    chain = book.chain
    entry, peer = holder_of(book.network, terms)
    try:
        epoch, signature = peer.release_leg(leg.job_id)
    except UsufructError as error:
        if error.reason == "ATTEMPT_ALREADY_CHARGED":
            return None
        raise
    finally:
        peer.close()
    place = chain.chain_id, chain.compute_access
    if signer(failure_hash(leg.stored_hash(), 0, epoch, *place), signature) != entry.operator:
        raise PeerError(
            f"{peer.name} did not sign the leg's end with the operator key that the chain names.",
            reason="BAD_SIGNATURE",
            dataset_id=leg.dataset_id,
        )
    lower = sign_lower(book.network.account, leg.leg_id, 0, *place)
    return Step("fail", book.sender.fail(leg, 0, epoch, signature, lower))


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
