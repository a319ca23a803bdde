"""One attempt whose every message is tampered with on its way, again and again, before it arrives as it was sent.

At each step of the protocol manipulated messages go to the very party that the message is for, which must refuse each of
them; then the message itself arrives, and the attempt goes on. So what is refused must also have changed nothing: in
the end the attempt opens to exactly the right sum. A manipulation that the first to see it cannot find spoils the
attempt, which is then carried on as far as it goes: somebody honest must find it before the key is used.
"""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from eth_account import Account
from google.protobuf.message import DecodeError, Message
from in_process import Answer, Caller
from round_here import CHARGED, CHECKED, ENCRYPTED, READY, SUBMITTED, JobHere, opens_rightly

from usufruct.builder.summing import add_again, check, check_step, compare_uploads
from usufruct.domain.round_view import RoundView
from usufruct.encryption import EncryptionParameters
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.layout import read_block, split_planes
from usufruct.encryption.linear_check import check_value
from usufruct.encryption.sum import add_chunk
from usufruct.errors import CATALOGUE, UsufructError
from usufruct.v1 import aggregation_pb2, rounds_pb2
from usufruct.wire.aggregation import FetchedSum
from usufruct.wire.signatures import sign_check, sign_offer, sign_ready, sign_view
from usufruct_server.holder.rounds import Conversation
from usufruct_server.holder.rounds.attempt import Attempt as HolderAttempt

READ = {
    CHARGED: ("state", "offer_hash"),
    READY: ("state", "offer_hash", "mask_key", "ready_signature"),
    ENCRYPTED: ("state", "view_hash", "upload_root", "upload_bytes"),
    CHECKED: ("state", "view_hash", "check_values", "check_signature"),
}
"""What of each event has a meaning; another value elsewhere is without effect and not counted."""

STEP_SECONDS = 10.0


class Undetected(AssertionError):
    """A manipulation that nobody noticed."""


