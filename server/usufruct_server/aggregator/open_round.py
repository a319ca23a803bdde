"""One attempt of one round while it is open: who may send, what has arrived, when it ends. No gRPC, no key.

An attempt's life: opened by its builder -> uploads arrive, each signed by the roster's operator key -> each range of the
sum is handed on as soon as it is added -> any member may have a chunk of everything again -> closed. At the deadline,
complete or not, everything about it is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from usufruct.domain import ids
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import DIGEST_BYTES, Commitment
from usufruct.encryption.layout import Kind
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.errors import InvalidInput, Refused, RoundFailed
from usufruct.v1 import aggregation_pb2
from usufruct.wire.signatures import verify_upload_header
from usufruct_server.aggregator.lockstep import Lockstep
from usufruct_server.aggregator.spool import SpoolClosed, Spools

STREAMS_PER_DATASET = 2
"""Uploads of one dataset under way at once: a holder may come back before its lost connection is noticed."""

FETCHES_PER_CALLER = 2
"""Fetches by one caller of one round at once, for the same reason."""


@dataclass(frozen=True)
class RoundRequest:
    """What a builder asked to have summed; checked.

    Attributes:
        builder: who opens it, proved.
        job_id, view_hash: 32 bytes.
        round, attempt: their numbers.
        operators: (dataset number, operator address), ascending.
        parameter_count: values of every update.
        parameters: what they are encrypted with.
        timeout_seconds: how long to wait for the roster.
    """

    builder: str
    job_id: bytes
    round: int
    attempt: int
    view_hash: bytes
    operators: tuple[tuple[int, str], ...]
    parameter_count: int
    parameters: EncryptionParameters
    timeout_seconds: int

    def __post_init__(self) -> None:
        ids.hash32(self.job_id, "job_id")
        ids.hash32(self.view_hash, "view_hash")
        for dataset_id, operator in self.operators:
            if ids.address(operator, "operator") != operator:
                raise InvalidInput(
                    "operator must be a checksummed address", field="operator", dataset_id=dataset_id
                )
        numbers = [dataset_id for dataset_id, _ in self.operators]
        if not numbers or numbers != sorted(set(numbers)):
            raise InvalidInput("The roster lists each dataset once, in ascending order.", field="roster")
        if len(numbers) > self.parameters.max_holders:
            raise InvalidInput(
                f"A round has at most {self.parameters.max_holders} datasets.",
                reason="TOO_LARGE",
                field="roster",
                limit=self.parameters.max_holders,
            )
        if self.parameter_count < 1:
            raise InvalidInput("parameter_count must be at least 1.", field="parameter_count")
        if self.timeout_seconds < 1:
            raise InvalidInput("timeout_seconds must be at least 1.", field="timeout_seconds")

    @property
    def key(self) -> tuple[str, bytes, int]:
        """How its builder names it."""
        return self.builder, self.job_id, self.attempt

    @property
    def view_key(self) -> tuple[bytes, int, bytes]:
        """How holders name it. The view hash is not public, so nobody can take the name before the
        builder.
        """
        return self.job_id, self.attempt, self.view_hash

    @property
    def uploads(self) -> Chunking:
        """The chunks of every upload; the sum has as many of the same lengths."""
        return Chunking(self.parameters, Kind.UPLOAD, self.parameter_count)

    @property
    def upload_bytes(self) -> int:
        """Exact length of every upload and of the sum."""
        return self.parameters.upload_bytes(self.parameter_count)

    @property
    def disk_bytes(self) -> int:
        """Disk that the round takes: a spool for every upload and one for the sum."""
        return self.upload_bytes * (len(self.operators) + 1)


class OpenRound:
    """One attempt of one round while it is open. Thread-safe.

    Args:
        spools: makes room for uploads and sum.
        uploads_at_once: uploads received side by side; others wait.
    """

    def __init__(self, request: RoundRequest, spools: Spools, uploads_at_once: int) -> None:
        self.request = request
        self.expire_time_seconds = int(time.time()) + request.timeout_seconds
        self.deadline = time.monotonic() + request.timeout_seconds
        self._operators = dict(request.operators)
        self._changed = threading.Condition()
        self._lockstep = Lockstep(request.uploads, list(self._operators), spools, self.wake)
        self._headers: dict[int, aggregation_pb2.UploadHeader] = {}
        self._under_way: Counter[int | str] = Counter()
        self._uploads_at_once, self._receiving = uploads_at_once, 0
        self._end: str | None = None

    # -- holders ---------------------------------------------------------------------------------------------

    def admit(self, header: aggregation_pb2.UploadHeader) -> bool:
        """Check a header before a byte of the body is read.

        Returns:
            False when exactly this upload has arrived whole already: a resend, to be thanked for and not read.

        Raises:
            UsufructError: ``ROSTER_MISMATCH``, ``UPLOAD_INVALID``, ``BAD_SIGNATURE``, ``UPLOAD_CHANGED``, or
                the round has ended.
        """
        if header.dataset_id not in self._operators:
            raise RoundFailed(
                "The dataset is not in the round's roster.",
                reason="ROSTER_MISMATCH",
                dataset_id=header.dataset_id,
            )
        if header.round != self.request.round:
            raise RoundFailed(
                "The attempt belongs to another round.", reason="ROUND_UNKNOWN", round=header.round
            )
        if header.upload_bytes != self.request.upload_bytes:
            raise InvalidInput(
                f"An update of this round has {self.request.upload_bytes} bytes.",
                reason="UPLOAD_INVALID",
                field="length",
                requested=header.upload_bytes,
                limit=self.request.upload_bytes,
            )
        verify_upload_header(header, self._operators)
        with self._changed:
            self._require_open()
            before = self._headers.get(header.dataset_id)
        if before is not None and before.upload_root != header.upload_root:
            raise RoundFailed(reason="UPLOAD_CHANGED", dataset_id=header.dataset_id, attempt=header.attempt)
        return before is None or not self._lockstep.has_whole(header.dataset_id)

    def receive(self, header: aggregation_pb2.UploadHeader, leaves: bytes, chunks: Iterable[bytes]) -> int:
        """Take an admitted upload, chunk by chunk. Returns how many of the roster have arrived whole.

        From here on the dataset has this upload in this attempt and no other. A stream that breaks off leaves what it
        brought; the same upload, sent again from its start, goes on from there.

        Args:
            leaves: the digests of all chunks, one after the other.
            chunks: all of them, in order.

        *Guarantee*: every chunk that is added is under the root that the operator signed, and in the coefficient range.
        """
        dataset_id = header.dataset_id
        with self._upload_under_way(dataset_id), self._told_why():
            digests = [leaves[start : start + DIGEST_BYTES] for start in range(0, len(leaves), DIGEST_BYTES)]
            commitment = Commitment.received(self.request.uploads, digests, header.upload_root)
            self._lockstep.begin(dataset_id, commitment)
            with self._changed:
                self._require_open()
                self._headers.setdefault(dataset_id, header)
                self._changed.notify_all()
            for index, chunk in enumerate(chunks):
                self._lockstep.put(dataset_id, index, chunk)
        return self.received

    @property
    def seconds_left(self) -> float:
        """Time until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def received(self) -> int:
        """How many of the roster have arrived whole."""
        return sum(self._lockstep.has_whole(dataset_id) for dataset_id in self._operators)

    # -- the builder -----------------------------------------------------------------------------------------

    def headers(self, still_wanted: Callable[[], bool]) -> list[aggregation_pb2.UploadHeader]:
        """The signed headers of the whole roster, as soon as every upload has begun.

        Args:
            still_wanted: asked whenever :meth:`wake` is called.

        Raises:
            RoundFailed: ``ROUND_INCOMPLETE`` with the missing dataset numbers, at the deadline;
                ``UPLOAD_INVALID`` with the ``dataset_id`` that signed what cannot be added;
                ``ROUND_UNKNOWN`` when it is closed meanwhile; ``INTERRUPTED`` when the aggregator stops.
        """
        with self._changed:
            self._wait_for(lambda: len(self._headers) == len(self._operators), still_wanted)
            return [self._headers[dataset_id] for dataset_id in self._operators]

    def sum_chunks(self, still_wanted: Callable[[], bool]) -> Iterator[bytes]:
        """The chunks of the sum, each as soon as it is added; see :meth:`headers`."""
        for index in range(self.request.uploads.chunks):
            with self._changed:
                self._wait_for(partial(self._has_added, index), still_wanted)
            with self._told_why():
                chunk = self._lockstep.sum_chunk(index)
            yield chunk

    @property
    def sum_root(self) -> bytes:
        """Root over the whole sum; ask after its last chunk."""
        return self._lockstep.sum_commitment.root

    # -- whoever wants to add again --------------------------------------------------------------------------

    def committed(self, caller: str, index: int) -> tuple[aggregation_pb2.ChunkHeader, Iterator[bytes]]:
        """One chunk of every upload and of the sum, with its proofs, for the builder and the roster.

        Raises:
            Refused: ``NOT_YOURS``. InvalidInput: there is no such chunk.
            RoundFailed: ``ROUND_INCOMPLETE`` while the sum is; or the round has ended.
        """
        if caller != self.request.builder and caller not in self._operators.values():
            raise Refused("This round is of others.", reason="NOT_YOURS", attempt=self.request.attempt)
        self.request.uploads.blocks(index)  # refuses an index that is not there
        with self._changed:
            self._require_open()
            if self._lockstep.added < self.request.uploads.chunks:
                raise RoundFailed(
                    "The sum is not complete yet.", reason="ROUND_INCOMPLETE", **self._missing()
                )
            uploads = [self._headers[dataset_id] for dataset_id in self._operators]
        total = self._lockstep.sum_commitment
        header = aggregation_pb2.ChunkHeader(
            uploads=uploads,
            upload_proofs=[
                _proof(self._lockstep.commitment(dataset_id), index) for dataset_id in self._operators
            ],
            sum_root=total.root,
            sum_proof=_proof(total, index),
        )

        def chunks() -> Iterator[bytes]:
            with self._told_why():
                for dataset_id in self._operators:
                    yield self._lockstep.upload_chunk(dataset_id, index)
                yield self._lockstep.sum_chunk(index)

        return header, chunks()

    def fetching(self, caller: str) -> AbstractContextManager[None]:
        """Hold this while ``caller`` fetches sum or chunk; raises ``TOO_MANY`` beyond :data:`FETCHES_PER_CALLER`."""
        return self._one_of(FETCHES_PER_CALLER, caller, "This round is being fetched by this caller already.")

    # -- the end ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    def end(self, reason: str) -> None:
        """The round is over; forget everything and tell whoever waits."""
        with self._changed:
            if self._end is not None:
                return
            self._end = reason
            self._changed.notify_all()
        self._lockstep.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _wait_for(self, there: Callable[[], bool], still_wanted: Callable[[], bool]) -> None:
        """Call with the lock held."""
        while True:
            self._require_open()
            if there():
                return
            if not still_wanted():
                raise RoundFailed("The caller is gone.", reason="INTERRUPTED")
            self._changed.wait(self.seconds_left)

    def _has_added(self, index: int) -> bool:
        return self._lockstep.added > index

    def _require_open(self) -> None:
        """Call with the lock held."""
        names: dict[str, Any] = {"job_id": ids.to_hex(self.request.job_id), "attempt": self.request.attempt}
        if self._end is not None and self._end != "ROUND_INCOMPLETE":
            raise RoundFailed(reason=self._end, **names)
        if self._end is not None or time.monotonic() >= self.deadline:
            missing = self._missing()
            raise RoundFailed(
                f"The deadline has passed; missing: datasets {missing['missing'] or 'none'}.",
                reason="ROUND_INCOMPLETE",
                **missing,
                **names,
            )
        if self._lockstep.spoilt is not None:
            raise RoundFailed(
                f"Dataset {self._lockstep.spoilt} has signed an update that cannot be added.",
                reason="UPLOAD_INVALID",
                dataset_id=self._lockstep.spoilt,
                **names,
            )

    def _missing(self) -> dict[str, str]:
        missing = [str(member) for member in self._operators if not self._lockstep.has_whole(member)]
        return {"missing": ",".join(missing)}

    @contextmanager
    def _told_why(self) -> Iterator[None]:
        """Says how the round ended where only a closed spool was seen."""
        try:
            yield
        except SpoolClosed:
            with self._changed:
                self._require_open()
            raise

    @contextmanager
    def _upload_under_way(self, dataset_id: int) -> Iterator[None]:
        text = "This dataset's update is being received already."
        with self._one_of(STREAMS_PER_DATASET, dataset_id, text):
            with self._changed:
                self._wait_for(lambda: self._receiving < self._uploads_at_once, lambda: True)
                self._receiving += 1
            try:
                yield
            finally:
                with self._changed:
                    self._receiving -= 1
                    self._changed.notify_all()

    @contextmanager
    def _one_of(self, most: int, who: int | str, refusal: str) -> Iterator[None]:
        with self._changed:
            if self._under_way[who] >= most:
                raise Refused(refusal, reason="TOO_MANY", limit=most)
            self._under_way[who] += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way[who] -= 1
                self._changed.notify_all()


def _proof(commitment: Commitment | None, index: int) -> aggregation_pb2.ChunkProof:
    return aggregation_pb2.ChunkProof(siblings=commitment.proof(index) if commitment else ())
