"""A real HTTP proxy between client and node that changes or withholds answers: the RPC that lies or lags."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from usufruct.chain.endpoint import Endpoint, RpcRefused

Lie = Callable[[str, list[Any], Any], Any]
"""Method, parameters and the node's true result -> what the client is told."""


def honest(method: str, params: list[Any], result: Any) -> Any:
    """Says what the node says."""
    return result


class LyingProxy:
    """Stands between a client and the node at ``behind``. ``lie`` may be replaced at any time.

    Attributes:
        body: sent instead of any answer, where it is not None.
        asked: the methods that were asked for, in order.
    """

    def __init__(self, behind: str, lie: Lie = honest) -> None:
        self.lie = lie
        self.body: bytes | None = None
        self.asked: list[str] = []
        node, proxy = Endpoint(behind, 30.0), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # head and body leave together: two small packets would wait 40 ms for an acknowledgement
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                method, params = request["method"], request["params"]
                proxy.asked.append(method)
                answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
                try:
                    answer["result"] = proxy.lie(method, params, node.request(method, *params))
                except RpcRefused as error:
                    data = None if error.data is None else "0x" + error.data.hex()
                    answer["error"] = {"code": 3, "message": error.message, "data": data}
                body = json.dumps(answer).encode() if proxy.body is None else proxy.body
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *unused: object) -> None:
                """Requests are not logged."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is no event."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> LyingProxy:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
