"""RPC endpoints that lie, lag or talk nonsense: nothing proceeds on what they say."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from anvil_node import AnvilNode
from eth_abi.abi import encode
from lying_proxy import LyingProxy, honest
from token_world import PATIENT, TokenWorld

from usufruct.chain.account import SendPolicy
from usufruct.chain.endpoint import MOST_ANSWER_BYTES, Endpoint, RpcRefused
from usufruct.chain.event_reader import read_logs
from usufruct.chain.interface import interface
from usufruct.chain.outbox import State
from usufruct.chain.reverts import refusal
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError, ConfigError


@pytest.fixture
def proxy(world: TokenWorld) -> Iterator[LyingProxy]:
    with LyingProxy(world.node.url) as standing:
        yield standing


def both(world: TokenWorld, proxy: LyingProxy, **settings: Any) -> Rpc:
    return Rpc([world.node.url, proxy.url], 5.0, **{"patience_seconds": 0.3, **settings})


def disagree(ask: Any) -> None:
    with pytest.raises(ChainError) as caught:
        ask()
    assert caught.value.reason == "CHAIN_DISAGREES"


# -- two that must agree -----------------------------------------------------------------------------------------


def test_two_honest_endpoints_answer_as_one(world: TokenWorld, proxy: LyingProxy) -> None:
    rpc = both(world, proxy)
    account = world.account(policy=PATIENT, rpc=rpc)
    account.send(world.token, world.mint(5), "mint", "one")
    world.node.mine(70)
    receipt = account.wait_final("one")
    assert rpc.receipt(receipt.hash) == world.node.rpc.receipt(receipt.hash)
    assert rpc.final_block() == world.node.rpc.final_block()
    assert len(read_logs(rpc, [world.token], [], 0, rpc.final_block().number)) == 1
    assert "eth_sendRawTransaction" in proxy.asked
    with pytest.raises(ConfigError, match="different"):
        Rpc([world.node.url] * 2, 5.0)


def test_another_chain_is_found_out(world: TokenWorld, proxy: LyingProxy) -> None:
    proxy.lie = lambda method, params, result: "0x1" if method == "eth_chainId" else result
    disagree(both(world, proxy).chain_id)


def test_a_view_that_is_answered_differently_decides_nothing(world: TokenWorld, proxy: LyingProxy) -> None:
    rpc, block = both(world, proxy), world.node.height()
    data = interface("TestToken").encode_call("balanceOf", world.key.address)
    assert rpc.call(world.token, data, block) == bytes(32)
    proxy.lie = lambda method, params, result: "0x" + "ff" * 32 if method == "eth_call" else result
    disagree(lambda: rpc.call(world.token, data, block))

    def refuses(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_call":
            raise RpcRefused("execution reverted", b"")
        return result

    proxy.lie = refuses
    disagree(lambda: rpc.call(world.token, data, block))


def test_a_refusal_by_one_of_them_is_not_believed(world: TokenWorld, proxy: LyingProxy) -> None:
    """Before a transaction is signed, both are asked whether it would be refused; then nothing is written down."""

    def refuses(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_estimateGas":
            raise RpcRefused("execution reverted", b"")
        return result

    account = world.account(policy=PATIENT, rpc=both(world, proxy))
    proxy.lie = refuses
    disagree(lambda: account.send(world.token, world.mint(5), "mint", "one"))
    assert account.sent("one") is None
    proxy.lie = honest
    account.send(world.token, world.mint(5), "mint", "one")
    assert world.balance() == 5


def test_another_final_block_is_found_out(world: TokenWorld, proxy: LyingProxy) -> None:
    def forked(method: str, params: list[Any], result: Any) -> Any:
        return {**result, "hash": "0x" + "ab" * 32} if method == "eth_getBlockByNumber" else result

    proxy.lie = forked
    disagree(both(world, proxy).final_block)


def test_the_slower_one_says_what_is_final(world: TokenWorld, proxy: LyingProxy) -> None:
    old = world.node.rpc.final_block()
    world.node.mine(10)
    assert world.node.rpc.final_block().number == old.number + 10
    proxy.lie = _stale(old.number)
    rpc = both(world, proxy, lag_seconds=600)
    assert rpc.final_block() == old
    assert rpc.final_block() == old
    hasty = both(world, proxy, lag_seconds=0)
    assert hasty.final_block() == old
    disagree(hasty.final_block)
    proxy.lie = honest
    assert rpc.final_block().number == old.number + 10


def _stale(final: int) -> Any:
    """A node that has stopped following the chain."""

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_blockNumber":
            return hex(final + 64)
        if method == "eth_getBlockByNumber" and params[0] == "finalized":
            return {**result, "number": hex(final)}
        return result

    return lie


def test_what_was_final_never_goes_back(world: TokenWorld, proxy: LyingProxy) -> None:
    rpc = Rpc(proxy.url, 5.0, patience_seconds=0.2)
    final = rpc.final_block()
    world.node.mine(10)
    assert rpc.final_block().number == final.number + 10
    proxy.lie = _stale(final.number)
    disagree(rpc.final_block)


def test_missing_events_are_found_out(world: TokenWorld, proxy: LyingProxy) -> None:
    account = world.account(policy=PATIENT)
    for _ in range(3):
        account.send(world.token, world.mint(1), "mint")
    last = world.node.height()
    proxy.lie = lambda method, params, result: result[:-1] if method == "eth_getLogs" else result
    assert len(read_logs(world.node.rpc, [world.token], [], 0, last)) == 3
    disagree(lambda: read_logs(both(world, proxy), [world.token], [], 0, last))


def test_one_that_is_gone_stops_everything_with_its_name(world: TokenWorld) -> None:
    gone = "http://127.0.0.1:1"
    with pytest.raises(ChainError, match=gone) as caught:
        Rpc([world.node.url, gone], 5.0).final_block()
    assert caught.value.reason == "CHAIN_UNREACHABLE"


def test_waiting_for_finality_is_shown_block_by_block(world: TokenWorld) -> None:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        world.node.mine(5)

    start, rpc = world.node.rpc.final_block().number, Rpc(world.node.url, 5.0)
    rpc.wait_final(start + 12, tell)
    assert lines == [f"waiting for finality: {done} of 12 blocks" for done in (0, 5, 10)]
    assert rpc.final_block().number == start + 15
    rpc.wait_final(start, tell)
    assert len(lines) == 3
    with pytest.raises(ChainError) as late:
        rpc.wait_final(start + 1000, lambda line: None, timeout_seconds=0.1)
    assert late.value.reason == "LEG_NOT_OPEN"


# -- transactions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_a_forged_receipt_is_no_receipt(world: TokenWorld, proxy: LyingProxy, alone: bool) -> None:
    """The liar shows a receipt of a block that does not list the transaction."""

    def forge(method: str, params: list[Any], result: Any) -> Any:
        if method != "eth_getTransactionReceipt":
            return result
        block = world.node.request("eth_getBlockByNumber", "latest", False)
        return {
            "transactionHash": params[0], "blockHash": block["hash"], "blockNumber": block["number"], "status": "0x1",
            "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "contractAddress": None, "logs": [],
        }  # fmt: skip

    proxy.lie = forge
    world.node.hold()
    rpc = Rpc(proxy.url, 5.0, patience_seconds=0.2) if alone else both(world, proxy)
    account = world.account(policy=SendPolicy(mined_seconds=0.5, rebroadcast_seconds=0.05), rpc=rpc)
    with pytest.raises(ChainError) as caught:
        account.send(world.token, world.mint(5), "mint", "one")
    assert caught.value.reason == ("CHAIN_DISAGREES" if alone else "TRANSACTION_FAILED")
    proxy.lie = honest
    world.node.hold(False)
    assert account.send(world.token, world.mint(5), "mint", "one").succeeded
    assert (world.balance(), world.sent()) == (5, 1)


def test_a_forged_failure_is_found_out(world: TokenWorld, proxy: LyingProxy) -> None:
    def fail(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getTransactionReceipt" and result is not None:
            return {**result, "status": "0x0", "logs": []}
        return result

    proxy.lie = fail
    account = world.account(policy=PATIENT, rpc=both(world, proxy))
    disagree(lambda: account.send(world.token, world.mint(5), "mint", "one"))
    proxy.lie = honest
    assert account.send(world.token, world.mint(5), "mint", "one").succeeded
    assert (world.balance(), world.sent()) == (5, 1)


def test_a_withheld_receipt_does_not_send_twice(world: TokenWorld, proxy: LyingProxy) -> None:
    """As a node does that has lost its index of transactions: the nonce is used, and by nobody."""

    def withhold(method: str, params: list[Any], result: Any) -> Any:
        return None if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash") else result

    proxy.lie = withhold
    account = world.account(policy=SendPolicy(mined_seconds=0.5), rpc=Rpc(proxy.url, 5.0))
    with pytest.raises(ChainError, match="not mined in time"):
        account.send(world.token, world.mint(5), "mint", "one")
    world.node.mine(70)
    with pytest.raises(ChainError, match="does not find a transaction that its block"):
        account.settle()
    proxy.lie = honest
    assert account.send(world.token, world.mint(5), "mint", "one").repeated
    assert (world.balance(), world.sent()) == (5, 1)


def test_a_receipt_of_a_block_that_is_gone_does_not_count(world: TokenWorld, proxy: LyingProxy) -> None:
    account = world.account(policy=PATIENT, rpc=Rpc(proxy.url, 5.0))
    receipt = account.send(world.token, world.mint(5), "mint", "one")
    old = world.node.request("eth_getTransactionReceipt", "0x" + receipt.hash.hex())
    world.node.mine(3)
    world.node.reorg(4)
    proxy.lie = lambda method, params, result: old if method == "eth_getTransactionReceipt" else result
    account.settle()
    account.settle()
    assert [entry.state for entry in account._outbox.open_entries()] == [State.PENDING]
    proxy.lie = honest
    again = account.send(world.token, world.mint(5), "mint", "one")
    assert (again.hash, again.block_hash == receipt.block_hash) == (receipt.hash, False)
    assert (world.balance(), world.sent()) == (5, 1)


def test_a_count_that_lies_sends_nothing_twice(world: TokenWorld, proxy: LyingProxy) -> None:
    account = world.account(policy=PATIENT)
    account.send(world.token, world.mint(1), "mint")
    proxy.lie = lambda method, params, result: "0x9" if method == "eth_getTransactionCount" else result
    wrong = world.account(policy=SendPolicy(mined_seconds=0.5), rpc=Rpc(proxy.url, 5.0))
    with pytest.raises(ChainError, match="not mined in time"):
        wrong.send(world.token, world.mint(5), "mint", "one")
    two = world.account(policy=PATIENT, rpc=both(world, proxy))
    two.send(world.token, world.mint(7), "mint")
    assert (world.balance(), world.sent()) == (8, 2)


# -- hostile bytes -----------------------------------------------------------------------------------------------


NONSENSE = (
    b"", b"null", b"[]", b"{}", b"17", b'{"id": 1, "result": ', b'{"result": {}}', b'{"result": "0x"}',
    b'{"result": "-0x1"}', b'{"result": 5}', b'{"id": 77, "result": "0x1"}', b'{"result": "0x' + b"f" * 65 + b'"}',
    b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b'{"result": {"number": "0x1", "hash": "0x12"}}',
    b'{"result": [[[[[]]]]]}', b'{"error": null}', b'{"result": "0x1", "id": {"a": 1}}',
)  # fmt: skip


def test_nonsense_is_no_answer(world: TokenWorld, proxy: LyingProxy) -> None:
    rpc = Rpc(proxy.url, 5.0)
    asked = (
        rpc.chain_id,
        rpc.final_block,
        rpc.newest,
        lambda: rpc.logs([world.token], [], 0, 1),
        lambda: rpc.receipt(bytes(32)),
        lambda: rpc.transaction(bytes(32)),
    )
    for proxy.body in NONSENSE:
        for ask in asked:
            with pytest.raises(ChainError) as caught:
                ask()
            assert caught.value.reason == "CHAIN_UNREACHABLE", proxy.body


def test_numbers_and_lists_out_of_range_are_no_answer(world: TokenWorld, proxy: LyingProxy) -> None:
    account = world.account(policy=PATIENT)
    account.send(world.token, world.mint(1), "mint")
    last = world.node.height()
    log = world.node.request(
        "eth_getLogs", {"address": world.token, "fromBlock": "0x0", "toBlock": "latest"}
    )[0]
    wrong = [
        [{**log, "address": "0x" + "11" * 20}],
        [{**log, "blockNumber": hex(last + 1)}],
        [{**log, "removed": True}],
        [{**log, "topics": log["topics"] * 2}],
        [{**log, "data": "0x123"}],
        [{**log, "logIndex": hex(2**60)}],
        [{**log, "blockHash": None}],
        [log, log],
        [log, {**log, "logIndex": "0x7", "blockHash": "0x" + "22" * 32}],
        {"0": log},
    ]
    rpc = Rpc(proxy.url, 5.0)
    for answer in wrong:
        proxy.lie = lambda method, params, result, answer=answer: answer
        with pytest.raises(ChainError, match="is not a chain's JSON-RPC endpoint"):
            rpc.logs([world.token], [], 0, last)
    proxy.lie = honest
    assert len(rpc.logs([world.token], [], 0, last)) == 1


class _Endless(http.server.BaseHTTPRequestHandler):
    """Sends as much, or as slowly, as its path says; or sends the client elsewhere."""

    elsewhere: list[str] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/elsewhere":
            self.send_response(307)
            self.send_header("Location", "/fetched")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.elsewhere.append(self.path)
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/slowly":
                for _ in range(200):
                    self.wfile.write(b" ")
                    threading.Event().wait(0.05)
            for _ in range(MOST_ANSWER_BYTES // (1 << 20) + 8 if self.path == "/endless" else 0):
                self.wfile.write(b" " * (1 << 20))
        except OSError:
            pass

    def log_message(self, *unused: object) -> None:
        """Requests are not logged."""


@pytest.fixture
def endless() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(("path", "seconds"), [("/endless", 30.0), ("/slowly", 0.5), ("/elsewhere", 5.0)])
def test_answers_end_in_size_and_time_and_lead_nowhere(endless: str, path: str, seconds: float) -> None:
    _Endless.elsewhere.clear()
    with pytest.raises(ChainError) as caught:
        Endpoint(endless + path, seconds).request("eth_chainId")
    assert caught.value.reason == "CHAIN_UNREACHABLE"
    assert "/fetched" not in _Endless.elsewhere


def test_an_offchain_lookup_is_a_refusal_and_fetches_nothing(node: AnvilNode, endless: str) -> None:
    """EIP-3668: a contract asks the client to fetch a URL and to send on what it finds. Nobody here does."""
    _Endless.elsewhere.clear()
    where = "0x" + "c1" * 20
    arguments = encode(
        ["address", "string[]", "bytes", "bytes4", "bytes"],
        [where, [f"{endless}/{{sender}}/{{data}}"], b"ask", b"\x12\x34\x56\x78", b""],
    )
    lookup = bytes.fromhex("556f1830") + arguments
    # copies what follows this code into memory and reverts with it
    length = len(lookup).to_bytes(2, "big")
    code = b"\x61" + length + b"\x60\x0e\x60\x00\x39\x61" + length + b"\x60\x00\xfd"
    assert len(code) == 0x0E
    node.request("anvil_setCode", where, "0x" + (code + lookup).hex())
    for ask in (
        lambda: node.rpc.call(where, b"\x01", "latest"),
        lambda: node.rpc.estimate_gas({"from": where, "to": where, "data": "0x01"}),
    ):
        with pytest.raises(RpcRefused) as caught:
            ask()
        assert caught.value.data == lookup
        assert refusal("a view", caught.value.data).reason == "TRANSACTION_FAILED"
    assert _Endless.elsewhere == []


def test_a_chain_without_final_blocks_names_the_setting(world: TokenWorld, proxy: LyingProxy) -> None:
    for nothing in (None, RpcRefused("invalid block tag", None)):

        def untagged(method: str, params: list[Any], result: Any, nothing: Any = nothing) -> Any:
            if params[:1] == ["finalized"]:
                if nothing is not None:
                    raise nothing
                return None
            return result

        proxy.lie = untagged
        with pytest.raises(ChainError, match="`confirmations`"):
            Rpc(proxy.url, 5.0).final_block()
        assert Rpc(proxy.url, 5.0, confirmations=12).final_block().number == world.node.height() - 12


def test_the_proxy_is_honest_where_it_is_told_to_be(world: TokenWorld, proxy: LyingProxy) -> None:
    for method, params in (("eth_chainId", []), ("eth_getBlockByNumber", ["latest", False])):
        assert json.dumps(Endpoint(proxy.url, 5.0).request(method, *params)) == json.dumps(
            world.node.request(method, *params)
        )
