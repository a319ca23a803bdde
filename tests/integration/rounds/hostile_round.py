"""One attempt whose every message is tampered with on its way, again and again, before it arrives as it was sent.

At each step of the protocol manipulated messages go to the very party that the message is for, which must refuse each of
them; then the message itself arrives, and the attempt goes on. So what is refused must also have changed nothing: in
the end the attempt opens to exactly the right sum. A manipulation that the first to see it cannot find spoils the
attempt, which is then carried on as far as it goes: somebody honest must find it before the key is used.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError
from in_process import Answer
from round_here import CHECKED, ENCRYPTED, opens_rightly
from tampered import LATER, NOW, STEP_SECONDS, Past, Try
from tampered_uploads import TamperedUploads

from usufruct.builder.summing import add_again, check, check_step, compare_uploads
from usufruct.encryption.commitment import Commitment
from usufruct.v1 import aggregation_pb2, rounds_pb2
from usufruct_server.holder.rounds import Conversation


class HostileRound(TamperedUploads):
    """One attempt, from the offers to the opened sum."""

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
        self._done = check(self._challenge, self._fetched, here.to_sum(), lambda: here.said(CHECKED))
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
                self._challenge, self._fetched, here.to_sum(), lambda: {**here.said(CHECKED), number: event}
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


class _OneChunk:
    """An aggregator that is asked for every chunk and answers with the one that it prepared; the rest are left out."""

    def __init__(self, aggregation: Any, index: int) -> None:
        self._aggregation, self._index = aggregation, index

    def fetch_chunk(self, to_sum: Any, index: int, sum_root: bytes) -> Any:
        return self._aggregation.fetch_chunk(to_sum, self._index, sum_root)
