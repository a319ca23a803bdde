"""One attempt of one round: send weights and key, wait for the sum, check it, open it once.

All holders and the aggregator work at the same time, each on a thread of its own that only waits for the network.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from eth_account.signers.local import LocalAccount
from numpy.typing import NDArray

from usufruct import graph, privacy
from usufruct.builder.peers import AggregatorPeer, CallGroup, HolderPeer
from usufruct.domain.round_view import RoundView
from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import RoundFailed, UsufructError
from usufruct.graph import ModelGraph
from usufruct.v1 import rounds_pb2
from usufruct.wire import jobs, signatures
from usufruct.wire.aggregation import FetchedSum, RoundToSum

LOST = frozenset({"ATTEMPT_LOST", "TRAINER_FAILED", "ATTEMPT_ALREADY_CHARGED"})
"""What a holder answers when its update of an attempt cannot come any more: the next attempt is needed."""

SLACK_SECONDS = 5.0
"""Waited beyond the round's own time, so that the party that is late names itself first."""

CAUSE_SECONDS = 1.0
"""After one party has failed, how long to wait for another failure that explains it."""

log = logging.getLogger("usufruct.builder")

OnEvent = Callable[[int, rounds_pb2.RoundEvent], None]


@dataclass(frozen=True)
class Attempt:
    """One attempt, ready to be sent. Sending it twice is the same attempt: holders answer with identical bytes."""

    view: RoundView
    key: RoundKey
    weights: bytes
    signature: bytes

    @property
    def number(self) -> int:
        """Its number in the whole job."""
        return self.view.attempt


@dataclass(frozen=True)
class OpenedSum:
    """The decrypted, weighted average of the holders' updates: float64, shape (parameters,), in layout order.

    Attributes:
        attempts_charged: by dataset number, what its holder says its ledger has charged.
    """

    update: NDArray[np.float64]
    attempts_charged: Mapping[int, int]
    upload_bytes: int
    download_bytes: int


