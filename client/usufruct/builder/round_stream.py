"""What is said to one holder in the course of an attempt, from another thread than the one that listens to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from usufruct.v1 import rounds_pb2


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
