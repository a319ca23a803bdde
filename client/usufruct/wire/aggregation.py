"""What holders and builders ask of an aggregator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
from eth_account.signers.local import LocalAccount

from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import RoundFailed
from usufruct.v1 import aggregation_pb2, aggregation_pb2_grpc
from usufruct.wire.auth import authenticated_channel
from usufruct.wire.channel import CONNECT_SECONDS, PinnedEndpoint, pinned_channel
from usufruct.wire.parsing import parse
from usufruct.wire.raw import FETCH_SUM, HEADER_LIMIT_BYTES, UPLOAD, IncomingStream, with_header
from usufruct.wire.signatures import signed_upload_header, verify_sum_header
from usufruct.wire.status import rpc_errors

CALL_SECONDS = 10.0
UPLOAD_SECONDS = 300.0
FETCH_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class RoundToSum:
    """One attempt of one round, as aggregator, holders and builder know it.

    Attributes:
        job_id, view_hash: 32 bytes.
        round, attempt: their numbers.
        operators: dataset number -> operator address, the roster.
        parameter_count: values of every update.
        parameters: what they are encrypted with.
    """

    job_id: bytes
    round: int
    attempt: int
    view_hash: bytes
    operators: Mapping[int, str]
    parameter_count: int
    parameters: EncryptionParameters


@dataclass(frozen=True)
class FetchedSum:
    """A sum whose header names exactly the roster, with a valid signature of each.

    Attributes:
        sum_bytes: for :meth:`RoundKey.decrypt`.
        upload_digests: dataset number -> SHA-256 of what it uploaded, as it signed.
    """

    sum_bytes: bytes
    upload_digests: Mapping[int, bytes]


class BuilderAggregation:
    """The builder's side of one aggregator. Close it after use, or use it as a context manager.

    Raises (all methods): the errors of :func:`pinned_channel`, or what the aggregator answered.
    """

    def __init__(
        self, aggregator: PinnedEndpoint, builder: LocalAccount, timeout_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._endpoint = aggregator.endpoint
        self._channel = pinned_channel(aggregator.endpoint, aggregator.fingerprint, timeout_seconds)
        proved = authenticated_channel(self._channel, builder, aggregator.fingerprint)
        self._stub = cast(Any, aggregation_pb2_grpc.AggregationServiceStub)(proved)
        self._fetch_sum = cast(Any, proved).unary_stream(FETCH_SUM)

    def open_round(self, round_to_sum: RoundToSum, timeout_seconds: int) -> int:
        """Opens the attempt; repeating it is harmless. Returns when it is given up, in UTC seconds."""
        request = aggregation_pb2.OpenRoundRequest(
            job_id=round_to_sum.job_id,
            round=round_to_sum.round,
            attempt=round_to_sum.attempt,
            view_hash=round_to_sum.view_hash,
            roster=[
                aggregation_pb2.RosterEntry(dataset_id=dataset_id, operator=operator)
                for dataset_id, operator in sorted(round_to_sum.operators.items())
            ],
            parameter_count=round_to_sum.parameter_count,
            parameters=round_to_sum.parameters.name,
            timeout_seconds=timeout_seconds,
        )
        with rpc_errors(self._endpoint):
            return int(self._stub.OpenRound(request, timeout=CALL_SECONDS).expire_time_seconds)

    def fetch_sum(self, round_to_sum: RoundToSum, timeout_seconds: float) -> FetchedSum:
        """Waits until the roster is complete; gives the sum with its signatures checked.

        Raises:
            RoundFailed: ``ROUND_INCOMPLETE`` with ``missing``, ``ROSTER_MISMATCH``, or ``SUM_INVALID``.
        """
        request = aggregation_pb2.FetchSumRequest(job_id=round_to_sum.job_id, attempt=round_to_sum.attempt)
        allowed = round_to_sum.parameters.upload_bytes(round_to_sum.parameter_count)
        with rpc_errors(self._endpoint):
            call = self._fetch_sum(request.SerializeToString(), timeout=timeout_seconds + FETCH_GRACE_SECONDS)
            try:
                stream = IncomingStream(call)
                header = stream.header(aggregation_pb2.SumHeader)
                verify_sum_header(
                    header,
                    job_id=round_to_sum.job_id,
                    round=round_to_sum.round,
                    attempt=round_to_sum.attempt,
                    view_hash=round_to_sum.view_hash,
                    operators=dict(round_to_sum.operators),
                )
                sum_bytes = stream.read(header.sum_bytes, allowed)
                stream.end()
            finally:
                call.cancel()
        if len(sum_bytes) != allowed or hashlib.sha256(sum_bytes).digest() != header.sum_digest:
            raise RoundFailed("The sum is not the one its header names.", reason="SUM_INVALID")
        return FetchedSum(sum_bytes, {upload.dataset_id: upload.upload_digest for upload in header.uploads})

    def close_round(self, round_to_sum: RoundToSum) -> None:
        """Lets the aggregator forget the attempt; repeating it is harmless."""
        request = aggregation_pb2.CloseRoundRequest(job_id=round_to_sum.job_id, attempt=round_to_sum.attempt)
        with rpc_errors(self._endpoint):
            self._stub.CloseRound(request, timeout=CALL_SECONDS)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> BuilderAggregation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def send_upload(
    aggregator: PinnedEndpoint,
    operator: LocalAccount,
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    dataset_id: int,
    view_hash: bytes,
    operators: Mapping[int, str],
    upload: bytes,
    timeout_seconds: float = UPLOAD_SECONDS,
) -> int:
    """Signs and sends one encrypted update; sending the same bytes again is harmless.

    Args:
        operators: dataset number -> operator address of the roster that the update is meant for.

    Returns:
        How many updates of the roster have arrived.

    Raises:
        PeerError: the aggregator cannot be reached or has another key.
        UsufructError: what it answered: ``ROUND_UNKNOWN``, ``UPLOAD_INVALID``, ``UPLOAD_CHANGED``, …
    """
    header = signed_upload_header(
        operator,
        job_id=job_id,
        round=round,
        attempt=attempt,
        dataset_id=dataset_id,
        view_hash=view_hash,
        upload_digest=hashlib.sha256(upload).digest(),
        upload_bytes=len(upload),
        operators=operators,
    )
    with pinned_channel(aggregator.endpoint, aggregator.fingerprint) as channel:
        return send_signed_upload(channel, header, upload, timeout_seconds, aggregator.endpoint)


def send_signed_upload(
    channel: grpc.Channel,
    header: aggregation_pb2.UploadHeader,
    upload: bytes,
    timeout_seconds: float = UPLOAD_SECONDS,
    endpoint: str = "the aggregator",
) -> int:
    """Sends an update that is signed already (an outbox resends exactly what it signed); see above."""
    messages: Iterator[bytes] = with_header(header, upload)
    with rpc_errors(endpoint):
        answer = cast(Any, channel).stream_unary(UPLOAD)(messages, timeout=timeout_seconds)
    return parse(aggregation_pb2.UploadResponse, answer, HEADER_LIMIT_BYTES).received
