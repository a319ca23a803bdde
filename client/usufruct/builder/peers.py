"""The builder's connections: every holder of a job, and its aggregator. Errors name the party they are about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from eth_account.signers.local import LocalAccount

from usufruct.builder.asking import at_all, at_each
from usufruct.builder.round_stream import Steps
from usufruct.chain import HolderEntry
from usufruct.chain.rpc import FINALITY_SECONDS
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.training_job import AggregatorRef, LegTerms
from usufruct.errors import (
    InvalidInput,
    NotAuthenticated,
    PeerError,
    PeerUnreachable,
    RoundFailed,
    UsufructError,
)
from usufruct.v1 import catalogue_pb2, catalogue_pb2_grpc, jobs_pb2, jobs_pb2_grpc, rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation, FetchedChunk, FetchedSum, RoundToSum
from usufruct.wire.auth import authenticated_channel
from usufruct.wire.channel import PinnedEndpoint, pinned_channel
from usufruct.wire.parsing import parse
from usufruct.wire.raw import HEADER_LIMIT_BYTES, RUN_ROUND, with_header
from usufruct.wire.receipts import receipt_from_proto
from usufruct.wire.status import rpc_errors

if TYPE_CHECKING:
    from usufruct.builder.network import Network

CALL_SECONDS = 10.0
"""For calls that a live holder answers from its own state, or after one look at the chain."""

START_SECONDS = 60.0
"""For StartLeg: the trainer's process loads torch."""

FINISH_SECONDS = 180.0
"""For FinishLeg: a round that was left over ends first, and usage records may be on their way to the chain."""

STREAM_GRACE_SECONDS = 5.0
"""A round's stream lives a little longer than the round, so that it is the round that says who was late."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0

_NOT_THE_SUM = frozenset({"SUM_INVALID", "ROSTER_MISMATCH", "BAD_SIGNATURE", "MALFORMED", "TOO_LARGE"})
"""What is found in a sum that is not the roster's."""


