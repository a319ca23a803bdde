"""Every deadline, delay and window of the contracts, to the second."""

from __future__ import annotations

from dataclasses import replace

import pytest
from leg_events import DATASET_ID, JOB_ID, TOKEN, entry, receipt

from usufruct.audit.evidence import Evidence, Storage
from usufruct.audit.findings import Finding
from usufruct.audit.time_checks import check_times
from usufruct.chain import DatasetTerms, Event, LegState, Settings
from usufruct.chain import events as on_chain
from usufruct.domain.ids import ZERO_ADDRESS

OPENED, HOUR, DAY = 1_000_000, 3600, 86_400
ACCEPT_BY, DELIVER_BY, WINDOW = OPENED + HOUR, OPENED + DAY, HOUR
DELIVERED, DISPUTED = DELIVER_BY - 100, DELIVER_BY
UNTIL, ARBITER_UNTIL = DELIVERED + WINDOW, DISPUTED + 7 * DAY
Timed = tuple[int, Event]


def judged(*timed: Timed) -> list[Finding]:
    """Findings about events at these times, each in a block of its own."""
    numbered = [(n, replace(event, block_number=n)) for n, (_, event) in enumerate(timed, 1)]
    settings = Settings(ZERO_ADDRESS, False, 0, 0, 0)
    storage = Storage(settings, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})
    times = {n: seconds for n, (seconds, _) in enumerate(timed, 1)}
    evidence = Evidence(
        1, TOKEN, TOKEN, TOKEN, len(timed), 2**33, tuple(event for _, event in numbered), times, storage
    )
    return list(check_times(evidence))


def of(kind: type[Event], *values: object) -> Event:
    return kind(0, bytes(32), 0, *values)


def opened(accept_by: int = ACCEPT_BY) -> Timed:
    return OPENED, of(on_chain.JobOpened, JOB_ID, TOKEN, bytes(32), bytes(32), accept_by, 1, 1)


def locked(deliver_by: int = DELIVER_BY, window: int = WINDOW) -> Timed:
    leg = replace(entry(LegState.LOCKED), deliver_by_seconds=deliver_by, challenge_term_seconds=window)
    return OPENED, of(on_chain.LegLocked, JOB_ID, DATASET_ID, leg)


def accepted(seconds: int = ACCEPT_BY) -> Timed:
    return seconds, of(on_chain.LegAccepted, JOB_ID, DATASET_ID, 1, 1)


def delivered(seconds: int = DELIVERED, until: int = UNTIL) -> Timed:
    return seconds, of(on_chain.LegDelivered, JOB_ID, DATASET_ID, bytes(32), until, receipt())


def disputed(seconds: int = DISPUTED, until: int = ARBITER_UNTIL) -> Timed:
    return seconds, of(on_chain.LegDisputed, JOB_ID, DATASET_ID, TOKEN, 1, until, bytes(32))


def closed(seconds: int, state: LegState) -> Timed:
    return seconds, of(on_chain.LegClosed, JOB_ID, DATASET_ID, 3, state, TOKEN, 0, 0, 0, 0)


BEFORE = (opened(), locked())
TERMS = DatasetTerms(1, 1, 1, 1, 1, bytes(32))
REGISTERED = (OPENED, of(on_chain.DatasetRegistered, 1, 1, 0, False, bytes(32), TOKEN, 6, 100, TERMS, 0))
CAP_SCHEDULED = (OPENED, of(on_chain.CapScheduled, 1, 200, OPENED + 2 * DAY))
PAYOUT_SCHEDULED = (OPENED, of(on_chain.PayoutScheduled, 1, TOKEN, OPENED + 2 * DAY))
FEE_SCHEDULED = (OPENED, of(on_chain.FeeScheduled, 50, OPENED + 7 * DAY))
CALLED = (OPENED, of(on_chain.RecordCalled, 1, 5, TOKEN, OPENED + 3 * DAY))


def later(seconds: int, kind: type[Event], *values: object) -> Timed:
    return OPENED + seconds, of(kind, *values)


