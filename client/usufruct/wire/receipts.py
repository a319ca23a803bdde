"""Leg receipts: protobuf ↔ domain. Field for field the same; numbers of more than 64 bits travel as 16 bytes."""

from __future__ import annotations

from dataclasses import fields

from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput
from usufruct.v1 import jobs_pb2

_WIDE = frozenset({"scale_micro", "delta_two_micro", "delta_one_micro", "share_noise_micro"})
_WIDE_BYTES = 16
_HASHES = frozenset({"leg_id", "job_id", "spec_hash", "grant_hash", "usage_head", "updates_hash"})
_HASH_BYTES = 32


def receipt_to_proto(receipt: LegReceipt) -> jobs_pb2.LegReceipt:
    """As a holder sends it."""
    message = jobs_pb2.LegReceipt()
    for field in fields(receipt):
        value = getattr(receipt, field.name)
        setattr(message, field.name, value.to_bytes(_WIDE_BYTES, "big") if field.name in _WIDE else value)
    return message


def receipt_from_proto(message: jobs_pb2.LegReceipt) -> LegReceipt:
    """As a builder reads it.

    Raises:
        InvalidInput: a hash or a wide number has the wrong length. What the values say is checked by whoever uses them.
    """
    values: dict[str, int | bytes] = {}
    for field in fields(LegReceipt):
        value = getattr(message, field.name)
        if field.name in _WIDE:
            value = int.from_bytes(_sized(field.name, value, _WIDE_BYTES), "big")
        elif field.name in _HASHES:
            value = _sized(field.name, value, _HASH_BYTES)
        values[field.name] = value
    return LegReceipt(**values)  # type: ignore[arg-type]


def _sized(field: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise InvalidInput(f"the receipt's {field} must have {size} bytes", field=field)
    return value
