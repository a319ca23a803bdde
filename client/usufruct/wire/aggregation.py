"""What holders and builders ask of an aggregator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, Self, cast

from eth_account.signers.local import LocalAccount

from usufruct.encryption.chunks import MAX_CHUNK_BYTES, Chunking
from usufruct.encryption.commitment import DIGEST_BYTES, Commitment, leaf_of, proves
from usufruct.encryption.layout import Kind
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.sum import add_chunk
from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import aggregation_pb2, aggregation_pb2_grpc
from usufruct.wire.auth import authenticated_channel
from usufruct.wire.channel import CONNECT_SECONDS, PinnedEndpoint, pinned_channel
from usufruct.wire.parsing import parse
from usufruct.wire.raw import FETCH_CHUNK, FETCH_SUM, HEADER_LIMIT_BYTES, UPLOAD, IncomingStream
from usufruct.wire.signatures import signed_upload_header, verify_uploads
from usufruct.wire.status import rpc_errors

CALL_SECONDS = 10.0
CHUNK_SECONDS = 60.0
UPLOAD_SECONDS = 300.0
FETCH_GRACE_SECONDS = 60.0

SUM_MEMORY_BYTES = 64 << 20
"""A sum that is fetched stays in memory up to here; a longer one goes to a file without a name."""

PROOF_LIMIT_BYTES = 1 << 20
"""Largest first message of a chunk: signed headers, and the proofs of a whole roster."""


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

    @property
    def uploads(self) -> Chunking:
        """The chunks of every upload."""
        return Chunking(self.parameters, Kind.UPLOAD, self.parameter_count)

    @property
    def sums(self) -> Chunking:
        """The chunks of the sum."""
        return Chunking(self.parameters, Kind.SUM, self.parameter_count)

    @property
    def names(self) -> dict[str, Any]:
        """What signatures bind, as :mod:`usufruct.wire.signatures` takes it."""
        return {
            "job_id": self.job_id,
            "round": self.round,
            "attempt": self.attempt,
            "view_hash": self.view_hash,
            "operators": dict(self.operators),
        }


@dataclass(frozen=True)
class FetchedSum:
    """A sum whose headers name exactly the roster, with a valid signature of each. Close it.

    That it *is* the sum of those uploads is for the linear check to say, before anything is decrypted.

    Attributes:
        commitment: made here, over the chunks that arrived; its root is the one that the aggregator stated.
        uploads: the signed headers, for the holders' challenge; in ascending order of dataset number.
        upload_roots: dataset number -> root of what it uploaded, as it signed.
        spool: header and chunks.
    """

    commitment: Commitment
    uploads: tuple[aggregation_pb2.UploadHeader, ...]
    upload_roots: Mapping[int, bytes]
    spool: IO[bytes]

    def chunks(self) -> Iterator[bytes]:
        """The sum's chunks from the first on, one in memory at a time; one reader at a time."""
        self.spool.seek(0)
        yield from self.commitment.chunking.read(cast(BinaryIO, self.spool))

    def close(self) -> None:
        """Forgets the sum."""
        self.spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class FetchedChunk:
    """One chunk of every upload and of the sum, each proved to be what was signed or checked.

    Attributes:
        uploads: of the round.
        index: which chunk.
        chunks: dataset number -> its chunk, in the tree whose root its operator signed for this view.
        sum_chunk: in the tree of the sum's root.
    """

    uploads: Chunking
    index: int
    chunks: Mapping[int, bytes]
    sum_chunk: bytes

    @property
    def adds_up(self) -> bool:
        """Whether the sum's chunk is the sum of the others, added again here.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``: an upload was signed that cannot be added.
        """
        return add_chunk(self.uploads, self.index, list(self.chunks.values())) == self.sum_chunk


