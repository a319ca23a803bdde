"""Of two servers of one holder only the later one acts, and none serves a ledger that lacks what the chain has seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from holder_world import Builder, World, free_port, registered, round_parts, server_of

from usufruct.chain import Chain, HolderEntry
from usufruct.chain import LegState as ChainLegState
from usufruct.errors import LedgerError, UsufructError
from usufruct.wire.channel import PinnedEndpoint
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.opening import open_operator
from usufruct_server.holder.server import HolderServer


@pytest.fixture
def config(world: World, request: pytest.FixtureRequest) -> HolderConfig:
    return world.holder(request.node.name[:40], port=free_port())


def _serve(config: HolderConfig) -> HolderServer:
    server = server_of(config)
    server.start()
    server.housekeeping.close()
    return server


def _copy(config: HolderConfig, to: Path) -> HolderConfig:
    """The whole state directory, as a backup or a cloned machine has it."""
    shutil.copytree(config.state_dir, to)
    return replace(config, state_dir=to)


@pytest.fixture
def first(config: HolderConfig) -> Iterator[HolderServer]:
    server = _serve(config)
    yield server
    server.stop()


def test_every_start_takes_the_next_epoch_and_names_the_ledgers_head(
    world: World, config: HolderConfig
) -> None:
    operator, told = open_operator(config), list[str]()
    for epoch in (1, 2):
        server = server_of(config, operator, told.append)
        entry = world.chain.holder(world.chain.dataset(registered(config)).holder_id)
        assert (entry.fencing_epoch, server.fencing.epoch) == (epoch, epoch)
        assert server.ledger.has_row(entry.ledger_head)
        server.close()
    assert any("fencing epoch 2" in line for line in told)


def test_an_older_ledger_is_not_served(world: World, config: HolderConfig, tmp_path: Path) -> None:
    server = _serve(config)
    server.stop()
    backup = _copy(config, tmp_path / "backup")
    server = _serve(config)
    builder = Builder(world)
    peer = PinnedEndpoint(config.endpoint, server.identity.fingerprint)
    builder.started(peer, registered(config))
    server.stop()
    _serve(config).stop()  # names a row that the backup does not have
    with pytest.raises(LedgerError, match="newest copy of the state directory") as caught:
        server_of(backup, open_operator(config))
    assert caught.value.reason == "LEDGER_BEHIND_CHAIN"
    _serve(config).stop()
    builder.close()


def test_a_ledger_that_lacks_published_usage_records_is_not_served(
    world: World, config: HolderConfig, tmp_path: Path
) -> None:
    server, builder = _serve(config), Builder(world)
    peer = PinnedEndpoint(config.endpoint, server.identity.fingerprint)
    spec = builder.started(peer, registered(config))
    backup = _copy(config, tmp_path / "backup")  # knows the leg, and the row that the chain names
    builder.finish(peer, spec.job_id, registered(config), 0)  # publishes
    server.stop()
    with pytest.raises(LedgerError, match="usage records") as caught:
        server_of(backup, open_operator(config))
    assert caught.value.reason == "LEDGER_BEHIND_CHAIN"
    builder.close()


def test_a_ledger_that_lacks_an_accepted_leg_is_not_served(
    world: World, config: HolderConfig, tmp_path: Path
) -> None:
    server, builder = _serve(config), Builder(world)
    backup = _copy(config, tmp_path / "backup")
    builder.started(PinnedEndpoint(config.endpoint, server.identity.fingerprint), registered(config))
    server.stop()
    with pytest.raises(LedgerError, match="was accepted of which it has no row") as caught:
        server_of(backup, open_operator(config))
    assert caught.value.reason == "LEDGER_BEHIND_CHAIN"
    builder.close()


def test_a_ledger_that_was_lost_is_not_replaced_by_an_empty_one(config: HolderConfig) -> None:
    for _ in range(2):
        _serve(config).stop()
    for file in config.state_dir.glob("ledger.sqlite*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    with pytest.raises(LedgerError) as caught:
        server_of(config)
    assert caught.value.reason == "LEDGER_BEHIND_CHAIN"


def test_a_second_server_takes_over_and_the_first_charges_and_signs_nothing_more(
    world: World, config: HolderConfig, first: HolderServer, tmp_path: Path
) -> None:
    dataset_id, builder = registered(config), Builder(world)
    peer = PinnedEndpoint(config.endpoint, first.identity.fingerprint)
    running, done, unsigned = (builder.started(peer, dataset_id) for _ in range(3))
    receipt = builder.finish(peer, done.job_id, dataset_id, 0).receipt
    accepting = builder.granted_and_open(peer, dataset_id)
    stale = builder.start(peer, accepting.job_id, dataset_id)
    copy = replace(_copy(config, tmp_path / "copy"), listen=f"127.0.0.1:{free_port()}")
    second = server_of(copy, open_operator(config))
    second.start()
    second.housekeeping.close()
    there = PinnedEndpoint(copy.listen, second.identity.fingerprint)
    assert second.fencing.epoch == first.fencing.epoch + 1

    parts = round_parts(builder.account, running, dataset_id)
    stream = builder.run_round(peer, parts)
    refused = [
        lambda: list(stream.rest()),
        lambda: builder.start(peer, accepting.job_id, dataset_id),
        lambda: builder.finish(peer, unsigned.job_id, dataset_id, 0),
        lambda: builder.release(peer, running.job_id, dataset_id),
        lambda: builder.granted_and_open(peer, dataset_id),
        first.publisher.publish,
    ]
    for call in refused:
        with pytest.raises(UsufructError) as caught:
            call()
        assert caught.value.reason == "FENCED_OUT"
    assert first.ledger.leg(dataset_id, running.job_id).charged == 0

    with pytest.raises(UsufructError) as caught:
        builder.sender.accept(
            builder.leg(accepting.job_id, dataset_id), stale.fencing_epoch, stale.acceptance_signature
        )
    assert caught.value.reason == "FENCED_OUT"
    builder.accept(there, accepting.job_id, dataset_id)
    assert builder.leg(accepting.job_id, dataset_id).state is ChainLegState.ACCEPTED
    again = builder.finish(there, done.job_id, dataset_id, 0)
    assert again.receipt.fencing_epoch == receipt.fencing_epoch + 1
    receipt.fencing_epoch = again.receipt.fencing_epoch
    assert again.receipt == receipt, "signed anew, and nothing else of it has changed"
    builder.deliver(done.job_id, dataset_id, again)
    assert builder.leg(done.job_id, dataset_id).state is ChainLegState.ACKNOWLEDGED
    builder.close()
    second.stop()


def test_of_two_servers_that_start_at_one_moment_one_gives_way(
    world: World, config: HolderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they share every byte of their state: neither believes the other's transaction to be its own."""
    operator = open_operator(config)
    server_of(config, operator).close()
    copy = _copy(config, tmp_path / "copy")
    read = type(world.chain).holder
    before = world.chain.holder(world.chain.dataset(registered(config)).holder_id)
    server, looks = server_of(config, operator), list[int]()

    def late(self: Chain, holder_id: int, block: int | str | None = None) -> HolderEntry:
        looks.append(holder_id)
        return before if len(looks) == 2 else read(self, holder_id, block)

    # the second one reads the chain before the first one's epoch is final (its first look is at the registration)
    monkeypatch.setattr(type(world.chain), "holder", late)
    with pytest.raises(LedgerError) as caught:
        server_of(copy, operator)
    assert caught.value.reason == "LEDGER_BEHIND_CHAIN"
    server.fencing.require()
    server.close()
