"""One development chain, one holder's server and one aggregator for all tests of this folder; all of them real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from holder_world import Builder, Place, World, free_port, registered, server_of
from neighbour import Neighbour, shared_job
from running_leg import Leg

from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.tls import create_identity
from usufruct_server.aggregator.config import AggregatorConfig
from usufruct_server.aggregator.server import AggregatorServer
from usufruct_server.holder.opening import open_operator
from usufruct_server.holder.server import HolderServer


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World.running(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PinnedEndpoint]:
    folder = tmp_path_factory.mktemp("aggregator")
    create_identity(folder)
    with AggregatorServer(AggregatorConfig("127.0.0.1:0", folder)) as server:
        yield server.peer


@pytest.fixture(scope="session")
def served(world: World) -> Iterator[HolderServer]:
    config = world.holder("first", port=free_port())
    server = server_of(config)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A holder on a chain of its own whose housekeeping only does what a test asks for: time may pass."""
    with World.running(tmp_path_factory.mktemp("quiet")) as world:
        config = world.holder("quiet", port=free_port())
        server = server_of(config)
        server.start()
        server.housekeeping.close()
        yield Place(world, server)
        server.stop()


@pytest.fixture
def customer(quiet: Place) -> Iterator[Builder]:
    """A builder of the quiet holder."""
    builder = Builder(quiet.world)
    yield builder
    builder.close()


@pytest.fixture(scope="session")
def peer(served: HolderServer) -> PinnedEndpoint:
    return PinnedEndpoint(served.config.endpoint, served.identity.fingerprint)


@pytest.fixture
def leg(
    served: HolderServer, peer: PinnedEndpoint, aggregator: PinnedEndpoint, builder: Builder
) -> Iterator[Leg]:
    """A leg of a fresh job over the served dataset alone."""
    spec = builder.started(peer, registered(served.config), aggregator=aggregator)
    leg = Leg(served, peer, builder, spec)
    yield leg
    leg.close()


@pytest.fixture(scope="session")
def neighbour(world: World, tmp_path_factory: pytest.TempPathFactory) -> Neighbour:
    config = world.holder("neighbour", port=free_port())
    return Neighbour(registered(config), open_operator(config), tmp_path_factory.mktemp("neighbour"))


@pytest.fixture
def shared(
    served: HolderServer,
    peer: PinnedEndpoint,
    aggregator: PinnedEndpoint,
    builder: Builder,
    neighbour: Neighbour,
) -> Iterator[Leg]:
    """The served dataset's leg of a fresh job over it and the neighbour's; either may train alone."""
    own = registered(served.config)
    spec = shared_job(builder, peer, own, neighbour.dataset_id, aggregator)
    leg = Leg(served, peer, builder, spec)
    yield leg
    leg.close()


@pytest.fixture
def builder(world: World) -> Iterator[Builder]:
    builder = Builder(world)
    yield builder
    builder.close()