class _Aggregation:
    """One party's connection to one aggregator. Close it after use, or use it as a context manager.

    Raises (all methods): the errors of :func:`pinned_channel`, or what the aggregator answered.
    """

    def __init__(
        self, aggregator: PinnedEndpoint, account: LocalAccount, timeout_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._endpoint, self._account = aggregator.endpoint, account
        self._channel = pinned_channel(aggregator.endpoint, aggregator.fingerprint, timeout_seconds)
        self._proved = authenticated_channel(self._channel, account, aggregator.fingerprint)
        self._fetch_chunk = self._raw(FETCH_CHUNK)

    def fetch_chunk(self, round_to_sum: RoundToSum, index: int, sum_root: bytes) -> FetchedChunk:
        """One chunk of everything that the open round has summed, for whoever wants to add it again.

        Args:
            sum_root: of the sum that was checked.

        Raises:
            RoundFailed: ``ROSTER_MISMATCH``; ``ROUND_INCOMPLETE`` while the sum is.
            InvalidInput: ``BAD_SIGNATURE``; ``UPLOAD_INVALID`` or ``SUM_INVALID``: a chunk is not what was signed or
                checked.
        """
        request = aggregation_pb2.FetchChunkRequest(
            job_id=round_to_sum.job_id,
            attempt=round_to_sum.attempt,
            view_hash=round_to_sum.view_hash,
            index=index,
        )
        uploads, sums = round_to_sum.uploads, round_to_sum.sums
        chunks: dict[int, bytes] = {}
        with rpc_errors(self._endpoint):
            call = self._fetch_chunk(request.SerializeToString(), timeout=CHUNK_SECONDS)
            try:
                stream = IncomingStream(call)
                header = stream.header(aggregation_pb2.ChunkHeader, PROOF_LIMIT_BYTES)
                roots = verify_uploads(header.uploads, **round_to_sum.names)
                if len(header.upload_proofs) != len(roots) or header.sum_root != sum_root:
                    raise InvalidInput(
                        "The chunk is of another sum than the one that was checked.",
                        reason="SUM_INVALID",
                        field="root",
                    )
                for (dataset_id, root), proof in zip(roots.items(), header.upload_proofs, strict=True):
                    chunks[dataset_id] = _proved_chunk(stream, uploads, root, index, proof)
                sum_chunk = _proved_chunk(stream, sums, sum_root, index, header.sum_proof)
                stream.end()
            finally:
                call.cancel()
        return FetchedChunk(uploads, index, chunks, sum_chunk)

    def _raw(self, method: str) -> Any:
        """A method that answers with a stream of messages as they are."""
        return cast(Any, self._proved).unary_stream(method)

    def close(self) -> None:
        """Closes the channel; calls under way end with an error."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HolderAggregation(_Aggregation):
    """A holder's side of one aggregator, for as long as the job; its account is the operator key."""

    def send_upload(
        self,
        round_to_sum: RoundToSum,
        dataset_id: int,
        upload: Path,
        commitment: Commitment,
        timeout_seconds: float = UPLOAD_SECONDS,
    ) -> int:
        """Signs and sends one encrypted update; sending the same again, whole or after a break, is harmless.

        Args:
            upload: the file that :func:`usufruct.encryption.update.write_upload` wrote; a chunk at a time is read.
            commitment: what it returned, or ``Commitment.over(chunking, chunking.read(file))`` of the same file. The
                aggregator compares every chunk with it.

        Returns:
            How many updates of the roster have arrived whole.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``: the file is not of the commitment's length, or not what it is of.
            UsufructError: what the aggregator answered: ``ROUND_UNKNOWN``, ``UPLOAD_CHANGED``, …
        """
        chunking = commitment.chunking
        header = signed_upload_header(
            self._account,
            dataset_id=dataset_id,
            upload_root=commitment.root,
            upload_bytes=chunking.parameters.upload_bytes(chunking.count),
            **round_to_sum.names,
        )
        failed: list[Exception] = []

        def messages() -> Iterator[bytes]:
            yield header.SerializeToString()
            yield b"".join(commitment.leaves)
            try:
                with upload.open("rb") as file:
                    yield from chunking.read(file)
            except (InvalidInput, OSError) as error:  # gRPC would say only that an iterator failed
                failed.append(error)

        with rpc_errors(self._endpoint):
            try:
                answer = cast(Any, self._channel).stream_unary(UPLOAD)(messages(), timeout=timeout_seconds)
            finally:
                if failed:
                    raise failed[0]
        return parse(aggregation_pb2.UploadResponse, answer, HEADER_LIMIT_BYTES).received


class BuilderAggregation(_Aggregation):
    """The builder's side of one aggregator."""

    def __init__(
        self, aggregator: PinnedEndpoint, builder: LocalAccount, timeout_seconds: float = CONNECT_SECONDS
    ) -> None:
        super().__init__(aggregator, builder, timeout_seconds)
        self._stub = cast(Any, aggregation_pb2_grpc.AggregationServiceStub)(self._proved)
        self._fetch_sum = self._raw(FETCH_SUM)

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
        """Takes the sum chunk by chunk as the aggregator adds it, with its signatures checked.

        Raises:
            RoundFailed: ``ROUND_INCOMPLETE`` with ``missing``; ``ROSTER_MISMATCH``; ``UPLOAD_INVALID`` with
                ``dataset_id``, whose holder signed an update that cannot be added; or ``SUM_INVALID``.
            InvalidInput: ``BAD_SIGNATURE``, or ``SUM_INVALID`` for a chunk of another length.

        Memory: :data:`SUM_MEMORY_BYTES`; a longer sum is spooled to a file without a name in ``TMPDIR``.
        """
        request = aggregation_pb2.FetchSumRequest(job_id=round_to_sum.job_id, attempt=round_to_sum.attempt)
        sums, leaves = round_to_sum.sums, []
        spool = SpooledTemporaryFile(SUM_MEMORY_BYTES)  # noqa: SIM115 the sum that is returned owns it
        try:
            with rpc_errors(self._endpoint):
                call = self._fetch_sum(
                    request.SerializeToString(), timeout=timeout_seconds + FETCH_GRACE_SECONDS
                )
                try:
                    stream = IncomingStream(call)
                    header = stream.header(aggregation_pb2.SumHeader)
                    roots = verify_uploads(header.uploads, **round_to_sum.names)
                    spool.write(sums.header)
                    for index in range(sums.chunks):
                        chunk = stream.message(MAX_CHUNK_BYTES)
                        leaves.append(leaf_of(sums, index, chunk))
                        spool.write(chunk)
                    trailer = stream.header(aggregation_pb2.SumTrailer)
                    stream.end()
                finally:
                    call.cancel()
            commitment = Commitment(sums, tuple(leaves))
            if commitment.root != trailer.sum_root:
                raise RoundFailed("The sum is not the one its aggregator names.", reason="SUM_INVALID")
        except BaseException:
            spool.close()
            raise
        uploads = sorted(header.uploads, key=lambda upload: upload.dataset_id)
        return FetchedSum(commitment, tuple(uploads), roots, cast(IO[bytes], spool))

    def close_round(self, round_to_sum: RoundToSum) -> None:
        """Lets the aggregator forget the attempt; repeating it is harmless."""
        request = aggregation_pb2.CloseRoundRequest(job_id=round_to_sum.job_id, attempt=round_to_sum.attempt)
        with rpc_errors(self._endpoint):
            self._stub.CloseRound(request, timeout=CALL_SECONDS)


def _proved_chunk(
    stream: IncomingStream,
    chunking: Chunking,
    root: bytes,
    index: int,
    proof: aggregation_pb2.ChunkProof,
) -> bytes:
    chunk = stream.message(MAX_CHUNK_BYTES)
    siblings = list(proof.siblings)
    if any(len(sibling) != DIGEST_BYTES for sibling in siblings) or not proves(
        chunking, root, index, chunk, siblings
    ):
        raise InvalidInput(
            f"Chunk {index} is not in the tree that was signed.", reason=chunking.reason, field="digest"
        )
    return chunk
