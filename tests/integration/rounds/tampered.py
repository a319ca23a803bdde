"""What is tampered with, how it is counted, and how a message becomes another one that means another thing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError, Message
from round_here import CHARGED, CHECKED, ENCRYPTED, READY, JobHere

from usufruct.errors import CATALOGUE, UsufructError
from usufruct.v1 import rounds_pb2
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


class Tampered:
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
