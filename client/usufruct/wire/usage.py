"""Usage records: protobuf ↔ domain. A record is serialised once, by its holder; everyone hashes those bytes."""

from __future__ import annotations

from usufruct.domain.usage_record import USAGE_RECORD_VERSION, UsageKind, UsageRecord
from usufruct.errors import CATALOGUE, InvalidInput
from usufruct.v1 import usage_pb2
from usufruct.wire.parsing import parse

RECORD_LIMIT_BYTES = 4096


def record_to_bytes(record: UsageRecord) -> bytes:
    """Serialises a record; the bytes are what is stored, served and hashed."""
    return usage_pb2.UsageRecord(
        version=record.version,
        sequence=record.sequence,
        kind=usage_pb2.UsageKind.Name(int(record.kind)),
        time_seconds=record.time_seconds,
        dataset_id=record.dataset_id,
        job_id=record.job_id,
        builder=record.builder,
        spec_hash=record.spec_hash,
        reason=record.reason,
        round=record.round,
        attempt=record.attempt,
        loss_micro=record.loss_micro,
        view_hash=record.view_hash,
        upload_digest=record.upload_digest,
        document_hash=record.document_hash,
        sum_digest=record.sum_digest,
    ).SerializeToString(deterministic=True)


def record_from_bytes(data: bytes) -> UsageRecord:
    """Reads a record from another party.

    Raises:
        InvalidInput: if the bytes are not a record of this version, hold fields this version does not know, or a
            field is out of its range.
    """
    m = parse(usage_pb2.UsageRecord, data, RECORD_LIMIT_BYTES)
    if m.version != USAGE_RECORD_VERSION:
        raise InvalidInput(f"usage record version {m.version} is not supported", reason="UNSUPPORTED_VERSION")
    try:
        kind = UsageKind(m.kind)
    except ValueError as error:
        raise InvalidInput("usage record: kind is not known", field="kind") from error
    for field in ("job_id", "spec_hash", "view_hash", "upload_digest", "document_hash", "sum_digest"):
        if len(getattr(m, field)) not in (0, 32):
            raise InvalidInput(f"usage record: {field} must be 32 bytes or empty", field=field)
    if m.reason and m.reason not in CATALOGUE:
        raise InvalidInput("usage record: reason is not in the catalogue", field="reason")
    record = UsageRecord(
        version=m.version,
        sequence=m.sequence,
        kind=kind,
        time_seconds=m.time_seconds,
        dataset_id=m.dataset_id,
        job_id=m.job_id,
        builder=m.builder,
        spec_hash=m.spec_hash,
        reason=m.reason,
        round=m.round,
        attempt=m.attempt,
        loss_micro=m.loss_micro,
        view_hash=m.view_hash,
        upload_digest=m.upload_digest,
        document_hash=m.document_hash,
        sum_digest=m.sum_digest,
    )
    if record_to_bytes(record) != data:
        raise InvalidInput("usage record: not in its canonical form", field="record")
    return record
