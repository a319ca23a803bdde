"""The aggregator and what builder and holders call it with, in one process: real bytes, no sockets.

In place of a gRPC channel, :class:`Wire` gives the bytes of a call to the service that answers it and whatever stands
on the way may change them. Client and service on either side are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount

from usufruct.v1 import aggregation_pb2, aggregation_pb2_grpc
from usufruct.wire.aggregation import BuilderAggregation, HolderAggregation
from usufruct.wire.raw import FETCH_CHUNK, FETCH_SUM, UPLOAD
from usufruct_server.aggregator.config import Limits
from usufruct_server.aggregator.rounds import Rounds
from usufruct_server.aggregator.service import AggregationService

OnTheWay = Callable[[str, list[bytes]], list[bytes]]


class Caller:
    """In place of a gRPC context: who calls, proved. It also is the service's authenticator."""

    def __init__(self, address: str) -> None:
        self.address = address

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True

    def is_active(self) -> bool:
        return True

    def cancel(self) -> None:
        """The calls of this process end by themselves."""

    @staticmethod
    def authenticate(caller: Caller) -> str:
        return caller.address


class Answer:
    """A stream of messages as they come."""

    def __init__(self, messages: Iterable[bytes]) -> None:
        self._messages = iter(messages)

    def __iter__(self) -> Iterator[bytes]:
        return self._messages

    def cancel(self) -> None:
        """Nothing more is read."""


class AggregatorHere:
    """An aggregator whose memory can be lost, as by a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.restart()

    def restart(self) -> None:
        """Starts anew and knows nothing any more."""
        if hasattr(self, "rounds"):
            self.rounds.stop()
        self.rounds = Rounds(Limits(), self._folder)
        self.service = AggregationService(self.rounds, Caller, frozenset())  # type: ignore[arg-type]

    def let_time_pass(self, builder: str, job_id: bytes, attempt: int) -> None:
        """What the timer of a round does at its deadline."""
        self.rounds._forget((builder, job_id, attempt), "ROUND_INCOMPLETE")


class Wire:
    """One party's way to the aggregator, in place of a channel.

    Attributes:
        on_the_way: is given every call's method and messages, of an answer for ``"FetchSum"`` and ``"FetchChunk"``, and
            returns those that arrive. No message of an upload: somebody on the way keeps it and thanks for it.
    """

    def __init__(self, aggregator: AggregatorHere, address: str) -> None:
        self._aggregator, self._caller = aggregator, Caller(address)
        self.on_the_way: OnTheWay = lambda method, messages: messages

    def stream_unary(self, method: str) -> Callable[..., bytes]:
        assert method == UPLOAD

        def call(messages: Iterable[bytes], timeout: float) -> bytes:
            arriving = self.on_the_way("Upload", list(messages))
            if not arriving:  # whoever kept it says that it has arrived
                return aggregation_pb2.UploadResponse(received=1).SerializeToString()
            return self._aggregator.service.upload(iter(arriving), self._caller)  # type: ignore[arg-type]

        return call

    def unary_stream(self, method: str) -> Callable[..., Answer]:
        def call(message: bytes, timeout: float) -> Answer:
            service: Any = self._aggregator.service
            answer = {FETCH_SUM: service.fetch_sum, FETCH_CHUNK: service.fetch_chunk}[method]
            return Answer(self.on_the_way(method.rpartition("/")[2], list(answer(message, self._caller))))

        return call

    def unary_unary(self, method: str, **_: object) -> Callable[..., Any]:
        return lambda request, timeout: getattr(self._aggregator.service, method.rpartition("/")[2])(
            request, self._caller
        )

    def close(self) -> None:
        """There is nothing to close."""


class _Here:
    """Puts a wire where a party's connection has its channel."""

    def __init__(self, wire: Wire, account: LocalAccount) -> None:
        self._endpoint, self._account, self.wire = "the aggregator", account, wire
        self._channel = self._proved = wire
        self._fetch_chunk = wire.unary_stream(FETCH_CHUNK)
        self._fetch_sum = wire.unary_stream(FETCH_SUM)

    def close(self) -> None:
        """There is nothing to close."""


class HolderSide(_Here, HolderAggregation):  # type: ignore[misc]
    """A holder's."""


class BuilderSide(_Here, BuilderAggregation):  # type: ignore[misc]
    """The builder's."""

    def __init__(self, wire: Wire, account: LocalAccount) -> None:
        super().__init__(wire, account)
        self._stub = aggregation_pb2_grpc.AggregationServiceStub(wire)  # type: ignore[no-untyped-call, arg-type]
