"""The gRPC face of :class:`Rounds`: who is calling, what they send, what they get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import grpc

from usufruct.domain import ids
from usufruct.encryption import parameter_set
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import DIGEST_BYTES
from usufruct.errors import InvalidInput, Refused
from usufruct.v1 import aggregation_pb2, aggregation_pb2_grpc
from usufruct.wire.auth import Authenticator
from usufruct.wire.parsing import parse
from usufruct.wire.raw import (
    AGGREGATION_SERVICE,
    HEADER_LIMIT_BYTES,
    IncomingStream,
    add_raw_methods,
)
from usufruct_server.aggregator.open_round import RoundRequest
from usufruct_server.aggregator.rounds import Rounds

HEADER_SECONDS = 10.0
"""How long a caller may take to send an upload's header. Nothing is known about it until then."""

END_SECONDS = 5.0
"""How much later than its round a silent reader of the sum is cut off: one that reads is told why before."""

CHUNK_SECONDS = 60.0
"""How long a caller may take to read one chunk of everything."""


class AggregationService(aggregation_pb2_grpc.AggregationServiceServicer):
    """OpenRound and CloseRound as protobuf; Upload, FetchSum and FetchChunk as raw streams (:meth:`add_to`)."""

    def __init__(
        self, rounds: Rounds, authenticator: Authenticator, allowed_builders: frozenset[str]
    ) -> None:
        self._rounds = rounds
        self._authenticator = authenticator
        self._allowed_builders = allowed_builders

    def add_to(self, server: grpc.Server) -> None:
        """Register every method."""
        cast(Any, aggregation_pb2_grpc).add_AggregationServiceServicer_to_server(self, server)
        add_raw_methods(
            server,
            AGGREGATION_SERVICE,
            stream_unary={"Upload": self.upload},
            unary_stream={"FetchSum": self.fetch_sum, "FetchChunk": self.fetch_chunk},
        )

    def OpenRound(
        self, request: aggregation_pb2.OpenRoundRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.OpenRoundResponse:
        """Opens a round for the builder that has proved its key."""
        builder = self._authenticator.authenticate(context)
        if self._allowed_builders and builder not in self._allowed_builders:
            raise Refused("This aggregator does not serve this builder.", reason="POLICY_REFUSED")
        if len(request.roster) > 1024:
            raise InvalidInput("The roster is too long.", reason="TOO_LARGE", field="roster")
        opened = self._rounds.open(
            RoundRequest(
                builder=builder,
                job_id=request.job_id,
                round=request.round,
                attempt=request.attempt,
                view_hash=request.view_hash,
                operators=tuple(
                    (entry.dataset_id, ids.address(entry.operator, "operator")) for entry in request.roster
                ),
                parameter_count=request.parameter_count,
                parameters=parameter_set(request.parameters),
                timeout_seconds=request.timeout_seconds,
            )
        )
        return aggregation_pb2.OpenRoundResponse(expire_time_seconds=opened.expire_time_seconds)

    def CloseRound(
        self, request: aggregation_pb2.CloseRoundRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.CloseRoundResponse:
        """Forgets a round."""
        builder = self._authenticator.authenticate(context)
        self._rounds.close(builder, request.job_id, request.attempt)
        return aggregation_pb2.CloseRoundResponse()

    def upload(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Takes one signed update. The signature is checked before the body is read."""
        stream = IncomingStream(messages)
        with _cancelled_after(context, HEADER_SECONDS):
            header = stream.header(aggregation_pb2.UploadHeader)
        open_round = self._rounds.of_view(header.job_id, header.attempt, header.view_hash)
        if open_round.admit(header):
            uploads = open_round.request.uploads
            with _cancelled_after(context, open_round.seconds_left):
                leaves = stream.message(uploads.chunks * DIGEST_BYTES)
                received = open_round.receive(header, leaves, _chunks(stream, uploads))
        else:
            received = open_round.received
        return aggregation_pb2.UploadResponse(received=received).SerializeToString()

    def fetch_sum(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Gives the sum to the builder that opened the round, each range as soon as it is added."""
        builder = self._authenticator.authenticate(context)
        request = parse(aggregation_pb2.FetchSumRequest, message, HEADER_LIMIT_BYTES)
        open_round = self._rounds.of_builder(builder, request.job_id, request.attempt)
        context.add_callback(open_round.wake)
        with open_round.fetching(builder), _cancelled_after(context, open_round.seconds_left + END_SECONDS):
            uploads = open_round.headers(context.is_active)
            yield aggregation_pb2.SumHeader(uploads=uploads).SerializeToString()
            yield from open_round.sum_chunks(context.is_active)
            yield aggregation_pb2.SumTrailer(sum_root=open_round.sum_root).SerializeToString()

    def fetch_chunk(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Gives one chunk of every upload and of the sum to the builder or a holder of the roster."""
        caller = self._authenticator.authenticate(context)
        request = parse(aggregation_pb2.FetchChunkRequest, message, HEADER_LIMIT_BYTES)
        open_round = self._rounds.of_view(request.job_id, request.attempt, request.view_hash)
        with open_round.fetching(caller), _cancelled_after(context, CHUNK_SECONDS):
            header, chunks = open_round.committed(caller, request.index)
            yield header.SerializeToString()
            yield from chunks


def _chunks(stream: IncomingStream, uploads: Chunking) -> Iterator[bytes]:
    for index in range(uploads.chunks):
        yield stream.message(len(uploads.span(index)))
    stream.end()


class _cancelled_after:
    """Cancels the call when the block takes longer than ``seconds``; a silent caller frees its thread."""

    def __init__(self, context: grpc.ServicerContext, seconds: float) -> None:
        self._timer = threading.Timer(seconds, context.cancel)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
