"""The handle of a running job: iterate it, and the rounds run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from usufruct import privacy
from usufruct.builder import finishing, losses
from usufruct.builder import weights as model_weights
from usufruct.builder.chain_watch import ChainWatch
from usufruct.builder.peers import Peers
from usufruct.builder.progress import Progress
from usufruct.builder.results import LegResult, RoundResult
from usufruct.builder.rounds import LOST, Attempt, OnEvent, OpenedSum, RoundDriver
from usufruct.builder.store import JobState, JobStore
from usufruct.domain import ids
from usufruct.domain.training_job import PICO
from usufruct.encryption.parameters import parameter_set
from usufruct.errors import InvalidInput, RoundFailed, UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire import jobs
from usufruct.wire.model_graph import graph_from_bytes

if TYPE_CHECKING:
    from usufruct.builder.network import Network

log = logging.getLogger("usufruct.builder")

SERVER_LEARNING_RATE = 1.0
"""The weighted sum of the holders' updates is applied as it is."""

_RETRY_SAME = frozenset(
    {"PEER_UNREACHABLE", "DEADLINE_EXCEEDED", "ROUND_UNKNOWN", "CHAIN_UNREACHABLE", "CHAIN_DISAGREES"}
)
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
    """A training job that is open on chain. Iterating it runs the rounds that are left, then finishes the job.

    Every round is on disk before the next begins; after Ctrl-C, an error or a crash ``uf.resume(job.id)`` goes on.
    Iterating the same handle again after an error goes on as well.

    Attributes:
        model: the builder's own module with the weights of the last finished round.
    """

    def __init__(
        self, network: Network, store: JobStore, model: nn.Module | None = None, validation: Any = None
    ) -> None:
        store.lock()
        self._network, self._store = network, store
        self._state: JobState = store.state()
        self._record = store.record()
        self._spec_bytes = store.spec_bytes()
        self.spec = jobs.spec_from_bytes(self._spec_bytes)
        self._graph = graph_from_bytes(self.spec.model_graph)
        names = self._record.parameter_names
        if model is None:
            model = model_weights.RestoredModel(self._graph, names)
        else:
            model_weights.check_same_model(model, self._graph, names)
        self.model: nn.Module = model
        self._vector = model_weights.checkpoint_to_vector(self._graph, names, store.weights(self._state))
        self._show_weights()
        self._validation = losses.read_validation(validation, self._graph.input_shape[0])
        self._pending: Attempt | None = None
        self._peers: Peers | None = None
        self._driver: RoundDriver | None = None

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """``0x…``; what ``uf.resume`` takes."""
        return ids.to_hex(self.spec.job_id)

    @property
    def rounds_done(self) -> int:
        """Rounds whose sum is in ``model``."""
        return self._state.rounds_done

    @property
    def history(self) -> tuple[RoundResult, ...]:
        """The rounds so far, those before a resume included."""
        return tuple(RoundResult(**entry) for entry in self._state.history)

    @property
    def epsilon(self) -> float:
        """Largest binding epsilon of all datasets for the whole reservation: what the job costs when it ends."""
        return max(self._epsilon(leg.dataset_id, self.spec.plan.attempts) for leg in self.spec.legs)

    @property
    def finished(self) -> bool:
        """Whether every leg has been delivered and settled by this builder."""
        return self._state.phase == "finished"

    @property
    def ended_early(self) -> str:
        """Why there were fewer rounds than planned; empty if there were not."""
        return self._state.ended_early

    @property
    def receipts(self) -> tuple[LegResult, ...]:
        """The legs' receipts as this builder checked them, once the job has finished."""
        return tuple(finishing.read_leg_result(entry) for entry in self._state.legs.values())

    @property
    def gas_used(self) -> int:
        """Gas of all transactions that this builder sent for the job."""
        return self._state.gas_used

    @property
    def paid(self) -> int:
        """What has been released to holders, in the token's smallest unit."""
        return sum(leg.price_units for leg in self.receipts if leg.acknowledged)

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
            try:
                self._take_up()
                if self._state.phase == "open":
                    yield from self._rounds(progress)
                self.finish()
            except KeyboardInterrupt:
                raise interrupted(
                    self.id, f"after round {self.rounds_done} of {self.spec.plan.rounds}"
                ) from None
            except UsufructError as error:
                add_hint(error, self.id)
                raise

    def run(self) -> JobHandle:
        """Runs everything that is left; returns itself."""
        for _ in self:
            pass
        return self

    def finish(self) -> tuple[LegResult, ...]:
        """Has every leg delivered, checks the receipts and releases the payments. Iterating does this by itself.

        May be called to end a job early: what has been reserved of the privacy budgets stays spent, and the price is
        paid in full. Repeating it goes on where it stopped.
        """
        self._take_up()
        if self._state.phase == "open":
            self._save(replace(self._state, phase="finishing"))
        if self._state.phase == "finishing":
            finishing.finish_legs(self._network, self.spec, self._spec_bytes, self._state, self._save)
            self._save(replace(self._state, phase="finished"))
            log.info("job %s is finished", self.id)
        self.close()
        return self.receipts

    def close(self) -> None:
        """Hangs up and lets another process resume the job. Iterating again takes it up again."""
        self._hang_up()
        self._store.unlock()

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
        while True:
            attempt = self._next_attempt(index)
            if attempt is None:
                return None
            try:
                with ChainWatch(self._network.chain):
                    opened = self._open_driver().run(attempt, self._listener(attempt, progress))
            except UsufructError as error:
                if attempt.key.used or error.reason not in _RETRY_SAME:
                    self._pending = None
                self._hang_up()  # look at every party again before the next attempt
                if error.reason == "ATTEMPTS_EXHAUSTED":
                    self._end_early(error.message)
                    return None
                if error.reason not in LOST:
                    raise
                progress.say(f"attempt {attempt.number} was lost; the next one follows")
                continue
            self._pending = None
            result = self._apply(index, attempt, opened, time.monotonic() - started)
            self._open_driver().forget(attempt)
            return result

    def _listener(self, attempt: Attempt, progress: Progress) -> OnEvent:
        def heard(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
            state = rounds_pb2.RoundState.Name(event.state).removeprefix("ROUND_STATE_")
            log.info("attempt %d: dataset %d %s", attempt.number, dataset_id, state)
            progress.event(dataset_id, event)

        return heard

    def _next_attempt(self, index: int) -> Attempt | None:
        """The attempt that was begun in this process, or a fresh one whose number is durable before it is sent."""
        driver = self._open_driver()
        if self._pending is not None:
            return self._pending
        if self._state.next_attempt > self.spec.plan.attempts:
            self._end_early(
                f"All {self.spec.plan.attempts} attempts that were reserved have been used; the job ends after round "
                f"{self.rounds_done} of {self.spec.plan.rounds}."
            )
            return None
        number, self._state = self._store.take_attempt(self._state)
        self._pending = driver.prepare(index, number, self._vector)
        return self._pending

    def _apply(self, index: int, attempt: Attempt, opened: OpenedSum, seconds: float) -> RoundResult:
        """Steps the model, measures it on the builder's own data, and makes it the checkpoint."""
        stepped = (self._vector.astype(np.float64) + SERVER_LEARNING_RATE * opened.update).astype(np.float32)
        before, self._vector = self._vector, stepped
        try:
            self._show_weights()
        except InvalidInput:
            self._vector = before
            raise
        charged: Mapping[str, int] = {
            **self._state.attempts_charged,
            **{str(dataset): count for dataset, count in opened.attempts_charged.items()},
        }
        loss, accuracy = None, None
        if self._validation is not None:
            loss, accuracy = losses.evaluate(self.model, self.spec.loss, self._validation)
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
        )
        after = replace(
            self._state,
            rounds_done=index,
            attempts_charged=charged,
            history=(*self._state.history, asdict(result)),
        )
        checkpoint = model_weights.vector_to_checkpoint(self._graph, self._record.parameter_names, stepped)
        self._state = self._store.save_round(after, checkpoint)
        return result

    def _end_early(self, why: str) -> None:
        self._save(replace(self._state, ended_early=why))

    def _epsilon(self, dataset_id: int, attempts: int) -> float:
        """Binding epsilon of a dataset after that many attempts."""
        leg = self.spec.leg(dataset_id)
        return privacy.epsilon(
            attempts * leg.loss_per_attempt_micro, leg.order, self.spec.plan.delta_pico / PICO
        )

    def _show_weights(self) -> None:
        model_weights.load_vector(self.model, self._graph, self._record.parameter_names, self._vector)

    def _connected(self) -> Peers:
        """Connections to every party, made when they are first needed and again after :meth:`close`."""
        if self._peers is None:
            self._take_up()
            self._peers = Peers.connect(self._network, self.spec)
        return self._peers

    def _take_up(self) -> None:
        """Makes this process the one that drives the job; what another has done in between is read from disk."""
        if self._store.locked:
            return
        self._store.lock()
        state = self._store.state()
        if state != self._state:
            self._state, self._pending = state, None
            names = self._record.parameter_names
            self._vector = model_weights.checkpoint_to_vector(self._graph, names, self._store.weights(state))
            self._show_weights()

    def _open_driver(self) -> RoundDriver:
        """The round driver, after every holder has said that it is ready and the aggregator that it knows us.

        So a party that is dead is met *before* an attempt number is used up.
        """
        if self._driver is None:
            peers = self._connected()
            try:
                self._note_charges(peers.start_legs(self.spec))
            except BaseException:
                self._hang_up()
                raise
            self._driver = RoundDriver(
                self.spec,
                self._spec_bytes,
                self._graph,
                parameter_set(self.spec.encryption.parameters),
                self._network.account,
                peers.holders,
                peers.aggregator,
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

    def _save(self, state: JobState) -> None:
        self._store.save(state)
        self._state = state
