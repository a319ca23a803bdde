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
def start(tmp_path: Path) -> Iterator[Callable[..., Network]]:
    """Starts an aggregator with the given limits; stopped after the test."""
    running: list[AggregatorServer] = []

    def begin(limits: Limits = LIMITS, **config) -> Network:
        folders = [tmp_path / f"{name}-{len(running)}" for name in ("state", "outbox")]
        for folder in folders:
            folder.mkdir()
        server = AggregatorServer(
            AggregatorConfig("127.0.0.1:0", folders[0], limits=limits, **config), generate_identity()
        )
        running.append(server)
        return Network(server, folders[1])

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def network(start: Callable[..., Network]) -> Network:
    return start()
