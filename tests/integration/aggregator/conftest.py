"""An aggregator in this process, three holders' operator keys, and a builder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aggregator_world import LIMITS, Network

from usufruct.wire.tls import generate_identity
from usufruct_server.aggregator.config import AggregatorConfig, Limits
from usufruct_server.aggregator.server import AggregatorServer


@pytest.fixture
def start() -> Iterator[Callable[..., Network]]:
    """Starts an aggregator with the given limits; stopped after the test."""
    running: list[AggregatorServer] = []

    def begin(limits: Limits = LIMITS, **config) -> Network:
        server = AggregatorServer(
            AggregatorConfig("127.0.0.1:0", Path("unused"), limits=limits, **config), generate_identity()
        )
        running.append(server)
        return Network(server)

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def network(start: Callable[..., Network]) -> Network:
    return start()
