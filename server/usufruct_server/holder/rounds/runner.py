"""One attempt of one round at this holder, in the one order that protects the data.

offer → checks → **charge, on disk** → train and draw → ready → roster agreed, on disk → encrypt → outbox → send → check

Whatever fails before the charge is a refusal and costs nothing. After the charge there are two outcomes: an upload like
any other, or a lost attempt. The same attempt with the same view sends the same bytes again; nothing is drawn twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from eth_account.signers.local import LocalAccount

from usufruct.domain.round_view import RoundOffer
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption.masks import MaskKey
from usufruct.errors import Refused, RoundFailed, UsufructError
from usufruct.privacy import value_count
from usufruct_server.holder.config import Policy
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger, StoredUpload
from usufruct_server.holder.legs import GrantedJob, Legs
from usufruct_server.holder.rounds.attempt import Attempt
from usufruct_server.holder.rounds.attempt_log import AttemptLog
from usufruct_server.holder.rounds.checking import Checking
from usufruct_server.holder.rounds.conversation import BuilderGone, Conversation
from usufruct_server.holder.rounds.events import RoundProgress, RoundRequest, RoundStatus
from usufruct_server.holder.rounds.leg_pools import LegPools
from usufruct_server.holder.rounds.opening import (
    Charged,
    Opening,
    RoundBody,
    checked_offer,
    read_body,
    skip_body,
)
from usufruct_server.holder.rounds.submission import Submission
from usufruct_server.holder.trainers import LegKey, Trainers
from usufruct_server.holder.usage_log import UsageLog

MOST_ROUNDS = 8
"""Attempts that are worked on at a time, and as many whose weights arrive; each holds its weights, or its
update, once."""
MOST_ARRIVING_PER_LEG = 2
"""Streams of one leg whose weights arrive at a time: a broken one, say, and the one that takes its place."""
_LATE_SECONDS = 5.0
"""A stream lives on for so long after its attempt's time, so that it can say how the attempt ended."""
_log = logging.getLogger("usufruct.holder.rounds")


