"""The development chain behind JSON-RPC on the loopback interface.

A real chain as far as a client can tell: signed raw transactions, blocks, receipts, logs, calls at old blocks. It
answers ``finalized`` and ``safe`` with the newest block, so nothing above :mod:`usufruct.chain` treats it specially.
Beyond the standard it knows ``dev_fund(address, wei)``, ``dev_increaseTime(seconds)`` and ``dev_mine()``.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eth_utils.address import to_checksum_address

from usufruct.chain.dev_evm import DEV_CHAIN_ID, DevEvm, Log, MinedTransaction, Rejected, Reverted
from usufruct.errors import ConfigError

CLIENT_VERSION = "UsufructDevelopmentChain/1"
MOST_BODY_BYTES = 4 << 20
MOST_BRACKETS = 500
_TAGS = ("latest", "pending", "safe", "finalized")


class DevChain:
    """Serves a :class:`DevEvm` at ``url`` until :meth:`stop`.

    Args:
        port: of 127.0.0.1; 0 takes a free one.
        evm: what it serves; None: a new chain.
    Raises:
        ConfigError: PORT_IN_USE.
    """

    def __init__(self, port: int = 0, evm: DevEvm | None = None) -> None:
        self.evm = evm or DevEvm()
        try:
            self._server = _Server(("127.0.0.1", port), _handler(_Methods(self.evm)))
        except OSError as error:
            raise ConfigError(
                f"port {port} of 127.0.0.1 cannot be used; choose another one with --port",
                reason="PORT_IN_USE",
                port=port,
            ) from error
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread: threading.Thread | None = None

    def start(self) -> DevChain:
        """Serves in a background thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, name="dev-chain", daemon=True)
        self._thread.start()
        return self

    def serve(self) -> None:
        """Serves in this thread until :meth:`stop` is called from another one."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Stops serving and ends open connections; the chain is gone with its memory."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> DevChain:
        return self.start()

    def __exit__(self, *unused: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(where, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Closes what clients keep open; their threads end with it."""
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


def _handler(methods: _Methods) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        wbufsize = (
            -1
        )  # head and body leave together: two small packets would wait 40 ms for an acknowledgement
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            # a web page can post text to loopback, but not this type without a preflight that is never answered
            if self.headers.get_content_type() != "application/json" or not length.isdigit():
                return self._answer(
                    415, {"error": "JSON-RPC over POST with Content-Type application/json only"}
                )
            if int(length) > MOST_BODY_BYTES:
                return self._answer(413, {"error": f"at most {MOST_BODY_BYTES} bytes"})
            return self._answer(200, methods.answer(self.rfile.read(int(length))))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status != 200:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *unused: object) -> None:
            """Requests are not logged."""

    return Handler


