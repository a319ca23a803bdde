"""A builder may say anything in any order, or nothing: it is told so, and nothing is lost, stuck or left running."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from holder_world import Builder, RoundTalk, registered, to_sum
from running_leg import Leg

from usufruct.domain.usage_record import UsageKind
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.raw import STEP_LIMIT_BYTES
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.rounds import checking
from usufruct_server.holder.server import HolderServer
from usufruct_server.holder.services import rounds as services_rounds

ROUND_THREADS = ("round", "round-listener")
SHORT_SECONDS = 5


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every thread of a round ends once its stream and its attempt have."""
    yield
    for thread in threading.enumerate():
        if thread.name in ROUND_THREADS:
            thread.join(2 * SHORT_SECONDS)
            assert not thread.is_alive(), thread.name


@pytest.fixture
def hurried(
    served: HolderServer, peer: PinnedEndpoint, aggregator: PinnedEndpoint, builder: Builder
) -> Iterator[Leg]:
    """A leg of a job whose rounds have little time."""
    spec = builder.started(
        peer, registered(served.config), aggregator=aggregator, round_timeout_seconds=SHORT_SECONDS
    )
    leg = Leg(served, peer, builder, spec)
    yield leg
    leg.close()


class Sent:
    """An attempt whose update a real aggregator has summed."""

    def __init__(self, leg: Leg, aggregator: PinnedEndpoint) -> None:
        self.leg, self.parts = leg, leg.parts()
        self.talk = leg.talk(self.parts)
        self.submission = self.parts.submit(self.talk.ready())
        summed = to_sum(leg.spec, self.submission.view)
        with BuilderAggregation(aggregator, leg.builder.account) as aggregation:
            aggregation.open_round(summed, 60)
            self.talk.say(self.submission.step)
            self.talk.until(rounds_pb2.ROUND_STATE_SUBMITTED)
            with aggregation.fetch_sum(summed, 30) as fetched:
                self.root, self.uploads = fetched.commitment.root, fetched.uploads
        self.seed = secrets.token_bytes(32)

    def again(self) -> RoundTalk:
        """Another stream, up to SUBMITTED."""
        talk = self.leg.talk(self.parts)
        talk.ready()
        talk.say(self.submission.step)
        talk.until(rounds_pb2.ROUND_STATE_SUBMITTED)
        return talk

    def check(self, **changes: object) -> rounds_pb2.RoundStep:
        """The challenge, or a changed one."""
        fields = {"seed": self.seed, "sum_root": self.root, "uploads": self.uploads, **changes}
        return rounds_pb2.RoundStep(check=rounds_pb2.Check(**fields))

    def refused(self, **changes: object) -> str:
        """How a changed challenge is answered, on a stream of its own."""
        talk = self.again()
        talk.say(self.check(**changes))
        return talk.error()


def test_steps_out_of_their_order_are_refused_and_the_attempt_stays(leg: Leg) -> None:
    parts = leg.parts()
    check = rounds_pb2.RoundStep(check=rounds_pb2.Check(seed=bytes(32), sum_root=bytes(32)))
    members = []
    for said, reason in (
        (check, "ROUND_OUT_OF_ORDER"),
        (rounds_pb2.RoundStep(), "MALFORMED"),
        (b"\xff\xff\xff", "MALFORMED"),
        (bytes(STEP_LIMIT_BYTES + 1), "TOO_LARGE"),
        (None, "MALFORMED"),  # the builder's half of the stream ends
    ):
        talk = leg.talk(parts)
        members.append(talk.ready())
        talk.end() if said is None else talk.say(said)
        assert talk.error() == reason
    assert all(member == members[0] for member in members), "mask key and signature are the attempt's"
    assert leg.ended(parts) == "ROUND_UNKNOWN", "after all that it only lacks an aggregator that knows of it"
    assert (leg.charged, leg.kinds().count(UsageKind.CHARGED)) == (1, 1)
    assert UsageKind.LOST not in leg.kinds()


def test_a_second_submit_is_out_of_order(leg: Leg, aggregator: PinnedEndpoint) -> None:
    sent = Sent(leg, aggregator)
    sent.talk.say(sent.submission.step)
    assert sent.talk.error() == "ROUND_OUT_OF_ORDER"
    sent.again().hang_up()
    assert leg.kinds().count(UsageKind.SUBMITTED) == 1