class HolderPeer:
    """One data holder, over a channel pinned to the key that the chain names.

    Every method raises :class:`PeerError` naming the holder when it cannot be reached, and what the holder refused
    with otherwise.
    """

    def __init__(self, dataset_id: int, at: PinnedEndpoint, account: LocalAccount | None) -> None:
        self.dataset_id, self.endpoint = dataset_id, at.endpoint
        self.name = f"the holder of dataset {dataset_id} at {at.endpoint}"
        with self._errors():
            self._channel = pinned_channel(at.endpoint, at.fingerprint)
        self._catalogue: Any = catalogue_pb2_grpc.CatalogueServiceStub(self._channel)  # type: ignore[no-untyped-call]
        if account is not None:
            proved: Any = authenticated_channel(self._channel, account, at.fingerprint)
            self._jobs: Any = jobs_pb2_grpc.JobServiceStub(proved)  # type: ignore[no-untyped-call]
            self._run_round = proved.stream_stream(RUN_ROUND)

    def card(self) -> tuple[bytes, bytes]:
        """The exact bytes of the dataset's card, and of the policy that its holder publishes for it."""
        request = catalogue_pb2.GetDatasetCardRequest(dataset_id=self.dataset_id)
        with self._errors():
            answer = self._catalogue.GetDatasetCard(request, timeout=CALL_SECONDS)
        return bytes(answer.card), bytes(answer.policy)

    def propose(self, job_id: bytes, spec_bytes: bytes) -> jobs_pb2.Proposal:
        """Proposes the job, or asks how an earlier proposal of it stands."""
        request = jobs_pb2.ProposeJobRequest(
            request_id=f"{job_id.hex()}-{self.dataset_id}", dataset_id=self.dataset_id, spec=spec_bytes
        )
        with self._errors():
            return cast(jobs_pb2.Proposal, self._jobs.ProposeJob(request, timeout=START_SECONDS))

    def proposal(self, job_id: bytes) -> jobs_pb2.Proposal:
        """How a proposal stands."""
        request = jobs_pb2.GetProposalRequest(job_id=job_id, dataset_id=self.dataset_id)
        with self._errors():
            return cast(jobs_pb2.Proposal, self._jobs.GetProposal(request, timeout=CALL_SECONDS))

    def start_leg(self, job_id: bytes) -> jobs_pb2.StartLegResponse:
        """Has the holder take up a leg and warm its trainer. Of a leg that it sees locked at a final block, it also signs
        the acceptance."""
        request = jobs_pb2.StartLegRequest(job_id=job_id, dataset_id=self.dataset_id)
        with self._errors():
            return cast(jobs_pb2.StartLegResponse, self._jobs.StartLeg(request, timeout=START_SECONDS))

    def leg(self, job_id: bytes) -> jobs_pb2.Leg:
        """How the leg stands at the holder."""
        request = jobs_pb2.GetLegRequest(job_id=job_id, dataset_id=self.dataset_id)
        with self._errors():
            return cast(jobs_pb2.Leg, self._jobs.GetLeg(request, timeout=CALL_SECONDS))

    def finish_leg(
        self, job_id: bytes, rounds_done: int, lower_loss_micro: int = 0, lower_signature: bytes = b""
    ) -> tuple[LegReceipt, bytes]:
        """Ends the leg's rounds; the holder's receipt and its signature.

        Where the last attempts were lost, a holder has taken part in a round more than this builder has opened; the
        receipt then has the holder's number.

        Args:
            lower_loss_micro, lower_signature: the builder's consent that less than the reservation is spent, where there is
                one. The holder makes use of it only if it is exactly what it has charged.
        """
        request = jobs_pb2.FinishLegRequest(
            job_id=job_id,
            dataset_id=self.dataset_id,
            rounds_done=rounds_done,
            lower_loss_micro=lower_loss_micro if lower_signature else 0,
            lower_signature=lower_signature,
        )
        with self._errors():
            try:
                with rpc_errors(self.endpoint):
                    answer = self._jobs.FinishLeg(request, timeout=FINISH_SECONDS)
            except RoundFailed as error:
                least = str(error.details.get("minimum", ""))
                if error.reason != "ROUND_OUT_OF_ORDER" or least != str(rounds_done + 1):
                    raise
                request.rounds_done = rounds_done + 1
                answer = self._jobs.FinishLeg(request, timeout=FINISH_SECONDS)
        return receipt_from_proto(answer.receipt), bytes(answer.receipt_signature)

    def release_leg(self, job_id: bytes) -> tuple[int, bytes]:
        """Ends a leg of which nothing was charged; the holder's fencing epoch and its signature of Failure at no loss."""
        request = jobs_pb2.ReleaseLegRequest(job_id=job_id, dataset_id=self.dataset_id)
        with self._errors():
            answer = self._jobs.ReleaseLeg(request, timeout=CALL_SECONDS)
        return int(answer.fencing_epoch), bytes(answer.failure_signature)

    def run_round(
        self,
        header: rounds_pb2.RoundHeader,
        public_key: bytes,
        weights: bytes,
        steps: Steps,
        on_event: Callable[[rounds_pb2.RoundEvent], None],
        deadline: float,
    ) -> None:
        """Offers a round and listens until the holder ends the stream, which it does after the check.

        Args:
            steps: what another thread says later; it may hang up through it, too.
            on_event: what it raises ends the stream and is raised here.
            deadline: on the monotonic clock.
        """
        for fresh in (False, True):
            try:
                return self._stream_round(header, public_key, weights, steps, on_event, deadline)
            except NotAuthenticated:
                if fresh:  # a restarted holder forgets its tokens; the refused one has been dropped
                    raise
        raise AssertionError("unreachable")

    def _stream_round(
        self,
        header: rounds_pb2.RoundHeader,
        public_key: bytes,
        weights: bytes,
        steps: Steps,
        on_event: Callable[[rounds_pb2.RoundEvent], None],
        deadline: float,
    ) -> None:
        last = rounds_pb2.RoundEvent()
        with self._errors():
            seconds = max(0.1, deadline - time.monotonic()) + STREAM_GRACE_SECONDS
            call = self._run_round(steps.after(with_header(header, public_key, weights)), timeout=seconds)
            steps.attach(call)
            try:
                for message in call:
                    last = parse(rounds_pb2.RoundEvent, message, HEADER_LIMIT_BYTES)
                    on_event(last)
            finally:
                steps.end()
                call.cancel()
            if last.state != rounds_pb2.ROUND_STATE_CHECKED:
                raise PeerError(f"{self.name} ended the round before its end.", reason="INTERNAL")

    def close(self) -> None:
        """Closes the channel; calls under way end with an error."""
        self._channel.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with _naming(self.name, self.dataset_id):
            try:
                with rpc_errors(self.endpoint):
                    yield
            except PeerError as error:
                beyond = str(error.details.get("endpoint", self.endpoint))
                if beyond != self.endpoint:  # the holder answers; whom it wanted to reach does not
                    text = f"{self.name} answers, and says of {beyond}: {error.public_text}"
                    raise type(error)(text, reason=error.reason, **error.details) from None
                raise


class AggregatorPeer:
    """The job's aggregator."""

    def __init__(self, at: PinnedEndpoint, account: LocalAccount) -> None:
        self.name = f"the aggregator at {at.endpoint}"
        with _naming(self.name):
            self._aggregation = BuilderAggregation(at, account)

    def open_round(self, round_to_sum: RoundToSum, timeout_seconds: int) -> None:
        """Opens the attempt; repeating it is harmless."""
        with _naming(self.name):
            self._aggregation.open_round(round_to_sum, timeout_seconds)

    def fetch_sum(self, round_to_sum: RoundToSum, timeout_seconds: float) -> FetchedSum:
        """Takes the sum as it is added, its roster and signatures checked. Close it."""
        with _naming(self.name):
            try:
                return self._aggregation.fetch_sum(round_to_sum, timeout_seconds)
            except UsufructError as error:
                if error.reason in _NOT_THE_SUM:
                    error.message += " Nothing was decrypted."
                raise

    def fetch_chunk(self, round_to_sum: RoundToSum, index: int, sum_root: bytes) -> FetchedChunk:
        """One chunk of every upload and of the sum, each proved to be what was signed or checked."""
        with _naming(self.name):
            return self._aggregation.fetch_chunk(round_to_sum, index, sum_root)

    def close_round(self, round_to_sum: RoundToSum) -> None:
        """Lets the aggregator forget the attempt; repeating it is harmless."""
        with _naming(self.name):
            self._aggregation.close_round(round_to_sum)

    def close(self) -> None:
        """Closes the channel; calls under way end with an error."""
        self._aggregation.close()


