"""Usage records from a holder's public endpoint, over TLS pinned to the fingerprint on chain. Hostile until judged."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from usufruct.audit.evidence import HolderRecords, KeptRecord, Problem
from usufruct.chain import HolderEntry
from usufruct.errors import UsufructError
from usufruct.v1 import usage_pb2, usage_pb2_grpc
from usufruct.wire.channel import pinned_channel
from usufruct.wire.status import rpc_errors

PAGE_RECORDS: Final = 1000
CALL_SECONDS: Final = 10.0
MOST_WAITING: Final = 10_000
"""Records that are fetched beyond those under a root."""
MOST_RECORDS: Final = 2_000_000
MOST_BYTES: Final = 256 << 20
PARALLEL_HOLDERS: Final = 8


def fetch_all(
    holders: Iterable[tuple[HolderEntry, int]], connect_seconds: float = 5.0
) -> dict[int, HolderRecords]:
    """Records of several holders at once, by holder number.

    Args:
        holders: each with the number of its records that are under a root on chain.
    """
    wanted = list(holders)
    with ThreadPoolExecutor(max_workers=PARALLEL_HOLDERS) as pool:
        fetched = pool.map(lambda pair: fetch_records(pair[0], pair[1], connect_seconds), wanted)
        return {records.holder_id: records for records in fetched}


def fetch_records(holder: HolderEntry, anchored: int, connect_seconds: float = 5.0) -> HolderRecords:
    """One holder's records from number 0. What goes wrong becomes a :class:`Problem`: the audit goes on without.

    Args:
        anchored: number of records under a root; at most :data:`MOST_WAITING` more are fetched.
    """
    records: list[KeptRecord] = []
    problems: list[Problem] = []
    most, size_bytes = min(anchored + MOST_WAITING, MOST_RECORDS), 0
    try:
        with pinned_channel(holder.endpoint, holder.fingerprint, connect_seconds) as channel:
            stub: Any = usage_pb2_grpc.UsageServiceStub(channel)  # type: ignore[no-untyped-call]
            while len(records) < most and size_bytes < MOST_BYTES:
                request = usage_pb2.ListUsageRecordsRequest(
                    first_sequence=len(records), page_size=PAGE_RECORDS
                )
                with rpc_errors(holder.endpoint):
                    response = stub.ListUsageRecords(request, timeout=CALL_SECONDS)
                page = response.records[: min(PAGE_RECORDS, most - len(records))]
                for data in page:
                    records.append(KeptRecord(len(records), bytes(data)))
                    size_bytes += len(data)
                if not page and len(records) < response.next_sequence:
                    problems.append(
                        Problem(len(records), "the holder says that it has this record, and does not give it")
                    )
                if not page or len(records) >= response.next_sequence:
                    break
    except UsufructError as error:
        problems.append(Problem(None, f"its records could not be fetched: {error.message}"))
    return HolderRecords(holder.holder_id, holder.endpoint, tuple(records), len(records), tuple(problems))