class RoundDriver:
    """Runs attempts of one job with its peers."""

    def __init__(
        self,
        spec: TrainingJobSpec,
        spec_bytes: bytes,
        model_graph: ModelGraph,
        parameters: EncryptionParameters,
        account: LocalAccount,
        holders: Mapping[int, HolderPeer],
        aggregator: AggregatorPeer,
    ) -> None:
        """``holders``: of the legs that take part, by dataset number: the roster."""
        self._spec, self._graph, self._parameters, self._account = spec, model_graph, parameters, account
        self._spec_hash = jobs.spec_hash(spec_bytes)
        self._holders, self._aggregator = holders, aggregator
        self._legs = tuple(leg for leg in spec.legs if leg.dataset_id in holders)

    def prepare(self, round_: int, attempt: int, vector: NDArray[np.float32]) -> Attempt:
        """A fresh key and the signed view of an attempt. ``attempt`` must have been taken from the store."""
        key = RoundKey.generate(self._parameters)
        weights = graph.pack_vector(self._graph, vector)
        view = RoundView(
            job_id=self._spec.job_id,
            spec_hash=self._spec_hash,
            round=round_,
            attempt=attempt,
            public_key_digest=hashlib.sha256(key.public_key_bytes).digest(),
            weights_digest=hashlib.sha256(weights).digest(),
            roster=tuple(leg.dataset_id for leg in self._legs),
        )
        return Attempt(view, key, weights, signatures.sign_view(self._account, view.hash))

    def run(self, attempt: Attempt, on_event: OnEvent) -> OpenedSum:
        """Sends an attempt, waits for its sum, checks it and opens it.

        Raises:
            RoundFailed: a reason of :data:`LOST`, once all other holders have ended too, so that the next attempt
                finds them ready; SUM_INVALID or BAD_SIGNATURE for a sum that is not the roster's.
            PeerError: a party died; names it. The same attempt may be run again in this process.
            UsufructError: what a party refused with.
        After an error the connections are used up; the next attempt needs new ones.
        """
        seconds = self._spec.round_timeout_seconds
        deadline = time.monotonic() + seconds + SLACK_SECONDS
        to_sum = self._to_sum(attempt)
        self._aggregator.open_round(to_sum, seconds)
        flight = _Flight(self._holders, self._aggregator, attempt.number)
        try:
            for leg in self._legs:
                header = self._header(attempt, leg.dataset_id)
                flight.start_holder(leg.dataset_id, header, attempt, on_event, deadline)
            flight.start_sum(to_sum, seconds)
            fetched = flight.land(deadline)
        except BaseException:
            flight.abandon()
            raise
        flight.end()
        return self.open(attempt, fetched, flight.events)

    def forget(self, attempt: Attempt) -> None:
        """Lets the aggregator forget an attempt whose sum is safe. It would by itself, later; so failing is no error."""
        try:
            self._aggregator.close_round(self._to_sum(attempt))
        except UsufructError as error:
            log.info("attempt %d was not closed: %s", attempt.number, error.message)

    def open(
        self, attempt: Attempt, fetched: FetchedSum, events: Mapping[int, rounds_pb2.RoundEvent]
    ) -> OpenedSum:
        """Compares the sum's uploads with what the holders said they sent, decrypts once, reads the weighted average.

        Every holder has weighted its own update as the spec says; where some of the spec's holders take no part, the sum is
        divided by the weight of those that do.

        Args:
            fetched: roster, view and operator signatures have been checked (``wire.signatures.verify_sum_header``).
            events: the last event of every holder.
        Raises:
            RoundFailed: SUM_INVALID: the aggregator's sum is over another upload than a holder's; nothing has been
                decrypted. KEY_USED: the attempt has been opened before.
        """
        plan, holders = self._spec.encryption, len(attempt.view.roster)
        for dataset_id, digest in fetched.upload_digests.items():
            event = events.get(dataset_id)
            if event is None or event.upload_digest != digest:
                raise RoundFailed(
                    f"The aggregator's sum is not over the update that the holder of dataset {dataset_id} sent; nothing "
                    "was decrypted. Do not trust this aggregator.",
                    reason="SUM_INVALID",
                    dataset_id=dataset_id,
                )
        sums = attempt.key.decrypt(fetched.sum_bytes, plan.parameter_count, holders)
        update = privacy.unround_sum(sums, holders, plan.update_range_nano / NANO, plan.value_bits)
        update *= NANO / sum(leg.weight_nano for leg in self._legs)
        sent = holders * (len(attempt.weights) + len(attempt.key.public_key_bytes))
        return OpenedSum(
            update=update,
            attempts_charged={dataset: event.attempts_charged for dataset, event in events.items()},
            upload_bytes=sum(event.upload_bytes for event in events.values()),
            download_bytes=sent + len(fetched.sum_bytes),
        )

    def _to_sum(self, attempt: Attempt) -> RoundToSum:
        view = attempt.view
        return RoundToSum(
            job_id=view.job_id,
            round=view.round,
            attempt=view.attempt,
            view_hash=view.hash,
            operators={leg.dataset_id: leg.operator for leg in self._legs},
            parameter_count=self._spec.encryption.parameter_count,
            parameters=self._parameters,
        )

    def _header(self, attempt: Attempt, dataset_id: int) -> rounds_pb2.RoundHeader:
        view = attempt.view
        return rounds_pb2.RoundHeader(
            job_id=view.job_id,
            dataset_id=dataset_id,
            round=view.round,
            attempt=view.attempt,
            roster=view.roster,
            public_key_bytes=len(attempt.key.public_key_bytes),
            public_key_digest=view.public_key_digest,
            weights_bytes=len(attempt.weights),
            weights_digest=view.weights_digest,
            view_signature=attempt.signature,
        )


