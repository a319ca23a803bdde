"""Histories in which the contracts would have broken a rule of theirs: honest evidence, with one thing that cannot be.

A node that shows such a history also shows the storage that it leads to; so each must be found by its own rule, and not
only because a word of storage differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from finished_job import TERMS

from usufruct.audit.evidence import Evidence
from usufruct.chain import Event, LegState
from usufruct.chain import events as on_chain

Lie = Callable[[Evidence], Evidence]
NOBODY = "0x00000000219ab540356cBB839Cbe05303d7705Fa"


def pick(evidence: Evidence, kind: type[Event], **given: Any) -> Any:
    """The first event of a kind with these values."""
    return next(
        event
        for event in evidence.events
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in given.items())
    )


def with_events(evidence: Evidence, events: Iterable[Event]) -> Evidence:
    return replace(evidence, events=tuple(events))


def change(kind: type[Event], given: dict[str, Any] | None = None, /, **changes: Any) -> Lie:
    """One event says something else. A change that is a function is given the event."""

    def lie(evidence: Evidence) -> Evidence:
        event = pick(evidence, kind, **(given or {}))
        values = {name: value(event) if callable(value) else value for name, value in changes.items()}
        changed = replace(event, **values)
        return with_events(evidence, (changed if other is event else other for other in evidence.events))

    return lie


def drop(kind: type[Event], **given: Any) -> Lie:
    """One event never was."""

    def lie(evidence: Evidence) -> Evidence:
        event = pick(evidence, kind, **given)
        return with_events(evidence, (other for other in evidence.events if other is not event))

    return lie


def before(kind: type[Event], make: Callable[[Any], Event], **given: Any) -> Lie:
    """Something else happened just before an event."""

    def lie(evidence: Evidence) -> Evidence:
        event = pick(evidence, kind, **given)
        index = evidence.events.index(event)
        new = replace(
            make(event),
            block_number=event.block_number,
            log_index=event.log_index,
            transaction_hash=event.transaction_hash,
        )
        rest = (
            replace(other, log_index=other.log_index + 1)
            if other.block_number == event.block_number
            else other
            for other in evidence.events[index:]
        )
        return with_events(evidence, (*evidence.events[:index], new, *rest))

    return lie


def repeat(kind: type[Event], **given: Any) -> Lie:
    """An event happened once more."""

    def lie(evidence: Evidence) -> Evidence:
        event = pick(evidence, kind, **given)
        return before(kind, lambda _: event, **given)(evidence)

    return lie


def in_leg(**changes: Any) -> Lie:
    """The first leg was opened otherwise."""
    return change(on_chain.LegLocked, leg=lambda event: replace(event.leg, **changes))


def in_call(kind: type[Event], given: dict[str, Any] | None = None, /, **changes: Any) -> Lie:
    """The transaction of an event was another."""

    def lie(evidence: Evidence) -> Evidence:
        event = pick(evidence, kind, **(given or {}))
        call = replace(evidence.calls[event.transaction_hash], **changes)
        return replace(evidence, calls={**evidence.calls, event.transaction_hash: call})

    return lie


def at(event: Event) -> tuple[int, bytes, int]:
    return event.block_number, event.transaction_hash, event.log_index


def terms(**changes: Any) -> Callable[[Any], Event]:
    """Other terms for the dataset of a leg that is opened next."""

    def make(event: Any) -> Event:
        return on_chain.TermsChanged(*at(event), event.dataset_id, replace(TERMS, **changes))

    return make


def paused(event: Event) -> Event:
    return on_chain.PausedChanged(*at(event), True)


def revoked(event: Any) -> Event:
    return on_chain.GrantsRevoked(*at(event), 1, 1)


def fenced(event: Any) -> Event:
    return on_chain.FencingEpochTaken(*at(event), 1, 2, bytes(32))


def _reused_grant(evidence: Evidence) -> Evidence:
    """A job of the same dataset names the grant of an earlier one, which was for one use."""
    first, second, *_ = (
        e for e in evidence.events if isinstance(e, on_chain.LegLocked) and e.dataset_id == 1
    )
    signed = evidence.calls[first.transaction_hash].grants[0]
    calls = {
        **evidence.calls,
        second.transaction_hash: replace(evidence.calls[second.transaction_hash], grants=(signed,)),
    }
    given = {"job_id": second.job_id, "dataset_id": 1}
    again = change(
        on_chain.LegLocked, given, leg=lambda event: replace(event.leg, grant_hash=first.leg.grant_hash)
    )
    return replace(again(evidence), calls=calls)


def _cancelled_before_acceptance(evidence: Evidence) -> Evidence:
    accepted = pick(evidence, on_chain.LegAccepted)
    locked = pick(evidence, on_chain.LegLocked, job_id=accepted.job_id, dataset_id=accepted.dataset_id)

    def cancelled(event: Event) -> Event:
        return on_chain.GrantCancelled(*at(event), locked.leg.grant_hash, locked.dataset_id)

    return before(on_chain.LegAccepted, cancelled)(evidence)


def _shown_otherwise(evidence: Evidence) -> Evidence:
    event = pick(evidence, on_chain.RecordShown)
    return change(on_chain.RecordShown, record=event.record[:-1] + bytes([event.record[-1] ^ 1]))(evidence)


ACKNOWLEDGED = {"state": LegState.ACKNOWLEDGED}
BROKEN: dict[str, tuple[Lie, str]] = {
    "a holder registered while paused": (before(on_chain.HolderRegistered, paused, holder_id=2), "while-paused"),
    "a dataset registered while paused": (before(on_chain.DatasetRegistered, paused, dataset_id=3), "while-paused"),
    "a job opened while paused": (before(on_chain.JobOpened, paused), "while-paused"),
    "a guardian nobody had offered": (drop(on_chain.GuardianOffered), "not-announced"),
    "an admin nobody had offered": (drop(on_chain.AdminOffered), "not-announced"),
    "a fee nobody had announced": (drop(on_chain.FeeScheduled), "not-announced"),
    "another fee than was announced": (change(on_chain.FeeChanged, fee_bps=500), "not-announced"),
    "a fee of more than 5 %": (change(on_chain.FeeScheduled, fee_bps=501), "event-impossible"),
    "another fee for a leg than was in force": (in_leg(fee_bps=99), "fee-differs"),
    "a payout address nobody had announced": (drop(on_chain.PayoutScheduled), "not-announced"),
    "a payout address that was taken back": (
        before(on_chain.PayoutChanged, lambda e: on_chain.PayoutScheduled(*at(e), 2, "0x" + "00" * 20, 0)),
        "not-announced",
    ),
    "earnings that went elsewhere": (change(on_chain.EarningsWithdrawn, {"holder_id": 2}, payout=NOBODY), "payment-differs"),
    "fees that went elsewhere": (change(on_chain.EarningsWithdrawn, {"holder_id": 0}, payout=NOBODY), "payment-differs"),
    "more than was earned": (change(on_chain.EarningsWithdrawn, units=lambda e: e.units + 1), "payment-differs"),
    "more than was deposited": (change(on_chain.Withdrawn, units=10**12), "deposit-negative"),
    "a budget nobody had announced": (drop(on_chain.CapScheduled), "not-announced"),
    "a budget below what is spent": (change(on_chain.CapChanged, {"dataset_id": 3}, cap_micro=1), "cap-history"),
    "a lower budget announced": (change(on_chain.CapScheduled, cap_micro=5), "cap-history"),
    "more reserved than the budget": (change(on_chain.DatasetRegistered, cap_micro=300_000), "budget-exceeded"),
    "a limit above the budget": (change(on_chain.DatasetRegistered, cap_micro=300_000), "cap-history"),
    "a version that forgets its loss": (change(on_chain.DatasetRegistered, {"dataset_id": 4}, inherited_micro=0), "version-loss"),
    "a version that is declared disjoint and is not": (
        change(on_chain.DatasetRegistered, {"dataset_id": 4}, disjoint=True), "version-loss",
    ),
    "a version of another order": (change(on_chain.DatasetRegistered, {"dataset_id": 4}, order=7), "cap-history"),
    "a version with a higher budget": (
        change(on_chain.DatasetRegistered, {"dataset_id": 4}, cap_micro=7_000_000), "cap-history",
    ),
    "a version of another holder's dataset": (
        change(on_chain.DatasetRegistered, {"dataset_id": 4}, previous_id=1), "event-impossible",
    ),
    "a leg on a retired dataset": (
        before(on_chain.LegLocked, lambda e: on_chain.DatasetRetired(*at(e), e.dataset_id)), "event-impossible",
    ),
    "a fencing epoch left out": (change(on_chain.FencingEpochTaken, {"fencing_epoch": 2}, fencing_epoch=3), "fencing-epoch"),
    "a fencing epoch taken twice": (repeat(on_chain.FencingEpochTaken, fencing_epoch=2), "fencing-epoch"),
    "an acceptance by a server that was fenced out": (before(on_chain.LegAccepted, fenced, dataset_id=1), "fencing-epoch"),
    "a delivery by a server that was fenced out": (before(on_chain.LegDelivered, fenced, dataset_id=1), "fencing-epoch"),
    "a failure by a server that was fenced out": (in_call(on_chain.LegClosed, {"state": LegState.FAILED}, fencing_epoch=0),
                                                  "fencing-epoch"),
    "an acceptance after all grants were revoked": (before(on_chain.LegAccepted, revoked, dataset_id=1), "grant-withdrawn"),
    "a revocation epoch left out": (change(on_chain.GrantsRevoked, revocation_epoch=2), "revocation-epoch"),
    "a leg opened on a revoked grant": (before(on_chain.LegLocked, revoked, dataset_id=1), "grant-limits"),
    "a leg opened on a cancelled grant": (
        before(on_chain.LegLocked, lambda e: on_chain.GrantCancelled(*at(e), e.leg.grant_hash, 1)), "grant-withdrawn",
    ),
    "an acceptance after its grant was cancelled": (_cancelled_before_acceptance, "grant-withdrawn"),
    "a grant used twice": (_reused_grant, "grant-terms"),
    "a price below the dataset's": (before(on_chain.LegLocked, terms(price_units=10**9)), "outside-terms"),
    "a loss above the dataset's limit": (before(on_chain.LegLocked, terms(max_loss_per_job_micro=1)), "outside-terms"),
    "a grant above its operator's limit": (before(on_chain.LegLocked, terms(max_loss_per_job_micro=1)), "grant-limits"),
    "a grant longer than its operator may grant": (
        before(on_chain.LegLocked, terms(max_grant_term_seconds=1)), "grant-limits",
    ),
    "a smaller cohort than its dataset wants": (before(on_chain.LegLocked, terms(min_cohort=9)), "too-few-accepted"),
    "a delivery when too few were accepted": (drop(on_chain.LegAccepted, dataset_id=3), "too-few-accepted"),
    "an expiry when too few were accepted": (
        lambda e: change(on_chain.JobOpened, {"job_id": pick(e, on_chain.LegClosed, state=LegState.EXPIRED).job_id},
                         min_legs=2, legs=2)(e), "too-few-accepted",
    ),
    "a leg released though enough were accepted": (
        lambda e: change(on_chain.JobOpened, {"job_id": pick(e, on_chain.LegClosed, state=LegState.RELEASED).job_id},
                         min_legs=1)(e), "leg-state",
    ),
    "a leg delivered that nobody accepted": (drop(on_chain.LegAccepted, dataset_id=1), "leg-state"),
    "a leg paid that was not delivered": (drop(on_chain.LegDelivered), "leg-state"),
    "a leg that ended twice": (repeat(on_chain.LegClosed), "leg-state"),
    "a holder paid more than the price": (
        change(on_chain.LegClosed, ACKNOWLEDGED, holder_units=lambda e: e.holder_units + 1), "payment-differs",
    ),
    "a fee higher than was agreed": (
        change(on_chain.LegClosed, ACKNOWLEDGED, holder_units=lambda e: e.holder_units - 1,
               fee_units=lambda e: e.fee_units + 1), "fee-differs",
    ),
    "a bond that went to the wrong side": (change(on_chain.BondPaid, to_holder=lambda e: not e.to_holder), "payment-differs"),
    "a lower loss without the builder's consent": (
        lambda e: replace(e, calls={name: replace(call, lower=b"") for name, call in e.calls.items()}), "lower-signature",
    ),
    "a job opened by another": (in_call(on_chain.JobOpened, sender=NOBODY), "job-sender"),
    "a job that its payer did not sponsor": (
        lambda e: replace(e, calls={name: replace(call, sponsorship=None) for name, call in e.calls.items()}), "sponsorship",
    ),
    "an acceptance that nobody signed": (in_call(on_chain.LegAccepted, statement=b""), "acceptance-signature"),
    "an acceptance with half a signature": (in_call(on_chain.LegAccepted, statement=bytes(32)), "acceptance-signature"),
    "a withdrawal by another": (in_call(on_chain.Withdrawn, sender=NOBODY), "sender"),
    "a withdrawal that went elsewhere": (change(on_chain.Withdrawn, to=NOBODY), "sender"),
    "a dispute by another": (in_call(on_chain.LegDisputed, sender=NOBODY), "sender"),
    "a dispute for another reason": (change(on_chain.LegDisputed, reason_hash=bytes(32)), "sender"),
    "a dispute decided by another": (in_call(on_chain.LegClosed, {"state": LegState.RESOLVED}, sender=NOBODY), "end-signature"),
    "a leg cancelled by another": (in_call(on_chain.LegClosed, {"state": LegState.CANCELLED}, sender=NOBODY), "end-signature"),
    "a leg declined by another": (in_call(on_chain.LegClosed, {"state": LegState.DECLINED}, sender=NOBODY), "end-signature"),
    "a failure that nobody signed": (in_call(on_chain.LegClosed, {"state": LegState.FAILED}, statement=b""), "end-signature"),
    "a batch that nobody signed": (in_call(on_chain.UsageBatch, sender=NOBODY), "batch-sender"),
    "a record called for that never was": (change(on_chain.RecordCalled, sequence=10**6), "event-impossible"),
    "a record shown for which nobody called": (drop(on_chain.RecordCalled), "event-impossible"),
    "a record shown otherwise than it is kept": (_shown_otherwise, "record-shown"),
    "a silence": (
        before(on_chain.RecordShown, lambda e: on_chain.SilenceRecorded(*at(e), e.holder_id, e.sequence)), "call-silent",
    ),
    "a silence before its time": (
        before(on_chain.RecordShown, lambda e: on_chain.SilenceRecorded(*at(e), e.holder_id, e.sequence)), "event-time",
    ),
    "tokens that are not there": (
        lambda e: replace(e, storage=replace(e.storage, balances={t: n - 1 for t, n in e.storage.balances.items()})),
        "balance-short",
    ),
}  # fmt: skip
