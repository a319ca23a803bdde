"""Open rounds: who may send, what has arrived, when it ends. No gRPC, no files, no key.

A round's life: opened by its builder -> uploads arrive, each signed by the roster's operator key -> complete
-> the builder fetches -> closed. At the deadline, complete or not, everything about it is forgotten.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from usufruct.domain import ids
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.sum import Summation
from usufruct.errors import InvalidInput, Refused, RoundFailed
from usufruct.v1 import aggregation_pb2
from usufruct.wire.signatures import verify_upload_header
from usufruct_server.aggregator.config import Limits

_LOG = logging.getLogger("usufruct.aggregator")

STREAMS_PER_DATASET = 2
"""Uploads of one dataset under way at once: a holder may come back before its lost connection is noticed."""

FETCHES_PER_ROUND = 2
"""Waiting fetches of one round, for the same reason at the builder."""


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
    def upload_key(self) -> tuple[bytes, int, bytes]:
        """How holders name it. The view hash is not public, so nobody can take the name before the
        builder.
        """
        return self.job_id, self.attempt, self.view_hash

    @property
    def upload_bytes(self) -> int:
        """Exact length of every upload and of the sum."""
        return self.parameters.upload_bytes(self.parameter_count)

    def memory_bytes(self, uploads_at_once: int) -> int:
        """Most memory that the round can take: accumulators, the result, uploads under way."""
        blocks = self.parameters.blocks_for(self.parameter_count)
        accumulators = blocks * 2 * self.parameters.poly_modulus_degree * 8
        return accumulators + self.upload_bytes * (1 + min(uploads_at_once, len(self.operators)))


@dataclass(frozen=True)
class FinishedSum:
    """The encrypted sum and the signed headers of everything in it."""

    uploads: tuple[aggregation_pb2.UploadHeader, ...]
    sum_bytes: bytes
    sum_digest: bytes


class OpenRound:
    """One attempt of one round while it is open. Thread-safe."""

    def __init__(self, request: RoundRequest, limits: Limits) -> None:
        self.request = request
        self.expire_time_seconds = int(time.time()) + request.timeout_seconds
        self.deadline = time.monotonic() + request.timeout_seconds
        self._operators = dict(request.operators)
        self._changed = threading.Condition()
        self._slots = threading.BoundedSemaphore(limits.max_uploads_at_once)
        self._summation: Summation | None = Summation(request.parameters, request.parameter_count)
        self._uploads: dict[int, aggregation_pb2.UploadHeader] = {}
        self._under_way: dict[int, int] = {}
        self._fetching = 0
        self._finished: FinishedSum | None = None
        self._end: str | None = None

    # -- holders ---------------------------------------------------------------------------------------------

    def admit(self, header: aggregation_pb2.UploadHeader) -> bool:
        """Check a header before a byte of the body is read.

        Returns:
            False when exactly this upload has arrived already: a resend, to be thanked for and not read.

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
            return self._is_new(header)

    def receive(self, header: aggregation_pb2.UploadHeader, pieces: Iterable[memoryview]) -> int:
        """Read an admitted upload and add it. Returns how many of the roster have arrived.

        *Guarantee*: what is added has exactly the length, the coefficient range and the digest that the
        operator signed; anything else changes nothing.
        """
        with self._upload_under_way(header.dataset_id):
            with self._changed:
                self._require_open()
                summation = self._summation
                if summation is None:  # complete meanwhile; _is_new tells a resend from a changed one
                    self._is_new(header)
                    return len(self._uploads)
            incoming, digest = summation.incoming(), hashlib.sha256()
            for piece in pieces:
                incoming.feed(piece)
                digest.update(piece)
            incoming.require_complete()
            if digest.digest() != header.upload_digest:
                raise InvalidInput(
                    "The bytes are not those that were signed.",
                    reason="UPLOAD_INVALID",
                    field="digest",
                    dataset_id=header.dataset_id,
                )
            with self._changed:
                self._require_open()
                if self._is_new(header):
                    summation.commit(incoming)
                    self._uploads[header.dataset_id] = header
                    if len(self._uploads) == len(self._operators):
                        self._finish(summation)
                return len(self._uploads)

    @property
    def seconds_left(self) -> float:
        """Time until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def received(self) -> int:
        """How many of the roster have arrived."""
        with self._changed:
            return len(self._uploads)

    # -- the builder -----------------------------------------------------------------------------------------

    def wait_for_sum(self, still_wanted: Callable[[], bool]) -> FinishedSum:
        """Wait until the roster is complete.

        Args:
            still_wanted: asked whenever :meth:`wake` is called.

        Raises:
            RoundFailed: ``ROUND_INCOMPLETE`` with the missing dataset numbers, at the deadline;
                ``ROUND_UNKNOWN`` when it is closed meanwhile; ``INTERRUPTED`` when the aggregator stops.
        """
        with self._changed:
            if self._fetching >= FETCHES_PER_ROUND:
                raise Refused(
                    "This sum is being fetched already.", reason="TOO_MANY", limit=FETCHES_PER_ROUND
                )
            self._fetching += 1
            try:
                while self._finished is None:
                    self._require_open()
                    if not still_wanted():
                        raise RoundFailed("The caller is gone.", reason="INTERRUPTED")
                    self._changed.wait(self.seconds_left)
                return self._finished
            finally:
                self._fetching -= 1
                self._changed.notify_all()

    def wake(self) -> None:
        """Let waiting fetches look again whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def end(self, reason: str) -> None:
        """The round is over; forget everything and tell whoever waits."""
        with self._changed:
            if self._end is None:
                self._end = reason
                self._summation = None
                self._changed.notify_all()

    # -- inside ----------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        """Call with the lock held."""
        names: dict[str, Any] = {"job_id": ids.to_hex(self.request.job_id), "attempt": self.request.attempt}
        if self._end is not None and self._end != "ROUND_INCOMPLETE":
            raise RoundFailed(reason=self._end, **names)
        if self._end is not None or time.monotonic() >= self.deadline:
            missing = [str(dataset_id) for dataset_id in self._operators if dataset_id not in self._uploads]
            raise RoundFailed(
                f"The deadline has passed; missing: datasets {', '.join(missing) or 'none'}.",
                reason="ROUND_INCOMPLETE",
                missing=",".join(missing),
                **names,
            )

    def _is_new(self, header: aggregation_pb2.UploadHeader) -> bool:
        """Call with the lock held. False for a resend; raises for other bytes under the same name."""
        before = self._uploads.get(header.dataset_id)
        if before is None:
            return True
        if before.upload_digest != header.upload_digest:
            raise RoundFailed(reason="UPLOAD_CHANGED", dataset_id=header.dataset_id, attempt=header.attempt)
        return False

    def _finish(self, summation: Summation) -> None:
        sum_bytes = summation.result_bytes()
        uploads = tuple(self._uploads[dataset_id] for dataset_id in self._operators)
        self._finished = FinishedSum(uploads, sum_bytes, hashlib.sha256(sum_bytes).digest())
        self._summation = None
        self._changed.notify_all()

    @contextmanager
    def _upload_under_way(self, dataset_id: int) -> Iterator[None]:
        with self._changed:
            if self._under_way.get(dataset_id, 0) >= STREAMS_PER_DATASET:
                raise Refused(
                    "This dataset's update is being received already.",
                    reason="TOO_MANY",
                    dataset_id=dataset_id,
                )
            self._under_way[dataset_id] = self._under_way.get(dataset_id, 0) + 1
        try:
            if not self._slots.acquire(timeout=self.seconds_left):
                raise RoundFailed("The deadline has passed.", reason="ROUND_INCOMPLETE")
            try:
                yield
            finally:
                self._slots.release()
        finally:
            with self._changed:
                self._under_way[dataset_id] -= 1