class Peers:
    """All parties of one job that can be had.

    Attributes:
        holders: by dataset number.
    """

    def __init__(self, holders: Mapping[int, HolderPeer], aggregator: AggregatorPeer) -> None:
        self.holders, self.aggregator = dict(holders), aggregator

    @classmethod
    def connect(
        cls,
        network: Network,
        aggregator: AggregatorRef,
        legs: Iterable[LegTerms],
        needed: int,
        say: Callable[[str], object],
    ) -> Peers:
        """Connects to the aggregator, and to the holders of these legs at the endpoints the chain names now.

        Args:
            needed: so many holders are enough; of others ``say`` is told why they are not among them.
        Raises:
            PeerError: naming the party that cannot be reached.
        """
        at = PinnedEndpoint(aggregator.endpoint, aggregator.fingerprint)
        peers = cls({}, AggregatorPeer(at, network.account))
        try:
            found = at_each({leg.dataset_id: leg for leg in legs}, lambda leg: holder_of(network, leg)[1])
            peers.holders.update(found.answers)
            found.check(needed, say)
        except BaseException:
            peers.close()
            raise
        return peers

    def start_legs(self, job_id: bytes, needed: int, say: Callable[[str], object]) -> dict[int, int]:
        """Has every holder warm the trainer of its accepted leg; by dataset number, attempts charged so far.

        A holder whose node has not seen the acceptance at a final block yet is asked again, less and less often. One that
        does not take up its leg is hung up on, if so many as are needed do.
        """
        until, pause = time.monotonic() + FINALITY_SECONDS, FIRST_WAIT_SECONDS
        while True:
            started = at_each(self.holders, lambda holder: holder.start_leg(job_id))
            behind = [d for d, answer in started.answers.items() if answer.acceptance_signature]
            if not behind or time.monotonic() > until:
                break
            threading.Event().wait(pause)
            pause = min(LONGEST_WAIT_SECONDS, pause * 2)
        for dataset_id, answer in list(started.answers.items()):
            if dataset_id in behind or answer.leg.state != jobs_pb2.LEG_STATE_RUNNING:
                state = jobs_pb2.LegState.Name(answer.leg.state)
                started.failures[dataset_id] = InvalidInput(
                    f"{self.holders[dataset_id].name} does not run the leg: it is in {state}.",
                    reason="LEG_NOT_ACCEPTED" if dataset_id in behind else "LEG_NOT_OPEN",
                    dataset_id=dataset_id,
                )
                del started.answers[dataset_id]
        started.check(needed, say)
        for dataset_id in started.failures:
            self.holders.pop(dataset_id).close()
        return {dataset_id: answer.leg.attempts_charged for dataset_id, answer in started.answers.items()}

    def close(self) -> None:
        """Closes all channels."""
        self.aggregator.close()
        for holder in self.holders.values():
            holder.close()


def connect_holders(network: Network, legs: Iterable[LegTerms]) -> dict[int, HolderPeer]:
    """The holders of these legs, by dataset number.

    Raises:
        PeerError: naming the holder that cannot be reached.
    """
    return at_all({leg.dataset_id: leg for leg in legs}, lambda leg: holder_of(network, leg)[1])


def holder_of(network: Network, terms: LegTerms) -> tuple[HolderEntry, HolderPeer]:
    """A leg's holder as the chain names it now, and a connection to it. Close it.

    Raises:
        PeerError: it cannot be reached.
    """
    entry = network.chain.holder(terms.holder_id)
    at = PinnedEndpoint(entry.endpoint, entry.fingerprint)
    return entry, HolderPeer(terms.dataset_id, at, network.account)


def meet_aggregator(network: Network, aggregator: AggregatorRef) -> None:
    """Whether the aggregator is there and holds its key, looked at before anyone is asked and before money is locked.

    Raises:
        PeerError: naming the aggregator.
    """
    AggregatorPeer(PinnedEndpoint(aggregator.endpoint, aggregator.fingerprint), network.account).close()


@contextmanager
def _naming(name: str, dataset_id: int | None = None) -> Iterator[None]:
    """Lets errors of a peer say which party they are about. Reason and details stay."""
    try:
        yield
    except UsufructError as error:
        if dataset_id is not None:
            error.details.setdefault("dataset_id", dataset_id)
        if name not in error.message:
            error.message = f"{name[0].upper()}{name[1:]}: {error.message}"
            error.args = (error.message,)
        raise
    except ValueError as error:
        if "closed channel" not in str(error):
            raise
        raise PeerUnreachable(f"The connection to {name} was closed.") from error
