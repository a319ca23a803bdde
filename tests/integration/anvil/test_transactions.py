"""Transactions on a chain that drops, replaces, reorganises and restarts: each is mined exactly once."""

from __future__ import annotations

import secrets
import stat
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from anvil_node import AnvilNode
from eth_account import Account as Keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_world import PATIENT, QUICK, TokenWorld

from usufruct.chain.account import Account, SendPolicy
from usufruct.chain.interface import interface
from usufruct.chain.outbox import State
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError, ConfigError


class Sending(threading.Thread):
    """A ``send`` in the background; :meth:`result` waits for it."""

    def __init__(self, world: TokenWorld, account: Account, data: bytes, purpose: str | None = None) -> None:
        super().__init__(daemon=True)
        self._ask = (world.token, data, "mint", purpose)
        self._account = account
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._receipt = self._account.send(*self._ask)
        except BaseException as error:
            self._error = error

    def result(self) -> object:
        self.join(30)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        return self._receipt


def waiting(account: Account, attempts: int = 1) -> None:
    """Returns once the outbox's one open transaction has so many attempts."""
    pause = threading.Event()
    for _ in range(2000):
        with account._lock:
            entries = account._outbox.open_entries()
        if entries and len(entries[-1].attempts) >= attempts:
            return
        pause.wait(0.01)
    raise AssertionError("nothing waits")


# -- the same purpose --------------------------------------------------------------------------------------------


def test_the_same_purpose_is_the_same_transaction(world: TokenWorld) -> None:
    account = world.account()
    first = account.send(world.token, world.mint(5), "mint", "one")
    again = account.send(world.token, world.mint(5), "mint", "one")
    assert (first.repeated, again.repeated, again.hash) == (False, True, first.hash)
    with pytest.raises(ChainError) as other:
        account.send(world.token, world.mint(6), "mint", "one")
    assert other.value.reason == "REQUEST_ID_REUSED"
    account.send(world.token, world.mint(5), "mint")
    account.send(world.token, world.mint(5), "mint")
    assert (world.balance(), world.sent()) == (15, 3)


def test_many_threads_with_one_purpose_send_once(world: TokenWorld) -> None:
    account = world.account()
    sendings = [Sending(world, account, world.mint(5), "one") for _ in range(8)]
    assert len({sending.result().hash for sending in sendings}) == 1  # type: ignore[attr-defined]
    assert (world.balance(), world.sent()) == (5, 1)


def test_a_refusal_is_told_before_anything_is_written(world: TokenWorld, tmp_path: Path) -> None:
    account = world.account(tmp_path / "outbox")
    transfer = interface("TestToken").encode_call("transfer", world.token, 1)
    with pytest.raises(ChainError, match="ERC20InsufficientBalance"):
        account.send(world.token, transfer, "transfer", "one")
    assert account.settle() == 0
    poor = Account(world.node.rpc, world.chain_id, Keys.create(), tmp_path / "poor")
    with pytest.raises(ChainError, match="enough of the chain's coin"):
        poor.send(world.token, world.mint(1), "mint", "one")
    assert poor.settle() == 0


def test_an_outbox_is_private_holds_no_key_and_belongs_to_one_process(
    world: TokenWorld, tmp_path: Path
) -> None:
    path = tmp_path / "outbox"
    account = world.account(path)
    account.send(world.token, world.mint(5), "mint", "one")
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
        assert bytes(world.key.key) not in file.read_bytes()
    with pytest.raises(ConfigError, match="another process") as locked:
        world.account(path)
    assert locked.value.reason == "LEDGER_LOCKED"
    account.close()
    with pytest.raises(ConfigError, match="outbox of"):
        Account(world.node.rpc, world.chain_id, Keys.create(), path)
    with pytest.raises(ConfigError, match="on chain"):
        Account(world.node.rpc, world.chain_id + 1, world.key, path)
    (tmp_path / "nonsense").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="no outbox"):
        world.account(tmp_path / "nonsense")


# -- dropped and replaced ----------------------------------------------------------------------------------------


def test_what_the_pool_drops_is_broadcast_again(world: TokenWorld) -> None:
    world.node.hold()
    account = world.account(policy=PATIENT)
    sending = Sending(world, account, world.mint(5), "one")
    waiting(account)
    for _ in range(3):
        world.node.drop_all()
    world.node.hold(False)
    sending.result()
    assert (world.balance(), world.sent()) == (5, 1)


