"""The handle of a running job: iterate it, and the rounds run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from usufruct import privacy
from usufruct.builder.accepting import accept_legs
from usufruct.builder.attempt import Attempt
from usufruct.builder.book import JobBook, Say
from usufruct.builder.chain_watch import ChainWatch
from usufruct.builder.disputes import Dispute, acknowledge_leg, dispute_leg
from usufruct.builder.ending import cancel_job
from usufruct.builder.estimates import EvaluationResult, StatisticsResult
from usufruct.builder.finishing import finish_legs
from usufruct.builder.flight import LOST, NOT_YET, OnEvent
from usufruct.builder.model_training import ModelTraining
from usufruct.builder.peers import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Peers
from usufruct.builder.progress import Progress, tell
from usufruct.builder.querying import Querying
from usufruct.builder.results import Departure, LegResult, RoundResult, read_round_result
from usufruct.builder.rounds import RoundDriver
from usufruct.builder.store import JobState
from usufruct.builder.summing import OpenedSum
from usufruct.chain.rpc import FINALITY_SECONDS
from usufruct.domain import ids
from usufruct.domain.training_job import PICO
from usufruct.encryption import parameter_set
from usufruct.errors import InvalidInput, Refused, RoundFailed, UsufructError
from usufruct.v1 import rounds_pb2

log = logging.getLogger("usufruct.builder")

_RETRY_SAME = NOT_YET | {
    "PEER_UNREACHABLE", "DEADLINE_EXCEEDED", "ROUND_UNKNOWN", "CHAIN_UNREACHABLE", "CHAIN_DISAGREES",
}  # fmt: skip
"""Failures after which the same attempt (same key, same view) may be run again: holders resend identical bytes."""


def interrupted(job_id: str, when: str) -> UsufructError:
    """What Ctrl-C becomes, once everything is on disk."""
    return UsufructError(
        f'Interrupted {when}; everything so far is saved. Go on with uf.resume("{job_id}").',
        reason="INTERRUPTED",
        job_id=job_id,
    )


def add_hint(error: UsufructError, job_id: str) -> None:
    """Lets an error say how the job goes on."""
    hint = f'uf.resume("{job_id}")'
    error.details.setdefault("job_id", job_id)
    if hint not in error.message:
        error.message = f"{error.message} What is done is saved; go on with {hint}."
        error.args = (error.message,)


class JobHandle:
    """A job that is open on chain. Iterating it runs the rounds that are left, then finishes the job.

    Every round is on disk before the next begins; after Ctrl-C, an error or a crash ``uf.resume(job.id)`` goes on.
    Iterating the same handle again after an error goes on as well.

    Attributes:
        verify_chunks: how many chunks of every sum, drawn at random, this builder fetches from all holders' uploads and adds
            again before it opens the sum; 0 relies on the holders' check, which covers all of it.
    """

    def __init__(self, book: JobBook, model: nn.Module | None = None, validation: Any = None) -> None:
        book.lock()
        self._book, self._network = book, book.network
        self.spec = book.spec
        self._work: ModelTraining | Querying
        if self.spec.query is None:
            self._work = ModelTraining(self.spec, book.store, book.state, model, validation)
        else:
            self._work = Querying(self.spec, self.spec.query, book.store, book.state)
        self.verify_chunks = 0
        self._pending: Attempt | None = None
        self._given_up: Attempt | None = None
        self._without: frozenset[int] = frozenset()
        self._peers: Peers | None = None
        self._driver: RoundDriver | None = None
        self._say: Say = tell

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """``0x…``; what ``uf.resume`` takes."""
        return ids.to_hex(self.spec.job_id)

    @property
    def model(self) -> nn.Module:
        """The builder's own module with the weights of the last finished round.

        Raises:
            InvalidInput: the job trains none.
        """
        if isinstance(self._work, Querying):
            raise InvalidInput(
                "The job is a query and trains no model; job.result has its figures.", field="model"
            )
        return self._work.model

    @property
    def result(self) -> EvaluationResult | StatisticsResult | None:
        """What a query has found; None before its round, and for a job that trains."""
        if not isinstance(self._work, Querying):
            return None
        return self._work.result(self._state, max((result.epsilon for result in self.history), default=0.0))

    @property
    def rounds_done(self) -> int:
        """Rounds whose sum has been used."""
        return self._state.rounds_done

    @property
    def history(self) -> tuple[RoundResult, ...]:
        """The rounds so far, those before a resume included."""
        return tuple(map(read_round_result, self._state.history))

    @property
    def epsilon(self) -> float:
        """Largest binding epsilon of all datasets for the whole reservation: what the job costs at most."""
        return max(self._epsilon(leg.dataset_id, self.spec.plan.attempts) for leg in self.spec.legs)

    @property
    def finished(self) -> bool:
        """Whether every leg that took part has been delivered, or has ended otherwise."""
        return self._state.phase == "finished"

    @property
    def cancelled(self) -> bool:
        """Whether the job was called off and all its legs are out."""
        return self._state.phase == "cancelled"

    @property
    def datasets(self) -> tuple[int, ...]:
        """Numbers of the datasets that take part in rounds."""
        return tuple(leg.dataset_id for leg in self._book.members)

    @property
    def ended_early(self) -> str:
        """Why there were fewer rounds than planned; empty if there were not."""
        return self._state.ended_early

    @property
    def legs(self) -> tuple[LegResult, ...]:
        """How the legs have ended so far, those that took no part included."""
        return self._book.results

    @property
    def receipts(self) -> tuple[LegResult, ...]:
        """The legs that were delivered, as this builder checked their receipts."""
        return tuple(leg for leg in self.legs if leg.delivered)

    @property
    def gas_used(self) -> int:
        """Gas of all transactions that this builder sent for the job."""
        return self._state.gas_used

    @property
    def paid(self) -> int:
        """What has been released to holders, fees included, in the token's smallest unit."""
        return sum(leg.paid_units for leg in self.legs)

    @property
    def refunded(self) -> int:
        """What is back in the payer's deposit, in the token's smallest unit."""
        return sum(leg.refunded_units for leg in self.legs)

    def __repr__(self) -> str:
        return (
            f"<JobHandle {self.id}: {self._state.phase}, round {self.rounds_done} of {self.spec.plan.rounds}>"
        )

    # -- running ----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[RoundResult]:
        """Runs the rounds that are left; after the last one has the legs delivered and paid.

        Raises:
            PeerError, ChainError: names the party that died; all that was done is saved.
            RoundFailed: the round could not be finished.
            UsufructError: INTERRUPTED after Ctrl-C.
        """
        with Progress(self.spec.plan.rounds, self.rounds_done) as progress:
            self._say = progress.say
            try:
                self._take_up()
                self.accept()
                self._mind_the_deadline()
                if self._state.phase == "open":
                    yield from self._rounds(progress)
                if self._state.phase in ("cancelling", "cancelled"):
                    self.cancel()
                else:
                    self.finish()
            except KeyboardInterrupt:
                raise interrupted(
                    self.id, f"after round {self.rounds_done} of {self.spec.plan.rounds}"
                ) from None
            except UsufructError as error:
                add_hint(error, self.id)
                raise
            finally:
                self._say = tell

    def run(self) -> JobHandle:
        """Runs everything that is left; returns itself."""
        for _ in self:
            pass
        return self

    def accept(self) -> None:
        """Has every holder accept its leg, where that is not done. Opening and iterating do this by themselves.

        Raises:
            Refused: TOO_FEW_ACCEPTED: everything comes back; the message says when.
        """
        self._take_up()
        if self._state.phase in ("opening", "accepting"):
            try:
                accept_legs(self._book, self._say)
            except KeyboardInterrupt:
                raise interrupted(self.id, "while holders accept") from None

    def finish(self) -> tuple[LegResult, ...]:
        """Has every leg delivered, checks the receipts and releases the payments. Iterating does this by itself.

        May be called to end a job early: the price is paid in full; of the privacy budgets, what the attempts so far have
        used is spent. Repeating it goes on where it stopped, and looks again at legs that have not ended.
        """
        self._take_up()
        if self._state.phase == "open":
            self._book.save(phase="finishing")
        if self._state.phase not in ("finishing", "finished"):
            raise Refused(
                f"Job {self.id} is {self._state.phase}; there is nothing to finish.", reason="LEG_NOT_OPEN"
            )
        finish_legs(self._book, self._say)
        if self._state.phase == "finishing":
            self._book.save(phase="finished")
            self._say(f"job {self.id} is finished: {'; '.join(map(str, self.legs))}")
        for leg in self.receipts:
            if leg.findings and leg.state == "DELIVERED":
                log.warning(
                    "dataset %d is delivered and not acknowledged: %s. job.dispute(%d, reason) or job.acknowledge(%d); "
                    "silence pays its holder when the challenge window ends.",
                    leg.dataset_id, "; ".join(leg.findings), leg.dataset_id, leg.dataset_id,
                )  # fmt: skip
        self.close()
        return self.receipts

    def cancel(self) -> Departure:
        """Calls the job off. What is locked and not accepted comes back at once; where a holder has charged nothing, it
        signs so, and money and privacy budget are back too; where something was charged, its leg is delivered and paid.

        Idempotent; what cannot end yet, because its holder does not answer, says until when it is locked at most, and
        ``uf.resume`` or calling this again goes on with it.

        Raises:
            Refused: LEG_NOT_OPEN: the job is finished.
            ChainError: the chain cannot be reached, or refused.
        """
        self._take_up()
        departure = cancel_job(self._book, self._say)
        for leg in departure.pending:
            log.warning("%s", leg)
        self.close()
        return departure

    def acknowledge(self, dataset_id: int) -> LegResult:
        """Pays a delivered leg whatever its findings.

        Raises:
            ChainError: LEG_NOT_OPEN: the leg is not delivered, or has ended.
        """
        self._take_up()
        result = acknowledge_leg(self._book, dataset_id, self._say)
        self.close()
        return result

    def dispute(self, dataset_id: int, reason: str) -> Dispute:
        """Has the job's arbiter decide about a delivered leg. Takes a bond, a tenth of the price, from the deposit.

        Args:
            reason: a statement for the arbiter. Only its hash goes on chain; it is kept beside the job's state.
        Raises:
            Refused: NO_ARBITER; NOT_YOURS: another account pays for the job, and disputes it; MONEY_SHORT.
            ChainError: LEG_NOT_OPEN: the leg is not delivered, or has ended; LEG_EXPIRED: the window has passed.
        """
        self._take_up()
        dispute = dispute_leg(self._book, dataset_id, reason, self._say)
        self.close()
        return dispute

    def close(self) -> None:
        """Hangs up and lets another process resume the job. Iterating again takes it up again."""
        self._hang_up()
        self._book.unlock()

    @property
    def _state(self) -> JobState:
        return self._book.state

    def _mind_the_deadline(self) -> None:
        """Past the job's deadline no holder trains: what is left is to end the legs."""
        if (
            self._state.phase == "open"
            and self._network.chain.block_time_seconds() > self.spec.deliver_by_seconds
        ):
            self._end_early("The job's deadline has passed.")
            self._book.save(phase="finishing")

    def _rounds(self, progress: Progress) -> Iterator[RoundResult]:
        while self._state.rounds_done < self.spec.plan.rounds:
            result = self._round(progress)
            if result is None:
                log.warning("job %s ends early: %s", self.id, self._state.ended_early)
                progress.say(self._state.ended_early)
                return
            progress.finished(result)
            yield result

    def _round(self, progress: Progress) -> RoundResult | None:
        """One more round, with as many attempts as it takes and are left; None when there are none left."""
        started, index = time.monotonic(), self._state.rounds_done + 1
        pause = FIRST_WAIT_SECONDS
        while True:
            attempt = self._next_attempt(index)
            if attempt is None:
                return None
            try:
                with ChainWatch(self._network.chain):
                    opened = self._open_driver().run(
                        attempt,
                        self._listener(attempt, progress),
                        progress.say,
                        patient=time.monotonic() - started < FINALITY_SECONDS,
                    )
            except UsufructError as error:
                if attempt.key.used or error.reason not in _RETRY_SAME:
                    self._pending, self._given_up = None, attempt
                spoilt = self._do_without(error)
                self._hang_up()  # look at every party again before the next attempt
                if spoilt:
                    progress.say(f"attempt {attempt.number} was lost: {error.message} {spoilt}")
                    continue
                if error.reason == "ATTEMPTS_EXHAUSTED":
                    self._end_early(error.message)
                    return None
                if error.reason in NOT_YET and time.monotonic() - started < FINALITY_SECONDS:
                    progress.say(f"waiting for finality elsewhere: {error.message}")
                    threading.Event().wait(pause)
                    pause = min(LONGEST_WAIT_SECONDS, pause * 2)
                    continue
                if error.reason not in LOST:
                    raise
                progress.say(f"attempt {attempt.number} was lost; the next one follows")
                continue
            self._pending = None
            result = self._apply(index, attempt, opened, time.monotonic() - started)
            self._open_driver().forget(attempt)
            if result.left_out:
                self._hang_up()  # whoever was left out is asked again for the next round
            return result

    def _do_without(self, error: UsufructError) -> str:
        """After a holder has signed an update that cannot be added: leaves it out from now on, where the rules allow it.

        Returns:
            That, in words; empty where the error has to be told instead.
        """
        named, driver = str(error.details.get("dataset_id")), self._driver
        spoilers = {dataset_id for dataset_id in self.datasets if str(dataset_id) == named}
        without = self._without | spoilers
        if (
            error.reason != "UPLOAD_INVALID"
            or driver is None
            or not spoilers
            or not driver.can_do_without(without)
        ):
            return ""
        self._without = without
        return f"From now on this process asks the holder of dataset {named} no more."

    def _listener(self, attempt: Attempt, progress: Progress) -> OnEvent:
        def heard(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
            state = rounds_pb2.RoundState.Name(event.state).removeprefix("ROUND_STATE_")
            log.info("attempt %d: dataset %d %s", attempt.number, dataset_id, state)
            progress.event(dataset_id, event)

        return heard

    def _next_attempt(self, index: int) -> Attempt | None:
        """The attempt that was begun in this process, or a fresh one whose number is durable before it is sent."""
        driver = self._open_driver()
        if self._given_up is not None:
            driver.forget(self._given_up)
            self._given_up = None
        if self._pending is not None:
            return self._pending
        if self._state.next_attempt > self.spec.plan.attempts:
            self._end_early(
                f"All {self.spec.plan.attempts} attempts that were reserved have been used; the job ends after round "
                f"{self.rounds_done} of {self.spec.plan.rounds}."
            )
            return None
        number = self._book.take_attempt()
        self._pending = driver.prepare(index, number, self._work.vector)
        return self._pending

    def _apply(self, index: int, attempt: Attempt, opened: OpenedSum, seconds: float) -> RoundResult:
        """Uses a round's sum, and makes what came of it the checkpoint."""
        loss, accuracy = self._work.take(opened, index)
        charged: Mapping[str, int] = {
            **self._state.attempts_charged,
            **{str(dataset): count for dataset, count in opened.attempts_charged.items()},
        }
        result = RoundResult(
            index=index,
            attempt=attempt.number,
            epsilon=max(
                self._epsilon(leg.dataset_id, charged.get(str(leg.dataset_id), 0)) for leg in self.spec.legs
            ),
            validation_loss=loss,
            validation_accuracy=accuracy,
            seconds=seconds,
            upload_bytes=opened.upload_bytes,
            download_bytes=opened.download_bytes,
            stages=opened.stages,
            left_out=tuple(
                leg.dataset_id for leg in self._book.members if leg.dataset_id not in opened.roster
            ),
        )
        after = replace(
            self._state,
            rounds_done=index,
            attempts_charged=charged,
            history=(*self._state.history, asdict(result)),
        )
        checkpoint = self._work.checkpoint()
        with ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as pool:
            saved = pool.submit(self._book.save_round, after, *checkpoint)
            if self._driver is not None and index < self.spec.plan.rounds:
                self._driver.pack(self._work.vector)  # the disk takes as long
            saved.result()
        return result

    def _end_early(self, why: str) -> None:
        self._book.save(ended_early=why)

    def _epsilon(self, dataset_id: int, attempts: int) -> float:
        """Binding epsilon of a dataset after that many attempts."""
        leg = self.spec.leg(dataset_id)
        return privacy.epsilon(
            attempts * leg.loss_per_attempt_micro, leg.order, self.spec.plan.delta_pico / PICO
        )

    def _connected(self) -> Peers:
        """Connections to every party that can be had, made when they are first needed and again after :meth:`close`."""
        if self._peers is None:
            self._take_up()
            asked = [leg for leg in self._book.members if leg.dataset_id not in self._without]
            self._peers = Peers.connect(
                self._network, self.spec.aggregator, asked, self.spec.min_cohort, self._say
            )
        return self._peers

    def _take_up(self) -> None:
        """Makes this process the one that drives the job; what another has done in between is read from disk."""
        if self._book.lock():
            self._pending = None
            self._work.read(self._state)

    def _open_driver(self) -> RoundDriver:
        """The round driver, after the holders have taken up their legs and the aggregator has said that it knows us.

        So a party that is dead is met *before* an attempt number is used up. A holder that is, is done without where the job's
        rules allow it, and asked again once there are new connections: after an error, and after a round without it.
        """
        if self._driver is None:
            peers = self._connected()
            try:
                self._note_charges(peers.start_legs(self.spec.job_id, self.spec.min_cohort, self._say))
            except BaseException:
                self._hang_up()
                raise
            self._driver = RoundDriver(
                self.spec,
                self._book.spec_bytes,
                self._work.graph,
                parameter_set(self.spec.encryption.parameters),
                self._network.account,
                peers.holders,
                peers.aggregator,
                self.verify_chunks,
            )
        return self._driver

    def _hang_up(self) -> None:
        if self._peers is not None:
            self._peers.close()
        self._peers = self._driver = None

    def _note_charges(self, charges: Mapping[int, int]) -> None:
        """Checks what holders say they have charged against the attempts that this builder ever started.

        Raises:
            RoundFailed: a holder has charged more; someone else may be driving the job with this key.
        """
        for dataset_id, charged in charges.items():
            if charged >= self._state.next_attempt:
                raise RoundFailed(
                    f"The holder of dataset {dataset_id} has charged {charged} attempts, and only "
                    f"{self._state.next_attempt - 1} were started from here. Was the job's directory restored from a "
                    "backup, or does another machine drive it?",
                    reason="ROUND_OUT_OF_ORDER",
                    dataset_id=dataset_id,
                )
        seen = self._state.attempts_charged
        told = {str(dataset): max(charged, seen.get(str(dataset), 0)) for dataset, charged in charges.items()}
        if any(told[dataset] != seen.get(dataset, 0) for dataset in told):
            self._book.save(attempts_charged={**seen, **told})
