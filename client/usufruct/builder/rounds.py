"""One attempt of one round: offer weights and key, fix the roster, have it summed and checked, open it once.

All holders and the aggregator work at the same time (:mod:`usufruct.builder.flight`); this is the order of it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from eth_account.signers.local import LocalAccount
from numpy.typing import NDArray

from usufruct import graph
from usufruct.builder.attempt import Attempt
from usufruct.builder.flight import Flight, OnEvent
from usufruct.builder.peers import AggregatorPeer, HolderPeer
from usufruct.builder.round_stream import CHECKED, ENCRYPTED
from usufruct.builder.summing import (
    OpenedSum,
    Stages,
    add_again,
    bytes_moved,
    check,
    check_step,
    compare_uploads,
    open_average,
)
from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import RoundFailed, UsufructError
from usufruct.graph import ModelGraph
from usufruct.privacy import value_count
from usufruct.wire import jobs
from usufruct.wire.aggregation import RoundToSum

SLACK_SECONDS = 5.0
"""Waited beyond the round's own time, so that the party that is late names itself first."""

READY_SHARE = 0.5
"""Of the round's time, how much holders have to train before the roster is fixed without those that are late."""

log = logging.getLogger("usufruct.builder")


class RoundDriver:
    """Runs attempts of one job with its peers."""

    def __init__(
        self,
        spec: TrainingJobSpec,
        spec_bytes: bytes,
        model_graph: ModelGraph | None,
        parameters: EncryptionParameters,
        account: LocalAccount,
        holders: Mapping[int, HolderPeer],
        aggregator: AggregatorPeer,
        verify_chunks: int = 0,
    ) -> None:
        """
        Args:
            model_graph: None for a job without a model.
            holders: of the legs that take part, by dataset number; a roster is some or all of them.
            verify_chunks: how many random chunks of every sum are added again here before it is opened.
        """
        self._spec, self._graph, self._parameters, self._account = spec, model_graph, parameters, account
        self._spec_hash = jobs.spec_hash(spec_bytes)
        self._holders, self._aggregator, self._verify_chunks = holders, aggregator, verify_chunks
        self._next_key: RoundKey | None = None
        self._packed: tuple[NDArray[np.float32], bytes, bytes] | None = None

    @property
    def needed(self) -> int:
        """Least holders of a roster by the job's own rules, which are no weaker than its datasets' and, with distributed
        noise, than ``min_honest + max_colluding`` (``check_spec``). Every holder enforces them itself."""
        return self._spec.min_cohort

    def can_do_without(self, datasets: Collection[int]) -> bool:
        """Whether the job's rules allow a roster without these."""
        return len(set(self._holders) - set(datasets)) >= self.needed

    def pack(self, vector: NDArray[np.float32]) -> None:
        """Makes ready what :meth:`prepare` sends of ``vector``, which is not changed any more: for a time in which one waits."""
        weights = b"" if self._graph is None else graph.pack_vector(self._graph, vector)
        self._packed = vector, weights, hashlib.sha256(weights).digest()

    def prepare(self, round_: int, attempt: int, vector: NDArray[np.float32]) -> Attempt:
        """A fresh key and the signed offer of an attempt. ``attempt`` must have been taken from the store."""
        key, self._next_key = self._next_key or RoundKey.generate(self._parameters), None
        if self._packed is None or self._packed[0] is not vector:
            self.pack(vector)
        assert self._packed is not None
        _, weights, digest = self._packed
        offer = RoundOffer(
            job_id=self._spec.job_id,
            spec_hash=self._spec_hash,
            round=round_,
            attempt=attempt,
            public_key_digest=hashlib.sha256(key.public_key_bytes).digest(),
            weights_digest=digest,
        )
        return Attempt(offer, key, weights, self._account)

    def run(
        self,
        attempt: Attempt,
        on_event: OnEvent,
        say: Callable[[str], None] = log.warning,
        patient: bool = True,
    ) -> OpenedSum:
        """Offers an attempt, fixes its roster, waits for the sum, checks it with the holders and opens it.

        A holder that fails, or is not ready in half of the round's time, is left out where the job's rules allow it.

        Args:
            say: told in words who is left out.
            patient: whether a holder that sees too few legs accepted (``flight.NOT_YET``) is reason enough to raise that.
        Raises:
            RoundFailed: a reason of ``flight.LOST``, once the others are ready, or have sent their updates, so that the
                next attempt finds them so; SUM_INVALID, ROSTER_MISMATCH or BAD_SIGNATURE for a sum that is not the
                roster's; UPLOAD_INVALID, with the ``dataset_id`` of the holder whose update cannot be added.
            PeerError: a party died; names it. The same attempt may be run again in this process.
            UsufructError: what a party refused with.
        Unless the attempt's key is used, nothing has been decrypted. After an error the connections are used up; the next
        attempt needs new ones.
        """
        began, seconds = time.monotonic(), self._spec.round_timeout_seconds
        stages = Stages(began)
        asked = self._asked(attempt)
        operators = {dataset_id: self._spec.leg(dataset_id).operator for dataset_id in asked}
        deadline = began + seconds + SLACK_SECONDS
        with Flight(attempt, asked, operators, self._aggregator, on_event, deadline) as flight:
            needed = self.needed if attempt.view is None else len(asked)
            roster = flight.ready(needed, began + READY_SHARE * seconds, patient)
            view = attempt.fix_view(roster)
            left_out = {member: flight.why_not(member) for member in asked if member not in roster}
            for dataset_id, why in left_out.items():
                say(f"attempt {attempt.number} goes on without dataset {dataset_id}: {why}")
            flight.leave_out(left_out)
            to_sum = self._to_sum(view)
            self._aggregator.open_round(to_sum, seconds)
            flight.tell(attempt.submit())
            stages.end("ready")
            flight.start_sum(to_sum, seconds)
            if self._next_key is None and attempt.offer.round < self._spec.plan.rounds:
                self._next_key = RoundKey.generate(self._parameters)  # while the holders encrypt
            encrypted = flight.said(ENCRYPTED)
            stages.end("encrypted")
            with flight.sum() as fetched:
                stages.end("summed")
                compare_uploads(fetched, to_sum, encrypted)
                challenge = attempt.challenge(fetched)
                flight.tell(
                    check_step(challenge, fetched, self._next_key.public_key_bytes if self._next_key else b"")
                )
                checked = check(challenge, fetched, to_sum, lambda: flight.said(CHECKED))
                stages.end("checked")
                if self._verify_chunks:
                    add_again(self._aggregator, to_sum, challenge.sum_root, self._verify_chunks)
                update = open_average(attempt, checked, fetched, self._spec)
                stages.end("opened")
                up, down = bytes_moved(attempt, len(asked), fetched, to_sum)
            charged = flight.attempts_charged
        return OpenedSum(update, roster, left_out, charged, up, down, stages.seconds)

    def verify_chunk(self, attempt: Attempt, index: int, sum_root: bytes) -> bool:
        """Whether one chunk of an attempt's sum is the sum of the holders' chunks, fetched and added again here.

        For an attempt that has been run and not been closed (:meth:`forget`).

        Args:
            index: which chunk, from 0.
            sum_root: of the sum in question.
        Raises:
            UsufructError: what :meth:`usufruct.wire.aggregation.BuilderAggregation.fetch_chunk` raises.
        """
        return self._aggregator.fetch_chunk(self._to_sum(attempt.fixed_view), index, sum_root).adds_up

    def forget(self, attempt: Attempt) -> None:
        """Lets the aggregator forget an attempt whose sum is safe, or that is given up. It would by itself, later; so failing
        is no error."""
        if attempt.view is None:
            return  # it was never opened there
        try:
            self._aggregator.close_round(self._to_sum(attempt.view))
        except UsufructError as error:
            log.info("attempt %d was not closed: %s", attempt.number, error.message)

    def _asked(self, attempt: Attempt) -> Mapping[int, HolderPeer]:
        """Whom an attempt is offered: its roster, once that is fixed."""
        if attempt.view is None:
            return self._holders
        gone = [dataset_id for dataset_id in attempt.view.datasets if dataset_id not in self._holders]
        if gone:
            raise RoundFailed(
                f"The roster of attempt {attempt.number} is fixed, and the holders of the datasets {gone} of it cannot be "
                "had.",
                reason="ATTEMPT_LOST",
                missing=gone,
            )
        return {dataset_id: self._holders[dataset_id] for dataset_id in attempt.view.datasets}

    def _to_sum(self, view: RoundView) -> RoundToSum:
        offer = view.offer
        return RoundToSum(
            job_id=offer.job_id,
            round=offer.round,
            attempt=offer.attempt,
            view_hash=view.hash,
            operators={dataset_id: self._spec.leg(dataset_id).operator for dataset_id in view.datasets},
            parameter_count=value_count(self._spec),
            parameters=self._parameters,
        )
