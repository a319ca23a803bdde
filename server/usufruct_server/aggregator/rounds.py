"""All open rounds of one aggregator, within its limits. No gRPC, no key."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path

from usufruct.errors import Refused, RoundFailed
from usufruct_server.aggregator.config import Limits
from usufruct_server.aggregator.open_round import OpenRound, RoundRequest
from usufruct_server.aggregator.spool import Spools

_LOG = logging.getLogger("usufruct.aggregator")

JOBS_REMEMBERED = 10_000
"""Jobs whose last attempt is remembered after it has ended."""


class Rounds:
    """All open rounds of one aggregator. Thread-safe.

    Args:
        folder: where their spools on disk are.
    """

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits, self._spools = limits, Spools(folder, limits.spool_memory_bytes)
        self._lock = threading.Lock()
        self._by_builder: dict[tuple[str, bytes, int], OpenRound] = {}
        self._by_view: dict[tuple[bytes, int, bytes], OpenRound] = {}
        self._timers: dict[tuple[str, bytes, int], threading.Timer] = {}
        self._last: OrderedDict[tuple[str, bytes], RoundRequest] = OrderedDict()
        self._stopped = False

    def open(self, request: RoundRequest) -> OpenRound:
        """Open a round; the same request again gives the same round.

        *Guarantee*: of one attempt of a builder's job there is one aggregate: another roster or another view of it is
        refused even after it has ended, unless the aggregator was started anew or has seen very many jobs since. What
        holds always is that a holder signs one view of an attempt.

        Raises:
            UsufructError: ``ROUND_VIEW_CHANGED`` for another request of the same attempt, ``ROUND_OUT_OF_ORDER`` for
                an attempt before the job's last, ``NOT_YOURS``, ``TOO_LARGE``, ``TOO_MANY``.
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
            self._check_last(request)
            known = self._live().get(request.key)
            if known is not None:
                return known
            if request.view_key in self._by_view:
                raise Refused(reason="NOT_YOURS", attempt=request.attempt)
            self._check_room(request)
            opened = OpenRound(request, self._spools, limits.max_uploads_at_once)
            self._by_builder[request.key] = opened
            self._by_view[request.view_key] = opened
            self._last[request.key[:2]] = request
            self._last.move_to_end(request.key[:2])
            while len(self._last) > JOBS_REMEMBERED:
                self._last.popitem(last=False)
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

    def of_view(self, job_id: bytes, attempt: int, view_hash: bytes) -> OpenRound:
        """The round of a view, as holders name it; raises ``ROUND_UNKNOWN``."""
        with self._lock:
            self._live()
            found = self._by_view.get((job_id, attempt, view_hash))
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

    def _check_last(self, request: RoundRequest) -> None:
        """Call with the lock held."""
        last = self._last.get(request.key[:2])
        if last is None or last.attempt < request.attempt:
            return
        if last.attempt > request.attempt:
            raise RoundFailed(
                f"Attempt {last.attempt} of this job was opened here already.",
                reason="ROUND_OUT_OF_ORDER",
                attempt=request.attempt,
            )
        if last != request:
            raise RoundFailed(reason="ROUND_VIEW_CHANGED", attempt=request.attempt)

    def _check_room(self, request: RoundRequest) -> None:
        """Call with the lock held."""
        limits = self._limits
        mine = sum(builder == request.builder for builder, _, _ in self._by_builder)
        if mine >= limits.max_open_rounds_per_builder or len(self._by_builder) >= limits.max_open_rounds:
            raise Refused(
                "Too many rounds are open; close some first.",
                reason="TOO_MANY",
                limit=limits.max_open_rounds_per_builder,
            )
        taken = sum(opened.request.disk_bytes for opened in self._by_builder.values())
        if taken + request.disk_bytes > limits.max_disk_bytes:
            raise Refused(
                "The aggregator has no disk left for a round of this size.",
                reason="TOO_LARGE",
                requested=request.disk_bytes,
                limit=limits.max_disk_bytes - taken,
            )

    def _live(self) -> dict[tuple[str, bytes, int], OpenRound]:
        """The open rounds by builder, without those past their deadline. Call with the lock held."""
        for key in [key for key, opened in self._by_builder.items() if not opened.seconds_left]:
            self._take_out(key, "ROUND_INCOMPLETE")
        return self._by_builder

    def _take_out(self, key: tuple[str, bytes, int], reason: str) -> None:
        """Call with the lock held."""
        ended = self._by_builder.pop(key)
        del self._by_view[ended.request.view_key]
        self._timers.pop(key).cancel()
        ended.end(reason)
        _LOG.info("round ended job=%s attempt=%d reason=%s", key[1].hex(), key[2], reason)

    def _forget(self, key: tuple[str, bytes, int], reason: str) -> None:
        with self._lock:
            if key in self._by_builder:
                self._take_out(key, reason)
