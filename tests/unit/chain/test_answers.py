"""What nodes answer: read back as it was written, and nothing else than a reader's own errors for anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.chain import answers
from usufruct.chain.answers import Log, TransactionReceipt

HASH = st.binary(min_size=32, max_size=32)
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
REFUSALS = (ValueError, TypeError, KeyError, AttributeError)
"""What :class:`usufruct.chain.endpoint.Endpoint` turns into an error that names the node."""
READERS = (
    answers.read_block,
    answers.read_log,
    answers.read_logs,
    answers.read_receipt,
    answers.read_transaction,
    answers.read_number,
    answers.read_data,
)
FIELDS = st.sampled_from(
    [
        "number", "hash", "parentHash", "timestamp", "baseFeePerGas", "transactions", "address", "topics", "data",
        "blockNumber", "blockHash", "transactionHash", "logIndex", "removed", "status", "gasUsed", "effectiveGasPrice",
        "contractAddress", "logs", "from", "to", "nonce", "input",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.integers(0, 2**260).map(hex)
    | st.binary(max_size=40).map(lambda data: "0x" + data.hex())
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=23),
    max_leaves=30,
)


@settings(max_examples=500, deadline=None)
@given(ANYTHING)
def test_anything_else_is_refused_as_a_reader_refuses(value: Any) -> None:
    for read in READERS:
        try:
            read(value)
        except REFUSALS:
            continue


@given(st.integers(0, 2**40), HASH, HASH, HASH, st.lists(HASH, max_size=4), st.binary(max_size=80))
def test_a_receipt_is_read_as_it_was_written(
    number: int, transaction: bytes, block: bytes, other: bytes, topics: list[bytes], data: bytes
) -> None:
    logs = tuple(Log(ADDRESS, tuple(topics), data, number, block, transaction, index) for index in range(3))
    receipt = TransactionReceipt(transaction, number, block, True, 21_000, 7, ADDRESS, logs)
    written = receipt.to_json()
    assert answers.read_receipt(written) == receipt
    assert receipt.fee_wei == 147_000
    if other != transaction:
        with pytest.raises(ValueError, match="another transaction"):
            answers.read_receipt({**written, "transactionHash": "0x" + other.hex()})


@pytest.mark.parametrize(
    "value",
    ["", "0x", "1", "0x1g", "0x" + "1" * 65, "-0x1", " 0x1", "0x1 ", "0x1\n", "0X1", 1, True, None, []],
)
def test_what_is_no_quantity_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="not a number"):
        answers.read_number(value)


def test_quantities_have_a_range() -> None:
    assert answers.read_number("0xff", 255) == 255
    with pytest.raises(ValueError, match="range"):
        answers.read_number("0x100", 255)
    with pytest.raises(ValueError, match="length"):
        answers.read_data("0x12", 32)
    with pytest.raises(ValueError, match="not bytes"):
        answers.read_data("0x" + "00" * (answers.MOST_DATA_BYTES + 1))
