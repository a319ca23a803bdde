"""A receipt crosses the wire unchanged, and one that is damaged is refused."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput
from usufruct.v1 import jobs_pb2
from usufruct.wire.receipts import receipt_from_proto, receipt_to_proto

HASHES = ("leg_id", "job_id", "spec_hash", "grant_hash", "usage_head", "updates_hash")
WIDE = ("scale_micro", "delta_two_micro", "delta_one_micro", "share_noise_micro")


def receipts() -> st.SearchStrategy[LegReceipt]:
    def value(name: str) -> st.SearchStrategy[int | bytes]:
        if name in HASHES:
            return st.binary(min_size=32, max_size=32)
        return st.integers(0, 2**128 - 1 if name in WIDE else 2**32 - 1)

    return st.builds(LegReceipt, **{field.name: value(field.name) for field in fields(LegReceipt)})


@given(receipts())
def test_a_receipt_crosses_the_wire_unchanged(receipt: LegReceipt) -> None:
    sent = receipt_to_proto(receipt).SerializeToString()
    assert receipt_from_proto(jobs_pb2.LegReceipt.FromString(sent)) == receipt


@pytest.mark.parametrize("name", [*HASHES, *WIDE])
def test_a_field_of_the_wrong_length_is_refused(name: str) -> None:
    zero = LegReceipt(**{f.name: bytes(32) if f.name in HASHES else 0 for f in fields(LegReceipt)})  # type: ignore[arg-type]
    message = receipt_to_proto(zero)
    setattr(message, name, b"\1" * 31)
    with pytest.raises(InvalidInput, match=name):
        receipt_from_proto(message)
