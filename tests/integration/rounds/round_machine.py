"""Rounds as a state machine: holders that crash, return, repeat and vanish, one that lies, a hostile builder, and an aggregator
that forgets.

Three holders are real (``holder_here``), with their state on disk. A fourth is all lies: its operator key is the builder's
accomplice. The builder offers what it likes to whom it likes, fixes rosters as it likes, repeats, and challenges twice; and
it keeps every byte that ever left a holder. In the end an honest builder takes over, with the attempts that are left.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from holder_here import HolderHere, Killed, RoundStream
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from openable import Sent, openable, too_close
from round_here import VALUE_BITS, WEIGHTS_BYTES, JobHere, RoundHere, opens_rightly

from usufruct.builder.attempt import Attempt
from usufruct.domain.round_view import RoundView
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import BoundedValues, plan
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.masks import MaskKey
from usufruct.errors import CATALOGUE, UsufructError
from usufruct.v1 import aggregation_pb2, rounds_pb2
from usufruct.wire.aggregation import RoundToSum
from usufruct.wire.signatures import sign_ready, sign_view, signed_upload_header
from usufruct.wire.usage import record_from_bytes

HOLDERS, LIAR, MIN_COHORT = (3, 5, 8), 9, 3
PARAMETERS = plan(BoundedValues(VALUE_BITS), len(HOLDERS) + 1)
ROUNDS, SPARE, VALUES = 3, 4, 3
SEEDS = tuple(bytes([number]) * 32 for number in (1, 2))
OUTCOMES = (UsageKind.LOST, UsageKind.SUBMITTED)
LEAST_ATTEMPTS_LEFT = 2
"""The hostile builder leaves so many attempts to the honest one."""

small = st.integers(0, 7)
some_holders = st.sets(st.sampled_from(HOLDERS)).map(lambda left_out: set(HOLDERS) - left_out)
"""All of them, most often."""


@dataclass
class Stream:
    """One stream to a holder, as far as it has come."""

    offer: Attempt
    number: int
    stream: RoundStream
    view: RoundView | None = None
    roster: list[rounds_pb2.RosterMember] = field(default_factory=list)
    sent: bool = False


class RoundMachine(RuleBasedStateMachine):
    """See the module. Every step ends before the next begins; nothing waits for time.

    Attributes:
        refusals: by reason of the catalogue, how often a party refused something; in all runs so far.
    """

    refusals: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.job = JobHere(
            Path(self._folder.name) / "job", count=VALUES, rounds=ROUNDS, spare=SPARE, min_cohort=MIN_COHORT,
            numbers=HOLDERS, liars=(LIAR,), round_timeout_seconds=600, parameters=PARAMETERS,
        )  # fmt: skip
        for holder in self.job.holders.values():
            holder.wire.on_the_way = self._sees
        self.offers: list[Attempt] = []
        self.streams: list[Stream] = []
        self.members: dict[bytes, dict[int, rounds_pb2.RosterMember]] = {}
        self.views: dict[bytes, RoundView] = {}
        self.headers: dict[bytes, dict[int, aggregation_pb2.UploadHeader]] = {}
        self.bytes_sent: dict[tuple[int, int], set[tuple[bytes, bytes, bytes]]] = {}
        self.answers: dict[tuple[int, int], set[tuple[bytes, bytes, tuple[int, ...]]]] = {}
        self.finished: list[tuple[Attempt, int, list[rounds_pb2.RosterMember]]] = []
        self._examined = 0
        self._hook, threading.excepthook = threading.excepthook, self._on_thread_ended

    @property
    def top(self) -> int:
        """The highest attempt that was ever offered."""
        return max((offer.number for offer in self.offers), default=0)

    # -- a hostile builder ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.top < ROUNDS + SPARE - LEAST_ATTEMPTS_LEFT)
    @rule(reuse=st.booleans(), next_round=st.booleans(), to=some_holders, odd=some_holders)
    def offers_an_attempt(self, reuse: bool, next_round: bool, to: set[int], odd: set[int]) -> None:
        """To some; to others of them with other weights under the same number. With a key of an earlier one, perhaps."""
        key = self.offers[-1].key if reuse and self.offers else RoundKey.generate(PARAMETERS)
        round_ = self.offers[-1].offer.round if self.offers else 1
        round_, number = min(ROUNDS, round_ + next_round), self.top + 1
        for shown in (to - odd, to & odd):
            if shown:
                self.offers.append(self.job.offer(round_, number, key, secrets.token_bytes(WEIGHTS_BYTES)))
                self._show(self.offers[-1], shown)

    @precondition(lambda self: self.offers)
    @rule(which=small, to=some_holders)
    def offers_again(self, which: int, to: set[int]) -> None:
        """One that was offered before, to the same or to others."""
        self._show(self.offers[-1 - which % min(3, len(self.offers))], to)

    def _show(self, offer: Attempt, to: set[int]) -> None:
        for number in sorted(to):
            with self._facing():
                self._require(number)
                here = RoundHere(self.job, copy.copy(offer))
                stream = here.offer(number)
                here.hear(number)
                event = here.hear(number)
                member = rounds_pb2.RosterMember(
                    dataset_id=number, mask_key=event.mask_key, ready_signature=event.ready_signature
                )
                self.members.setdefault(offer.offer.hash, {})[number] = member
                self.streams.append(Stream(offer, number, stream))

    @precondition(lambda self: self.streams)
    @rule(which=small, one=some_holders, two=some_holders, liar=st.booleans(), opens=st.booleans())
    def submits_two_rosters(self, which: int, one: set[int], two: set[int], liar: bool, opens: bool) -> None:
        """Of those that were ever ready for an offer, on all its streams: to some the one, to the others the other. The liar
        has a new mask key for each."""
        offer = self.streams[-1 - which % len(self.streams)].offer
        rosters = []
        for some in (one, two):
            ready = {**self.members.get(offer.offer.hash, {}), LIAR: self._liar(offer)}
            some = some | {LIAR} if liar else some
            rosters.append([ready[number] for number in sorted(some & set(ready))])
        self._submit_to_all(offer, opens, *rosters)

    @precondition(lambda self: self.streams)
    @rule(which=small, opens=st.booleans())
    def submits_everybody(self, which: int, opens: bool) -> None:
        """As an honest builder would, on every stream of the same offer."""
        offer = self.streams[-1 - which % len(self.streams)].offer
        ready = self.members.get(offer.offer.hash, {})
        self._submit_to_all(offer, opens, [ready[number] for number in sorted(ready)])

    def _submit_to_all(self, offer: Attempt, opens: bool, *rosters: list[rounds_pb2.RosterMember]) -> None:
        if opens and rosters[0]:
            with self._facing():
                self.job.aggregation.open_round(self._to_sum(self._view(offer, rosters[0])), 600)
        waiting = [stream for stream in self.streams if stream.offer is offer and stream.view is None]
        for index, stream in enumerate(waiting):
            roster = rosters[index % len(rosters)]
            if roster:
                self._submit(stream, roster)

    def _view(self, offer: Attempt, roster: list[rounds_pb2.RosterMember]) -> RoundView:
        return RoundView(offer.offer, tuple((member.dataset_id, member.mask_key) for member in roster))

    def _submit(self, stream: Stream, roster: list[rounds_pb2.RosterMember]) -> None:
        view = self._view(stream.offer, roster)
        self.views[view.hash] = view
        signature = sign_view(self.job.builder, view.hash)
        with self._facing(stream):
            self._require(stream.number)
            stream.stream.say(
                rounds_pb2.RoundStep(submit=rounds_pb2.Submit(roster=roster, view_signature=signature))
            )
            stream.view, stream.roster = view, roster
            for _ in range(2):
                heard = rounds_pb2.RoundEvent.FromString(stream.stream.hear())
                assert heard.view_hash == view.hash
            stream.sent = True

    @precondition(lambda self: any(stream.sent for stream in self.streams))
    @rule(which=small, seed=st.sampled_from(SEEDS), root=st.sampled_from(SEEDS))
    def challenges(self, which: int, seed: bytes, root: bytes) -> None:
        """With what it likes, again and again."""
        sent = [stream for stream in self.streams if stream.sent]
        self._challenge(sent[-1 - which % len(sent)], seed, root)

    @precondition(lambda self: self.finished)
    @rule(which=small, seed=st.sampled_from(SEEDS), root=st.sampled_from(SEEDS))
    def comes_back_with_a_challenge(self, which: int, seed: bytes, root: bytes) -> None:
        """About an attempt whose check was answered: the same offer, the same roster."""
        offer, number, roster = self.finished[-1 - which % len(self.finished)]
        self._show(offer, {number})
        back = [stream for stream in self.streams if (stream.offer, stream.number) == (offer, number)][-1:]
        if back and back[0].view is None:
            self._submit(back[0], roster)
            if back[0].sent:
                self._challenge(back[0], seed, root)

    def _challenge(self, stream: Stream, seed: bytes, root: bytes) -> None:
        assert stream.view is not None
        to_sum = self._to_sum(stream.view)
        headers = dict(self.headers.get(stream.view.hash, {}))
        if LIAR in stream.view.datasets:
            headers[LIAR] = signed_upload_header(
                self.job.liars[LIAR], dataset_id=LIAR, upload_root=secrets.token_bytes(32),
                upload_bytes=PARAMETERS.upload_bytes(VALUES), **to_sum.names,
            )  # fmt: skip
        check = rounds_pb2.Check(
            seed=seed, sum_root=root, uploads=[headers[number] for number in sorted(headers)]
        )  # fmt: skip
        with self._facing(stream):
            self._require(stream.number)
            stream.stream.say(rounds_pb2.RoundStep(check=check))
            event = rounds_pb2.RoundEvent.FromString(stream.stream.hear())
            answered = seed, root, tuple(event.check_values)
            self.answers.setdefault((stream.number, stream.offer.number), set()).add(answered)
            self.finished.append((stream.offer, stream.number, stream.roster))
            self._close(stream)

    @precondition(lambda self: self.streams)
    @rule(which=small)
    def hangs_up(self, which: int) -> None:
        """On a holder."""
        self._close(self.streams[which % len(self.streams)])

    @precondition(lambda self: self.views)
    @rule(which=small)
    def opens_a_round(self, which: int) -> None:
        """At the aggregator, over any view there ever was."""
        view = list(self.views.values())[which % len(self.views)]
        with self._facing():
            self.job.aggregation.open_round(self._to_sum(view), 600)

    # -- what happens to the others -----------------------------------------------------------------------------------

    @rule(number=st.sampled_from(HOLDERS), point=st.sampled_from(HolderHere.POINTS))
    def will_be_killed(self, number: int, point: str) -> None:
        """A holder, the next time that it comes there."""
        self.job.holders[number].doomed = point

    @rule(number=st.sampled_from(HOLDERS))
    def is_killed_or_returns(self, number: int) -> None:
        """A holder."""
        holder = self.job.holders[number]
        if holder.alive:
            holder.kill()
        else:
            holder.start()

    @rule(number=st.sampled_from(HOLDERS))
    def returns(self, number: int) -> None:
        """A holder that is gone."""
        if not self.job.holders[number].alive:
            self.job.holders[number].start()

    @rule(number=st.sampled_from(HOLDERS))
    def has_waited_long_enough(self, number: int) -> None:
        """A holder, for a roster: what its deadline does."""
        holder = self.job.holders[number]
        if holder.alive:
            with self._facing():
                holder.rounds.wind_up(holder.job.key, 10)

    @rule()
    def forgets(self) -> None:
        """The aggregator, everything."""
        self.job.aggregator.restart()

    @precondition(lambda self: self.top < ROUNDS + SPARE - LEAST_ATTEMPTS_LEFT)
    @rule()
    def takes_a_round_as_agreed(self) -> None:
        """All three holders, an honest builder: it opens the right sum, or says why not."""
        with self._facing():
            self._honest_round()

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def charges_come_before_draws_and_have_one_outcome(self) -> None:
        for holder in self.job.holders.values():
            if not holder.alive:
                continue
            charged = holder.ledger.charged_attempts(holder.dataset_id, self.job.spec.job_id)
            assert len(charged) == len(set(charged)) == len({attempt for _, attempt in charged})
            assert (
                holder.ledger.leg(holder.dataset_id, self.job.spec.job_id).charged
                == len(charged)
                <= ROUNDS + SPARE
            )
            assert set(holder.draws) <= {attempt for _, attempt in charged}
            assert all(drawn == 1 for drawn in holder.draws.values())
            counted = self._records(holder)
            assert all(count == 1 for count in counted.values()), counted
            for _, attempt in charged:
                assert sum(counted[kind, attempt] for kind in OUTCOMES) <= 1

    @invariant()
    def an_attempt_has_one_upload_and_answers_once(self) -> None:
        assert all(len(sent) == 1 for sent in self.bytes_sent.values())
        assert all(len(answers) == 1 for answers in self.answers.values())

    @invariant()
    def no_two_sums_differ_by_too_few(self) -> None:
        if self._examined == len(self.bytes_sent):
            return
        self._examined = len(self.bytes_sent)
        sent = [
            Sent(number, self.views[view_hash])
            for (number, _), uploads in self.bytes_sent.items()
            for view_hash, _, _ in uploads
        ]
        assert not too_close(openable(sent, HOLDERS), MIN_COHORT)

    def teardown(self) -> None:
        """An honest builder takes over: the job finishes or says why, within the attempts that are left."""
        try:
            for holder in self.job.holders.values():
                holder.doomed = ""
                if not holder.alive:
                    holder.start()
            self.job.aggregator.restart()
            self._honest_round()
            for holder in self.job.holders.values():
                self._settled(holder)
        finally:
            threading.excepthook = self._hook
            self.job.stop()
            self._folder.cleanup()

    def _settled(self, holder: HolderHere) -> None:
        """At the end of a leg every attempt that was charged was sent, or lost: one of the two."""
        holder.rounds.wind_up(holder.job.key, 10)
        holder.rounds.settle_attempts(holder.job.key)
        counted = self._records(holder)
        for _, attempt in holder.ledger.charged_attempts(holder.dataset_id, self.job.spec.job_id):
            assert counted[UsageKind.CHARGED, attempt] == 1
            assert sum(counted[kind, attempt] for kind in OUTCOMES) == 1
            if (holder.dataset_id, attempt) in self.answers:
                assert counted[UsageKind.SUBMITTED, attempt] == 1

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _honest_round(self) -> None:
        """The next attempt, in the last round, over the three; raises where not all are there."""
        here = self.job.fresh(ROUNDS, self.top + 1)
        self.offers.append(here.attempt)
        try:
            for number in HOLDERS:
                self._require(number)
            here.make_ready()
            step = here.submit()
            self.views[here.attempt.fixed_view.hash] = here.attempt.fixed_view
            here.collect(step)
            with here.fetch() as fetched:
                opened = here.open(here.checked(fetched), fetched)
            assert opens_rightly(self.job, here.attempt.number, opened, self.job.holders)
            for number, event in here.said(rounds_pb2.ROUND_STATE_CHECKED).items():
                challenge = here.attempt.challenge(fetched)
                answered = challenge.seed, challenge.sum_root, tuple(event.check_values)
                self.answers.setdefault((number, here.attempt.number), set()).add(answered)
                self.finished.append((here.attempt, number, list(step.submit.roster)))
        finally:
            here.hang_up()

    def _sees(self, method: str, messages: list[bytes]) -> list[bytes]:
        """Everything that leaves a holder, before anybody judges it."""
        header = aggregation_pb2.UploadHeader.FromString(messages[0])
        digest = hashlib.sha256(b"".join(messages)).digest()
        sent = header.view_hash, header.upload_root, digest
        self.bytes_sent.setdefault((header.dataset_id, header.attempt), set()).add(sent)
        self.headers.setdefault(header.view_hash, {})[header.dataset_id] = header
        return messages

    def _liar(self, offer: Attempt) -> rounds_pb2.RosterMember:
        key = MaskKey(self.job.spec.job_id, LIAR).public_bytes
        return rounds_pb2.RosterMember(
            dataset_id=LIAR, mask_key=key, ready_signature=sign_ready(self.job.liars[LIAR], offer.offer.hash, LIAR, key)
        )  # fmt: skip

    def _to_sum(self, view: RoundView) -> RoundToSum:
        offer, operators = (
            view.offer,
            {number: self.job.spec.leg(number).operator for number in view.datasets},
        )
        return RoundToSum(
            offer.job_id, offer.round, offer.attempt, view.hash, operators, VALUES, PARAMETERS
        )  # fmt: skip

    def _records(self, holder: HolderHere) -> Counter[tuple[UsageKind, int]]:
        """How often the usage log has each of an attempt's kinds."""
        records = [record_from_bytes(data) for data in holder.ledger.usage_records(0, 10_000)]
        return Counter(
            (record.kind, record.attempt) for record in records if record.kind is not UsageKind.REFUSED
        )

    @contextmanager
    def _facing(self, stream: Stream | None = None) -> Iterator[None]:
        """What a party refuses is refused; a dead one says nothing."""
        try:
            yield
        except UsufructError as error:
            reason = error.reason
        except Killed:
            reason = "killed"
        else:
            return
        assert reason == "killed" or reason in CATALOGUE
        self.refusals[reason] += 1
        if stream is not None:
            self._close(stream)

    def _require(self, number: int) -> None:
        if not self.job.holders[number].alive:
            raise Killed

    def _close(self, stream: Stream) -> None:
        stream.stream.hang_up()
        holder = self.job.holders[stream.number]
        if stream.stream in holder.streams:
            holder.streams.remove(stream.stream)
        if stream in self.streams:
            self.streams.remove(stream)

    def _on_thread_ended(self, failure: Any) -> None:
        if not issubclass(failure.exc_type, Killed):
            self._hook(failure)