def test_what_is_not_mined_is_signed_again_with_higher_fees_up_to_the_limit(world: TokenWorld) -> None:
    world.node.hold()
    account = world.account(policy=QUICK)
    sending = Sending(world, account, world.mint(5), "one")
    waiting(account, attempts=3)
    attempts = account._outbox.open_entries()[0].attempts
    for before, after in pairwise(attempts):
        assert after.max_fee_wei * 8 >= before.max_fee_wei * 9
        assert after.tip_wei is not None and before.tip_wei is not None
        assert after.tip_wei * 8 >= before.tip_wei * 9
    world.node.mine()
    sending.result()
    assert (world.balance(), world.sent()) == (5, 1)

    base = world.node.rpc.newest().base_fee_wei
    assert base is not None
    limit = 2 * base + 2 * 10**9
    careful = world.account(policy=SendPolicy(2, 0.05, 0.05, 20, limit))
    sending = Sending(world, careful, world.mint(5), "two")
    with pytest.raises(ChainError, match="not mined in time"):
        sending.result()
    attempts = careful._outbox.open_entries()[0].attempts
    assert 1 < len(attempts) < 10
    assert all(attempt.max_fee_wei <= limit for attempt in attempts)
    world.node.mine()
    assert careful.send(world.token, world.mint(5), "mint", "two").repeated
    assert (world.balance(), world.sent()) == (10, 2)


def test_a_base_fee_above_the_limit_is_told_and_nothing_is_sent(world: TokenWorld) -> None:
    account = world.account(policy=SendPolicy(most_fee_per_gas_wei=1))
    with pytest.raises(ChainError, match="above the limit of 1"):
        account.send(world.token, world.mint(5), "mint", "one")
    assert (account.settle(), world.sent()) == (0, 0)


# -- the same key elsewhere --------------------------------------------------------------------------------------


def test_a_nonce_that_another_program_used_is_replaced_only_when_that_is_final(swift: TokenWorld) -> None:
    swift.node.hold()
    account = swift.account(policy=PATIENT)
    sending = Sending(swift, account, swift.mint(5), "one")
    waiting(account)
    swift.foreign(0, swift.mint(100))
    swift.node.mine()
    for _ in range(3):
        account.settle()
    assert account._outbox.open_entries()[0].nonce == 0
    swift.node.hold(False)
    swift.node.mine(3)
    sending.result()
    assert (swift.balance(), swift.sent()) == (105, 2)


def test_where_the_other_transaction_is_reorganised_away_ours_keeps_its_nonce(swift: TokenWorld) -> None:
    swift.node.hold()
    account = swift.account(policy=PATIENT)
    sending = Sending(swift, account, swift.mint(5), "one")
    waiting(account)
    swift.foreign(0, swift.mint(100))
    swift.node.mine()
    account.settle()
    swift.node.hold(False)
    swift.node.reorg(1)
    sending.result()
    assert (swift.balance(), swift.sent()) == (5, 1)


def test_two_outboxes_of_one_key_both_get_through(swift: TokenWorld) -> None:
    rpc = Rpc(swift.node.url, 30.0, confirmations=0)
    accounts = [swift.account(policy=PATIENT, rpc=rpc) for _ in range(2)]
    sendings = [Sending(swift, account, swift.mint(1)) for account in accounts for _ in range(4)]
    for sending in sendings:
        sending.result()
    assert (swift.balance(), swift.sent()) == (8, 8)


def test_a_nonce_that_nobody_fills_any_more_is_filled(swift: TokenWorld) -> None:
    swift.node.hold()
    swift.foreign(0, swift.mint(100))
    account = swift.account(policy=QUICK)
    sending = Sending(swift, account, swift.mint(5), "one")
    waiting(account)
    assert account._outbox.open_entries()[-1].nonce == 1
    swift.node.drop_all()
    swift.node.hold(False)
    sending.result()
    assert (swift.balance(), swift.sent()) == (5, 2)


# -- reverted ----------------------------------------------------------------------------------------------------


class Robbery:
    """The key has five tokens and sends them; in the same block, and before, somebody else takes them."""

    def __init__(self, world: TokenWorld) -> None:
        self.token, other = interface("TestToken"), Keys.create()
        self.world, self.account = world, world.account(policy=PATIENT)
        world.node.fund(other.address)
        self.other = Account(world.node.rpc, world.chain_id, other)
        self.account.send(world.token, world.mint(5), "mint")
        approve = self.token.encode_call("approve", other.address, 5)
        self.account.send(world.token, approve, "approve")
        self.transfer = self.token.encode_call("transfer", world.token, 5)
        world.node.mine(3)
        self.before = world.node.height()
        world.node.hold()
        sending = Sending(world, self.account, self.transfer, "pay")
        waiting(self.account)
        taking = self.token.encode_call("transferFrom", world.key.address, other.address, 5)
        world.node.rpc.send_raw(self.other._sign(world.token, taking, 0, 200_000, 10**12, 10**11).raw)
        world.node.mine()
        world.node.hold(False)
        with pytest.raises(ChainError, match="ERC20InsufficientBalance"):
            sending.result()

    def give_back(self) -> None:
        data = self.token.encode_call("transfer", self.world.key.address, 5)
        self.other.send(self.world.token, data, "giving back")


