"""Raw-bytes streams for bulk: weights, updates, sums. No protobuf ``bytes`` field is in the way.

Convention: the first message of a stream is a serialised protobuf header; what follows is one or several runs
    of bytes whose lengths the header announces, cut into chunks anywhere. Whoever reads allows a length
    itself and never holds more than that. Chunks of updates and sums are one message each
    (:mod:`usufruct.encryption.chunks`), so that the reader need not put them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from usufruct.errors import InvalidInput
from usufruct.wire.parsing import parse

CHUNK_BYTES = 512 << 10
"""Size of the chunks we send: between 256 KiB and 1 MiB throughput is best (measured)."""

HEADER_LIMIT_BYTES = 64 << 10
"""Largest header message read."""

STEP_LIMIT_BYTES = 256 << 10
"""Largest message read after a header: it may carry a public key."""

AGGREGATION_SERVICE = "usufruct.v1.AggregationService"
ROUND_SERVICE = "usufruct.v1.RoundService"
UPLOAD = f"/{AGGREGATION_SERVICE}/Upload"
FETCH_SUM = f"/{AGGREGATION_SERVICE}/FetchSum"
FETCH_CHUNK = f"/{AGGREGATION_SERVICE}/FetchChunk"
RUN_ROUND = f"/{ROUND_SERVICE}/RunRound"

M = TypeVar("M", bound=Message)
Bytes = bytes | bytearray | memoryview


def chunks(data: Bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """``data`` in pieces of at most ``chunk_bytes``; none for no bytes."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), chunk_bytes):
        yield bytes(view[start : start + chunk_bytes])


def with_header(header: Message, *bodies: Bytes) -> Iterator[bytes]:
    """A whole stream: the header message, then the bodies in chunks."""
    yield header.SerializeToString()
    for body in bodies:
        yield from chunks(body)


class IncomingStream:
    """Reads a stream of the convention above; bounded, and exact to the byte.

    Args:
        messages: the gRPC stream of the other party.
    """

    def __init__(self, messages: Iterable[bytes]) -> None:
        self._messages = iter(messages)
        self._rest = memoryview(b"")

    def header(self, message: type[M], limit_bytes: int = HEADER_LIMIT_BYTES) -> M:
        """The first message.

        Raises:
            InvalidInput: ``MALFORMED`` if it is missing or not such a message; ``TOO_LARGE``.
        """
        first = next(self._messages, None)
        if first is None:
            raise InvalidInput("The stream ends before its header.", field="header")
        return parse(message, first, limit_bytes)

    def message(self, limit_bytes: int) -> bytes:
        """The next message as it was sent.

        Raises:
            InvalidInput: ``TOO_LARGE`` above ``limit_bytes``; ``MALFORMED`` if the stream ends here.
        """
        message = next(self._messages, None)
        if message is None:
            raise InvalidInput("The stream ends early.", field="length")
        _check_announced(len(message), limit_bytes)
        return message

    def pieces(self, announced_bytes: int, allowed_bytes: int) -> Iterator[memoryview]:
        """The next ``announced_bytes`` bytes as they arrive. Read it to its end before anything else.

        Raises:
            InvalidInput: ``TOO_LARGE`` if more is announced than allowed; ``MALFORMED`` if the stream ends
                early.
        """
        _check_announced(announced_bytes, allowed_bytes)
        missing = announced_bytes
        while missing:
            if not self._rest:
                chunk = next(self._messages, None)
                if chunk is None:
                    raise InvalidInput(
                        f"The stream ends {missing} bytes early.", field="length", limit=announced_bytes
                    )
                self._rest = memoryview(chunk)
                continue
            piece, self._rest = self._rest[:missing], self._rest[missing:]
            missing -= len(piece)
            yield piece

    def read(self, announced_bytes: int, allowed_bytes: int) -> bytes:
        """The next ``announced_bytes`` bytes in one piece; see :meth:`pieces` for the errors."""
        return b"".join(self.pieces(announced_bytes, allowed_bytes))

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            InvalidInput: ``TOO_LARGE``: more bytes than were announced.
        """
        while not self._rest:
            chunk = next(self._messages, None)
            if chunk is None:
                return
            self._rest = memoryview(chunk)
        raise InvalidInput("The stream has more bytes than it announced.", reason="TOO_LARGE", field="length")


def _check_announced(announced_bytes: int, allowed_bytes: int) -> None:
    if announced_bytes < 0:
        raise InvalidInput("A length is not negative.", field="length")
    if announced_bytes > allowed_bytes:
        raise InvalidInput(
            f"{announced_bytes} bytes are announced where {allowed_bytes} are allowed.",
            reason="TOO_LARGE",
            field="length",
            requested=announced_bytes,
            limit=allowed_bytes,
        )


def add_raw_methods(
    server: grpc.Server,
    service: str,
    *,
    stream_unary: Mapping[str, Callable[[Iterator[bytes], grpc.ServicerContext], bytes]] | None = None,
    unary_stream: Mapping[str, Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]] | None = None,
    stream_stream: Mapping[str, Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]]
    | None = None,
) -> None:
    """Register methods of ``service`` that take and give bytes as they are, beside its protobuf methods."""
    handlers: dict[str, grpc.RpcMethodHandler] = {}
    for name, behaviour in (stream_unary or {}).items():
        handlers[name] = grpc.stream_unary_rpc_method_handler(behaviour)
    for name, producer in (unary_stream or {}).items():
        handlers[name] = grpc.unary_stream_rpc_method_handler(producer)
    for name, exchange in (stream_stream or {}).items():
        handlers[name] = grpc.stream_stream_rpc_method_handler(exchange)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
