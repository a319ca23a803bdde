"""An account that sends transactions, and the receipts of those that were mined."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount

from usufruct.chain.reverts import refusal
from usufruct.chain.rpc import Rpc, RpcRefused
from usufruct.domain.ids import address, to_hex
from usufruct.errors import ChainError

_NONCE_TRIES = 5
_NONCE_TAKEN = ("nonce", "already known", "underpriced")
"""How nodes say that a transaction of this number exists: mined, the same one, or another one that waits."""


@dataclass(frozen=True)
class TransactionReceipt:
    """A mined transaction.

    Attributes:
        hash: 32 bytes. gas_used: of the transaction; what it cost is ``fee_wei``.
        contract: address of the contract it created, if it created one.
        repeated: True when nothing was sent, because an earlier transaction had done it already.
    """

    hash: bytes
    block_number: int
    gas_used: int
    fee_wei: int
    contract: str | None
    logs: tuple[dict[str, Any], ...]
    repeated: bool = False


class Account:
    """An account that signs and sends. One transaction at a time, so that nonces never collide in one process."""

    def __init__(self, rpc: Rpc, chain_id: int, account: LocalAccount) -> None:
        self.rpc = rpc
        self.address = str(account.address)
        self._chain_id = chain_id
        self._account = account
        self._lock = threading.Lock()

    def send(self, to: str | None, data: bytes, doing: str) -> TransactionReceipt:
        """Signs, sends and waits.

        Args:
            to: None creates a contract.
            doing: what is tried, for messages: "openJob".
        Raises:
            ChainError: with the catalogue's reason for what the contract said, or TRANSACTION_FAILED.
        """
        with self._lock:
            transaction_hash = self._submit(to, data, doing)
            raw = self.rpc.receipt(transaction_hash)
        receipt = receipt_from_json(self.rpc, raw)
        if int(raw["status"], 16) != 1:
            raise self._why(to, data, doing, receipt.block_number)
        return receipt

    def _submit(self, to: str | None, data: bytes, doing: str) -> str:
        call = {"from": self.address, "data": to_hex(data), **({"to": to} if to else {})}
        try:
            gas = self.rpc.number("eth_estimateGas", call)
        except RpcRefused as error:
            raise self._refused(error, doing) from error
        fees = self._fees()
        for _ in range(_NONCE_TRIES):
            nonce = self.rpc.number("eth_getTransactionCount", self.address, "pending")
            fields: dict[str, Any] = {
                "chainId": self._chain_id, "nonce": nonce, "to": to or b"", "value": 0, "data": data, **fees,
                "gas": gas + gas // 10,
            }  # fmt: skip
            signed = self._account.sign_transaction(fields)
            try:
                self.rpc.request("eth_sendRawTransaction", to_hex(bytes(signed.raw_transaction)))
            except RpcRefused as error:
                # another process with the same key was faster: count again
                if any(word in error.message for word in _NONCE_TAKEN):
                    continue
                raise self._refused(error, doing) from error
            return to_hex(bytes(signed.hash))
        raise ChainError(
            f"{doing}: another process uses the account {self.address} at the same time",
            reason="TRANSACTION_FAILED",
        )

    def _fees(self) -> dict[str, int]:
        """Enough for the base fee to double before the transaction is mined (EIP-1559)."""
        newest = self.rpc.request("eth_getBlockByNumber", "latest", False)
        if "baseFeePerGas" not in newest:
            return {"gasPrice": self.rpc.number("eth_gasPrice")}
        tip = self.rpc.number("eth_maxPriorityFeePerGas")
        return {
            "type": 2,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": 2 * int(newest["baseFeePerGas"], 16) + tip,
        }

    def _why(self, to: str | None, data: bytes, doing: str, block: int) -> ChainError:
        try:
            if to is not None:
                self.rpc.call(to, data, block, sender=self.address)
        except RpcRefused as error:
            return refusal(doing, error.data)
        return refusal(doing, None)

    def _refused(self, error: RpcRefused, doing: str) -> ChainError:
        if error.data is not None:
            return refusal(doing, error.data)
        hint = (
            f"; does {self.address} have enough of the chain's coin for gas?"
            if "fund" in error.message
            else ""
        )
        return ChainError(f"{doing}: {error.message}{hint}", reason="TRANSACTION_FAILED")


def receipt_from_json(rpc: Rpc, raw: dict[str, Any], *, repeated: bool = False) -> TransactionReceipt:
    """Reads the answer of ``eth_getTransactionReceipt``."""
    gas_used = int(raw["gasUsed"], 16)
    created = raw.get("contractAddress")
    return TransactionReceipt(
        hash=rpc.bytes_of(raw["transactionHash"]),
        block_number=int(raw["blockNumber"], 16),
        gas_used=gas_used,
        fee_wei=gas_used * int(raw.get("effectiveGasPrice", "0x0"), 16),
        contract=None if created is None else address(created, "contract"),
        logs=tuple(raw["logs"]),
        repeated=repeated,
    )