def test_what_reverts_is_told_with_its_reason_and_is_tried_anew_only_when_that_is_final(
    world: TokenWorld,
) -> None:
    robbery = Robbery(world)
    with pytest.raises(ChainError, match="ERC20InsufficientBalance"):
        robbery.account.send(world.token, robbery.transfer, "transfer", "pay")
    robbery.give_back()
    sent = world.sent()
    retry = Sending(world, robbery.account, robbery.transfer, "pay")
    for _ in range(10):
        robbery.account.settle()
    assert retry.is_alive()
    assert world.sent() == sent
    world.node.mine(70)
    retry.result()
    assert (world.balance(), world.balance(world.token), world.sent()) == (0, 5, sent + 1)


def test_what_reverted_and_then_succeeds_on_another_branch_is_not_sent_beside_itself(
    world: TokenWorld,
) -> None:
    robbery = Robbery(world)
    sent = world.sent()
    world.node.reorg(world.node.height() - robbery.before)
    assert world.balance() == 5
    robbery.account.send(world.token, robbery.transfer, "transfer", "pay")
    assert (world.balance(), world.balance(world.token), world.sent()) == (0, 5, sent)


# -- reorganisations and restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(1, 65, 8))
def test_what_any_reorganisation_takes_away_is_mined_again(world: TokenWorld, first: int) -> None:
    account = world.account(policy=PATIENT)
    depths = range(first, first + 8)
    for minted, depth in enumerate(depths, 1):
        account.send(world.token, world.mint(1), "mint", f"mint {depth}")
        world.node.mine(depth - 1)
        world.node.reorg(depth)
        for _ in range(50):  # the node answers before it has mined what it was given
            account.settle()
            if world.balance() == minted:
                break
            time.sleep(0.02)
        assert world.balance() == minted, f"after a reorganisation of {depth} blocks"
    world.node.mine(70)
    account.settle()  # the last one may only now be seen to be mined, and next to be final
    assert account.settle() == 0
    assert (world.balance(), world.sent()) == (len(depths), len(depths))


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("mine"), st.integers(1, 40)),
    st.tuples(st.just("reorg"), st.integers(1, 64)),
    st.tuples(st.sampled_from(["drop", "settle", "restart"]), st.just(0)),
)


@settings(
    max_examples=15, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(STEPS, max_size=12))
def test_a_chain_reorganised_at_any_step_has_each_transaction_once(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    """Any order of sending, mining, dropping, reorganising, and restarting the sender."""
    with AnvilNode() as node:
        world, path, wanted = TokenWorld.on(node), tmp_path / secrets.token_hex(8), 0
        account = world.account(path, PATIENT)
        for step, value in steps:
            if step == "send":
                for _ in range(value):
                    account.send(world.token, world.mint(1), "mint", f"mint {wanted}")
                    wanted += 1
            elif step == "mine":
                node.mine(value)
            elif step == "reorg":
                node.reorg(value)
            elif step == "drop":
                node.drop_all()
            elif step == "settle":
                account.settle()
            else:
                account.close()
                account = world.account(path, PATIENT)
        for number in range(wanted):
            account.send(world.token, world.mint(1), "mint", f"mint {number}")
        node.mine(70)
        for number in range(wanted):
            account.wait_final(f"mint {number}")
        account.close()
        assert (world.balance(), world.sent()) == (wanted, wanted)


def test_wait_final_shows_its_progress_and_sees_a_reorganisation(world: TokenWorld) -> None:
    account = world.account(policy=PATIENT)
    account.send(world.token, world.mint(5), "mint", "one")
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            world.node.reorg(1)  # the transaction is gone
        world.node.mine(30)

    world.node.mine(10)
    world.node.reorg(11)
    receipt = account.wait_final("one", tell)
    assert receipt.succeeded
    assert any(line.startswith("waiting for finality: ") and line.endswith(" blocks") for line in lines)
    assert (world.balance(), world.sent()) == (5, 1)
    assert account.wait_final("one").hash == receipt.hash


def test_a_node_that_restarts_has_every_transaction_once(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with AnvilNode(state) as node:
        world = TokenWorld.on(node)
        account = world.account(tmp_path / "outbox", PATIENT)
        account.send(world.token, world.mint(5), "mint", "one")
        account.close()
        node.stop()
    with AnvilNode(state) as node:
        world.node = node
        node.hold()
        account = world.account(tmp_path / "outbox", PATIENT)
        sending = Sending(world, account, world.mint(7), "two")
        waiting(account)
        node.stop()  # with what waits in its pool
        with pytest.raises(ChainError) as gone:
            sending.result()
        assert gone.value.reason == "CHAIN_UNREACHABLE"
        account.close()
    with AnvilNode(state) as node:
        world.node = node
        account = world.account(tmp_path / "outbox", PATIENT)
        assert account.send(world.token, world.mint(5), "mint", "one").repeated
        account.send(world.token, world.mint(7), "mint", "two")
        assert (world.balance(), world.sent()) == (12, 2)
        assert [entry.state for entry in account._outbox.open_entries()] == [State.MINED] * 2
