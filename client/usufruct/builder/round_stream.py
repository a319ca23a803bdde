"""What is said on one holder's stream in the course of an attempt: by the builder, step by step, and by the holder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import rounds_pb2

if TYPE_CHECKING:  # it has the key, and whoever only looks at datasets needs no SEAL
    from usufruct.builder.attempt import Attempt

CHARGED, READY = rounds_pb2.ROUND_STATE_CHARGED, rounds_pb2.ROUND_STATE_READY
ENCRYPTED, SUBMITTED = rounds_pb2.ROUND_STATE_ENCRYPTED, rounds_pb2.ROUND_STATE_SUBMITTED
CHECKED = rounds_pb2.ROUND_STATE_CHECKED


class Steps:
    """The builder's side of a holder's stream: header, key and weights first, then a step whenever there is one.

    gRPC takes messages in a thread of its own, which blocks here until there is a step or the end.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queue: SimpleQueue[bytes | None] | None = None
        self._call: Any = None
        self._cancelled = False

    def after(self, opening: Iterator[bytes]) -> Iterator[bytes]:
        """The messages of one call. A call that was opened before has no more."""
        self.end()
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        with self._guard:
            self._queue = queue
            if self._cancelled:
                queue.put(None)

        def messages() -> Iterator[bytes]:
            yield from opening
            while (step := queue.get()) is not None:
                yield step

        return messages()

    def attach(self, call: Any) -> None:
        """The call that takes :meth:`after`; cancelled at once if that has been asked for."""
        with self._guard:
            self._call, cancelled = call, self._cancelled
        if cancelled:
            call.cancel()

    def send(self, step: rounds_pb2.RoundStep) -> None:
        """Says one step more; nothing happens once the stream has ended."""
        with self._guard:
            if self._queue is not None:
                self._queue.put(step.SerializeToString())

    def end(self) -> None:
        """Says that there is nothing more to come; the holder may still answer."""
        with self._guard:
            queue, self._queue = self._queue, None
        if queue is not None:
            queue.put(None)

    def cancel(self) -> None:
        """Hangs up, now and whenever a call is attached."""
        with self._guard:
            self._cancelled, call = True, self._call
        self.end()
        if call is not None:
            call.cancel()


@dataclass
class Talk:
    """What one holder has said so far, every word of it checked; not thread-safe.

    Attributes:
        operator: the address whose signature counts.
        events: by state.
        failure: why it will say no more.
    """

    dataset_id: int
    operator: str
    steps: Steps = field(default_factory=Steps)
    events: dict[int, rounds_pb2.RoundEvent] = field(default_factory=dict)
    failure: BaseException | None = None

    @property
    def charged(self) -> int:
        """Attempts that its ledger has charged, as it says; 0 when it has said nothing."""
        return max((event.attempts_charged for event in self.events.values()), default=0)

    def hear(self, attempt: Attempt, event: rounds_pb2.RoundEvent) -> None:
        """Checks one event and keeps it.

        Raises:
            RoundFailed, InvalidInput: it is not about this attempt, not signed as it must be, or not in the order of a round.
        """
        view, expected = attempt.view, max(self.events, default=0) + 1
        if event.state != expected or expected > CHECKED or (view is None and expected > READY):
            raise InvalidInput("Its events are not in the order of a round.", field="state")
        if event.state <= READY and event.offer_hash != attempt.offer.hash:
            raise RoundFailed(
                "It answered for another offer than the one it was sent.",
                reason="ROSTER_MISMATCH",
                dataset_id=self.dataset_id,
            )
        if event.state == READY:
            attempt.note_ready(self.dataset_id, self.operator, event)
        if view is not None and event.state > READY and event.view_hash != view.hash:
            raise RoundFailed(
                "It answered for another view of the round than the one it was sent.",
                reason="ROUND_VIEW_CHANGED",
                dataset_id=self.dataset_id,
            )
        self.events[event.state] = event
