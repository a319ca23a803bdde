"""What the server does without being asked: publishes usage records, acts on a person's decisions, follows legs on chain
to their end, answers calls for records, and brings on transactions that are not final."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from usufruct.chain import Sender
from usufruct.errors import UsufructError
from usufruct_server.holder.fencing import Fencing
from usufruct_server.holder.following import Following
from usufruct_server.holder.proposals import Proposals
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.record_calls import RecordCalls

RECORDS_TO_PUBLISH = 128
OLDEST_SECONDS = 600.0
RETRY_SECONDS = 30.0
CALLS_SECONDS = 60.0
"""How often the chain is asked for calls for records; there are three days to answer one."""
LOOK_SECONDS = 10.0
"""Longest sleep: a leg that was started meanwhile may come due before the next one that is known."""

_log = logging.getLogger("usufruct.holder.housekeeping")


class Housekeeping:
    """One thread that sleeps until there is something to do: enough records, an old record, a deadline.

    Args:
        sender: of the operator key.
        clock: UTC seconds.
    """

    def __init__(
        self,
        *,
        fencing: Fencing,
        sender: Sender,
        proposals: Proposals,
        publisher: Publisher,
        following: Following,
        record_calls: RecordCalls,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fencing, self._sender, self._proposals, self._publisher = fencing, sender, proposals, publisher
        self._following, self._record_calls, self._clock = following, record_calls, clock
        self._asked_for_calls = -CALLS_SECONDS
        self._wake = threading.Condition()
        self._waiting_since: float | None = None
        self._enough = False
        self._closing = False
        self._thread = threading.Thread(target=self._live, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Starts the thread. What waits to be published from before waits as if it were new."""
        if self._publisher.waiting():
            self.record_written()
        self._thread.start()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Ends the thread after what it is doing."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def record_written(self) -> None:
        """There is one usage record more."""
        waiting = self._publisher.waiting()
        with self._wake:
            self._waiting_since = self._waiting_since or time.monotonic()
            if waiting >= RECORDS_TO_PUBLISH:
                self._enough = True
                self._wake.notify_all()

    def _live(self) -> None:
        while True:
            pause = self._tend()
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._enough, pause)
                if self._closing:
                    return

    def _tend(self) -> float:
        """Does what is due; returns how long nothing more will be, in seconds."""
        try:
            self._fencing.require()
            self._sender.account.settle()
            next_leg = self._following.follow()
            self._proposals.act_on_decisions()
            if time.monotonic() - self._asked_for_calls >= CALLS_SECONDS:
                self._record_calls.answer()
                self._asked_for_calls = time.monotonic()
            with self._wake:
                since = self._waiting_since
                due = self._enough or (since is not None and time.monotonic() - since >= OLDEST_SECONDS)
            if due:
                with self._wake:
                    self._waiting_since, self._enough = None, False
                self._publisher.publish()
        except UsufructError as error:
            _log.warning("event=housekeeping_failed reason=%s retry_seconds=%d", error.reason, RETRY_SECONDS)
            with self._wake:
                self._waiting_since, self._enough = (
                    self._waiting_since or time.monotonic() - OLDEST_SECONDS,
                    False,
                )
            return RETRY_SECONDS
        except Exception as error:  # the thread has to live; its text may hold anything
            _log.error("event=housekeeping_failed type=%s", type(error).__name__)
            return RETRY_SECONDS
        pauses = [LOOK_SECONDS]
        with self._wake:
            if self._waiting_since is not None:
                pauses.append(self._waiting_since + OLDEST_SECONDS - time.monotonic())
        if next_leg is not None:
            pauses.append(next_leg - self._clock() + 1)
        return max(1.0, min(pauses))
