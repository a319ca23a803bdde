"""Offers to holders, and what holders say, tampered with."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from google.protobuf.message import DecodeError
from round_here import CHARGED, CHECKED, ENCRYPTED, READY, SUBMITTED
from tampered import LATER, NOW, Past, Tampered, Try

from usufruct.domain.round_view import RoundView
from usufruct.errors import UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire.signatures import sign_check, sign_offer, sign_ready, sign_view


class TamperedOffers(Tampered):
    """The first phase: offers, mask keys."""

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