JUST_IN_TIME: dict[str, tuple[Timed, ...]] = {
    "accepted at the deadline": (*BEFORE, accepted()),
    "released after the deadline": (*BEFORE, closed(ACCEPT_BY + 1, LegState.RELEASED)),
    "delivered at the deadline": (*BEFORE, delivered(DELIVER_BY, DELIVER_BY + WINDOW)),
    "expired after the deadline": (*BEFORE, closed(DELIVER_BY + 1, LegState.EXPIRED)),
    "disputed at the window's end": (*BEFORE, delivered(), disputed(UNTIL, UNTIL + 7 * DAY)),
    "settled after the window": (*BEFORE, delivered(), closed(UNTIL + 1, LegState.SETTLED)),
    "acknowledged at any time": (*BEFORE, delivered(), closed(DELIVERED, LegState.ACKNOWLEDGED)),
    "resolved in the arbiter's last second": (
        *BEFORE, delivered(), disputed(), closed(ARBITER_UNTIL, LegState.RESOLVED),
    ),
    "unresolved after the arbiter's term": (
        *BEFORE, delivered(), disputed(), closed(ARBITER_UNTIL + 1, LegState.UNRESOLVED),
    ),
    "opened a second before the deadline": (opened(OPENED + 1), locked()),
    "as long as a job may last": (opened(), locked(OPENED + 400 * DAY, 30 * DAY)),
    "a payout after 48 hours": (PAYOUT_SCHEDULED, later(2 * DAY, on_chain.PayoutChanged, 1, TOKEN)),
    "an announcement taken back": (PAYOUT_SCHEDULED, later(1, on_chain.PayoutScheduled, 1, ZERO_ADDRESS, 0)),
    "a budget after 48 hours": (REGISTERED, CAP_SCHEDULED, later(2 * DAY, on_chain.CapChanged, 1, 200)),
    "a lower budget at once": (REGISTERED, CAP_SCHEDULED, later(0, on_chain.CapChanged, 1, 50)),
    "a fee after 7 days": (FEE_SCHEDULED, later(7 * DAY, on_chain.FeeChanged, 50)),
    "a silence after 3 days": (CALLED, later(3 * DAY + 1, on_chain.SilenceRecorded, 1, 5)),
}  # fmt: skip
TOO_EARLY_OR_LATE: dict[str, tuple[Timed, ...]] = {
    "accepted after the deadline": (*BEFORE, accepted(ACCEPT_BY + 1)),
    "released at the deadline": (*BEFORE, closed(ACCEPT_BY, LegState.RELEASED)),
    "delivered after the deadline": (*BEFORE, delivered(DELIVER_BY + 1, DELIVER_BY + 1 + WINDOW)),
    "delivered with a longer window": (*BEFORE, delivered(until=UNTIL + 1)),
    "delivered with a shorter window": (*BEFORE, delivered(until=UNTIL - 1)),
    "expired at the deadline": (*BEFORE, closed(DELIVER_BY, LegState.EXPIRED)),
    "disputed after the window": (*BEFORE, delivered(), disputed(UNTIL + 1, UNTIL + 1 + 7 * DAY)),
    "disputed with a shorter term": (*BEFORE, delivered(), disputed(until=ARBITER_UNTIL - 1)),
    "settled at the window's end": (*BEFORE, delivered(), closed(UNTIL, LegState.SETTLED)),
    "resolved after the arbiter's term": (
        *BEFORE, delivered(), disputed(), closed(ARBITER_UNTIL + 1, LegState.RESOLVED),
    ),
    "unresolved in the arbiter's last second": (
        *BEFORE, delivered(), disputed(), closed(ARBITER_UNTIL, LegState.UNRESOLVED),
    ),
    "opened at the deadline": (opened(OPENED), locked()),
    "delivered before accepted": (opened(), locked(ACCEPT_BY)),
    "longer than a job may last": (opened(), locked(OPENED + 400 * DAY + 1)),
    "a window of less than an hour": (opened(), locked(window=HOUR - 1)),
    "a window of more than 30 days": (opened(), locked(window=30 * DAY + 1)),
    "a payout before 48 hours": (PAYOUT_SCHEDULED, later(2 * DAY - 1, on_chain.PayoutChanged, 1, TOKEN)),
    "a payout announced for too early": (later(1, on_chain.PayoutScheduled, 1, TOKEN, OPENED + 2 * DAY),),
    "a budget before 48 hours": (REGISTERED, CAP_SCHEDULED, later(2 * DAY - 1, on_chain.CapChanged, 1, 200)),
    "a budget announced for too early": (REGISTERED, later(1, on_chain.CapScheduled, 1, 200, OPENED + 2 * DAY)),
    "a second announcement restarts the 48 hours": (
        REGISTERED, CAP_SCHEDULED, later(DAY, on_chain.CapScheduled, 1, 200, OPENED + 3 * DAY),
        later(2 * DAY, on_chain.CapChanged, 1, 200),
    ),
    "a fee before 7 days": (FEE_SCHEDULED, later(7 * DAY - 1, on_chain.FeeChanged, 50)),
    "a fee announced for too early": (later(1, on_chain.FeeScheduled, 50, OPENED + 7 * DAY),),
    "a silence at the deadline": (CALLED, later(3 * DAY, on_chain.SilenceRecorded, 1, 5)),
    "a call with less time": (later(1, on_chain.RecordCalled, 1, 5, TOKEN, OPENED + 3 * DAY),),
}  # fmt: skip


@pytest.mark.parametrize("what", JUST_IN_TIME)
def test_what_is_just_in_time_is_no_finding(what: str) -> None:
    assert judged(*JUST_IN_TIME[what]) == []


@pytest.mark.parametrize("what", TOO_EARLY_OR_LATE)
def test_what_is_a_second_too_early_or_late_is_found(what: str) -> None:
    assert [finding.kind for finding in judged(*TOO_EARLY_OR_LATE[what])] == ["event-time"]


def test_blocks_that_go_back_or_have_no_time_are_found() -> None:
    assert [f.kind for f in judged((OPENED, CALLED[1]), (OPENED - 1, REGISTERED[1]))] == ["time-order"]
    assert [f.kind for f in judged((2**34, REGISTERED[1]))] == ["time-order"]
    (finding,) = check_times(
        Evidence(1, TOKEN, TOKEN, TOKEN, 1, 2**33, (CALLED[1],), {}, Storage(*13 * [{}]))  # type: ignore[arg-type]
    )
    assert finding.kind == "time-missing"
