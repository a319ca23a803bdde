"""When things happened: every deadline, delay and window of the contracts against the times of the events' blocks."""

from __future__ import annotations

from collections.abc import Iterator

from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding, at, impossible
from usufruct.chain import Event, LegState
from usufruct.chain import events as on_chain
from usufruct.domain import ids

HOUR, DAY = 3600, 86_400
HOLDERS_DELAY, FEE_DELAY, ARBITER_TERM, ANSWER_TERM = 48 * HOUR, 7 * DAY, 7 * DAY, 3 * DAY
LONGEST_TERM, CHALLENGE_TERMS = 400 * DAY, range(HOUR, 30 * DAY + 1)
"""Seconds, as in the contracts."""


def check_times(evidence: Evidence) -> Iterator[Finding]:
    """All events, oldest first. Deadlines are themselves in events: each is compared with what it must follow from."""
    deadlines = _Deadlines()
    last_seconds = 0
    for event in evidence.events:
        now = evidence.block_times.get(event.block_number)
        if now is None:
            yield Finding("time-missing", at(event), f"the time of block {event.block_number} is not known")
            continue
        if not last_seconds <= now <= evidence.block_time_seconds:
            text = f"block {event.block_number} is of {now}, before the one before it or after the final one"
            yield Finding("time-order", at(event), text)
        last_seconds = now
        if isinstance(event, on_chain.LegEvent):
            yield from deadlines.leg(event, now)
        else:
            yield from deadlines.other(event, now)


class _Deadlines:
    """What the events so far allow from when, or until when, UTC seconds."""

    def __init__(self) -> None:
        self._accept_by: dict[bytes, int] = {}
        self._deliver_by: dict[bytes, int] = {}
        self._challenge: dict[bytes, int] = {}
        self._until: dict[bytes, int] = {}
        self._payout_from: dict[int, int] = {}
        self._caps: dict[int, int] = {}
        self._cap_from: dict[int, int] = {}
        self._fee_from = 0
        self._answer_by: dict[tuple[int, int], int] = {}

    def leg(self, event: on_chain.LegEvent, now: int) -> Iterator[Finding]:
        """A leg's deadlines; a leg of which no event tells the deadline is found elsewhere."""
        name = ids.leg_id(event.job_id, event.dataset_id)
        accept_by = self._accept_by.get(event.job_id, now)
        match event:
            case on_chain.LegLocked():
                leg = event.leg
                self._deliver_by[name], self._challenge[name] = (
                    leg.deliver_by_seconds,
                    leg.challenge_term_seconds,
                )
                if not accept_by < leg.deliver_by_seconds <= now + LONGEST_TERM:
                    yield _wrong(event, "it is delivered after it is accepted, and within 400 days")
                if leg.challenge_term_seconds not in CHALLENGE_TERMS:
                    yield _wrong(event, f"a challenge window of {leg.challenge_term_seconds} s")
            case on_chain.LegAccepted():
                yield from _until(event, now, accept_by)
            case on_chain.LegDelivered():
                yield from _until(event, now, self._deliver_by.get(name, now))
                yield from _follows(event, event.until_seconds, now + self._challenge.get(name, 0))
                self._until[name] = event.until_seconds
            case on_chain.LegDisputed():
                yield from _until(event, now, self._until.get(name, now))
                yield from _follows(event, event.until_seconds, now + ARBITER_TERM)
                self._until[name] = event.until_seconds
            case on_chain.LegClosed():
                yield from self._closed(event, name, now, accept_by)

    def _closed(self, event: on_chain.LegClosed, name: bytes, now: int, accept_by: int) -> Iterator[Finding]:
        match event.state:
            case LegState.RELEASED:
                yield from _from(event, now, accept_by + 1)
            case LegState.EXPIRED:
                yield from _from(event, now, self._deliver_by.get(name, 0) + 1)
            case LegState.SETTLED | LegState.UNRESOLVED:
                yield from _from(event, now, self._until.get(name, 0) + 1)
            case LegState.RESOLVED:
                yield from _until(event, now, self._until.get(name, now))

    def other(self, event: Event, now: int) -> Iterator[Finding]:
        """Openings, announcements and calls for records."""
        match event:
            case on_chain.JobOpened():
                self._accept_by[event.job_id] = event.accept_by_seconds
                yield from _until(event, now, event.accept_by_seconds - 1)
            case on_chain.PayoutScheduled():
                back = event.payout == ids.ZERO_ADDRESS
                yield from _follows(event, event.from_seconds, 0 if back else now + HOLDERS_DELAY)
                self._payout_from[event.holder_id] = event.from_seconds
            case on_chain.PayoutChanged():
                yield from _from(event, now, self._payout_from.pop(event.holder_id, 0))
            case on_chain.DatasetRegistered():
                self._caps[event.dataset_id] = event.cap_micro
            case on_chain.CapScheduled():
                yield from _follows(event, event.from_seconds, now + HOLDERS_DELAY)
                self._cap_from[event.dataset_id] = event.from_seconds
            case on_chain.CapChanged():
                announced_for = self._cap_from.pop(event.dataset_id, 0)
                if event.cap_micro > self._caps.get(event.dataset_id, 0):
                    yield from _from(event, now, announced_for)
                self._caps[event.dataset_id] = event.cap_micro
            case on_chain.FeeScheduled():
                yield from _follows(event, event.from_seconds, now + FEE_DELAY)
                self._fee_from = event.from_seconds
            case on_chain.FeeChanged():
                yield from _from(event, now, self._fee_from)
            case on_chain.RecordCalled():
                yield from _follows(event, event.answer_by_seconds, now + ANSWER_TERM)
                self._answer_by[event.holder_id, event.sequence] = event.answer_by_seconds
            case on_chain.SilenceRecorded():
                answer_by = self._answer_by.get((event.holder_id, event.sequence), 0)
                yield from _from(event, now, answer_by + 1)


def _until(event: Event, now: int, deadline: int) -> Iterator[Finding]:
    if now > deadline:
        yield _wrong(event, f"{now - deadline} s too late")


def _from(event: Event, now: int, moment: int) -> Iterator[Finding]:
    if now < moment:
        yield _wrong(event, f"{moment - now} s too early")


def _follows(event: Event, claimed: int, expected: int) -> Iterator[Finding]:
    if claimed != expected:
        yield _wrong(event, f"it names the time {claimed}, {expected} follows from its block")


def _wrong(event: Event, text: str) -> Finding:
    return impossible(event, text, "event-time")
