"""One RunRound stream at this end: waits for what the builder says and for what its attempt does, whichever comes first.

A builder may say anything in any order, or nothing. Whatever is read of its stream is read by a thread that does nothing
else, while the one that answers waits at a condition, for a limited time; so a silent builder holds no lock, and an
attempt that ends is told to it at once. The reading thread ends with the stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from usufruct.errors import InvalidInput, PeerError
from usufruct.v1 import rounds_pb2
from usufruct.wire.parsing import parse
from usufruct.wire.raw import STEP_LIMIT_BYTES, IncomingStream

T = TypeVar("T")


class BuilderGone(PeerError):
    """The stream has broken: nobody is left to be told."""

    reason = "DEADLINE_EXCEEDED"


class Conversation:
    """Not for several threads, but for :meth:`wake` and :meth:`hang_up`.

    Args:
        messages: the gRPC stream of the builder.
    """

    def __init__(self, messages: Iterable[bytes]) -> None:
        self._stream = IncomingStream(messages)
        self._changed = threading.Condition()
        self._gone = False

    def wake(self) -> None:
        """Whoever waits looks again."""
        with self._changed:
            self._changed.notify_all()

    def hang_up(self) -> None:
        """The stream has ended for both sides."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def wait_for(self, happened: Callable[[], bool], deadline: float | None = None) -> None:
        """Waits until something has happened that :meth:`wake` told of.

        Args:
            deadline: on the monotonic clock; None for something that is sure to happen.
        Raises:
            BuilderGone: nobody is left to wait for it. PeerError: DEADLINE_EXCEEDED.
        """
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        with self._changed:
            self._changed.wait_for(lambda: self._gone or happened(), seconds)
            if happened():
                return
            if self._gone:
                raise BuilderGone("the builder has hung up")
        raise PeerError("the builder said nothing for too long", reason="DEADLINE_EXCEEDED")

    def read(
        self,
        take: Callable[[IncomingStream], T],
        deadline: float,
        unless: Callable[[], BaseException | None] = lambda: None,
    ) -> T:
        """What ``take`` gets from the stream.

        Args:
            deadline: on the monotonic clock.
            unless: an error that makes the wait needless; raised here.
        Raises:
            InvalidInput: what the builder sent is nothing of the kind. BuilderGone, PeerError: see :meth:`wait_for`.
        """
        taken: list[T] = []
        failed: list[BaseException] = []

        def listen() -> None:
            try:
                taken.append(take(self._stream))
            except BaseException as error:
                failed.append(error)
            self.wake()

        threading.Thread(target=listen, name="round-listener", daemon=True).start()
        self.wait_for(lambda: bool(taken or failed or unless() is not None), deadline)
        if taken:
            return taken[0]
        if failed:
            if isinstance(failed[0], InvalidInput):
                raise failed[0]
            raise BuilderGone("the builder's stream broke") from None
        error = unless()
        assert error is not None
        raise error

    def step(
        self, kind: str, deadline: float, unless: Callable[[], BaseException | None] = lambda: None
    ) -> rounds_pb2.RoundStep:
        """The builder's next step.

        Args:
            kind: ``"submit"`` or ``"check"``, whichever is its turn.
        Raises:
            InvalidInput: MALFORMED; ROUND_OUT_OF_ORDER for another step. See :meth:`read`.
        """
        message = self.read(lambda stream: stream.message(STEP_LIMIT_BYTES), deadline, unless)
        step = parse(rounds_pb2.RoundStep, message, STEP_LIMIT_BYTES)
        said = step.WhichOneof("step")
        if said is None:
            raise InvalidInput("the message is no step of a round", field="step")
        if said != kind:
            raise InvalidInput(
                f"the builder's {said} came where its {kind} is due",
                reason="ROUND_OUT_OF_ORDER",
                field="step",
            )
        return step
