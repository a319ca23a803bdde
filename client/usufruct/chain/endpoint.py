"""One JSON-RPC endpoint: requests with limits of time and size, and plain errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

from requests import Request, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from urllib3 import BaseHTTPResponse, HTTPConnectionPool
from urllib3.exceptions import HTTPError

from usufruct.chain.answers import MOST_DATA_BYTES
from usufruct.errors import ChainError, ConfigError

MOST_ANSWER_BYTES = 64 << 20
MOST_DEPTH = 32
_CHUNK_BYTES = 1 << 16
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
T = TypeVar("T")


class RpcRefused(ChainError):
    """The node answered with an error. ``data`` is what a contract said when it reverted; None if none did."""

    def __init__(self, message: str, data: bytes | None) -> None:
        super().__init__(message)
        self.data = data


class Endpoint:
    """A node's JSON-RPC endpoint. Any thread may use it; each keeps one connection.

    Nothing is repeated behind the caller's back, no redirection is followed, and nothing that an answer holds is ever
    fetched: an ``OffchainLookup`` (EIP-3668, CCIP-Read) is a revert like any other.

    Args:
        url: http or https. It may contain a key, so messages name only its host.
        timeout_seconds: for connecting, and for each whole answer.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("the chain's RPC URL must look like http://127.0.0.1:8545", field="rpc_url")
        self.place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._url, self._timeout_seconds = url, timeout_seconds
        self._threads = threading.local()
        self._numbers = count(1)

    def ask(self, read: Callable[[Any], T], method: str, *params: Any) -> T:
        """The result of one method, as ``read`` understands it.

        Raises:
            ChainError: CHAIN_UNREACHABLE: no answer, or one that ``read`` does not accept; or :class:`RpcRefused`.
        """
        answer = self.request(method, *params)
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense() from error

    def request(self, method: str, *params: Any) -> Any:
        """The result of one method as JSON. Raises as :meth:`ask`."""
        body = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": list(params)}
        try:
            with self._way().post(json.dumps(body).encode(), self._timeout_seconds) as response:
                text = self._read(response)
        except (RequestException, HTTPError, OSError) as error:
            raise self._silent() from error
        try:
            answer = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise self._nonsense() from error
        if not isinstance(answer, dict) or answer.get("id") not in (body["id"], None):
            raise self._nonsense()
        fault = answer.get("error")
        if fault:
            raise RpcRefused(
                f"the chain at {self.place} refused {method}: {_text(fault)}", _revert_data(fault)
            )
        if "result" not in answer:
            raise self._nonsense()
        return answer["result"]

    def _way(self) -> _Way:
        way: _Way | None = getattr(self._threads, "way", None)
        if way is None:
            way = self._threads.way = _Way(self._url)
        return way

    def _read(self, response: BaseHTTPResponse) -> bytes:
        """The body, whatever the status: nodes send JSON-RPC errors with 4xx too."""
        until, text = time.monotonic() + self._timeout_seconds, bytearray()
        while chunk := response.read1(_CHUNK_BYTES, decode_content=True):
            text += chunk
            if len(text) > MOST_ANSWER_BYTES:
                raise self._nonsense()
            if time.monotonic() > until:
                raise self._silent()
        return bytes(text)

    def _silent(self) -> ChainError:
        return ChainError(
            f"the chain at {self.place} does not answer; is it running, and is the RPC URL right?"
        )

    def _nonsense(self) -> ChainError:
        return ChainError(f"what answers at {self.place} is not a chain's JSON-RPC endpoint")


class _Way(HTTPAdapter):
    """The connection to one URL, with proxy, certificates and credentials as the environment says when it is made.

    Requests settles those once; each request then is urllib3's alone. Asked for every request, they take most of its time.
    """

    def __init__(self, url: str) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        with Session() as session:
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            request = session.prepare_request(Request("POST", url, headers))
            settings: Any = session.merge_environment_settings(url, {}, None, None, None)
        proxies, verify, certificate = (settings[key] for key in ("proxies", "verify", "cert"))
        pool: Any = self.get_connection_with_tls_context(request, verify, proxies, certificate)
        self.cert_verify(pool, url, verify, certificate)  # type: ignore[no-untyped-call]
        self.pool: HTTPConnectionPool = pool
        self.headers = {name: value for name, value in request.headers.items() if name != "Content-Length"}
        self._target = self.request_url(request, proxies)

    def post(self, body: bytes, timeout_seconds: float) -> BaseHTTPResponse:
        """The answer, whose body is still to be read. Raises urllib3's ``HTTPError`` or ``OSError``."""
        return self.pool.urlopen(
            "POST", self._target, body, self.headers, retries=False, redirect=False, assert_same_host=False,
            timeout=timeout_seconds, preload_content=False, decode_content=False,
        )  # fmt: skip


def _parsed(text: bytes) -> Any:
    """JSON that is not nested deeper than any answer is: a parser's stack is not the node's to overrun."""
    depth = 0
    for bracket in text.translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_DEPTH:
            raise ValueError("nested too deeply")
    return json.loads(text)


def _text(fault: Any) -> str:
    message = fault.get("message") if isinstance(fault, dict) else fault
    return "".join(ch for ch in str(message)[:200] if ch.isprintable())


def _revert_data(fault: Any) -> bytes | None:
    """The revert's data, where nodes put it: in ``data``, or in ``data.data``."""
    data = fault.get("data") if isinstance(fault, dict) else None
    data = data.get("data") if isinstance(data, dict) else data
    if not isinstance(data, str) or len(data) > 2 * MOST_DATA_BYTES:
        return None
    try:
        return bytes.fromhex(data.removeprefix("0x"))
    except ValueError:
        return None
