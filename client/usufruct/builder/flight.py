"""The calls of one attempt that are under way: a stream to every holder, and the sum from the aggregator.

Each is a thread that only waits for the network. Whoever runs the attempt waits here, for a condition, and is woken by
every event; nothing is polled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from usufruct.builder.attempt import Attempt
from usufruct.builder.peers import AggregatorPeer, HolderPeer
from usufruct.builder.round_stream import CHECKED, READY, SUBMITTED, Talk
from usufruct.errors import RoundFailed, UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import FetchedSum, RoundToSum

LOST = frozenset({"ATTEMPT_LOST", "TRAINER_FAILED", "ATTEMPT_ALREADY_CHARGED"})
"""What a holder answers when its update of an attempt cannot come any more: the next attempt is needed."""

NOT_YET = frozenset({"LEG_NOT_ACCEPTED", "TOO_FEW_ACCEPTED"})
"""What a holder says before the charge whose node lags behind ours: it will see the acceptances at a final block soon."""

CAUSE_SECONDS = 1.0
"""After one party has failed, how long to wait for another failure that explains it; and for streams to end."""

log = logging.getLogger("usufruct.builder")

OnEvent = Callable[[int, rounds_pb2.RoundEvent], None]


class Flight:
    """Everything under way for one attempt; leave it as a context manager, with an error or without."""

    def __init__(
        self,
        attempt: Attempt,
        holders: Mapping[int, HolderPeer],
        operators: Mapping[int, str],
        aggregator: AggregatorPeer,
        on_event: OnEvent,
        deadline: float,
    ) -> None:
        """
        Args:
            holders: those that are asked, by dataset number.
            operators: their operator keys.
            deadline: on the monotonic clock.
        """
        self._attempt, self._holders, self._aggregator = attempt, holders, aggregator
        self._on_event, self._deadline = on_event, deadline
        self._changed = threading.Condition()
        self._talks = {dataset_id: Talk(dataset_id, operators[dataset_id]) for dataset_id in sorted(holders)}
        self._sum: Future[FetchedSum] | None = None
        self._told_lost = False
        self._pool = ThreadPoolExecutor(len(holders) + 1, thread_name_prefix="round")
        self._listening = [self._pool.submit(self._listen, talk) for talk in self._talks.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when every thread has ended. After an error the connections are used up."""
        if error is not None:
            self._aggregator.close()
        else:  # holders end their streams by themselves; one that does not is not waited for
            for talk in self._talks.values():
                talk.steps.end()
            wait(self._listening, CAUSE_SECONDS)
        self.leave_out(self._talks)
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._sum is not None and self._sum.done() and self._sum.exception() is None:
            self._sum.result().close()

    # -- before the roster is fixed --------------------------------------------------------------------------------

    def ready(self, needed: int, until: float, patient: bool) -> tuple[int, ...]:
        """Waits until every holder is ready or has failed, or the time is over; those that are ready.

        Args:
            needed: as many must be.
            patient: whether :data:`NOT_YET` is a reason to ask all again later, rather than to do without that holder.
        Raises:
            UsufructError: so many have failed that too few are left; the first of these failures. Where it is one of
                :data:`LOST`, once all others are ready or have failed, so that the next attempt finds them so. With
                patience also one of :data:`NOT_YET`.
            RoundFailed: ATTEMPT_LOST: too few in time.
        """
        talks = self._talks.values()
        with self._changed:
            while True:
                failed = [talk for talk in talks if talk.failure is not None]
                ready = [talk for talk in talks if READY in talk.events and talk.failure is None]
                self._raise_first(failed, lambda reason: patient and reason in NOT_YET)
                if len(talks) - len(failed) < needed:
                    self._raise_first(failed, lambda reason: reason not in LOST)
                    self._say_lost(failed)
                left = until - time.monotonic()
                if len(ready) + len(failed) == len(talks) or left <= 0:
                    break
                self._changed.wait(left)
        if len(ready) < needed:
            self._raise_first(failed, lambda reason: True)
            late = [talk.dataset_id for talk in talks if talk not in ready]
            raise RoundFailed(
                f"Only {len(ready)} holders were ready in time and {needed} are needed; those of the datasets {late} were "
                "not. Where that happens again, give rounds more time.",
                reason="ATTEMPT_LOST",
                missing=late,
            )
        return tuple(talk.dataset_id for talk in ready)

    def why_not(self, dataset_id: int) -> str:
        """In words, why a holder is not ready."""
        failure = self._talks[dataset_id].failure
        if failure is None:
            return f"the holder of dataset {dataset_id} was not ready in time"
        return failure.message if isinstance(failure, UsufructError) else str(failure)

    def leave_out(self, datasets: Iterable[int]) -> None:
        """Hangs up on holders that are not in the roster."""
        for dataset_id in datasets:
            self._talks[dataset_id].steps.cancel()

    # -- once the roster is fixed ----------------------------------------------------------------------------------

    def tell(self, step: rounds_pb2.RoundStep) -> None:
        """Says a step to the whole roster."""
        for talk in self._roster:
            talk.steps.send(step)

    def start_sum(self, to_sum: RoundToSum, seconds: float) -> None:
        """Takes the sum as the aggregator adds it."""
        self._sum = self._pool.submit(self._aggregator.fetch_sum, to_sum, seconds)
        self._sum.add_done_callback(self._sum_ended)

    def sum(self) -> FetchedSum:
        """Waits for the sum; raises the failure that best explains why there is none."""
        assert self._sum is not None
        self._until(self._sum.done)
        return self._sum.result()

    def said(self, state: int) -> dict[int, rounds_pb2.RoundEvent]:
        """Waits until the whole roster has said this; what each has said, by dataset."""
        roster = self._roster
        self._until(lambda: all(state in talk.events for talk in roster))
        return {talk.dataset_id: talk.events[state] for talk in roster}

    @property
    def attempts_charged(self) -> dict[int, int]:
        """By dataset, what each holder says its ledger has charged; without those that said nothing."""
        with self._changed:
            return {talk.dataset_id: talk.charged for talk in self._talks.values() if talk.events}

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _roster(self) -> list[Talk]:
        return [self._talks[dataset_id] for dataset_id in self._attempt.fixed_view.datasets]

    def _listen(self, talk: Talk) -> None:
        """A holder's thread."""
        holder, attempt = self._holders[talk.dataset_id], self._attempt
        failure: BaseException | None = None
        try:
            holder.run_round(
                attempt.header(talk.dataset_id),
                attempt.key.public_key_bytes,
                attempt.weights,
                talk.steps,
                lambda event: self._heard(talk, event),
                self._deadline,
            )
        except BaseException as error:
            failure = error
        with self._changed:
            talk.failure = failure if CHECKED not in talk.events else None
            self._changed.notify_all()

    def _heard(self, talk: Talk, event: rounds_pb2.RoundEvent) -> None:
        with self._changed:
            talk.hear(self._attempt, event)
            self._changed.notify_all()
        self._on_event(talk.dataset_id, event)

    def _sum_ended(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _until(self, done: Callable[[], bool]) -> None:
        """Waits for ``done`` while nobody of the roster fails.

        Raises:
            UsufructError: the failure to tell. One of :data:`LOST` once all others have sent their updates or failed.
            RoundFailed: ROUND_INCOMPLETE: the round's time is over.
        """
        roster = self._roster
        with self._changed:
            while True:
                failed = [talk for talk in roster if talk.failure is not None]
                self._say_lost(failed)
                hard = [talk for talk in failed if _reason(talk.failure) not in LOST]
                if hard:
                    raise self._cause(hard[0].failure)
                if failed and all(SUBMITTED in talk.events for talk in roster if talk not in failed):
                    self._raise_first(failed, lambda reason: True)
                if not failed:
                    if self._sum is not None and self._sum.done() and self._sum.exception() is not None:
                        raise self._cause_of_no_sum(self._sum.exception())
                    if done():
                        return
                left = self._deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        self._raise_first(failed, lambda reason: True)
        late = [talk.dataset_id for talk in roster if SUBMITTED not in talk.events]
        who = f"the holders of the datasets {late}" if late else "the aggregator or a holder's check"
        raise RoundFailed(
            f"The round took longer than its time: {who} did not end. Try again, or give rounds more time.",
            missing=late,
        )

    def _cause(self, failure: BaseException | None) -> BaseException:
        """A holder that cannot reach a dead aggregator fails too; then the aggregator's failure is the one to tell."""
        assert failure is not None
        waited, sum_ = time.monotonic() + CAUSE_SECONDS, self._sum
        if sum_ is not None:
            while not sum_.done() and (left := waited - time.monotonic()) > 0:
                self._changed.wait(left)
            of_sum = sum_.exception() if sum_.done() else None
            if of_sum is not None and _reason(of_sum) in ("PEER_UNREACHABLE", "UPLOAD_INVALID"):
                return of_sum
        return failure

    def _cause_of_no_sum(self, failure: BaseException | None) -> BaseException:
        """What the aggregator answers may be what a holder has caused, and says better itself."""
        assert failure is not None
        if _reason(failure) in ("PEER_UNREACHABLE", "UPLOAD_INVALID"):
            return failure
        waited = time.monotonic() + CAUSE_SECONDS
        while (left := waited - time.monotonic()) > 0:
            for talk in self._roster:
                if talk.failure is not None:
                    return talk.failure
            if all(SUBMITTED in talk.events for talk in self._roster):
                break
            self._changed.wait(left)
        return failure

    def _say_lost(self, failed: Collection[Talk]) -> None:
        """Said once and at once: the other holders may take as long as the round."""
        for talk in failed:
            if not self._told_lost and _reason(talk.failure) in LOST:
                log.warning("attempt %d was lost: %s", self._attempt.number, self.why_not(talk.dataset_id))
                self._told_lost = True

    @staticmethod
    def _raise_first(failed: Collection[Talk], which: Callable[[str], bool]) -> None:
        for talk in failed:
            if talk.failure is not None and which(_reason(talk.failure)):
                raise talk.failure


def _reason(failure: BaseException | None) -> str:
    """The catalogue reason of a failure; empty for what is none of ours."""
    return failure.reason if isinstance(failure, UsufructError) else ""
