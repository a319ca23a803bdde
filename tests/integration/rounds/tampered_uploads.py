"""Rosters, uploads and sums tampered with."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from eth_account import Account
from in_process import Answer, Caller
from round_here import ENCRYPTED
from tampered import LATER, NOW, STEP_SECONDS, Try
from tampered_offers import TamperedOffers

from usufruct.builder.summing import check, compare_uploads
from usufruct.domain.round_view import RoundView
from usufruct.encryption import EncryptionParameters
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.layout import read_block, split_planes
from usufruct.encryption.linear_check import check_value
from usufruct.encryption.sum import add_chunk
from usufruct.errors import UsufructError
from usufruct.v1 import aggregation_pb2, rounds_pb2
from usufruct.wire.aggregation import FetchedSum
from usufruct.wire.signatures import sign_check, sign_ready, sign_view
from usufruct_server.holder.rounds import Conversation


def one_more(parameters: EncryptionParameters, chunk: bytes) -> bytes:
    """The chunk with Delta added to a coefficient of its first c0: it opens to a field that is one larger."""
    first = memoryview(chunk)[: parameters.block_bytes]
    block = np.array(read_block(parameters, first, reason="SUM_INVALID"))
    block[1] = (int(block[1]) + parameters.scale) % parameters.coeff_modulus
    out = bytearray(chunk)
    with memoryview(out)[: parameters.block_bytes] as target:
        split_planes(block, parameters.bytes_per_coefficient, target)
    return bytes(out)


class TamperedUploads(TamperedOffers):
    """The second phase: from the roster to the sum."""

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
            check(challenge, fetched, to_sum, lambda: answers)
