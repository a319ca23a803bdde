"""The holder's usage log: writes usage records into the ledger's durable table, each once.

Refusals are recorded too, but a stranger must not be able to fill the disk: whoever has not proved a key leaves no
record, a builder at most ``REFUSALS_PER_BUILDER`` an hour and all together at most ``REFUSALS_IN_ALL``. Reaching a limit
is itself recorded (TOO_MANY); how many were left out stands in the server's log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.errors import CATALOGUE
from usufruct.wire.usage import record_from_bytes, record_to_bytes
from usufruct_server.holder.ledger import Ledger

REFUSALS_PER_BUILDER = 100
REFUSALS_IN_ALL = 1000
_HOUR_SECONDS = 3600
_PAGE = 1000

_log = logging.getLogger("usufruct.holder.usage")
_Key = tuple[int, int, bytes, int, bytes]


class UsageLog:
    """Appends records. Safe from several threads; the ledger must have no other writer of usage records.

    Args:
        ledger: open and verified.
        clock: UTC seconds.
        on_record: called after each record, outside every lock; the batch publisher listens.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        on_record: Callable[[], None] | None = None,
    ) -> None:
        self._ledger, self._clock, self._on_record = ledger, clock, on_record
        self._guard = threading.Lock()
        self._once: set[_Key] = set()
        self._last: dict[tuple[int, bytes], int] = {}
        self._answered: dict[tuple[int, bytes, int], tuple[bytes, bytes]] = {}
        self._hour, self._refusals = 0, Counter[str]()
        position = 0
        while page := ledger.usage_records(position, _PAGE):
            for data in page:
                record = record_from_bytes(data)
                self._remember(record)
            position += len(page)

    def has(
        self, kind: UsageKind, dataset_id: int, job_id: bytes, attempt: int = 0, document_hash: bytes = b""
    ) -> bool:
        """Whether there is such a record already."""
        with self._guard:
            return (int(kind), dataset_id, job_id, attempt, document_hash) in self._once

    def answered(self, dataset_id: int, job_id: bytes, attempt: int) -> tuple[bytes, bytes] | None:
        """The challenge that an attempt's check has answered: root of the sum, hash of the seed; None while it has not."""
        with self._guard:
            return self._answered.get((dataset_id, job_id, attempt))

    def last_sequence(self, dataset_id: int, job_id: bytes) -> int | None:
        """Number of a leg's last record that is not a refusal, or None."""
        with self._guard:
            return self._last.get((dataset_id, job_id))

    def record(
        self,
        kind: UsageKind,
        *,
        dataset_id: int,
        job_id: bytes,
        builder: str,
        spec_hash: bytes,
        round: int = 0,
        attempt: int = 0,
        loss_micro: int = 0,
        view_hash: bytes = b"",
        upload_digest: bytes = b"",
        document_hash: bytes = b"",
        sum_digest: bytes = b"",
    ) -> None:
        """Records something that happened, durably and once: the same again is ignored."""
        record = UsageRecord(
            sequence=0, kind=kind, time_seconds=int(self._clock()), dataset_id=dataset_id, job_id=job_id, builder=builder,
            spec_hash=spec_hash, round=round, attempt=attempt, loss_micro=loss_micro, view_hash=view_hash,
            upload_digest=upload_digest, document_hash=document_hash, sum_digest=sum_digest,
        )  # fmt: skip
        with self._guard:
            if _key(record) in self._once:
                return
            self._append(record)
        self._notify()

    def refused(
        self,
        reason: str,
        *,
        dataset_id: int,
        job_id: bytes,
        builder: str,
        spec_hash: bytes = b"",
        round: int = 0,
        attempt: int = 0,
    ) -> None:
        """Records a refusal, within the limits above."""
        now = int(self._clock())
        with self._guard:
            if now // _HOUR_SECONDS != self._hour:
                left_out = {
                    b: n - REFUSALS_PER_BUILDER for b, n in self._refusals.items() if n > REFUSALS_PER_BUILDER
                }
                for name, count in left_out.items():
                    _log.warning("event=refusals_left_out builder=%s count=%d", name or "all", count)
                self._hour, self._refusals = now // _HOUR_SECONDS, Counter()
            self._refusals[builder] += 1
            self._refusals[""] += 1
            mine, all_ = self._refusals[builder], self._refusals[""]
            if mine > REFUSALS_PER_BUILDER or all_ > REFUSALS_IN_ALL:
                return
            if mine == REFUSALS_PER_BUILDER or all_ == REFUSALS_IN_ALL:
                reason = "TOO_MANY"
            self._append(
                UsageRecord(
                    sequence=0, kind=UsageKind.REFUSED, time_seconds=now, dataset_id=dataset_id, job_id=job_id,
                    builder=builder, spec_hash=spec_hash, reason=reason if reason in CATALOGUE else "INTERNAL",
                    round=round, attempt=attempt,
                )
            )  # fmt: skip
        self._notify()

    def _append(self, record: UsageRecord) -> None:
        sequence = self._ledger.usage_count()
        fields = {name: getattr(record, name) for name in UsageRecord.__dataclass_fields__}
        numbered = UsageRecord(**{**fields, "sequence": sequence})
        written = self._ledger.append_usage_record(record_to_bytes(numbered))
        assert written == sequence, "the usage log has another writer"
        self._remember(numbered)

    def _remember(self, record: UsageRecord) -> None:
        if record.kind is not UsageKind.REFUSED:
            self._once.add(_key(record))
            self._last[record.dataset_id, record.job_id] = record.sequence
        if record.kind is UsageKind.CHECKED:
            of = record.dataset_id, record.job_id, record.attempt
            self._answered.setdefault(of, (record.sum_digest, record.document_hash))

    def _notify(self) -> None:
        if self._on_record is not None:
            self._on_record()


def _key(record: UsageRecord) -> _Key:
    return int(record.kind), record.dataset_id, record.job_id, record.attempt, record.document_hash
