"""A server with a pinned key, and a TCP relay, for the transport tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tcp_relay import Relay

from usufruct.wire.tls import TlsIdentity, generate_identity

# usufruct is imported first: it tells gRPC, before that is loaded, to speak TLS 1.3 only
import grpc  # isort: skip

from usufruct.v1 import auth_pb2_grpc
from usufruct.wire.auth import Authenticator, AuthService
from usufruct.wire.raw import add_raw_methods
from usufruct.wire.status import ErrorInterceptor
from usufruct.wire.tls import SERVER_OPTIONS, start_server

SERVICE = "usufruct.test.Echo"


class Echo:
    """A running server: AuthService, and raw methods that echo, fail, or say who is calling."""

    def __init__(self, identity: TlsIdentity) -> None:
        self.identity = identity
        self.authenticator = Authenticator(identity.fingerprint)
        self.to_raise: Exception | None = None
        self.server = grpc.server(
            ThreadPoolExecutor(8), interceptors=[ErrorInterceptor()], options=list(SERVER_OPTIONS)
        )
        auth_pb2_grpc.add_AuthServiceServicer_to_server(AuthService(self.authenticator), self.server)
        add_raw_methods(
            self.server,
            SERVICE,
            stream_unary={"Join": lambda messages, context: b"".join(messages), "Fail": self._fail},
            unary_stream={"Repeat": self._repeat, "WhoAmI": self._who},
            stream_stream={"Echo": lambda messages, context: messages},
        )
        self.port = start_server(self.server, identity, "127.0.0.1:0")
        self.endpoint = f"127.0.0.1:{self.port}"

    def _fail(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        assert self.to_raise is not None
        raise self.to_raise

    def _repeat(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(3):
            yield message
        if self.to_raise is not None:
            raise self.to_raise

    def _who(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield self.authenticator.authenticate(context).encode()


@pytest.fixture
def identity() -> TlsIdentity:
    return generate_identity()


@pytest.fixture
def echo(identity: TlsIdentity) -> Iterator[Echo]:
    running = Echo(identity)
    yield running
    running.server.stop(None).wait()


@pytest.fixture
def relay(echo: Echo) -> Iterator[Relay]:
    running = Relay(echo.port)
    yield running
    running.close()
