"""RoundService: RunRound as a raw-bytes stream, GetRound as protobuf."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from usufruct.domain.ids import hash32
from usufruct.errors import Refused
from usufruct.v1 import rounds_pb2, rounds_pb2_grpc
from usufruct.wire.auth import Authenticator
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.rounds import Conversation, RoundRequest, RoundRunner
from usufruct_server.holder.usage_log import UsageLog

STREAMS_PER_CALLER = 8
"""RunRound streams of one builder at a time: one for each dataset of this holder, and those that wait."""
MOST_STREAMS = 32
"""RunRound streams of all builders: half of the server's threads are left for everything else."""
HEADER_SECONDS = 30.0
"""How long a stream may wait before it says what it is about."""
_log = logging.getLogger("usufruct.holder.rounds")


class RoundService(rounds_pb2_grpc.RoundServiceServicer):
    """Rounds at this holder. Register :meth:`run_round` beside the protobuf methods."""

    def __init__(
        self, *, authenticator: Authenticator, rounds: RoundRunner, store: JobStore, usage: UsageLog
    ) -> None:
        self._authenticator, self._rounds, self._store, self._usage = authenticator, rounds, store, usage
        self._guard = threading.Lock()
        self._streams: Counter[str] = Counter()

    def run_round(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One attempt: header, public key, weights and then steps in; events out."""
        caller = self._authenticator.authenticate(context)
        if not self._store.has_grant(caller):
            # Before anything is read: a stranger must not be able to keep a stream open.
            self._usage.refused("GRANT_MISSING", dataset_id=0, job_id=b"", builder=caller)
            raise Refused("this caller has no grant here", reason="GRANT_MISSING")
        with self._one_stream(caller):
            talk = Conversation(messages)
            if not context.add_callback(talk.hang_up):
                talk.hang_up()
            header = talk.read(
                lambda stream: stream.header(rounds_pb2.RoundHeader), time.monotonic() + HEADER_SECONDS
            )
            request = RoundRequest.from_proto(header)
            hash32(request.job_id, "job_id")
            answered = threading.Event()

            def ended() -> None:
                if not answered.is_set():
                    _say_builder_gone(request)

            context.add_callback(ended)
            try:
                for status in self._rounds.run(caller, request, talk):
                    yield status.to_proto().SerializeToString()
            finally:
                answered.set()

    def GetRound(
        self, request: rounds_pb2.GetRoundRequest, context: grpc.ServicerContext
    ) -> rounds_pb2.RoundEvent:
        """How far an attempt has come."""
        caller = self._authenticator.authenticate(context)
        job_id = hash32(request.job_id, "job_id")
        return self._rounds.status(caller, job_id, request.dataset_id, request.attempt).to_proto()

    @contextmanager
    def _one_stream(self, caller: str) -> Iterator[None]:
        with self._guard:
            if self._streams[caller] >= STREAMS_PER_CALLER or self._streams.total() >= MOST_STREAMS:
                raise Refused("too many streams", reason="TOO_MANY", limit=STREAMS_PER_CALLER)
            self._streams[caller] += 1
        try:
            yield
        finally:
            with self._guard:
                self._streams[caller] -= 1
                if not self._streams[caller]:
                    del self._streams[caller]


def _say_builder_gone(request: RoundRequest) -> None:
    """The stream broke before its end: the builder died, or gave the attempt up. What was charged goes on."""
    _log.warning(
        "event=builder_gone job=%s dataset=%d round=%d attempt=%d",
        request.job_id.hex(), request.dataset_id, request.round, request.attempt,
    )  # fmt: skip