class Rounds:
    """All open rounds of one aggregator, within its limits. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._by_builder: dict[tuple[str, bytes, int], OpenRound] = {}
        self._by_upload: dict[tuple[bytes, int, bytes], OpenRound] = {}
        self._timers: dict[tuple[str, bytes, int], threading.Timer] = {}
        self._stopped = False

    def open(self, request: RoundRequest) -> OpenRound:
        """Open a round; the same request again gives the same round.

        Raises:
            UsufructError: ``ROUND_VIEW_CHANGED`` for another request of the same attempt, ``NOT_YOURS``,
                ``TOO_LARGE``, ``TOO_MANY``.
        """
        limits = self._limits
        for name, value, limit in (
            ("parameter_count", request.parameter_count, limits.max_parameters),
            ("timeout_seconds", request.timeout_seconds, limits.max_round_seconds),
        ):
            if value > limit:
                raise Refused(
                    f"{name} is at most {limit} here.",
                    reason="TOO_LARGE",
                    field=name,
                    requested=value,
                    limit=limit,
                )
        with self._lock:
            if self._stopped:
                raise RoundFailed("The aggregator is stopping.", reason="INTERRUPTED")
            known = self._live().get(request.key)
            if known is not None:
                if known.request != request:
                    raise RoundFailed(reason="ROUND_VIEW_CHANGED", attempt=request.attempt)
                return known
            if request.upload_key in self._by_upload:
                raise Refused(reason="NOT_YOURS", attempt=request.attempt)
            mine = sum(builder == request.builder for builder, _, _ in self._by_builder)
            if mine >= limits.max_open_rounds_per_builder or len(self._by_builder) >= limits.max_open_rounds:
                raise Refused(
                    "Too many rounds are open; close some first.",
                    reason="TOO_MANY",
                    limit=limits.max_open_rounds_per_builder,
                )
            taken = sum(r.request.memory_bytes(limits.max_uploads_at_once) for r in self._by_builder.values())
            needed = request.memory_bytes(limits.max_uploads_at_once)
            if taken + needed > limits.max_memory_bytes:
                raise Refused(
                    "The aggregator has no memory left for a round of this size.",
                    reason="TOO_LARGE",
                    requested=needed,
                    limit=limits.max_memory_bytes - taken,
                )
            opened = OpenRound(request, limits)
            self._by_builder[request.key] = opened
            self._by_upload[request.upload_key] = opened
            timer = threading.Timer(request.timeout_seconds, self._forget, (request.key, "ROUND_INCOMPLETE"))
            timer.daemon = True
            self._timers[request.key] = timer
            timer.start()
        _LOG.info(
            "round opened job=%s round=%d attempt=%d datasets=%d parameters=%d",
            request.job_id.hex(), request.round, request.attempt, len(request.operators),
            request.parameter_count,
        )  # fmt: skip
        return opened

    def of_upload(self, job_id: bytes, attempt: int, view_hash: bytes) -> OpenRound:
        """The round an upload names; raises ``ROUND_UNKNOWN``."""
        with self._lock:
            self._live()
            found = self._by_upload.get((job_id, attempt, view_hash))
        if found is None:
            raise RoundFailed(reason="ROUND_UNKNOWN", attempt=attempt)
        return found

    def of_builder(self, builder: str, job_id: bytes, attempt: int) -> OpenRound:
        """The round that ``builder`` opened; raises ``ROUND_UNKNOWN``, or ``NOT_YOURS`` if another builder
        did.
        """
        with self._lock:
            found = self._live().get((builder, job_id, attempt))
            others = found is None and any(key[1:] == (job_id, attempt) for key in self._by_builder)
        if others:
            raise Refused(reason="NOT_YOURS", attempt=attempt)
        if found is None:
            raise RoundFailed(reason="ROUND_UNKNOWN", attempt=attempt)
        return found

    def close(self, builder: str, job_id: bytes, attempt: int) -> None:
        """Forget a round of this builder; one that is not there is forgotten already."""
        self._forget((builder, job_id, attempt), "ROUND_UNKNOWN")

    def stop(self) -> None:
        """Forget everything and open nothing more."""
        with self._lock:
            self._stopped = True
            keys = list(self._by_builder)
        for key in keys:
            self._forget(key, "INTERRUPTED")

    @property
    def open_rounds(self) -> int:
        """How many rounds are open."""
        with self._lock:
            return len(self._live())

    def _live(self) -> dict[tuple[str, bytes, int], OpenRound]:
        """The open rounds by builder, without those past their deadline. Call with the lock held."""
        for key in [key for key, opened in self._by_builder.items() if not opened.seconds_left]:
            self._take_out(key, "ROUND_INCOMPLETE")
        return self._by_builder

    def _take_out(self, key: tuple[str, bytes, int], reason: str) -> None:
        """Call with the lock held."""
        ended = self._by_builder.pop(key)
        del self._by_upload[ended.request.upload_key]
        self._timers.pop(key).cancel()
        ended.end(reason)
        _LOG.info("round ended job=%s attempt=%d reason=%s", key[1].hex(), key[2], reason)

    def _forget(self, key: tuple[str, bytes, int], reason: str) -> None:
        with self._lock:
            if key in self._by_builder:
                self._take_out(key, reason)
