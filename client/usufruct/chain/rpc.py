"""One JSON-RPC endpoint: requests with a time limit, and plain errors."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from requests.exceptions import RequestException
from web3.providers.rpc import HTTPProvider

from usufruct.errors import ChainError, ConfigError

RECEIPT_SECONDS = 180.0
"""How long a transaction may take to be mined."""


class RpcRefused(ChainError):
    """The node answered with an error. ``data`` is what a contract said when it reverted."""

    def __init__(self, message: str, data: bytes | None) -> None:
        super().__init__(message)
        self.data = data


class Rpc:
    """A node's JSON-RPC endpoint. Any thread may use it: the provider keeps one connection per thread.

    Args:
        url: http or https. It may contain a key, so messages name only its host.
        timeout_seconds: for connecting, and for each answer.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("the chain's RPC URL must look like http://127.0.0.1:8545", field="rpc_url")
        self.place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        # nothing is repeated behind our back: a repeated transaction is not harmless, and a dead chain is to be told at once
        self._provider = HTTPProvider(
            url, request_kwargs={"timeout": timeout_seconds}, exception_retry_configuration=None
        )
        self._provider.global_ccip_read_enabled = False

    def request(self, method: str, *params: Any) -> Any:
        """The result of one method.

        Raises:
            ChainError: CHAIN_UNREACHABLE; or :class:`RpcRefused` when the node answers with an error.
        """
        try:
            answer: Any = self._provider.make_request(method, list(params))
        except (RequestException, OSError) as error:
            raise ChainError(
                f"the chain at {self.place} does not answer; is it running, and is the RPC URL right?"
            ) from error
        except ValueError as error:
            raise ChainError(f"what answers at {self.place} is not a chain's JSON-RPC endpoint") from error
        if not isinstance(answer, dict) or ("result" not in answer and "error" not in answer):
            raise ChainError(f"what answers at {self.place} is not a chain's JSON-RPC endpoint")
        fault = answer.get("error")
        if fault:
            raise RpcRefused(
                f"the chain at {self.place} refused {method}: {_text(fault)}", _revert_data(fault)
            )
        return answer["result"]

    def number(self, method: str, *params: Any) -> int:
        """The result of a method that answers with a number."""
        return self._number(self.request(method, *params))

    def call(self, to: str, data: bytes, block: int | str, sender: str | None = None) -> bytes:
        """Runs a view at a block (its number or tag)."""
        transaction = {"to": to, "data": "0x" + data.hex(), **({"from": sender} if sender else {})}
        return self.bytes_of(
            self.request("eth_call", transaction, block if isinstance(block, str) else hex(block))
        )

    def block(self, tag: str) -> tuple[int, int] | None:
        """Number and time (UTC seconds) of a block by tag or ``0x…`` number; None if there is none."""
        block = self.request("eth_getBlockByNumber", tag, False)
        return None if block is None else (self._number(block["number"]), self._number(block["timestamp"]))

    def receipt(self, transaction_hash: str, timeout_seconds: float = RECEIPT_SECONDS) -> dict[str, Any]:
        """Waits for a transaction's receipt. Raises ChainError TRANSACTION_FAILED if it is not mined in time."""
        deadline, pause = time.monotonic() + timeout_seconds, 0.02
        while True:
            receipt: dict[str, Any] | None = self.request("eth_getTransactionReceipt", transaction_hash)
            if receipt is not None:
                return receipt
            if time.monotonic() > deadline:
                raise ChainError(
                    f"transaction {transaction_hash} was not mined within {timeout_seconds:.0f} s; it may still be",
                    reason="TRANSACTION_FAILED",
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def bytes_of(self, text: Any) -> bytes:
        """Bytes of a ``0x…`` answer."""
        try:
            return bytes.fromhex(text.removeprefix("0x"))
        except (AttributeError, ValueError) as error:
            raise ChainError(f"what answers at {self.place} is not a chain's JSON-RPC endpoint") from error

    def _number(self, text: Any) -> int:
        try:
            return int(text, 16)
        except (TypeError, ValueError) as error:
            raise ChainError(f"what answers at {self.place} is not a chain's JSON-RPC endpoint") from error


def _text(fault: Any) -> str:
    message = fault.get("message") if isinstance(fault, dict) else fault
    return "".join(ch for ch in str(message)[:200] if ch.isprintable())


def _revert_data(fault: Any) -> bytes | None:
    """The revert's data, where nodes put it: in ``data``, or in ``data.data``."""
    data = fault.get("data") if isinstance(fault, dict) else None
    data = data.get("data") if isinstance(data, dict) else data
    try:
        return bytes.fromhex(data.removeprefix("0x")) if isinstance(data, str) else None
    except ValueError:
        return None