class _Methods:
    """JSON-RPC methods by name, over one machine."""

    def __init__(self, evm: DevEvm) -> None:
        self._evm = evm
        self._methods: dict[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: CLIENT_VERSION,
            "net_version": lambda: str(DEV_CHAIN_ID),
            "eth_chainId": lambda: hex(DEV_CHAIN_ID),
            "eth_syncing": lambda: False,
            "eth_accounts": list,
            "eth_blockNumber": self._block_number,
            "eth_gasPrice": lambda: hex(evm.head.base_fee_per_gas),
            "eth_maxPriorityFeePerGas": lambda: "0x0",
            "eth_getBlockByNumber": lambda tag, full=False: self._block(self._at(tag), full),
            "eth_getBlockByHash": lambda block, full=False: self._block(
                evm.header_by_hash(_data(block, 32)), full
            ),
            "eth_getBalance": lambda address, tag="latest": hex(
                evm.balance(_data(address, 20), self._state(tag))
            ),
            "eth_getTransactionCount": lambda address, tag="latest": hex(
                evm.nonce(_data(address, 20), self._state(tag))
            ),
            "eth_getCode": lambda address, tag="latest": _hex(evm.code(_data(address, 20), self._state(tag))),
            "eth_getStorageAt": self._storage,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate_gas,
            "eth_sendRawTransaction": lambda raw: _hex(evm.send_raw(_data(raw))),
            "eth_getTransactionByHash": lambda tx: self._transaction(evm.mined(_data(tx, 32))),
            "eth_getTransactionReceipt": lambda tx: self._receipt(evm.mined(_data(tx, 32))),
            "eth_getLogs": self._get_logs,
            "dev_fund": lambda address, wei: _hex(evm.fund(_data(address, 20), _number(wei))),
            "dev_increaseTime": lambda seconds: evm.increase_time(_number(seconds)),
            "dev_mine": evm.mine,
        }

    def answer(self, body: bytes) -> dict[str, Any]:
        """The JSON-RPC answer to one request; never raises."""
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": None}
        try:
            # py-evm raises Python's recursion limit so far that deep nesting would overrun a thread's stack
            if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
                raise ValueError("nested too deeply")
            request = json.loads(body)
            answer["id"] = request.get("id")
            method, params = request["method"], request.get("params", [])
        except (ValueError, KeyError, AttributeError, RecursionError):
            return {**answer, "error": {"code": -32600, "message": "one JSON-RPC 2.0 request is wanted"}}
        if not isinstance(method, str) or method not in self._methods or not isinstance(params, list):
            return {
                **answer,
                "error": {"code": -32601, "message": "the development chain has no such method"},
            }
        try:
            return {**answer, "result": self._methods[method](*params)}
        except Reverted as error:
            return {**answer, "error": {"code": 3, "message": "execution reverted", "data": _hex(error.data)}}
        except Rejected as error:
            return {**answer, "error": {"code": -32000, "message": str(error)}}
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            return {**answer, "error": {"code": -32602, "message": f"the parameters cannot be used: {error}"}}

    def _block_number(self) -> str:
        self._evm.freshen()
        return hex(self._evm.head.block_number)

    def _at(self, tag: Any) -> Any:
        if tag in _TAGS:
            self._evm.freshen()
            return self._evm.head
        return self._evm.header(0 if tag == "earliest" else _number(tag))

    def _state(self, tag: Any) -> Any:
        header = self._at(tag)
        if header is None:
            raise Rejected("there is no such block yet")
        return header

    def _storage(self, address: str, slot: str, tag: str = "latest") -> str:
        return _hex(
            self._evm.storage(_data(address, 20), _number(slot), self._state(tag)).to_bytes(32, "big")
        )

    def _call(self, call: dict[str, Any], tag: str = "latest") -> str:
        sender, to, data, value = _call_fields(call)
        return _hex(self._evm.call(sender, to, data, value, self._state(tag)))

    def _estimate_gas(self, call: dict[str, Any], tag: str = "latest") -> str:
        self._state(tag)
        return hex(self._evm.estimate_gas(*_call_fields(call)))

    def _get_logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        if "blockHash" in wanted:
            header = self._evm.header_by_hash(_data(wanted["blockHash"], 32))
            first = last = -1 if header is None else header.block_number
        else:
            # a block beyond the newest is simply not there yet
            first, last = (self._edge(wanted.get(edge, "latest")) for edge in ("fromBlock", "toBlock"))
        addresses = wanted.get("address") or []
        addresses = [addresses] if isinstance(addresses, str) else addresses
        topics = [[t] if isinstance(t, str) else t or [] for t in wanted.get("topics") or []]
        found = self._evm.logs(
            first,
            last,
            {_data(a, 20) for a in addresses},
            [{_data(t, 32) for t in any_of} for any_of in topics],
        )
        return [_log(log) for log in found]

    def _edge(self, tag: Any) -> int:
        if tag in _TAGS:
            return int(self._state(tag).block_number)
        return 0 if tag == "earliest" else _number(tag)

    def _block(self, header: Any, full: bool) -> dict[str, Any] | None:
        if header is None:
            return None
        transaction = self._evm.transaction_in(header.block_number)
        listed = [] if transaction is None else [transaction]
        return {
            "number": hex(header.block_number),
            "hash": _hex(header.hash),
            "parentHash": _hex(header.parent_hash),
            "timestamp": hex(header.timestamp),
            "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used),
            "baseFeePerGas": hex(header.base_fee_per_gas),
            "miner": to_checksum_address(header.coinbase),
            "difficulty": "0x0",
            "nonce": _hex(header.nonce),
            "mixHash": _hex(header.mix_hash),
            "extraData": _hex(header.extra_data),
            "logsBloom": _hex(header.bloom.to_bytes(256, "big")),
            "sha3Uncles": _hex(header.uncles_hash),
            "stateRoot": _hex(header.state_root),
            "transactionsRoot": _hex(header.transaction_root),
            "receiptsRoot": _hex(header.receipt_root),
            "size": "0x0",
            "uncles": [],
            "transactions": [self._transaction(self._evm.mined(t)) if full else _hex(t) for t in listed],
        }

    def _transaction(self, mined: MinedTransaction | None) -> dict[str, Any] | None:
        if mined is None:
            return None
        transaction = mined.transaction
        return {
            "hash": _hex(transaction.hash),
            "blockHash": _hex(mined.header.hash),
            "blockNumber": hex(mined.header.block_number),
            "transactionIndex": "0x0",
            "from": to_checksum_address(transaction.sender),
            "to": to_checksum_address(transaction.to) if transaction.to else None,
            "nonce": hex(transaction.nonce),
            "value": hex(transaction.value),
            "gas": hex(transaction.gas),
            "gasPrice": hex(mined.effective_gas_price),
            "input": _hex(transaction.data),
            "chainId": hex(DEV_CHAIN_ID),
        }

    def _receipt(self, mined: MinedTransaction | None) -> dict[str, Any] | None:
        if mined is None:
            return None
        transaction = mined.transaction
        created = mined.contract if mined.succeeded else None
        return {
            "transactionHash": _hex(transaction.hash),
            "transactionIndex": "0x0",
            "blockHash": _hex(mined.header.hash),
            "blockNumber": hex(mined.header.block_number),
            "from": to_checksum_address(transaction.sender),
            "to": to_checksum_address(transaction.to) if transaction.to else None,
            "contractAddress": None if created is None else to_checksum_address(created),
            "status": hex(mined.succeeded),
            "gasUsed": hex(mined.gas_used),
            "cumulativeGasUsed": hex(mined.gas_used),
            "effectiveGasPrice": hex(mined.effective_gas_price),
            "logsBloom": _hex(mined.bloom.to_bytes(256, "big")),
            "logs": [_log(log) for log in mined.logs],
        }