class RoundRunner:
    """Runs attempts. What was charged goes on when the builder's stream breaks; it may come back on another stream.

    Args:
        operator: the key that signs what this holder says.
        policy: whom this holder counts in a roster.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        usage: UsageLog,
        legs: Legs,
        trainers: Trainers,
        operator: LocalAccount,
        policy: Policy,
    ) -> None:
        self._store, self._usage, self._legs, self._trainers = store, usage, legs, trainers
        self._pools = LegPools(operator)
        self._log = AttemptLog(store, ledger, usage)
        self._opening = Opening(
            store=store, ledger=ledger, usage=usage, legs=legs, trainers=trainers, pools=self._pools, log=self._log
        )  # fmt: skip
        self._submission = Submission(
            store=store, ledger=ledger, log=self._log, pools=self._pools, operator=operator, policy=policy
        )
        self._checking = Checking(ledger=ledger, usage=usage, legs=legs, log=self._log, operator=operator)
        self._ledger = ledger
        self._guard = threading.Lock()
        self._running: dict[LegKey, Attempt] = {}
        self._threads: set[threading.Thread] = set()
        self._arriving: Counter[LegKey] = Counter()

    def run(self, caller: str, request: RoundRequest, talk: Conversation) -> Iterator[RoundStatus]:
        """One attempt, as a stream of how far it has come: charged, ready, encrypted, submitted, checked.

        Args:
            talk: the builder's stream, after its header.
        Raises:
            UsufructError: a refusal before the charge; ATTEMPT_LOST or TRAINER_FAILED after it; a step that is refused,
                which leaves the attempt as it was; an error of the aggregator, after which the same request and the
                same roster send the same bytes again.
        """
        with self._refusals(caller, request):
            job = self._legs.granted(caller, request.job_id, request.dataset_id)
            offer = checked_offer(request, job)
            attempt = self._take_up(job, offer, request, talk)
        deadline = attempt.deadline + _LATE_SECONDS
        with attempt.heard_by(talk.wake):
            yield from _told(attempt, talk, 0, RoundProgress.READY)
            step = talk.step("submit", deadline, unless=lambda: attempt.error)
            with self._refusals(caller, request):
                self._submission.agree(attempt, step.submit)
            yield from _told(attempt, talk, RoundProgress.READY, RoundProgress.SUBMITTED)
            step = talk.step("check", deadline)
            with self._refusals(caller, request):
                answer = self._checking.answer(attempt, step.check)
            yield answer
        self._begin_ahead(job, attempt, step.check.next_public_key)

    def status(self, caller: str, job_id: bytes, dataset_id: int, attempt: int) -> RoundStatus:
        """How far an attempt has come, up to SUBMITTED, for a builder that lost the stream.

        Raises:
            InvalidInput: JOB_UNKNOWN, or NOT_FOUND when the attempt was never charged. Refused: NOT_YOURS.
            RoundFailed: ATTEMPT_LOST.
        """
        self._legs.find(caller, job_id, dataset_id)
        running = self._live((job_id, dataset_id))
        if running is not None and running.offer.attempt == attempt:
            return running.status
        return self._log.status(job_id, dataset_id, attempt)

    # -- for the life of a leg ----------------------------------------------------------------------------------

    def recover(self) -> None:
        """After a start: attempts that were charged and whose upload is not in the outbox are lost."""
        self._log.recover()

    def settle_attempts(self, key: LegKey) -> None:
        """Completes the usage log of every attempt of a leg that was charged; none is sent any more."""
        self._log.settle(*key)

    def wind_up(self, key: LegKey, timeout_seconds: float) -> None:
        """Gives up an attempt of the leg that has no roster yet, and waits until none is worked on.

        Raises:
            RoundFailed: ROUND_OUT_OF_ORDER, when one still is after that time.
        """
        running = self._live(key)
        if running is None:
            return
        running.give_up()
        if not running.wait_ended(timeout_seconds):
            raise RoundFailed("an attempt of this leg is still being worked on", reason="ROUND_OUT_OF_ORDER")

    def end_leg(self, key: LegKey) -> None:
        """Ends what is kept warm for a leg: trainer, makers of zeros, channel. Harmless when there is nothing."""
        self._trainers.end(key)
        self._pools.end(key)

    def close(self, timeout_seconds: float) -> None:
        """What has a roster should reach the outbox and the aggregator; what has none is lost. Then all ends."""
        deadline = time.monotonic() + timeout_seconds
        with self._guard:
            running, threads = dict(self._running), list(self._threads)
        for key, attempt in running.items():
            attempt.give_up()
            if attempt.view is None:
                self._trainers.end(key)  # nobody can take what it would give
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._pools.close()

    # -- taking up ----------------------------------------------------------------------------------------------

    def _take_up(
        self, job: GrantedJob, offer: RoundOffer, request: RoundRequest, talk: Conversation
    ) -> Attempt:
        """The attempt that the request is about: one that is being worked on or stored, or a new one."""
        seconds = float(job.spec.round_timeout_seconds)
        with self._arrival(job.key), ExitStack() as unused:
            body = None
            if self._is_charged(job, offer):
                talk.read(lambda stream: skip_body(job, request, stream), time.monotonic() + seconds)
            else:
                body = talk.read(lambda stream: read_body(job, request, stream), time.monotonic() + seconds)
                unused.callback(body.block.close)
            with self._legs.lock(job.key):
                live = self._live(job.key)
                if live is not None and live.offer == offer:
                    return live
                stored = self._opening.judge(job, offer)
                with self._guard:
                    if live is None and len(self._running) >= MOST_ROUNDS:
                        raise Refused(
                            "too many rounds run here at the moment", reason="TOO_MANY", limit=MOST_ROUNDS
                        )
                self.wind_up(job.key, seconds)  # the builder has begun this one: it goes on without the other
                deadline = time.monotonic() + seconds
                if stored is not None:
                    return self._take_up_stored(job, offer, stored, deadline)
                assert body is not None, "what was charged a moment ago still is"
                mask = MaskKey(*job.key)
                charged = self._opening.charge(job, offer, body, seconds)
                deadline = time.monotonic() + seconds
                attempt = Attempt(job, offer, mask.public_bytes, mask, charged.attempts_charged, deadline)
                unused.callback(charged.zeros.stop)
                unstarted = unused.pop_all()  # the attempt's thread ends both
                return self._launch(attempt, lambda: self._train(attempt, charged, body), unstarted.close)

    def _take_up_stored(
        self, job: GrantedJob, offer: RoundOffer, stored: StoredUpload, deadline: float
    ) -> Attempt:
        job_id, dataset_id = job.key
        known = self._store.attempt(job_id, dataset_id, offer.attempt)
        assert known is not None, "an upload is stored after its view"
        charged = self._ledger.leg(dataset_id, job_id).charged
        attempt = Attempt(job, offer, known.mask_key, None, charged, deadline)
        return self._launch(attempt, lambda: self._send_again(attempt, stored))

    def _is_charged(self, job: GrantedJob, offer: RoundOffer) -> bool:
        """Whether the attempt was charged before; what it may not be is refused before its bytes are read.

        Waits for a stream that is just charging: between charge and start the attempt would look like a lost one.
        """
        with self._legs.lock(job.key):
            live = self._live(job.key)
            if live is not None and live.offer == offer:
                return True
            return self._opening.judge(job, offer) is not None

    # -- after the charge ---------------------------------------------------------------------------------------

    def _train(self, attempt: Attempt, charged: Charged, body: RoundBody) -> None:
        """Trains, waits for the roster, encrypts; then sends."""
        job, offer = attempt.job, attempt.offer
        job_id, dataset_id = job.key
        try:
            seconds = float(job.spec.round_timeout_seconds)
            count = charged.trainer.run(
                offer.round, offer.attempt, seconds, offer.rotation_seed, lambda: self._note_charge(attempt)
            )
            if count != value_count(job.spec):
                raise RoundFailed(
                    "the trainer answered with another number of values", reason="TRAINER_FAILED"
                )
            self._submission.tell_ready(attempt)
            view, masks = attempt.wait_agreed()
            stored, commitment = self._submission.encrypt(
                attempt, view, masks, charged.zeros, body.block.values
            )
        except Exception as error:
            _log.error(
                "event=attempt_lost job=%s dataset=%d attempt=%d type=%s reason=%s",
                job_id.hex(), dataset_id, offer.attempt, type(error).__name__, getattr(error, "reason", ""),
            )  # fmt: skip
            self._record_charge(attempt)  # a trainer that took no order was never waited for
            self._log.record(UsageKind.LOST, job, offer)
            reason = "TRAINER_FAILED" if getattr(error, "reason", "") == "TRAINER_FAILED" else "ATTEMPT_LOST"
            raise RoundFailed(
                "the attempt was charged and lost", reason=reason, attempt=offer.attempt
            ) from None
        finally:
            charged.zeros.stop()
            body.block.close()
        del masks  # what hides the update is needed no more
        self._submission.send(attempt, view, stored, commitment)

    def _note_charge(self, attempt: Attempt) -> None:
        """Says in the usage log and to the builder what the ledger has charged; nothing of the attempt leaves if another server
        has taken over by now."""
        self._record_charge(attempt)
        self._store.update_leg(*attempt.job.key, last_round=attempt.offer.round)
        attempt.tell(RoundProgress.CHARGED)
        self._legs.require_epoch()

    def _begin_ahead(self, job: GrantedJob, ended: Attempt, next_public_key: bytes) -> None:
        """Has zeros made for the builder's next attempt while it opens and applies the sum of this one."""
        with self._legs.lock(job.key):
            if self._live(job.key) in (None, ended):
                self._pools.begin_ahead(job, next_public_key)

    def _record_charge(self, attempt: Attempt) -> None:
        job = attempt.job
        loss_micro = job.spec.leg(job.served.dataset_id).loss_per_attempt_micro
        self._log.record(UsageKind.CHARGED, job, attempt.offer, loss_micro=loss_micro)

    def _send_again(self, attempt: Attempt, stored: StoredUpload) -> None:
        """Of an attempt whose upload is stored, the builder has the same steps to go through."""
        attempt.tell(RoundProgress.CHARGED)
        self._submission.tell_ready(attempt)
        view, _ = attempt.wait_agreed()
        self._submission.send(attempt, view, stored, None)

    def _launch(
        self, attempt: Attempt, work: Callable[[], None], unstarted: Callable[[], None] = lambda: None
    ) -> Attempt:
        """Starts the attempt's thread; ``unstarted`` ends what ``work`` would have ended, where no thread is to be had."""
        job = attempt.job
        with self._guard:
            self._running[job.key] = attempt

        def finish() -> None:
            error: UsufructError | None = None
            try:
                work()
            except UsufructError as failure:
                error = failure
            except Exception as failure:  # its text may hold data: the type and nothing else
                _log.error(
                    "event=round_failed job=%s dataset=%d type=%s",
                    job.key[0].hex(),
                    job.key[1],
                    type(failure).__name__,
                )
                error = UsufructError()
            over(error)

        def over(error: UsufructError | None) -> None:
            with self._guard:
                self._running.pop(job.key, None)
                self._threads.discard(thread)
            attempt.end(error)

        thread = threading.Thread(target=finish, name="round", daemon=True)
        with self._guard:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: what was charged is lost, and the leg goes on
            unstarted()
            over(UsufructError("the attempt could not be worked on"))
        return attempt

    # -- inside -------------------------------------------------------------------------------------------------

    def _live(self, key: LegKey) -> Attempt | None:
        with self._guard:
            return self._running.get(key)

    @contextmanager
    def _arrival(self, key: LegKey) -> Iterator[None]:
        """Room for the bytes of one more attempt."""
        with self._guard:
            if self._arriving[key] >= MOST_ARRIVING_PER_LEG or self._arriving.total() >= MOST_ROUNDS:
                raise Refused(
                    "too many rounds begin here at the moment", reason="TOO_MANY", limit=MOST_ROUNDS
                )
            self._arriving[key] += 1
        try:
            yield
        finally:
            with self._guard:
                self._arriving[key] -= 1
                if not self._arriving[key]:
                    del self._arriving[key]

    @contextmanager
    def _refusals(self, caller: str, request: RoundRequest) -> Iterator[None]:
        """Records what is refused; that the builder is gone is no refusal."""
        try:
            yield
        except BuilderGone:
            raise
        except UsufructError as error:
            self._usage.refused(
                error.reason, dataset_id=request.dataset_id, job_id=request.job_id, builder=caller, round=request.round,
                attempt=request.attempt,
            )  # fmt: skip
            raise


def _told(attempt: Attempt, talk: Conversation, position: int, until: RoundProgress) -> Iterator[RoundStatus]:
    """What the attempt has told after the first ``position``, up to ``until``. Its own thread sees to its end.

    Raises:
        UsufructError: it has failed before that. BuilderGone: nobody is left to be told.
    """
    for place in range(position, until):
        talk.wait_for(partial(attempt.has_told, place))
        if len(attempt.seen) <= place:
            raise attempt.error or UsufructError("the attempt ended without a word")
        yield attempt.seen[place]
