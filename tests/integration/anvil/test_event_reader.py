"""The event reader on a chain that is reorganised: what it has told of is at any time what the chain has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anvil_node import AnvilNode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lying_proxy import LyingProxy
from token_world import PATIENT, TokenWorld

from usufruct.chain.answers import Log
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.event_reader import KEPT_BLOCKS, EventReader, read_logs
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError, ConfigError


class Consumer:
    """Keeps a list of events as a reader tells it to."""

    def __init__(self, reader: EventReader) -> None:
        self.reader = reader
        self.events: list[Log] = []

    def read(self, *, final: bool = False) -> None:
        reading = self.reader.read(final=final)
        for log in reading.vanished:
            assert self.events.pop() == log
        self.events.extend(reading.found)
        self.reader.keep(reading)


def on_chain(world: TokenWorld) -> list[Log]:
    """All mints, by their amounts."""
    return list(world.node.rpc.logs([world.token], [], 0, world.node.height()))


def mint(world: TokenWorld, units: int) -> None:
    world.account(policy=PATIENT).send(world.token, world.mint(units), "mint")


def test_a_reorganisation_of_any_depth_is_followed(world: TokenWorld, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"
    consumer = Consumer(EventReader(world.node.rpc, [world.token], 0, path))
    for depth in (1, 2, 3, 5, 8, 13, 21, 34, 55, 64):
        mint(world, depth)
        world.node.mine(depth // 2)
        consumer.read()
        mint(world, 2 * depth)
        world.node.mine(depth - depth // 2 - 2 if depth > 2 else 0)
        consumer.read()
        world.node.reorg(depth)
        mint(world, 3 * depth)
        consumer.reader = EventReader(world.node.rpc, [world.token], 0, path)  # as another process
        consumer.read()
        assert consumer.events == on_chain(world), f"after a reorganisation of {depth} blocks"


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.lists(
        st.tuples(st.sampled_from(["mint", "mine", "reorg", "read", "read final"]), st.integers(1, 64)),
        max_size=15,
    )
)
def test_whatever_happens_what_was_told_is_what_is_there(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    with AnvilNode() as node:
        world = TokenWorld.on(node)
        consumer = Consumer(EventReader(node.rpc, [world.token], 0))
        for step, value in steps:
            if step == "mint":
                mint(world, value)
            elif step == "mine":
                node.mine(value)
            elif step == "reorg":
                node.reorg(value)
            else:
                consumer.read(final=step == "read final")
        consumer.read()
        assert consumer.events == on_chain(world)


def test_final_events_only_never_vanish(world: TokenWorld) -> None:
    consumer = Consumer(EventReader(world.node.rpc, [world.token], 0))
    for units in range(1, 6):
        mint(world, units)
        world.node.mine(20)
        consumer.read(final=True)
        assert all(log.block_number <= world.node.rpc.final_block().number for log in consumer.events)
    world.node.mine(70)
    consumer.read(final=True)
    assert [int.from_bytes(log.data, "big") for log in consumer.events] == [1, 2, 3, 4, 5]


def test_a_reading_counts_once_it_is_kept(world: TokenWorld, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"
    mint(world, 1)
    first = EventReader(world.node.rpc, [world.token], 0, path)
    told = first.read(final=False)
    assert [int.from_bytes(log.data, "big") for log in told.found] == [1]
    second = EventReader(world.node.rpc, [world.token], 0, path)
    assert second.read(final=False) == told
    second.keep(told)
    mint(world, 2)
    third = EventReader(world.node.rpc, [world.token], 0, path)
    assert [int.from_bytes(log.data, "big") for log in third.read(final=False).found] == [2]
    assert third.next_block == told.block.number + 1
    with pytest.raises(ConfigError, match="these contracts"):
        EventReader(world.node.rpc, [world.key.address], 0, path)
    path.write_text('{"format": 1')
    with pytest.raises(ConfigError, match="these contracts"):
        EventReader(world.node.rpc, [world.token], 0, path)


def test_a_chain_that_goes_back_further_than_is_kept_is_an_error(
    world: TokenWorld, proxy: LyingProxy
) -> None:
    reader = EventReader(Rpc(proxy.url, 5.0), [world.token], 0)
    reader.keep(reader.read(final=False))
    world.node.mine(KEPT_BLOCKS + 1)
    reader.keep(reader.read(final=False))

    def other(method: str, params: list[Any], result: Any) -> Any:
        changed = method == "eth_getBlockByNumber" and result is not None
        return {**result, "hash": "0x" + "ab" * 32} if changed else result

    proxy.lie = other
    with pytest.raises(ChainError, match="went back by more than") as caught:
        reader.read(final=False)
    assert caught.value.reason == "CHAIN_DISAGREES"


def test_a_reorganisation_while_it_reads_is_noticed(world: TokenWorld, proxy: LyingProxy) -> None:
    consumer = Consumer(EventReader(Rpc(proxy.url, 5.0), [world.token], 0))
    mint(world, 1)
    consumer.read()
    mint(world, 2)
    changed: list[str] = []

    def changing(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs" and not changed:
            changed.append(method)
            world.node.reorg(5)  # takes away what was told of before, too
            mint(world, 3)
        return result

    proxy.lie = changing
    consumer.read()
    assert consumer.events == on_chain(world)
    assert [int.from_bytes(log.data, "big") for log in consumer.events] == [3]


# -- one range ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(world: TokenWorld) -> Iterator[LyingProxy]:
    with LyingProxy(world.node.url) as standing:
        yield standing


def test_ranges_are_made_smaller_for_a_node_that_refuses_wide_ones(
    world: TokenWorld, proxy: LyingProxy
) -> None:
    for units in range(1, 6):
        mint(world, units)
        world.node.mine(9)

    def narrow(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs":
            width = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if width > 7:
                raise RpcRefused("query returned more than 7 blocks", None)
        return result

    proxy.lie = narrow
    found = read_logs(Rpc(proxy.url, 5.0), [world.token], [], 0, world.node.height())
    assert list(found) == on_chain(world)


def test_a_chain_that_changes_while_it_is_read_is_read_again(world: TokenWorld, proxy: LyingProxy) -> None:
    mint(world, 1)
    mint(world, 2)
    world.node.mine(3)
    changed: list[str] = []

    def changing(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs" and not changed:
            changed.append(method)
            world.node.reorg(4)  # takes the second mint away, after its event was told
        return result

    proxy.lie = changing
    found = read_logs(Rpc(proxy.url, 5.0), [world.token], [], 0, world.node.height())
    assert [int.from_bytes(log.data, "big") for log in found] == [1]

    def restless(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs":
            world.node.reorg(1)
        return result

    proxy.lie = restless
    with pytest.raises(ChainError, match="change faster") as caught:
        read_logs(Rpc(proxy.url, 5.0), [world.token], [], 0, world.node.height())
    assert caught.value.reason == "CHAIN_DISAGREES"
