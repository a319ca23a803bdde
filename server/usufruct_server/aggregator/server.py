"""One aggregator process: TLS, services, health, reflection, and a clean end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from usufruct.v1 import aggregation_pb2, auth_pb2, auth_pb2_grpc
from usufruct.wire.auth import Authenticator, AuthService
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.status import ErrorInterceptor
from usufruct.wire.tls import SERVER_OPTIONS, TlsIdentity, load_identity, parse_listen, start_server
from usufruct_server.aggregator.config import AggregatorConfig
from usufruct_server.aggregator.open_round import FETCHES_PER_CALLER
from usufruct_server.aggregator.rounds import Rounds
from usufruct_server.aggregator.service import AggregationService

_LOG = logging.getLogger("usufruct.aggregator")

STOP_SECONDS = 2.0
"""Time that running calls get to end."""

UPLOAD_THREADS = 64


class AggregatorServer:
    """A running aggregator.

    Raises (constructor):
        ConfigError: no TLS key, or the address cannot be bound.
    """

    def __init__(self, config: AggregatorConfig, identity: TlsIdentity | None = None) -> None:
        identity = load_identity(config.state_dir) if identity is None else identity
        self.rounds = Rounds(config.limits, config.state_dir)
        authenticator = Authenticator(identity.fingerprint)
        # every waiting fetch holds a thread; uploads and short calls must find one beside them
        threads = config.limits.max_open_rounds * FETCHES_PER_CALLER + UPLOAD_THREADS
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            interceptors=[ErrorInterceptor()],
            options=list(SERVER_OPTIONS),
            maximum_concurrent_rpcs=threads,
        )
        cast(Any, auth_pb2_grpc).add_AuthServiceServicer_to_server(AuthService(authenticator), self._server)
        AggregationService(self.rounds, authenticator, config.allowed_builders).add_to(self._server)
        services = [
            auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name,
            aggregation_pb2.DESCRIPTOR.services_by_name["AggregationService"].full_name,
        ]
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        self.port = start_server(self._server, identity, config.listen)
        for service in ("", *services):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        host, _ = parse_listen(config.listen)
        bound = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.peer = PinnedEndpoint(config.advertise or bound, identity.fingerprint)

    def stop(self) -> None:
        """Tell waiting callers, forget every round, let running calls end, and release the port."""
        self._health.enter_graceful_shutdown()
        self.rounds.stop()
        self._server.stop(STOP_SECONDS).wait()

    def __enter__(self) -> AggregatorServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(config: AggregatorConfig, started: Callable[[AggregatorServer], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        started: called once calls are answered.
    """
    stopping = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with AggregatorServer(config) as server:
            started(server)
            stopping.wait()
            _LOG.info("stopping; %d rounds open", server.rounds.open_rounds)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