class _Flight:
    """The calls of one attempt that are under way."""

    def __init__(
        self, holders: Mapping[int, HolderPeer], aggregator: AggregatorPeer, attempt_number: int
    ) -> None:
        self._holders, self._aggregator, self._attempt_number = holders, aggregator, attempt_number
        self._pool = ThreadPoolExecutor(len(holders) + 1, thread_name_prefix="round")
        self._streams: dict[Future[rounds_pb2.RoundEvent], int] = {}
        self._sum: Future[FetchedSum] | None = None
        self._calls = CallGroup()
        self.events: dict[int, rounds_pb2.RoundEvent] = {}

    def start_holder(
        self,
        dataset_id: int,
        header: rounds_pb2.RoundHeader,
        attempt: Attempt,
        on_event: OnEvent,
        deadline: float,
    ) -> None:
        def heard(event: rounds_pb2.RoundEvent) -> None:
            if event.view_hash and event.view_hash != attempt.view.hash:
                raise RoundFailed(
                    f"The holder of dataset {dataset_id} answered for another view of the round.",
                    reason="ROUND_VIEW_CHANGED",
                    dataset_id=dataset_id,
                )
            self.events[dataset_id] = event
            on_event(dataset_id, event)

        holder, key = self._holders[dataset_id], attempt.key.public_key_bytes
        future = self._pool.submit(
            holder.run_round, header, key, attempt.weights, heard, deadline, self._calls
        )
        self._streams[future] = dataset_id

    def start_sum(self, to_sum: RoundToSum, seconds: float) -> None:
        self._sum = self._pool.submit(self._aggregator.fetch_sum, to_sum, seconds)

    def land(self, deadline: float) -> FetchedSum:
        """The sum, or the failure that best explains why there is none."""
        assert self._sum is not None
        waiting: set[Future] = {*self._streams, self._sum}
        lost: BaseException | None = None
        while waiting:
            done, waiting = wait(
                waiting, timeout=max(0.0, deadline - time.monotonic()), return_when=FIRST_COMPLETED
            )
            if not done:
                break
            failures = [future for future in done if future.exception() is not None]
            for future in failures:
                error = future.exception()
                if future in self._streams and isinstance(error, UsufructError) and error.reason in LOST:
                    if lost is None:  # said at once: the other holders may take as long as the round
                        log.warning("attempt %d was lost: %s", self._attempt_number, error.message)
                    lost = lost or error
                    self._aggregator.close()  # this sum will never be complete
                    waiting.discard(self._sum)
                elif not (lost and future is self._sum):
                    raise self._cause(future, waiting)
        if lost is not None:
            raise lost
        if waiting:
            late = sorted(self._streams[future] for future in waiting if future in self._streams)
            who = f"the holders of the datasets {late}" if late else "the aggregator"
            raise RoundFailed(
                f"The round took longer than its time: {who} did not end. Try again, or give rounds more time.",
                missing=late,
            )
        return self._sum.result()

    def _cause(self, failed: Future, waiting: set[Future]) -> BaseException:
        """A holder that cannot reach a dead aggregator fails too; then the aggregator's failure is the one to tell."""
        assert self._sum is not None
        error = failed.exception()
        assert error is not None
        if failed is not self._sum and self._sum in waiting:
            wait([self._sum], timeout=CAUSE_SECONDS)
        if self._sum.done() and self._sum.exception() is not None:
            of_sum = self._sum.exception()
            if isinstance(of_sum, UsufructError) and of_sum.reason == "PEER_UNREACHABLE":
                return of_sum
        if failed is self._sum and isinstance(error, UsufructError) and error.reason != "PEER_UNREACHABLE":
            done, _ = wait(list(self._streams), timeout=CAUSE_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                of_holder = future.exception()
                if of_holder is not None:
                    return of_holder
        return error

    def abandon(self) -> None:
        """Cancels what is still under way; returns when every thread has ended. The connections are used up."""
        self._aggregator.close()
        self._calls.cancel()
        self.end()

    def end(self) -> None:
        """Returns when every thread has ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)