@dataclass
class Past:
    """Everything that was said in an attempt that is over; what may be replayed."""

    round: int
    offers: dict[int, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    events: dict[tuple[int, int], bytes] = field(default_factory=dict)
    submit: rounds_pb2.RoundStep = field(default_factory=rounds_pb2.RoundStep)
    uploads: dict[int, list[bytes]] = field(default_factory=dict)
    sum: list[bytes] = field(default_factory=list)
    checks: rounds_pb2.RoundStep = field(default_factory=rounds_pb2.RoundStep)
    chunks: list[bytes] = field(default_factory=list)


@dataclass
class Tally:
    """What has been tried.

    Attributes:
        found: by kind of manipulation, how many were found, all of them before the key was used.
        reasons: by reason of the catalogue.
        opened: attempts that were tampered with and opened to the right sum in spite of everything.
        spoilt: attempts that were given up, rightly.
    """

    found: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    spoilt: int = 0


Try = tuple[str, Callable[[], object]]
"""A kind of manipulation, and how one of it is delivered."""

NOW, LATER = "as it was, now", "as it was, once more later"


class HostileRound:
    """One attempt.

    Args:
        pasts: attempts to replay from; at least two, and one of them of another job.
        tries: manipulations of every message.
        spoil: the one of :data:`SPOILS` that it is to be spoilt by; empty for none.
    """

    def __init__(
        self, job: JobHere, round_: int, attempt: int, pasts: list[Past], tally: Tally, rng: random.Random, tries: int,
        spoil: str,
    ) -> None:  # fmt: skip
        self._job, self._here = job, job.fresh(round_, attempt)
        self._rng, self._tries, self._tally = rng, tries, tally
        self._pasts, self._past = pasts, Past(round_)
        self._numbers = tuple(job.holders)
        self._spoil_at = spoil
        self._live: dict[int, HolderAttempt] = {}
        self._repetitions: list[Callable[[], object]] = []
        self._threads_failure: BaseException | None = None

    def run(self) -> Past:
        """All of it; what was said."""
        steps = (
            self._offers,
            self._submit,
            self._uploads,
            self._sum,
            self._encrypted,
            self._check,
            self._checked,
            self._added,
        )
        for step in steps:
            due, self._repetitions = self._repetitions, []
            if step():
                self._tally.spoilt += 1
                if self._here.attempt.view is not None:
                    self._job.aggregation.close_round(self._here.to_sum())
                self._here.hang_up()
                return self._past
            for repeat in due:
                repeat()
        with self._fetched as fetched:
            opened = self._here.open(self._done, fetched)
        assert opens_rightly(self._job, self._here.attempt.number, opened, self._job.holders)
        self._tally.opened += bool(self._tries)
        self._here.hang_up()
        return self._past

    # -- trying -------------------------------------------------------------------------------------------------

    def _try(self, stage: str, tries: Callable[..., list[Try]], *about: Any) -> None:
        """Some of these, those first that were tried least; of none where this attempt is left alone.

        The first of them is the message as it was: it must pass where the others must not, or nothing would be shown. Where
        it has an effect it is delivered after the next step, when it is a repetition.
        """
        if not self._tries:
            return
        (name, control), *changed = tries(*about)
        ranked = sorted(
            changed, key=lambda one: (self._tally.found[f"{stage}: {one[0]}"], self._rng.random())
        )
        for kind, deliver in ranked[: self._tries]:
            self._must_find(f"{stage}: {kind}", deliver)
        if name == NOW:
            control()
        else:
            self._repetitions.append(control)

    def _must_find(self, kind: str, deliver: Callable[[], object]) -> None:
        try:
            deliver()
        except UsufructError as error:
            reason = error.reason
        else:
            raise Undetected(kind)
        assert reason in CATALOGUE, kind
        assert not self._here.attempt.key.used, kind
        self._tally.found[kind] += 1
        self._tally.reasons[reason] += 1

    def _spoilt_by(self, kind: str, deliver: Callable[[], object]) -> bool:
        """Whether it is this attempt's to be spoilt so; then it has been found."""
        if self._spoil_at != kind:
            return False
        self._must_find(f"spoilt: {kind}", deliver)
        return True

    # -- offers and readiness -----------------------------------------------------------------------------------

    def _offers(self) -> bool:
        here, spoiling = self._here, self._rng.choice(self._numbers)
        for number in self._numbers:
            header = here.attempt.header(number).SerializeToString()
            public_key, weights = here.attempt.key.public_key_bytes, here.attempt.weights
            self._past.offers[number] = header, public_key, weights
            if self._spoil_at in ("other weights to one holder", "another key to one holder"):
                if number == spoiling:
                    self._offer_another(number)
                    continue
            else:
                self._try("offer", self._offer_tries, number)
            here.offer(number)
            for state in (CHARGED, READY):
                self._hear(number, state)
            live = self._job.holders[number].rounds._live(self._job.holders[number].job.key)
            assert live is not None
            self._live[number] = live
        return self._offers_spoilt(spoiling)

    def _offer_tries(self, number: int) -> list[Try]:
        attempt, rng, builder = self._here.attempt, self._rng, self._job.builder
        past = rng.choice(self._pasts)
        header, key, weights = self._past.offers[number]
        other = rng.choice([n for n in self._numbers if n != number])
        stranger = Account.create()

        def offer(caller: str = builder.address, **parts: bytes) -> object:
            whole = {"header": header, "public_key": key, "weights": weights, **parts}
            stream = self._job.holders[number].stream(caller, **whole)
            stream.end()
            try:
                return stream.hear()
            finally:
                stream.hang_up()
                self._job.holders[number].streams.remove(stream)

        def signed(**fields: Any) -> bytes:
            changed = attempt.header(number)
            for name, value in fields.items():
                setattr(changed, name, value)
            return changed.SerializeToString()

        another = replace(attempt.offer, spec_hash=rng.randbytes(32))
        over = [
            earlier
            for earlier in self._pasts
            if earlier.round < attempt.offer.round - 1 and number in earlier.offers
        ]
        tries: list[Try] = [
            (LATER, offer),
            ("a bit of the header", lambda: offer(header=self._other_bits(rounds_pb2.RoundHeader, header))),
            ("a bit of the public key", lambda: offer(public_key=self._flip(key))),
            ("a bit of the weights", lambda: offer(weights=self._flip(weights))),
            ("weights that end early", lambda: offer(weights=weights[:-1])),
            ("another attempt's public key", lambda: offer(public_key=past.offers[number][1])),
            ("another attempt's weights", lambda: offer(weights=past.offers[number][2])),
            ("another holder's header", lambda: offer(header=self._past_header(other))),
            ("from another caller", lambda: offer(stranger.address)),
            ("signed by another", lambda: offer(header=signed(offer_signature=sign_offer(stranger, attempt.offer.hash)))),
            ("of another spec", lambda: offer(header=signed(offer_signature=sign_offer(builder, another.hash)))),
            ("another attempt's signature",
             lambda: offer(header=signed(offer_signature=self._offer_signature(past, number)))),
            ("a key out of range", lambda: self._bad_key(number, offer)),
        ]  # fmt: skip
        if over:
            replayed = rng.choice(over).offers[number]
            tries.append(
                (
                    "replayed from a round that is over",
                    lambda: offer(header=replayed[0], public_key=replayed[1], weights=replayed[2]),
                )
            )
        return tries

    def _bad_key(self, number: int, offer: Callable[..., object]) -> object:
        """A key that no coefficient of which is in range, under a valid signature of its builder."""
        key = self._past.offers[number][1]
        bad = key[:-4096] + b"\xff" * 4096
        hostile = self._offered(bad, self._here.attempt.weights)
        return offer(header=hostile.header(number).SerializeToString(), public_key=bad)

    def _offered(self, public_key: bytes, weights: bytes) -> Any:
        """The attempt as its builder would offer it with these."""
        key = copy.copy(self._here.attempt.key)
        key._public_key_bytes = public_key
        offer = self._here.attempt.offer
        return self._job.offer(offer.round, offer.attempt, key, weights)

    def _offer_another(self, number: int) -> None:
        """Has a holder accept an offer that the others are not shown."""
        attempt = self._here.attempt
        key, weights = attempt.key.public_key_bytes, attempt.weights
        if self._spoil_at == "other weights to one holder":
            weights = self._flip(weights)
        else:
            key = self._rng.choice([past for past in self._pasts if number in past.offers]).offers[number][1]
        other = self._offered(key, weights)
        self._here.offer(
            number, header=other.header(number).SerializeToString(), public_key=key, weights=weights
        )
        stream = self._here.streams[number]
        stream.hear()
        self._odd_one = other, rounds_pb2.RoundEvent.FromString(stream.hear())

    def _offers_spoilt(self, odd: int) -> bool:
        """Each of the others refuses the roster that has the odd one out, and it refuses theirs."""
        if self._spoil_at not in ("other weights to one holder", "another key to one holder"):
            return False
        other, ready = self._odd_one
        member = rounds_pb2.RosterMember(
            dataset_id=odd, mask_key=ready.mask_key, ready_signature=ready.ready_signature
        )
        roster = [self._here.attempt._ready.get(number, member) for number in self._numbers]
        keys = tuple((entry.dataset_id, entry.mask_key) for entry in roster)
        for number in self._numbers:
            offered = other if number == odd else self._here.attempt
            view = RoundView(offered.offer, keys)
            submit = rounds_pb2.Submit(
                roster=roster, view_signature=sign_view(self._job.builder, view.hash)
            )  # fmt: skip
            self._here.streams[number].say(rounds_pb2.RoundStep(submit=submit))
            if number != odd:
                with pytest.raises(UsufructError):
                    self._here.streams[number].hear()
        return self._spoilt_by(self._spoil_at, self._here.streams[odd].hear)

    def _past_header(self, number: int) -> bytes:
        return self._here.attempt.header(number).SerializeToString()

    @staticmethod
    def _offer_signature(past: Past, number: int) -> bytes:
        return rounds_pb2.RoundHeader.FromString(past.offers[number][0]).offer_signature

    # -- events of holders ----------------------------------------------------------------------------------------

    def _hear(self, number: int, state: int) -> None:
        """Hears an event after what was made of it on the way."""
        data = self._here.streams[number].hear()
        self._past.events[number, state] = data
        if state != SUBMITTED and not self._spoil_at.endswith("one holder"):
            self._try(
                rounds_pb2.RoundState.Name(state).removeprefix("ROUND_STATE_").lower(),
                self._event_tries, number, state, data,
            )  # fmt: skip
        self._here.hear(number, data)

    def _event_tries(
        self, number: int, state: int, data: bytes, then: Callable[[rounds_pb2.RoundEvent], object] = lambda event: None
    ) -> list[Try]:  # fmt: skip
        """Manipulations of an event; ``then`` is what the builder does with it later."""
        here, rng = self._here, self._rng
        event = rounds_pb2.RoundEvent.FromString(data)
        past = rng.choice([past for past in self._pasts if (number, state) in past.events])
        old = rounds_pb2.RoundEvent.FromString(past.events[number, state])
        other = rng.choice([n for n in self._numbers if n != number])
        before = {key: said for key, said in here.talks[number].events.items() if key < state}

        def hear(changed: bytes) -> object:
            talk = copy.copy(here.talks[number])
            talk.events = dict(before)
            heard = rounds_pb2.RoundEvent()
            with contextlib.suppress(DecodeError):
                heard.ParseFromString(changed)
            talk, here.talks[number] = here.talks[number], talk
            try:
                here.hear(number, changed)
            finally:
                here.talks[number] = talk
            return then(heard)

        def fields(**values: Any) -> bytes:
            changed = rounds_pb2.RoundEvent()
            changed.CopyFrom(event)
            for name, value in values.items():
                if name == "check_values":
                    del changed.check_values[:]
                    changed.check_values.extend(value)
                else:
                    setattr(changed, name, value)
            return changed.SerializeToString()

        tries: list[Try] = [
            (NOW, lambda: hear(data)),
            ("a bit", lambda: hear(self._other_event(state, data))),
            ("replayed from another attempt", lambda: hear(past.events[number, state])),
            ("another state", lambda: hear(fields(state=state % CHECKED + 1))),
        ]
        if state <= READY:
            tries.append(("another offer", lambda: hear(fields(offer_hash=rng.randbytes(32)))))
        else:
            tries.append(("another view", lambda: hear(fields(view_hash=rng.randbytes(32)))))
        if state == READY:
            stranger = sign_ready(Account.create(), here.attempt.offer.hash, number, event.mask_key)
            key = rng.randbytes(32)
            tries += [
                ("a mask key of the attacker", lambda: hear(fields(mask_key=key))),
                ("a mask key of another attempt", lambda: hear(fields(mask_key=old.mask_key))),
                ("a signature of another attempt", lambda: hear(fields(ready_signature=old.ready_signature))),
                ("signed by another", lambda: hear(fields(ready_signature=stranger))),
            ]
            if (other, READY) in self._past.events:
                theirs = self._past.events[other, READY]
                tries.append(("another holder's", lambda: hear(theirs)))
        if state == ENCRYPTED:
            tries += [
                ("another root", lambda: hear(fields(upload_root=rng.randbytes(32)))),
                ("another attempt's root", lambda: hear(fields(upload_root=old.upload_root))),
                ("another length", lambda: hear(fields(upload_bytes=event.upload_bytes + 1))),
                ("another holder's", lambda: hear(self._past.events[other, state])),
            ]
        if state == CHECKED:
            values = list(event.check_values)
            changed = [*values]
            changed[rng.randrange(len(values))] ^= 1 << rng.randrange(50)
            signed = sign_check(
                Account.create(), view_hash=event.view_hash, sum_root=self._challenge.sum_root, seed=self._challenge.seed,
                dataset_id=number, values=changed,
            )  # fmt: skip
            tries += [
                ("another value", lambda: hear(fields(check_values=changed))),
                ("values in another order", lambda: hear(fields(check_values=[*values[1:], values[0]]))),
                ("a value less", lambda: hear(fields(check_values=values[:-1]))),
                ("another attempt's values", lambda: hear(fields(check_values=old.check_values))),
                ("another attempt's values, signed then",
                 lambda: hear(fields(check_values=old.check_values, check_signature=old.check_signature))),
                ("signed by another", lambda: hear(fields(check_values=changed, check_signature=signed))),
            ]  # fmt: skip
            if (other, CHECKED) in self._past.events:
                theirs = self._past.events[other, CHECKED]
                tries.append(("another holder's", lambda: hear(theirs)))
        return tries

    # -- the roster -----------------------------------------------------------------------------------------------

    def _submit(self) -> bool:
        step = self._past.submit = self._here.submit()
        for number in self._numbers:
            self._try("roster", self._submit_tries, number, step)
        return False

    def _submit_tries(self, number: int, step: rounds_pb2.RoundStep) -> list[Try]:
        rng, holder = self._rng, self._job.holders[number]
        past = rng.choice([past for past in self._pasts if past.submit.HasField("submit")])
        roster, old = list(step.submit.roster), list(past.submit.submit.roster)
        place = rng.randrange(len(roster))
        far = rng.choice([index for index, member in enumerate(roster) if member.dataset_id != number])

        def agree(data: bytes) -> None:
            talk = Conversation(iter([data]))
            said = talk.step("submit", time.monotonic() + STEP_SECONDS)
            holder.rounds._submission.agree(self._live[number], said.submit)

        def told(*members: rounds_pb2.RosterMember) -> None:
            """A roster that its hostile builder has signed, where it can."""
            keys = tuple((member.dataset_id, member.mask_key) for member in members)
            try:
                view = RoundView(self._here.attempt.offer, keys)
                signature = sign_view(self._job.builder, view.hash)
            except UsufructError:
                signature = step.submit.view_signature
            submit = rounds_pb2.Submit(roster=members, view_signature=signature)
            agree(rounds_pb2.RoundStep(submit=submit).SerializeToString())

        def changed(index: int, **fields: Any) -> None:
            members = [copy.deepcopy(member) for member in roster]
            for name, value in fields.items():
                setattr(members[index], name, value)
            told(*members)

        def signature(value: bytes) -> None:
            submit = rounds_pb2.Submit(roster=roster, view_signature=value)
            agree(rounds_pb2.RoundStep(submit=submit).SerializeToString())

        stranger = Account.create()
        offer_hash = self._here.attempt.offer.hash
        member = roster[far]
        return [
            (LATER, lambda: told(*roster)),
            ("a bit", lambda: agree(self._other_bits(rounds_pb2.RoundStep, step.SerializeToString()))),
            ("a member less", lambda: told(*roster[:place], *roster[place + 1 :])),
            ("a member twice", lambda: told(*roster[: place + 1], *roster[place:])),
            ("in another order", lambda: told(*reversed(roster))),
            ("a mask key of the attacker", lambda: changed(place, mask_key=rng.randbytes(32))),
            ("two mask keys exchanged", lambda: told(*self._exchanged(roster))),
            ("another attempt's member", lambda: told(*roster[:far], old[far], *roster[far + 1 :])),
            ("another attempt's mask key", lambda: changed(place, mask_key=old[place].mask_key)),
            ("another attempt's readiness", lambda: changed(far, ready_signature=old[far].ready_signature)),
            ("a readiness signed by another",
             lambda: changed(far, ready_signature=sign_ready(stranger, offer_hash, member.dataset_id, member.mask_key))),
            ("a mask key signed by another", lambda: self._own_key(changed, far, stranger)),
            ("a dataset that is not of the job", lambda: changed(2, dataset_id=99)),
            ("a view signed by another", lambda: signature(sign_view(stranger, self._here.attempt.fixed_view.hash))),
            ("another attempt's view signature", lambda: signature(past.submit.submit.view_signature)),
            ("another attempt's roster", lambda: agree(past.submit.SerializeToString())),
            ("a challenge in its place", lambda: agree(past.checks.SerializeToString())),
        ]  # fmt: skip

    def _own_key(self, changed: Callable[..., None], place: int, stranger: Any) -> None:
        key = self._rng.randbytes(32)
        signed = sign_ready(stranger, self._here.attempt.offer.hash, self._numbers[place], key)
        changed(place, mask_key=key, ready_signature=signed)

    @staticmethod
    def _exchanged(roster: list[rounds_pb2.RosterMember]) -> list[rounds_pb2.RosterMember]:
        members = [copy.deepcopy(member) for member in roster]
        members[0].mask_key, members[1].mask_key = members[1].mask_key, members[0].mask_key
        return members

    # -- uploads ----------------------------------------------------------------------------------------------------

    def _uploads(self) -> bool:
        here = self._here
        missing = (
            self._rng.choice(self._numbers) if self._spoil_at == "an upload that never arrives" else None
        )
        for number in self._numbers:
            holder = self._job.holders[number]

            def on_the_way(method: str, messages: list[bytes], number: int = number) -> list[bytes]:
                self._past.uploads[number] = messages
                if number == missing:
                    return []
                try:
                    self._try("upload", self._upload_tries, number, messages)
                except BaseException as failure:  # this is the holder's thread
                    self._threads_failure = failure
                return messages

            holder.wire.on_the_way = on_the_way
            here.streams[number].say(self._past.submit)
            data = here.streams[number].hear()
            self._past.events[number, ENCRYPTED] = data
            here.hear(number, data)
            here.hear(number)
            holder.wire.on_the_way = lambda method, messages: messages
            if self._threads_failure is not None:
                raise self._threads_failure
        if missing is None:
            return False
        offer = here.attempt.offer
        self._job.aggregator.let_time_pass(self._job.builder.address, offer.job_id, offer.attempt)
        return self._spoilt_by("an upload that never arrives", here.fetch)

    def _upload_tries(self, number: int, messages: list[bytes]) -> list[Try]:
        rng, service = self._rng, self._job.aggregator.service
        past = rng.choice([past for past in self._pasts if number in past.uploads])
        old = past.uploads[number]
        header, leaves, *chunks = messages
        place = rng.randrange(len(chunks))
        later = (place + 1) % len(chunks)

        def send(*parts: bytes) -> None:
            service.upload(iter(parts), Caller("anybody"))  # type: ignore[arg-type]

        def fields(**values: Any) -> bytes:
            changed = aggregation_pb2.UploadHeader.FromString(header)
            for name, value in values.items():
                setattr(changed, name, value)
            return changed.SerializeToString()

        def with_chunk(*instead: bytes) -> None:
            send(header, leaves, *chunks[:place], *instead, *chunks[place + 1 :])

        before = aggregation_pb2.UploadHeader.FromString(old[0])
        mine = aggregation_pb2.UploadHeader.FromString(header)
        other = rng.choice([n for n in self._numbers if n != number])
        exchanged = [*chunks]
        exchanged[place], exchanged[later] = chunks[later], chunks[place]
        tries: list[Try] = [
            (LATER, lambda: send(*messages)),
            ("a bit of the header",
             lambda: send(self._other_bits(aggregation_pb2.UploadHeader, header), leaves, *chunks)),
            ("another root", lambda: send(fields(upload_root=rng.randbytes(32)), leaves, *chunks)),
            ("another attempt's root and bytes", lambda: send(fields(upload_root=before.upload_root), *old[1:])),
            ("another view", lambda: send(fields(view_hash=rng.randbytes(32)), leaves, *chunks)),
            ("another attempt", lambda: send(fields(attempt=mine.attempt + 1), leaves, *chunks)),
            ("another round", lambda: send(fields(round=mine.round + 1), leaves, *chunks)),
            ("another job", lambda: send(fields(job_id=rng.randbytes(32)), leaves, *chunks)),
            ("another length", lambda: send(fields(upload_bytes=mine.upload_bytes - 1), leaves, *chunks)),
            ("another attempt's signature", lambda: send(fields(signature=before.signature), leaves, *chunks)),
            ("replayed from another attempt", lambda: send(*old)),
            ("another attempt's bytes under its header", lambda: send(header, *old[1:])),
            ("another attempt's bytes under its leaves", lambda: send(header, leaves, *old[2:])),
            ("a bit of the leaves", lambda: send(header, self._flip(leaves), *chunks)),
            ("a leaf less", lambda: send(header, leaves[:-32], *chunks)),
            ("leaves in another order", lambda: send(header, leaves[32:] + leaves[:32], *chunks)),
            ("a bit of a chunk", lambda: with_chunk(self._flip(chunks[place]))),
            ("two chunks exchanged", lambda: send(header, leaves, *exchanged)),
            ("a chunk less", lambda: with_chunk()),
            ("a chunk twice", lambda: send(header, leaves, chunks[0], *chunks)),
            ("a shorter chunk", lambda: with_chunk(chunks[place][:-1])),
            ("a longer chunk", lambda: with_chunk(chunks[place] + b"\0")),
            ("another attempt's chunk", lambda: with_chunk(old[2 + place])),
        ]  # fmt: skip
        if other not in self._past.uploads:
            tries.append(("as another holder's", lambda: send(fields(dataset_id=other), leaves, *chunks)))
        return tries

    # -- the sum ------------------------------------------------------------------------------------------------------

    def _sum(self) -> bool:
        here = self._here
        captured: list[list[bytes]] = []

        def capture(method: str, messages: list[bytes]) -> list[bytes]:
            captured.append(messages)
            return messages

        self._job.wire.on_the_way = capture
        self._fetched = here.fetch()
        self._job.wire.on_the_way = lambda method, messages: messages
        self._past.sum = captured[0]
        for _ in self._numbers:
            self._try("sum", self._sum_tries, captured[0])
        for _ in self._numbers:
            self._try("substituted", self._substitutes, captured[0])
        return False

    def _sum_tries(self, messages: list[bytes]) -> list[Try]:
        rng, here = self._rng, self._here
        past = rng.choice([past for past in self._pasts if past.sum])
        first, *chunks, last = messages
        header = aggregation_pb2.SumHeader.FromString(first)
        old = aggregation_pb2.SumHeader.FromString(past.sum[0])
        place, one = rng.randrange(len(chunks)), rng.randrange(len(header.uploads))
        two = (one + 1) % len(header.uploads)

        def headers(change: Callable[[Any], object]) -> None:
            changed = aggregation_pb2.SumHeader.FromString(first)
            change(changed.uploads)
            self._take(changed.SerializeToString(), *chunks, last)

        def with_chunk(*instead: bytes) -> None:
            self._take(first, *chunks[:place], *instead, *chunks[place + 1 :], last)

        def set_on(index: int, **fields: Any) -> None:
            headers(lambda uploads: [setattr(uploads[index], name, value) for name, value in fields.items()])

        return [
            (NOW, lambda: self._take(*messages).close()),
            ("a bit of the headers",
             lambda: self._take(self._other_bits(aggregation_pb2.SumHeader, first), *chunks, last)),
            ("a header less", lambda: headers(lambda uploads: uploads.pop(one))),
            ("a header twice", lambda: headers(lambda uploads: uploads.append(uploads[one]))),
            ("a header in place of another", lambda: headers(lambda uploads: uploads[one].CopyFrom(uploads[two]))),
            ("another holder's signature", lambda: set_on(one, signature=header.uploads[two].signature)),
            ("another holder's root", lambda: set_on(one, upload_root=header.uploads[two].upload_root)),
            ("another view", lambda: set_on(one, view_hash=rng.randbytes(32))),
            ("another attempt", lambda: set_on(one, attempt=here.attempt.number + 1)),
            ("another length", lambda: set_on(one, upload_bytes=header.uploads[one].upload_bytes + 1)),
            ("another attempt's header", lambda: headers(lambda uploads: uploads[one].CopyFrom(old.uploads[one]))),
            ("another attempt's headers", lambda: self._take(past.sum[0], *chunks, last)),
            ("another attempt's as a whole", lambda: self._take(*past.sum)),
            ("a bit of a chunk", lambda: with_chunk(self._flip(chunks[place]))),
            ("a chunk less", lambda: with_chunk()),
            ("a chunk twice", lambda: with_chunk(chunks[place], chunks[place])),
            ("a shorter chunk", lambda: with_chunk(chunks[place][:-1])),
            ("two chunks exchanged", lambda: self._take(first, chunks[-1], *chunks[1:-1], chunks[0], last)),
            ("a bit of the root", lambda: self._take(first, *chunks, self._other_bits(aggregation_pb2.SumTrailer, last))),
            ("another attempt's root", lambda: self._take(first, *chunks, past.sum[-1])),
        ]  # fmt: skip

    def _take(self, *messages: bytes) -> FetchedSum:
        """What the builder makes of these messages in answer to its FetchSum."""
        here, aggregation = self._here, copy.copy(self._job.aggregation)
        aggregation._fetch_sum = lambda request, timeout: Answer(messages)
        return aggregation.fetch_sum(here.to_sum(), 1)

    def _substitutes(self, messages: list[bytes]) -> list[Try]:
        """Sums that fit their root and every signature, as a lying aggregator can make them."""
        sums = {NOW: messages[1:-1], **self._other_sums(messages)}
        return [
            (name, lambda chunks=chunks: self._judge(messages, chunks))  # type: ignore[misc]
            for name, chunks in sums.items()
        ]

    def _other_sums(self, messages: list[bytes]) -> dict[str, list[bytes]]:
        rng, uploads = self._rng, self._past.uploads
        past = rng.choice([past for past in self._pasts if past.sum])
        chunks = messages[1:-1]
        chunking = self._here.to_sum().uploads
        place = rng.randrange(len(chunks))
        one, two, _ = rng.sample(self._numbers, 3)

        def added(*numbers: int) -> list[bytes]:
            return [
                bytes(add_chunk(chunking, index, [uploads[number][2 + index] for number in numbers]))
                for index in range(len(chunks))
            ]

        def with_chunk(instead: bytes) -> list[bytes]:
            return [*chunks[:place], instead, *chunks[place + 1 :]]

        exchanged = [*chunks]
        later = (place + 1) % len(chunks)
        exchanged[place], exchanged[later] = chunks[later], chunks[place]
        others = {
            "one bit": with_chunk(self._flip(chunks[place])),
            "a holder left out": added(one, two),
            "a holder alone": added(one),
            "a holder twice": added(one, one, two),
            "a holder in place of all": added(one, one, one),
            "nothing": [bytes(len(chunk)) for chunk in chunks],
            "chosen at random": [rng.randbytes(len(chunk)) for chunk in chunks],
            "two chunks exchanged": exchanged,
            "another attempt's": past.sum[1:-1],
            "a chunk of another attempt's": with_chunk(past.sum[1 + place]),
            "a constant added": with_chunk(one_more(self._job.parameters, chunks[place])),
        }
        return {name: other for name, other in others.items() if other != chunks}

    def _judge(self, messages: list[bytes], chunks: list[bytes]) -> None:
        """As a builder that was given this sum would: fetch, compare, challenge, check.

        The holders answer here as :class:`Checking` does, without the record that lets it answer once: the attempt has
        its own challenge still to come.
        """
        here, to_sum = self._here, self._here.to_sum()
        sums = to_sum.sums
        trailer = aggregation_pb2.SumTrailer(sum_root=Commitment.over(sums, chunks).root)
        with self._take(messages[0], *chunks, trailer.SerializeToString()) as fetched:
            compare_uploads(fetched, to_sum, here.said(ENCRYPTED))
            challenge = copy.copy(here.attempt).challenge(fetched)
            answers: dict[int, rounds_pb2.RoundEvent] = {}
            for number in self._numbers:
                values = check_value(challenge, to_sum.uploads, self._past.uploads[number][2:])
                signature = sign_check(
                    self._job.holders[number].operator, view_hash=challenge.view_hash, sum_root=challenge.sum_root,
                    seed=challenge.seed, dataset_id=number, values=values,
                )  # fmt: skip
                answers[number] = rounds_pb2.RoundEvent(check_values=values, check_signature=signature)
            check(challenge, fetched, to_sum, answers)

    # -- what the holders said they encrypted -----------------------------------------------------------------------

    def _encrypted(self) -> bool:
        here = self._here

        def compared(number: int) -> Callable[[rounds_pb2.RoundEvent], object]:
            return lambda event: compare_uploads(
                self._fetched, here.to_sum(), {**here.said(ENCRYPTED), number: event}
            )

        for number in self._numbers:
            data = self._past.events[number, ENCRYPTED]
            self._try("encrypted", self._event_tries, number, ENCRYPTED, data, compared(number))
        return False

    # -- the check ------------------------------------------------------------------------------------------------------

    def _check(self) -> bool:
        here, rng = self._here, self._rng
        if self._spoil_at == "a substituted sum":
            return self._sum_spoilt()
        self._challenge = here.attempt.challenge(self._fetched)
        step = self._past.checks = check_step(self._challenge, self._fetched)
        for number in self._numbers:
            self._try("challenge", self._check_tries, number, step)
        altered = rng.choice(self._numbers)
        for number in self._numbers:
            told = rounds_pb2.RoundStep()
            told.CopyFrom(step)
            if number == altered and self._spoil_at == "a seed altered on the way":
                told.check.seed = self._flip(step.check.seed)
            if number == altered and self._spoil_at == "a root altered on the way":
                told.check.sum_root = self._flip(step.check.sum_root)
            if number == altered and self._spoil_at == "another attempt's challenge":
                past = rng.choice([past for past in self._pasts if past.checks.HasField("check")])
                told.check.seed, told.check.sum_root = past.checks.check.seed, past.checks.check.sum_root
            here.streams[number].say(told)
        for number in self._numbers:
            self._past.events[number, CHECKED] = here.streams[number].hear()
            here.hear(number, self._past.events[number, CHECKED])
        if self._spoil_at in (
            "a seed altered on the way",
            "a root altered on the way",
            "another attempt's challenge",
        ):
            return self._spoilt_by(self._spoil_at, self._judged)
        return False

    def _sum_spoilt(self) -> bool:
        """A substituted sum all the way, through the holders' own check."""
        here, messages = self._here, self._past.sum
        others = self._other_sums(messages)
        chunks = others[self._rng.choice(sorted(others))]
        trailer = aggregation_pb2.SumTrailer(
            sum_root=Commitment.over(here.to_sum().sums, chunks).root
        )  # fmt: skip

        def whole() -> object:
            with self._take(messages[0], *chunks, trailer.SerializeToString()) as fetched:
                return here.checked(fetched)

        return self._spoilt_by("a substituted sum", whole)

    def _judged(self) -> object:
        here = self._here
        self._done = check(self._challenge, self._fetched, here.to_sum(), here.said(CHECKED))
        return self._done

    def _check_tries(self, number: int, step: rounds_pb2.RoundStep) -> list[Try]:
        rng, holder = self._rng, self._job.holders[number]
        past = rng.choice([past for past in self._pasts if past.checks.HasField("check")])
        old = past.checks.check.uploads
        one = rng.randrange(len(self._numbers))
        two = (one + 1) % len(self._numbers)

        def answer(data: bytes) -> object:
            talk = Conversation(iter([data]))
            said = talk.step("check", time.monotonic() + STEP_SECONDS)
            return holder.rounds._checking.answer(self._live[number], said.check)

        def changed(change: Callable[[rounds_pb2.Check], object]) -> object:
            told = rounds_pb2.RoundStep()
            told.CopyFrom(step)
            change(told.check)
            return answer(told.SerializeToString())

        def set_on(**fields: Any) -> object:
            return changed(
                lambda told: [setattr(told.uploads[one], name, value) for name, value in fields.items()]
            )

        uploads = step.check.uploads
        return [
            (LATER, lambda: answer(step.SerializeToString())),
            ("a bit of the headers", lambda: self._bits_of_headers(step, answer)),
            ("a header less", lambda: changed(lambda told: told.uploads.pop(one))),
            ("a header twice", lambda: changed(lambda told: told.uploads.append(told.uploads[one]))),
            ("a header in place of another", lambda: changed(lambda told: told.uploads[one].CopyFrom(uploads[two]))),
            ("another root", lambda: set_on(upload_root=rng.randbytes(32))),
            ("another holder's root", lambda: set_on(upload_root=uploads[two].upload_root)),
            ("another view", lambda: set_on(view_hash=rng.randbytes(32))),
            ("another attempt's header", lambda: changed(lambda told: told.uploads[one].CopyFrom(old[one]))),
            ("another attempt's signature", lambda: set_on(signature=old[one].signature)),
            ("another attempt's", lambda: answer(past.checks.SerializeToString())),
            ("a shorter seed", lambda: changed(lambda told: setattr(told, "seed", told.seed[:-1]))),
            ("a shorter root", lambda: changed(lambda told: setattr(told, "sum_root", told.sum_root[:-1]))),
            ("a roster in its place", lambda: answer(self._past.submit.SerializeToString())),
        ]  # fmt: skip

    def _bits_of_headers(self, step: rounds_pb2.RoundStep, answer: Callable[[bytes], object]) -> object:
        told = rounds_pb2.RoundStep()
        told.CopyFrom(step)
        place = self._rng.randrange(len(told.check.uploads))
        data = step.check.uploads[place].SerializeToString()
        while True:
            try:
                told.check.uploads[place].ParseFromString(
                    self._other_bits(aggregation_pb2.UploadHeader, data)
                )
                return answer(told.SerializeToString())
            except DecodeError:  # as part of a message it would not be read either; another bit
                continue

    # -- the answers -------------------------------------------------------------------------------------------------

    def _checked(self) -> bool:
        here = self._here

        def judged(number: int) -> Callable[[rounds_pb2.RoundEvent], object]:
            return lambda event: check(
                self._challenge, self._fetched, here.to_sum(), {**here.said(CHECKED), number: event}
            )

        for number in self._numbers:
            data = self._past.events[number, CHECKED]
            self._try("checked", self._event_tries, number, CHECKED, data, judged(number))
        self._judged()
        return False

    # -- what can be added again ---------------------------------------------------------------------------------------

    def _added(self) -> bool:
        rng, here, job = self._rng, self._here, self._job
        to_sum, root = here.to_sum(), self._challenge.sum_root
        index = rng.randrange(to_sum.uploads.chunks)
        captured: list[list[bytes]] = []

        def capture(method: str, messages: list[bytes]) -> list[bytes]:
            captured.append(messages)
            return messages

        job.wire.on_the_way = capture
        assert job.aggregation.fetch_chunk(to_sum, index, root).adds_up
        job.wire.on_the_way = lambda method, messages: messages
        first, *chunks = self._past.chunks = captured[0]
        pasts = [past for past in self._pasts if past.chunks]
        old = rng.choice(pasts).chunks if pasts else [b"", *chunks[::-1]]
        place = rng.randrange(len(chunks))
        changed = [*chunks]
        changed[place] = self._flip(chunks[place])

        def take(*messages: bytes) -> None:
            aggregation = copy.copy(job.aggregation)
            aggregation._fetch_chunk = lambda request, timeout: Answer(messages)
            aggregation.fetch_chunk(to_sum, index, root)

        def lie() -> None:
            """A sum chunk of its choice, in a tree of its own: only adding again finds it."""
            sums = [*self._past.sum[1:-1]]
            sums[index] = self._flip(sums[index])
            commitment = Commitment.over(to_sum.sums, sums)
            header = aggregation_pb2.ChunkHeader.FromString(first)
            header.sum_root = commitment.root
            header.sum_proof.siblings[:] = commitment.proof(index)
            aggregation = copy.copy(job.aggregation)
            messages = [header.SerializeToString(), *chunks[:-1], sums[index]]
            aggregation._fetch_chunk = lambda request, timeout: Answer(messages)
            asked = _OneChunk(aggregation, index)
            add_again(asked, to_sum, commitment.root, to_sum.uploads.chunks)  # type: ignore[arg-type]

        for _ in self._numbers:
            self._try("added again", lambda: [
                (NOW, lambda: take(first, *chunks)),
                ("a bit of the header", lambda: take(self._other_bits(aggregation_pb2.ChunkHeader, first), *chunks)),
                ("a bit of a chunk", lambda: take(first, *changed)),
                ("a chunk less", lambda: take(first, *chunks[1:])),
                ("two chunks exchanged", lambda: take(first, chunks[1], chunks[0], *chunks[2:])),
                ("another attempt's chunks", lambda: take(first, *old[1:])),
                ("another attempt's header", lambda: take(old[0], *chunks)),
                ("a sum of its own", lie),
            ])  # fmt: skip
        return False

    # -- changing bytes ------------------------------------------------------------------------------------------------

    def _flip(self, data: bytes) -> bytes:
        """One bit is another."""
        place = self._rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << self._rng.randrange(8))]) + data[place + 1 :]

    def _other_bits(self, kind: type[Message], data: bytes) -> bytes:
        """One bit is another, and it means another thing, or nothing."""
        meant = _meaning(kind, data)
        while True:
            flipped = self._flip(data)
            if _meaning(kind, flipped) != meant:
                return flipped

    def _other_event(self, state: int, data: bytes) -> bytes:
        """The same of what is read of an event in this state."""

        def meaning(event: rounds_pb2.RoundEvent) -> list[Any]:
            return [
                tuple(event.check_values) if name == "check_values" else getattr(event, name)
                for name in READ[state]
            ]

        meant = meaning(rounds_pb2.RoundEvent.FromString(data))
        while True:
            flipped = self._flip(data)
            try:
                if meaning(rounds_pb2.RoundEvent.FromString(flipped)) != meant:
                    return flipped
            except DecodeError:
                return flipped