def test_an_attempt_answers_one_challenge_and_says_so_on_disk_first(
    leg: Leg, aggregator: PinnedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent(leg, aggregator)
    other = sent.uploads[0].__class__()
    other.CopyFrom(sent.uploads[0])
    other.upload_root = bytes(32)
    for reason, changes in (
        ("MALFORMED", {"seed": b"short"}),
        ("MALFORMED", {"sum_root": b""}),
        ("ROSTER_MISMATCH", {"uploads": []}),
        ("ROSTER_MISMATCH", {"uploads": [*sent.uploads, *sent.uploads]}),
        ("BAD_SIGNATURE", {"uploads": [other]}),
    ):
        assert sent.refused(**changes) == reason
    assert UsageKind.CHECKED not in leg.kinds()

    on_disk: list[int] = []
    compute = checking.LinearCheck

    def watched(*arguments: object) -> object:
        with LedgerReader(leg.served.config.ledger_path) as reader:
            on_disk.append(reader.usage_count())
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "LinearCheck", watched)
    sent.talk.say(sent.check())
    answer = sent.talk.until(rounds_pb2.ROUND_STATE_CHECKED)
    (record,) = leg.records(UsageKind.CHECKED)
    assert on_disk[0] > record.sequence
    assert sent.refused(seed=secrets.token_bytes(32)) == "CHECK_CHANGED"
    assert sent.refused(sum_root=secrets.token_bytes(32)) == "CHECK_CHANGED"
    again = sent.again()
    again.say(sent.check())
    same = again.until(rounds_pb2.ROUND_STATE_CHECKED)
    assert (same.check_values, same.check_signature) == (answer.check_values, answer.check_signature)
    assert len(leg.records(UsageKind.CHECKED)) == 1


def test_of_challenges_at_the_same_time_one_is_answered(leg: Leg, aggregator: PinnedEndpoint) -> None:
    sent = Sent(leg, aggregator)
    talks = [sent.talk, sent.again(), sent.again()]
    for talk in talks:
        talk.say(sent.check(seed=secrets.token_bytes(32)))
    outcomes = sorted(outcome(talk) for talk in talks)
    assert outcomes == ["", "CHECK_CHANGED", "CHECK_CHANGED"]


def test_who_is_left_out_loses_the_attempt_when_the_next_one_begins(leg: Leg) -> None:
    first = leg.parts()
    talk = leg.talk(first)
    talk.ready()
    pool = pool_of(leg)
    assert leg.refused(attempt=2) == "ROUND_UNKNOWN"
    assert talk.error() == "ATTEMPT_LOST", "whoever still listens is told"
    assert leg.ended(first) == "ATTEMPT_LOST"
    (lost,) = leg.records(UsageKind.LOST)
    assert (lost.attempt, lost.view_hash) == (1, first.offer.hash)
    assert_stopped(pool)


def test_an_attempt_that_may_not_begin_takes_nothing_from_the_one_that_waits(leg: Leg) -> None:
    parts = leg.parts()
    talk = leg.talk(parts)
    own = talk.ready()
    for reason, changes in (
        ("ROUND_VIEW_CHANGED", {}),
        ("ATTEMPTS_EXHAUSTED", {"attempt": 9}),
        ("ROUND_OUT_OF_ORDER", {"round_": 9, "attempt": 2}),
        ("TOO_LARGE", {"attempt": 2, "weights": bytes(3 << 20)}),
    ):
        assert leg.refused(**changes) == reason
    talk.say(parts.submit(own).step)
    assert talk.error() == "ROUND_UNKNOWN"


def test_the_end_of_the_leg_does_not_wait_for_a_roster_that_does_not_come(leg: Leg) -> None:
    talk = leg.talk(leg.parts())
    talk.ready()
    pool = pool_of(leg)
    workers = pool.worker_processes
    leg.builder.finish(leg.peer, leg.spec.job_id, leg.dataset_id, 1)
    assert talk.error() == "ATTEMPT_LOST"
    assert leg.kinds() == [UsageKind.CHARGED, UsageKind.LOST, UsageKind.DELIVERED]
    assert workers and not pool.worker_processes, "the makers of zeros end with the leg"


