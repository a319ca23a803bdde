"""What an audit collects depends on the chain alone: not on the node's restarts, lags or lies, which are found out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from anvil_node import AnvilNode
from lying_proxy import Lie, LyingProxy, honest
from network_on_node import WorkedNetwork, network_on
from node_views import copy_state, lagging

from usufruct.audit import collect, judge
from usufruct.chain import Chain, LegState
from usufruct.chain.interface import interface
from usufruct.chain.rpc import Rpc
from usufruct.cli import main
from usufruct.errors import ChainError


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkedNetwork]:
    folder = tmp_path_factory.mktemp("ledgers")
    with AnvilNode(finality=0) as node, network_on(node, folder) as network:
        yield network


@pytest.fixture(scope="module")
def node(network: WorkedNetwork) -> AnvilNode:
    return network.dev_chain._node  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def records(network: WorkedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept by the auditor, so that the chain alone is what differs."""
    return network.keep_records(tmp_path_factory.mktemp("kept") / "records")


@pytest.fixture
def proxy(node: AnvilNode) -> Iterator[LyingProxy]:
    with LyingProxy(node.url) as standing:
        yield standing


def test_a_node_that_restarts_gives_the_same_evidence(
    network: WorkedNetwork, node: AnvilNode, records: Path, tmp_path: Path
) -> None:
    before = collect(node.url, network.compute_access, records)
    assert judge(before).verified
    state = copy_state(node, tmp_path / "state.json")
    for _ in range(2):
        with AnvilNode(state, finality=0) as started:
            assert collect(started.url, network.compute_access, records) == before
            started.stop()  # it writes its state


def test_a_node_that_lags_gives_the_evidence_of_its_block_and_later_the_rest(
    network: WorkedNetwork, node: AnvilNode, records: Path, proxy: LyingProxy, tmp_path: Path
) -> None:
    before, height = collect(node.url, network.compute_access, records), node.height()
    network.work_on()
    proxy.lie = lagging(node, height, 0)
    assert collect(proxy.url, network.compute_access, records) == before
    assert collect(f"{node.url} {proxy.url}", network.compute_access, records) == before
    proxy.lie = honest
    later = network.keep_records(tmp_path / "records")
    after = collect(f"{node.url} {proxy.url}", network.compute_access, later)
    assert after == collect(node.url, network.compute_access, later)
    assert after.events[: len(before.events)] == before.events
    assert len(after.events) > len(before.events)
    assert judge(after).verified


# -- lies --------------------------------------------------------------------------------------------------------


def topic(event: str) -> str:
    (found,) = {
        "0x" + abi.topics[event].hex()
        for abi in map(interface, ("ComputeAccess", "UsageLog"))
        if event in abi.topics
    }
    return found


def hiding(event: str) -> Lie:
    """The last event of this name is not shown."""

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method != "eth_getLogs":
            return result
        mine = [log for log in result if log["topics"][0] == topic(event)]
        return [log for log in result if log not in mine[-1:]]

    return lie


def inventing(network: WorkedNetwork, node: AnvilNode) -> Lie:
    """The leg that was delivered and not paid is shown as paid, in the block and the transaction of one that was."""
    unpaid = "0x" + network.holders[2].dataset_id.to_bytes(32, "big").hex()
    (paid,) = node.request(
        "eth_getLogs",
        {
            "address": network.compute_access,
            "fromBlock": "0x0",
            "toBlock": "latest",
            "topics": [topic("LegClosed")],
        },
    )[-1:]
    invented = {
        **paid, "topics": [*paid["topics"][:2], unpaid, *paid["topics"][3:]],
        "logIndex": hex(int(paid["logIndex"], 16) + 7),
    }  # fmt: skip

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method != "eth_getLogs":
            return result
        wanted, block = params[0], int(invented["blockNumber"], 16)
        if not int(wanted["fromBlock"], 16) <= block <= int(wanted["toBlock"], 16):
            return result
        for topic_, have in zip(wanted.get("topics") or [], invented["topics"], strict=False):
            if topic_ not in (None, have):
                return result
        return sorted(
            [*result, invented], key=lambda log: (int(log["blockNumber"], 16), int(log["logIndex"], 16))
        )

    return lie


def verify(network: WorkedNetwork, records: Path, rpc: str) -> tuple[int, dict[str, Any]]:
    """`usufruct audit verify`: its exit code, and what it says."""
    out, code = io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        try:
            main(
                ["audit", "verify", "--rpc", rpc, "--contract", network.compute_access, "--records", str(records), "--json"]
            )  # fmt: skip
        except SystemExit as end:
            code = int(end.code or 0)
    said: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return code, said


@pytest.mark.parametrize(
    "lie",
    ["hides LegClosed", "hides LegDelivered", "hides LegLocked", "hides UsageBatch", "invents LegClosed"],
)
def test_a_node_that_hides_or_invents_events_is_found_out(
    network: WorkedNetwork, node: AnvilNode, proxy: LyingProxy, tmp_path: Path, lie: str
) -> None:
    records = network.keep_records(tmp_path / "records")
    verb, event = lie.split()
    assert verify(network, records, proxy.url)[0] == 0
    proxy.lie = hiding(event) if verb == "hides" else inventing(network, node)
    code, said = verify(network, records, proxy.url)
    assert code == 1
    assert "error" in said or (not said["verified"] and said["findings"])


def test_a_leg_is_only_believed_as_it_is_stored(
    network: WorkedNetwork, node: AnvilNode, proxy: LyingProxy
) -> None:
    """Who asks for one leg hears the truth or an error: from a liar alone, and from one beside an honest node."""
    job, paid, unpaid = network.first.job_id, network.holders[0].dataset_id, network.holders[2].dataset_id
    urls = [node.url, proxy.url]
    truth = network.chain.leg(job, unpaid)
    assert truth is not None
    assert truth.state is LegState.DELIVERED
    for lie, dataset in ((hiding("LegClosed"), paid), (inventing(network, node), unpaid)):
        proxy.lie = lie
        alone, beside = (
            Chain(Rpc(rpc, 5.0, patience_seconds=0.2), network.compute_access) for rpc in (proxy.url, urls)
        )
        if dataset == paid:
            with pytest.raises(ChainError, match="do not fit the contracts' storage"):
                alone.leg(job, dataset)
        else:  # what comes after the form that is stored is nothing that has happened
            assert alone.leg(job, dataset) == truth
        with pytest.raises(ChainError) as caught:
            beside.leg(job, dataset)
        assert caught.value.reason == "CHAIN_DISAGREES"