def one_more(parameters: EncryptionParameters, chunk: bytes) -> bytes:
    """The chunk with Delta added to a coefficient of its first c0: it opens to a field that is one larger."""
    first = memoryview(chunk)[: parameters.block_bytes]
    block = np.array(read_block(parameters, first, reason="SUM_INVALID"))
    block[1] = (int(block[1]) + parameters.scale) % parameters.coeff_modulus
    out = bytearray(chunk)
    with memoryview(out)[: parameters.block_bytes] as target:
        split_planes(block, parameters.bytes_per_coefficient, target)
    return bytes(out)


class _OneChunk:
    """An aggregator that is asked for every chunk and answers with the one that it prepared; the rest are left out."""

    def __init__(self, aggregation: Any, index: int) -> None:
        self._aggregation, self._index = aggregation, index

    def fetch_chunk(self, to_sum: Any, index: int, sum_root: bytes) -> Any:
        return self._aggregation.fetch_chunk(to_sum, self._index, sum_root)


def _meaning(kind: type[Message], data: bytes) -> bytes | None:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    message.DiscardUnknownFields()  # type: ignore[attr-defined]
    return message.SerializeToString(deterministic=True)


SPOILS = (
    "other weights to one holder",
    "another key to one holder",
    "an upload that never arrives",
    "a substituted sum",
    "a seed altered on the way",
    "a root altered on the way",
    "another attempt's challenge",
)
"""What its first reader cannot find."""
