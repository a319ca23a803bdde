"""What nodes answer, read as hostile bytes: every type, size and range is checked before anything is believed.

The readers raise ``ValueError``, ``TypeError`` or ``KeyError``; :class:`usufruct.chain.endpoint.Endpoint` turns these
into an error that names the node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eth_utils.address import to_checksum_address

from usufruct.domain.ids import to_hex

MOST_DATA_BYTES = 4 << 20
"""Of one byte string: calldata, an event's data, what a view returns."""
MOST_LOGS = 100_000
"""Events in one answer; a node that has more in a range is asked for smaller ranges."""
MOST_NUMBER = 2**256 - 1
MOST_BLOCK = 2**48
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")


@dataclass(frozen=True)
class Block:
    """A block's header. ``transactions`` are hashes; ``base_fee_wei`` is None on chains without EIP-1559."""

    number: int
    hash: bytes
    parent_hash: bytes
    time_seconds: int
    base_fee_wei: int | None
    transactions: tuple[bytes, ...]


@dataclass(frozen=True)
class Log:
    """An event as the chain has it, not decoded."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    transaction_hash: bytes
    log_index: int

    def to_json(self) -> dict[str, Any]:
        """As a node writes it; :func:`read_log` reads it again."""
        return {
            "address": self.address,
            "topics": [to_hex(topic) for topic in self.topics],
            "data": to_hex(self.data),
            "blockNumber": hex(self.block_number),
            "blockHash": to_hex(self.block_hash),
            "transactionHash": to_hex(self.transaction_hash),
            "logIndex": hex(self.log_index),
        }


@dataclass(frozen=True)
class TransactionReceipt:
    """A mined transaction.

    Attributes:
        hash: 32 bytes. gas_used: of the transaction; what it cost is ``fee_wei``.
        contract: address of the contract it created, if it created one.
        succeeded: False if it reverted.
        repeated: True when nothing was sent, because an earlier transaction had done it already.
    """

    hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    gas_price_wei: int
    contract: str | None
    logs: tuple[Log, ...]
    repeated: bool = False

    @property
    def fee_wei(self) -> int:
        """What the transaction cost."""
        return self.gas_used * self.gas_price_wei

    def again(self) -> TransactionReceipt:
        """The same receipt, for somebody who asked for what was done already."""
        return replace(self, repeated=True)

    def to_json(self) -> dict[str, Any]:
        """As a node writes it; :func:`read_receipt` reads it again."""
        return {
            "transactionHash": to_hex(self.hash),
            "blockNumber": hex(self.block_number),
            "blockHash": to_hex(self.block_hash),
            "status": hex(self.succeeded),
            "gasUsed": hex(self.gas_used),
            "effectiveGasPrice": hex(self.gas_price_wei),
            "contractAddress": self.contract,
            "logs": [log.to_json() for log in self.logs],
        }


@dataclass(frozen=True)
class Transaction:
    """A transaction that a node knows; ``to`` is None if it creates a contract."""

    hash: bytes
    sender: str
    to: str | None
    nonce: int
    data: bytes


def read_number(value: Any, most: int = MOST_NUMBER) -> int:
    """A quantity, 0 to ``most``."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise ValueError("not a number")
    number = int(value, 16)
    if number > most:
        raise ValueError("a number out of its range")
    return number


def read_data(value: Any, length: int | None = None) -> bytes:
    """Bytes; exactly ``length`` of them where given."""
    if not isinstance(value, str) or len(value) > 2 + 2 * MOST_DATA_BYTES or not _DATA.fullmatch(value):
        raise ValueError("not bytes")
    found = bytes.fromhex(value[2:])
    if length is not None and len(found) != length:
        raise ValueError("bytes of another length")
    return found


def read_block(value: Any) -> Block | None:
    """Of ``eth_getBlockByNumber``, asked without whole transactions."""
    if value is None:
        return None
    fee = value.get("baseFeePerGas")
    return Block(
        number=read_number(value["number"], MOST_BLOCK),
        hash=read_data(value["hash"], 32),
        parent_hash=read_data(value["parentHash"], 32),
        time_seconds=read_number(value["timestamp"], MOST_BLOCK),
        base_fee_wei=None if fee is None else read_number(fee),
        transactions=tuple(read_data(one, 32) for one in _listed(value["transactions"])),
    )


def read_log(value: Any) -> Log:
    """One event. Those that a node calls removed, or that are in no block yet, are refused."""
    if value.get("removed"):
        raise ValueError("a removed event")
    topics = _listed(value["topics"])
    if len(topics) > 4:
        raise ValueError("more topics than an event can have")
    return Log(
        address=_address(value["address"]),
        topics=tuple(read_data(topic, 32) for topic in topics),
        data=read_data(value["data"]),
        block_number=read_number(value["blockNumber"], MOST_BLOCK),
        block_hash=read_data(value["blockHash"], 32),
        transaction_hash=read_data(value["transactionHash"], 32),
        log_index=read_number(value["logIndex"], MOST_BLOCK),
    )


def read_logs(value: Any) -> tuple[Log, ...]:
    """Of ``eth_getLogs``: in the chain's order, none twice."""
    logs = sorted(
        (read_log(one) for one in _listed(value)), key=lambda log: (log.block_number, log.log_index)
    )
    places = {(log.block_number, log.log_index) for log in logs}
    blocks = {(log.block_number, log.block_hash) for log in logs}
    if len(places) != len(logs) or len({number for number, _ in blocks}) != len(blocks):
        raise ValueError("events that cannot be of one chain")
    return tuple(logs)


def read_receipt(value: Any) -> TransactionReceipt | None:
    """Of ``eth_getTransactionReceipt``; None while it is not mined."""
    if value is None or value["blockHash"] is None:
        return None
    created = value.get("contractAddress")
    receipt = TransactionReceipt(
        hash=read_data(value["transactionHash"], 32),
        block_number=read_number(value["blockNumber"], MOST_BLOCK),
        block_hash=read_data(value["blockHash"], 32),
        succeeded=bool(read_number(value["status"], 1)),
        gas_used=read_number(value["gasUsed"], MOST_BLOCK),
        gas_price_wei=read_number(value.get("effectiveGasPrice", "0x0")),
        contract=None if created is None else _address(created),
        logs=read_logs(value["logs"]),
    )
    place = (receipt.hash, receipt.block_hash)
    if any((log.transaction_hash, log.block_hash) != place for log in receipt.logs):
        raise ValueError("a receipt with another transaction's events")
    return receipt


def read_transaction(value: Any) -> Transaction | None:
    """Of ``eth_getTransactionByHash``."""
    if value is None:
        return None
    to = value.get("to")
    return Transaction(
        hash=read_data(value["hash"], 32),
        sender=_address(value["from"]),
        to=None if to is None else _address(to),
        nonce=read_number(value["nonce"], MOST_BLOCK),
        data=read_data(value["input"]),
    )


def _listed(value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > MOST_LOGS:
        raise ValueError("not a list")
    return value


def _address(value: Any) -> str:
    return str(to_checksum_address(read_data(value, 20)))
