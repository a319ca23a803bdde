"""UsageService: the usage records, public, in the exact bytes that were hashed."""

from __future__ import annotations

import grpc

from usufruct.v1 import usage_pb2, usage_pb2_grpc
from usufruct_server.holder.ledger import Ledger

MOST_RECORDS = 1000
_MOST_BYTES = 2 << 20
"""Of one answer, well below the largest message."""


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """Serves the log to anyone: it holds hashes, figures and reasons only."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def ListUsageRecords(
        self, request: usage_pb2.ListUsageRecordsRequest, context: grpc.ServicerContext
    ) -> usage_pb2.ListUsageRecordsResponse:
        """Records from ``first_sequence`` on."""
        following = self._ledger.usage_count()
        wanted = min(request.page_size or MOST_RECORDS, MOST_RECORDS)
        records: list[bytes] = []
        size = 0
        for record in self._ledger.usage_records(min(request.first_sequence, following), wanted):
            size += len(record)
            if size > _MOST_BYTES:
                break
            records.append(record)
        return usage_pb2.ListUsageRecordsResponse(records=records, next_sequence=following)
