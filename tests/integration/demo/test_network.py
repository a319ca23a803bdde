"""The local network as tests use it: other data and settings, processes that die and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
from charged import WatchedNetwork
from running_processes import alive, processes_of

import usufruct as uf
from usufruct.errors import ConfigError
from usufruct_server.demo.cards import heart_disease as cards
from usufruct_server.demo.network import DatasetSetup, HolderSetup

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

ROWS = cards.MOCK_ROWS * 20


def holder(name: str, **settings: dict[str, object]) -> HolderSetup:
    dataset = DatasetSetup(
        cards.card(name, 40), ROWS, price_units=7, min_cohort=1, order=16, budget_epsilon=2.0
    )
    return HolderSetup(name, (dataset,), settings=settings)


def test_processes_die_and_come_back_with_the_same_identity(tmp_path: Path) -> None:
    with WatchedNetwork(tmp_path / "net", [holder("one"), holder("two")]) as network:
        assert set(network.processes) == {"chain", "aggregator", "one", "two"}
        assert {name: place.dataset_ids for name, place in network.places.items()} == {
            "one": (1,),
            "two": (2,),
        }
        builder = uf.connect(network.rpc_url, contract=network.compute_access, key=network.builder_key)
        listed = builder.datasets(task=cards.TASK)
        assert [(d.id, d.price_units, d.order) for d in listed] == [(1, 7, 16), (2, 7, 16)]

        before = network.processes["two"].pid
        network.kill("two")
        assert not alive(before)
        gone = builder.datasets(task=cards.TASK)
        assert [d.id for d in gone] == [1]
        assert [u.dataset_id for u in gone.unreachable] == [2]

        network.restart("two")
        assert network.processes["two"].pid != before
        assert [d.id for d in builder.datasets(task=cards.TASK)] == [1, 2], "same endpoint, same TLS key"

        other = network.create_builder("other", units=5)
        second = uf.connect(network.rpc_url, contract=network.compute_access, key=other)
        assert second.balance().wallet[network.token] == 5
        with pytest.raises(ConfigError, match="lives in memory"):
            network.restart("chain")
        pids = [process.pid for process in network.processes.values()]
    assert not any(alive(pid) for pid in pids)
    assert processes_of(tmp_path / "net") == set()


def test_a_wrong_setting_stops_the_start_and_leaves_nothing_running(tmp_path: Path) -> None:
    network = WatchedNetwork(tmp_path / "net", [holder("one", policy={"max_rounds": 0})])
    with pytest.raises(ConfigError, match="max_rounds"):
        network.start()
    assert processes_of(tmp_path / "net") == set()
    assert not network.processes["chain"].running


def test_a_process_that_dies_while_starting_is_quoted(tmp_path: Path) -> None:
    from usufruct_server.demo.processes import Command, Process

    wrong = tmp_path / "aggregator.toml"
    wrong.write_text('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "state"\nspeed = 9\n')
    process = Process(
        Command("aggregator", ("aggregator", "serve", "--config", str(wrong)), "Serving"), tmp_path / "log"
    )
    process.start()
    with pytest.raises(ConfigError, match=r"(?s)'aggregator' ended with code 1 .*aggregator\.toml:4"):
        process.wait_ready(60)
    assert not process.running


def test_holders_need_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="distinct names"):
        WatchedNetwork(tmp_path, [holder("one"), holder("one")])