def test_silence_is_not_waited_for_longer_than_the_round_may_take(hurried: Leg) -> None:
    """One stream never says its weights, one never its roster; neither keeps anybody else from anything."""
    mute = Mute(hurried)
    parts = hurried.parts()
    waiting = hurried.talk(parts)
    waiting.ready()
    broken = hurried.talk(parts)
    broken.ready()
    broken.hang_up()
    assert waiting.error() == "ATTEMPT_LOST"
    assert mute.error() == "DEADLINE_EXCEEDED"
    assert hurried.kinds().count(UsageKind.LOST) == 1
    assert hurried.ended(parts) == "ATTEMPT_LOST"
    assert hurried.refused(attempt=2) == "ROUND_UNKNOWN"


class Mute(RoundTalk):
    """Says which attempt it is about and nothing else."""

    def __init__(self, leg: Leg) -> None:
        super().__init__(leg.builder.channel(leg.peer), leg.parts())

    def _messages(self) -> Iterator[bytes]:
        yield self._parts.header.SerializeToString()
        self._steps.get()


def test_more_streams_than_a_builder_may_have_are_refused(leg: Leg) -> None:
    parts = leg.parts()
    talks = []
    for _ in range(8):
        talks.append(leg.talk(parts))
        talks[-1].ready()
    assert leg.talk(parts).error() == "TOO_MANY"
    for talk in talks:
        talk.hang_up()
    leg.served.rounds.wind_up((leg.spec.job_id, leg.dataset_id), SHORT_SECONDS)


def outcome(talk: RoundTalk) -> str:
    """The reason with which a check is refused, or nothing."""
    try:
        talk.until(rounds_pb2.ROUND_STATE_CHECKED)
    except UsufructError as error:
        return error.reason
    return ""


def pool_of(leg: Leg) -> ZeroPool:
    """The leg's encryptions of zero."""
    return leg.served.rounds._pools._zeros[leg.spec.job_id, leg.dataset_id]


def assert_stopped(pool: ZeroPool) -> None:
    with pytest.raises(ValueError, match="between start and stop"):
        pool.take()


def test_more_streams_than_a_holder_has_room_for_are_refused(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_rounds, "MOST_STREAMS", 2)
    parts = leg.parts()
    talks = [leg.talk(parts) for _ in range(2)]
    own = talks[0].ready()
    assert talks[1].ready() == own
    assert leg.talk(parts).error() == "TOO_MANY"
    talks[0].say(parts.submit(own).step)
    assert [talk.error() for talk in talks] == ["ROUND_UNKNOWN"] * 2
    assert leg.refused(attempt=2) == "ROUND_UNKNOWN", "there is room again"


def test_a_stream_that_comes_in_the_instant_of_the_charge_joins_the_attempt(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, rounds, second = leg.parts(), leg.served.rounds, list[RoundTalk]()
    charge, is_charged, judged = leg.served.ledger.charge, rounds._is_charged, threading.Event()

    def judged_beside(*arguments: Any) -> bool:
        try:
            return is_charged(*arguments)
        finally:
            if second:
                judged.set()

    def charged(*arguments: Any) -> Any:
        result = charge(*arguments)
        second.append(leg.talk(parts))
        judged.wait(0.5)  # it waits for this attempt to begin; if it did not, it would be judged now
        return result

    monkeypatch.setattr(rounds, "_is_charged", judged_beside)
    monkeypatch.setattr(leg.served.ledger, "charge", charged)
    own = leg.talk(parts).ready()
    assert second[0].ready() == own
    second[0].say(parts.submit(own).step)
    assert second[0].error() == "ROUND_UNKNOWN"
    assert leg.charged == 1


def test_without_a_thread_for_it_an_attempt_is_lost_and_the_leg_goes_on(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_room(thread: threading.Thread) -> None:
        if thread.name == "round":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_room)
    parts = leg.parts()
    assert leg.talk(parts).error() == "INTERNAL"
    assert leg.charged == 1
    assert_stopped(pool_of(leg))
    monkeypatch.setattr(threading.Thread, "start", start)
    assert leg.ended(parts) == "ATTEMPT_LOST"
    assert leg.refused(attempt=2) == "ROUND_UNKNOWN"
    leg.served.rounds.settle_attempts((leg.spec.job_id, leg.dataset_id))
    assert [record.attempt for record in leg.records(UsageKind.LOST)] == [1]
    assert [record.attempt for record in leg.records(UsageKind.CHARGED)] == [2, 1]