def _log(log: Log) -> dict[str, Any]:
    return {
        "address": to_checksum_address(log.address),
        "topics": [_hex(topic) for topic in log.topics],
        "data": _hex(log.data),
        "blockNumber": hex(log.block_number),
        "blockHash": _hex(log.block_hash),
        "transactionHash": _hex(log.transaction_hash),
        "transactionIndex": "0x0",
        "logIndex": hex(log.log_index),
        "removed": False,
    }


def _call_fields(call: dict[str, Any]) -> tuple[bytes, bytes, bytes, int]:
    sender = _data(call.get("from") or "0x" + "00" * 20, 20)
    to = _data(call["to"], 20) if call.get("to") else b""
    data = _data(call.get("input") or call.get("data") or "0x")
    return sender, to, data, _number(call.get("value") or 0)


def _data(text: Any, length: int | None = None) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(r"0x([0-9a-fA-F]{2})*", text):
        raise ValueError("bytes are written as 0x and hexadecimal digits")
    if length is not None and len(text) != 2 + 2 * length:
        raise ValueError(f"{length} bytes are wanted")
    return bytes.fromhex(text[2:])


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a number is wanted")
    number = int(value, 16) if isinstance(value, str) else value
    if not 0 <= number < 1 << 256:
        raise ValueError("a number from 0 to 2^256 - 1 is wanted")
    return number


def _hex(value: bytes) -> str:
    return "0x" + bytes(value).hex()
