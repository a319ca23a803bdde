"""A holder's usage log of a few records, and the batches that a chain would show for it."""

from __future__ import annotations

from usufruct.audit.evidence import HolderRecords, KeptRecord, StoredUsageHead
from usufruct.audit.usage_log import LOW_32
from usufruct.chain.events import UsageBatch
from usufruct.domain.ids import ZERO_HASH
from usufruct.domain.usage_record import UsageKind, UsageRecord, leaf, merkle_root
from usufruct.wire.usage import record_to_bytes

HOLDER_ID, NOW_SECONDS = 3, 1_800_000_000
BUILDER = "0x00000000219ab540356cBB839Cbe05303d7705Fa"


def record_bytes(sequence: int) -> bytes:
    """A record of an attempt that was charged."""
    return record_to_bytes(
        UsageRecord(
            sequence=sequence, kind=UsageKind.CHARGED, time_seconds=NOW_SECONDS - 100 + sequence, dataset_id=7,
            job_id=bytes([5]) * 32, builder=BUILDER, spec_hash=bytes([6]) * 32, round=1 + sequence,
            attempt=1 + sequence, loss_micro=48_270, view_hash=bytes([sequence]) * 32,
        )
    )  # fmt: skip


def records(count: int, *, leaves: bool = True) -> HolderRecords:
    """``count`` records as an endpoint or a file gives them."""
    data = [record_bytes(i) for i in range(count)]
    kept = tuple(KeptRecord(i, d, leaf(i, d) if leaves else b"") for i, d in enumerate(data))
    return HolderRecords(HOLDER_ID, "test", kept, count)


def batches(*counts: int) -> list[UsageBatch]:
    """Batches of these sizes, one after the other."""
    found: list[UsageBatch] = []
    first, previous = 0, ZERO_HASH
    for number, count in enumerate(counts):
        root = merkle_root([leaf(i, record_bytes(i)) for i in range(first, first + count)])
        found.append(UsageBatch(number + 1, bytes([number]) * 32, 0, HOLDER_ID, first, count, root, previous))
        first, previous = first + count, root
    return found


def stored(found: list[UsageBatch]) -> tuple[StoredUsageHead, dict[int, bytes]]:
    """What ``UsageLog`` stores after these batches."""
    last = found[-1]
    head = StoredUsageHead(last.first_sequence + last.count, int.from_bytes(last.root, "big") & LOW_32)
    return head, {batch.first_sequence: batch.root for batch in found}
