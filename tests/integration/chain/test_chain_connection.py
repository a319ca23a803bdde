"""Connecting: the wrong chain, no chain, a lying node; and the development chain's own manners."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from chain_world import World
from eth_account import Account
from typer.testing import CliRunner

from usufruct.chain import Chain, LegState, Sender, load_key
from usufruct.chain.commands import app
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError, ConfigError


def test_an_address_without_our_contract_is_the_wrong_chain(world: World) -> None:
    for other in (world.token, world.chain.registry, "0x" + "33" * 20):
        with pytest.raises(ChainError) as caught:
            Chain.connect(world.node.url, other)
        assert caught.value.reason == "WRONG_CHAIN"


def test_a_final_block_is_asked_once_and_the_next_one_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, asked, call = world.chain, list[int | str](), Rpc.call

    def counting(self: Rpc, to: str, data: bytes, block: int | str) -> bytes:
        if self is chain.rpc:  # other tests' servers may still look at their chains
            asked.append(block)
        return call(self, to, data, block)

    monkeypatch.setattr(Rpc, "call", counting)
    before = chain.at_final()
    cap = before.dataset(1).cap_micro
    assert chain.at_final().dataset(1).cap_micro == cap
    assert asked == [before.final_block()[0]]
    world.node.evm.mine()
    after = chain.at_final()
    assert after.final_block()[0] > before.final_block()[0]
    assert after.dataset(1).cap_micro == before.dataset(1).cap_micro == cap
    assert asked == [before.final_block()[0], after.final_block()[0]]


def test_no_chain_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(ChainError, match=url) as caught:
        Chain.connect(url, "0x" + "33" * 20)
    assert caught.value.reason == "CHAIN_UNREACHABLE"
    assert time.monotonic() - started < 6


def test_a_chain_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(ChainError) as caught:
            Chain.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", "0x" + "33" * 20, timeout_seconds=1)
        assert caught.value.reason == "CHAIN_UNREACHABLE"
        assert time.monotonic() - started < 6


def test_a_chain_that_stops_is_told(world: World) -> None:
    world.chain.dataset(1)
    world.node.stop()
    started = time.monotonic()
    with pytest.raises(ChainError) as caught:
        world.chain.dataset(1)
    assert caught.value.reason == "CHAIN_UNREACHABLE"
    assert time.monotonic() - started < 6


def test_a_url_with_a_key_does_not_show_it() -> None:
    with pytest.raises(ChainError) as caught:
        Chain.connect("http://user:secret@127.0.0.1:1/v3/secret", "0x" + "33" * 20)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        Chain.connect("ftp://127.0.0.1", "0x" + "33" * 20)


def test_what_is_not_final_is_not_seen(world: World) -> None:
    careful = Chain.connect(world.node.url, world.addresses.compute_access, confirmations=3)
    job = world.open(world.datasets[:1])
    assert careful.leg(job, world.datasets[0]) is None
    assert careful.job_legs(job) == []
    for _ in range(3):
        world.node.evm.mine()
    leg = careful.leg(job, world.datasets[0])
    assert leg is not None
    assert leg.state is LegState.LOCKED


def test_unknown_holders_and_datasets_have_their_reasons(world: World) -> None:
    for ask, reason in ((world.chain.holder, "NOT_FOUND"), (world.chain.dataset, "DATASET_UNKNOWN")):
        with pytest.raises(ChainError) as caught:
            ask(99)
        assert caught.value.reason == reason
    assert world.chain.leg(bytes(32), 1) is None


def test_an_account_without_coin_is_told_to_get_some(world: World) -> None:
    poor = Sender(world.chain, Account.create())
    with pytest.raises(ChainError, match="enough of the chain's coin") as caught:
        poor.register_holder(poor.address, poor.address, "127.0.0.1:1", b"\x01" * 32)
    assert caught.value.reason == "TRANSACTION_FAILED"


def test_many_threads_share_one_sender(world: World) -> None:
    errors: list[BaseException] = []

    def mint() -> None:
        try:
            world.stranger.mint_test_token(world.token, world.stranger.address, 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=mint) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert world.stranger.deposit(world.token, 8).gas_used > 0


def test_two_senders_of_one_key_count_their_transactions_again(world: World) -> None:
    twins = [Sender(world.chain, world.builder_key) for _ in range(2)]
    failures: list[BaseException] = []

    def mint(sender: Sender) -> None:
        try:
            for _ in range(4):
                sender.mint_test_token(world.token, sender.address, 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=mint, args=(twin,)) for twin in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- the development chain ---------------------------------------------------------------------------------------


def test_the_development_chain_keeps_the_wall_clocks_time(world: World) -> None:
    for _ in range(20):
        world.stranger.mint_test_token(world.token, world.stranger.address, 1)
    assert abs(world.chain.block_time_seconds() - time.time()) <= 3
    world.node.evm.increase_time(1000)
    assert abs(world.chain.block_time_seconds() - time.time() - 1000) <= 3


def test_the_development_chain_remembers_old_blocks(world: World) -> None:
    before = world.chain.final_block()[0]
    world.admin.retire_dataset(1)
    assert world.chain.dataset(1, before).active
    assert not world.chain.dataset(1).active


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"nonsense", b'{"method": "eth_call", "params": 3, "id": 1}', b"[" * 100_000,
        b'{"method": "eth_getBalance", "params": ["0x12"], "id": 1}',
        b'{"method": "eth_call", "params": [{"to": 5}], "id": 1}',
        b'{"method": "eth_getLogs", "params": [{"topics": [[7]]}], "id": 1}',
        b'{"method": "eth_sendRawTransaction", "params": ["0x02c0"], "id": 1}',
        b'{"method": "eth_getBlockByNumber", "params": [], "id": 1}',
        b'{"method": "dev_fund", "params": ["0x00", "-1"], "id": 1}',
        b'{"method": ["a"], "id": 1}',
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_an_error_and_the_chain_goes_on(body: bytes) -> None:
    with DevChain() as node:
        request = urllib.request.Request(node.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert "error" in json.loads(answer.read())
        assert Rpc(node.url, 5).chain_id() == 1337


def test_a_web_page_cannot_post_to_the_development_chain() -> None:
    with DevChain() as node:
        request = urllib.request.Request(
            node.url, b'{"method": "dev_mine", "id": 1}', {"Content-Type": "text/plain"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 415
        assert node.evm.head.block_number == 0


def test_a_port_in_use_is_named() -> None:
    with DevChain() as node:
        port = int(node.url.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match=str(port)) as caught:
            DevChain(port)
        assert caught.value.reason == "PORT_IN_USE"


# -- commands ----------------------------------------------------------------------------------------------------


def test_a_key_from_the_command_line(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("for a test\n")
    made = CliRunner().invoke(
        app, ["key", str(tmp_path / "k.json"), "--passphrase-file", str(secret), "--json"]
    )
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["address"] == load_key(tmp_path / "k.json", "for a test").address


def test_the_development_chain_runs_as_a_process_and_ends_when_told() -> None:
    command = [sys.executable, "-m", "usufruct.cli", "chain", "dev", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert Rpc(said["rpc_url"], 5).chain_id() == said["chain_id"]
        finally:
            process.terminate()
        assert process.wait(timeout=20) == 0


def test_anyone_may_have_gas_money_on_the_development_chain(world: World) -> None:
    url, poor = world.node.url, [Account.create().address for _ in range(2)]
    done = CliRunner().invoke(app, ["fund", *poor, "--rpc", url, "--json"])
    assert done.exit_code == 0, done.output
    assert [Rpc(url, 5).balance_wei(owner) for owner in poor] == [10**18] * 2


def test_a_copy_of_a_chain_begins_where_it_was_and_goes_its_own_way(world: World) -> None:
    evm = world.node.evm
    evm.increase_time(1000)
    copy, head = evm.copy(), evm.head
    assert (copy.head, copy.now_seconds() - evm.now_seconds() in (0, 1)) == (head, True)
    somebody, other = b"\x01" * 20, b"\x02" * 20
    evm.fund(somebody, 5)
    copy.fund(other, 7)
    copy.increase_time(1000)
    assert [evm.balance(who, evm.head) for who in (somebody, other)] == [5, 0]
    assert [copy.balance(who, copy.head) for who in (somebody, other)] == [0, 7]
    assert evm.head.block_number == head.block_number + 1
    assert evm.mined(copy.transaction_in(head.block_number + 1) or b"") is None
    with DevChain(evm=copy) as node:
        chain = Chain.connect(node.url, world.addresses.compute_access)
        assert chain.datasets() == world.chain.datasets()
        assert list(chain.events()) == list(world.chain.events())
