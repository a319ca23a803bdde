"""Deploying: rehearsed, interrupted and gone on with, checked byte for byte, and described for block explorers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chain_world import ACCEPT_SECONDS, MONEY, World
from eth_account import Account
from eth_account.signers.local import LocalAccount
from typer.testing import CliRunner, Result

from usufruct.chain import Addresses, Chain, LegState, create_key, deploy, read_addresses
from usufruct.chain.account import Account as SendingAccount
from usufruct.chain.commands import app
from usufruct.chain.deploy import created_address, creations
from usufruct.chain.deployed_code import check_code, difference
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.interface import interface
from usufruct.chain.rehearsal import rehearse
from usufruct.chain.rpc import Rpc
from usufruct.chain.sender import Sender
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.errors import ChainError, ConfigError

CONTRACTS = ("Registry", "ComputeAccess", "UsageLog")


def rich(node: DevChain) -> LocalAccount:
    account: LocalAccount = Account.create()
    node.evm.fund(bytes.fromhex(account.address[2:]), 10**18)
    return account


def names(addresses: Addresses) -> dict[str, str]:
    return {
        "Registry": addresses.registry, "ComputeAccess": addresses.compute_access, "UsageLog": addresses.usage_log,
    }  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# -- before ------------------------------------------------------------------------------------------------------


def test_a_rehearsal_sends_nothing_and_tells_the_gas_within_a_hundredth() -> None:
    with DevChain() as node:
        account, rpc = rich(node), Rpc(node.url, 5)
        height = node.evm.head.block_number
        rehearsal = rehearse(rpc, account.address)
        assert rpc.nonce(account.address, "latest") == 0
        assert node.evm.head.block_number == height
        spent: dict[str, int] = {}
        sender = SendingAccount(rpc, rpc.chain_id(), account)
        for one in creations(account.address, 0, account.address):
            data = interface(one.contract).encode_creation(*one.arguments)
            spent[one.contract] = sender.send(None, data, one.contract).gas_used
        assert set(rehearsal.gas) == set(spent) == set(CONTRACTS)
        for contract, gas in rehearsal.gas.items():
            assert abs(gas - spent[contract]) < spent[contract] / 100
        assert rehearsal.cost_wei == sum(rehearsal.gas.values()) * rehearsal.gas_price_wei > 0


def test_a_rehearsal_on_a_chain_that_cannot_run_the_contracts_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An instruction that no chain knows stands for those of Cancun on an older one."""
    shipped = interface("Registry")
    monkeypatch.setattr(shipped, "bytecode", b"\x0c" + shipped.bytecode)
    with DevChain() as node:
        with pytest.raises(ChainError, match=r"rehearsal|deployed") as refused:
            rehearse(Rpc(node.url, 5), ZERO_ADDRESS)
        assert refused.value.reason == "TRANSACTION_FAILED"


# -- while -------------------------------------------------------------------------------------------------------


class PowerCut(Exception):
    """Ends a deployment at a step."""


@pytest.mark.parametrize("step", range(8))
def test_an_interrupted_deployment_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The power fails at the n-th broadcast or receipt; called again, nothing is deployed twice."""
    with DevChain() as node:
        account, outbox = rich(node), tmp_path / "outbox"
        seen = 0

        def failing(method: str) -> None:
            real = getattr(Rpc, method)

            def once(self: Rpc, *arguments: object) -> object:
                nonlocal seen
                seen += 1
                if seen == step + 1:
                    raise PowerCut
                return real(self, *arguments)

            patch.setattr(Rpc, method, once)

        with monkeypatch.context() as patch:
            for method in ("send_raw", "receipt"):
                failing(method)
            with pytest.raises(PowerCut):
                deploy(node.url, account, outbox=outbox)
        addresses = deploy(node.url, account, outbox=outbox)
        assert Rpc(node.url, 5).nonce(account.address, "latest") == 3
        assert addresses.usage_log == created_address(account.address, 0)
        Chain.connect(node.url, addresses.compute_access)
        assert deploy(node.url, account, outbox=outbox) == addresses
        assert Rpc(node.url, 5).nonce(account.address, "latest") == 3


def test_what_the_account_sends_in_between_makes_it_begin_anew(tmp_path: Path) -> None:
    with DevChain() as node:
        account, told = rich(node), list[str]()
        rpc = Rpc(node.url, 5)
        other = SendingAccount(rpc, rpc.chain_id(), account)

        def tell(text: str) -> None:
            told.append(text)
            if len(told) == 1:  # UsageLog is there, and knows an address that will not be Registry's
                other.send(account.address, b"", "something else")

        addresses = deploy(node.url, account, outbox=tmp_path / "outbox", tell=tell)
        assert any("anew" in text for text in told)
        assert addresses.usage_log == created_address(account.address, 2)
        Chain.connect(node.url, addresses.compute_access)


def test_an_account_that_is_never_left_alone_is_told_so() -> None:
    with DevChain() as node:
        account = rich(node)
        rpc = Rpc(node.url, 5)
        other = SendingAccount(rpc, rpc.chain_id(), account)
        with pytest.raises(ChainError, match="in between") as refused:
            deploy(node.url, account, tell=lambda text: other.send(account.address, b"", "other") and None)
        assert refused.value.reason == "TRANSACTION_FAILED"


def test_a_deployment_without_a_guardian_has_none_for_ever() -> None:
    with DevChain() as node:
        account = rich(node)
        addresses = deploy(node.url, account, guardian=ZERO_ADDRESS)
        chain = Chain.connect(node.url, addresses.compute_access)
        assert addresses.guardian == chain.settings().guardian == ZERO_ADDRESS
        with pytest.raises(ChainError, match="NotGuardian"):
            Sender(chain, account).set_paused(True)


# -- the code ----------------------------------------------------------------------------------------------------


def test_the_deployed_code_is_the_committed_one_immutables_included(world: World) -> None:
    chain, addresses = world.chain, names(world.addresses)
    check_code(chain.rpc, chain.chain_id, addresses)
    for contract in CONTRACTS:
        code = chain.rpc.code(addresses[contract], "latest")
        assert difference(contract, code, chain.chain_id, addresses) is None
        immutable = {
            i
            for at in interface(contract).immutables.values()
            for start in at
            for i in range(start, start + 32)
        }
        free = {
            i for at in interface(contract).immutables.get("deploymentBlock", []) for i in range(at, at + 32)
        }
        for place in {0, len(code) // 2, len(code) - 1, *sorted(immutable)[::7]} - free:
            changed = code[:place] + bytes([code[place] ^ 1]) + code[place + 1 :]
            found = difference(contract, changed, chain.chain_id, addresses)
            assert found is not None
            assert ("immutable" in found) == (place in immutable)
        assert difference(contract, code + b"\0", chain.chain_id, addresses) is not None
        assert difference(contract, b"", chain.chain_id, addresses) == "there is no contract"
        assert difference(contract, code, chain.chain_id + 1, addresses) is not None
        assert difference(contract, code, chain.chain_id, {**addresses, contract: world.token}) is not None


def test_every_immutable_but_the_block_has_a_value_that_it_must_have() -> None:
    for contract in CONTRACTS:
        named = set(interface(contract).immutables)
        assert named >= {"_cachedThis", "_cachedDomainSeparator"}
        assert ("deploymentBlock" in named) == (contract == "Registry")
    assert "_trustedForwarder" in interface("Registry").immutables


def test_a_contract_with_another_code_is_not_connected_to(world: World) -> None:
    """A node that shows other code, or a contract that only answers as ours would."""
    real = Rpc.code

    def other(self: Rpc, address: str, block: int | str) -> bytes:
        code = real(self, address, block)
        return code[:-1] + bytes([code[-1] ^ 1]) if address == world.chain.registry else code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rpc, "code", other)
        with pytest.raises(ChainError, match="not this version's Registry") as refused:
            Chain.connect(world.node.url, world.addresses.compute_access)
    assert refused.value.reason == "WRONG_CHAIN"


# -- commands ----------------------------------------------------------------------------------------------------


def test_a_deployment_from_the_command_line(tmp_path: Path) -> None:
    secret, key, out = tmp_path / "passphrase", tmp_path / "key.json", tmp_path / "addresses.json"
    secret.write_text("for a test\n")
    payer = create_key(key, "for a test", light=True)
    with DevChain() as node:
        node.evm.fund(bytes.fromhex(payer.address[2:]), 10**18)
        dry = run("deploy", "--guardian", "none", "--dry-run", "--key", key, "--rpc", node.url, "--json")
        assert dry.exit_code == 0, dry.output
        planned = json.loads(dry.stdout)
        assert set(planned["gas"]) == set(CONTRACTS)
        assert (planned["payer"], planned["balance_wei"]) == (payer.address, str(10**18))
        assert int(planned["cost_wei"]) == planned["total_gas"] * int(planned["gas_price_wei"])
        assert Rpc(node.url, 5).nonce(payer.address, "latest") == 0
        assert not out.exists()
        without = json.loads(run("deploy", "--dry-run", "--rpc", node.url, "--json").stdout)
        assert set(planned) - set(without) == {"payer", "balance_wei", "addresses"}

        asked = (
            "deploy", "--key", key, "--passphrase-file", secret, "--rpc", node.url,
            "--out", out, "--test-token", "--json",
        )  # fmt: skip
        done = run(*asked)
        assert done.exit_code == 0, done.output
        addresses = read_addresses(out)
        assert json.loads(done.stdout)["compute_access"] == addresses.compute_access
        assert planned["addresses"] == {
            "UsageLog": addresses.usage_log,
            "Registry": addresses.registry,
            "ComputeAccess": addresses.compute_access,
        }
        assert addresses.guardian == payer.address
        assert "UsageLog is at" in done.stderr
        assert out.stat().st_mode & 0o777 == 0o644
        assert {path.name for path in tmp_path.iterdir()} == {
            "passphrase", "key.json", "addresses.json", "addresses.json.verification",
        }  # fmt: skip
        chain = Chain.connect(node.url, addresses.compute_access)
        assert chain.deployment_block == addresses.deployment_block
        assert (chain.registry, chain.usage_log) == (addresses.registry, addresses.usage_log)

        again = run(*asked)
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout) == json.loads(done.stdout)
        assert Rpc(node.url, 5).nonce(payer.address, "latest") == 4
        other = run("deploy", "--guardian", "none", "--rpc", node.url, "--out", out)
        assert isinstance(other.exception, ConfigError)

        for deployment in (str(out), addresses.compute_access):
            checked = run("check", deployment, "--rpc", node.url, "--json")
            assert checked.exit_code == 0, checked.output
            shown = json.loads(checked.stdout)
            assert (shown["guardian"], shown["paused"], shown["fee_bps"]) == (payer.address, False, 0)
            assert shown["sources_sha256"] == addresses.sources_sha256
        replace(addresses, usage_log=addresses.registry).write(out)
        wrong = run("check", str(out), "--rpc", node.url)
        assert isinstance(wrong.exception, ConfigError)
        assert isinstance(run("check", addresses.registry, "--rpc", node.url).exception, ChainError)


def test_the_verification_bundle_is_what_was_deployed(tmp_path: Path, world: World) -> None:
    from usufruct.chain.verification import write_bundle

    write_bundle(world.addresses, tmp_path)
    standard = json.loads((tmp_path / "standard_input.json").read_text())
    contracts = json.loads((tmp_path / "contracts.json").read_text())
    assert [one["contract"].split(":")[1] for one in contracts] == [
        "UsageLog",
        "Registry",
        "ComputeAccess",
        "TestToken",
    ]
    for one in contracts:
        file, name = one["contract"].split(":")
        assert f"contract {name} " in standard["sources"][file]["content"]
        assert one["compiler"] == "v0.8.37+commit.f401782d"
        created = world.chain.rpc.transaction(created_by(world, one["address"]))
        assert created is not None
        assert created.data == interface(name).bytecode + bytes.fromhex(one["constructor_arguments"][2:])


def created_by(world: World, contract: str) -> bytes:
    """Hash of the transaction that created a contract."""
    for number in range(world.node.evm.head.block_number + 1):
        block = world.chain.rpc.block(number)
        assert block is not None
        for transaction in block.transactions:
            receipt = world.chain.rpc.receipt(transaction)
            if receipt is not None and receipt.contract == contract:
                return transaction
    raise AssertionError("nothing created it")


def test_what_is_no_addresses_file_is_named(tmp_path: Path, world: World) -> None:
    path = tmp_path / "a.json"
    for text in ("", "[]", '{"chain_id": 1}', '{"chain_id": "x"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"a\.json"):
            read_addresses(path)
    for wrong in ({"registry": "0x12"}, {"chain_id": "1337"}, {"deployment_block": None}):
        replace(world.addresses, **wrong).write(path)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"a\.json"):
            read_addresses(path)
    world.addresses.write(path)
    assert read_addresses(path) == world.addresses


def test_anybody_pushes_overdue_legs_on_from_the_command_line(tmp_path: Path, world: World) -> None:
    secret, key = tmp_path / "passphrase", tmp_path / "key.json"
    secret.write_text("for a test\n")
    payer = create_key(key, "for a test", light=True)
    world.node.evm.fund(bytes.fromhex(payer.address[2:]), 10**18)
    asked = (world.addresses.compute_access, "--rpc", world.node.url, "--json")

    def push(job: bytes, *more: str | Path) -> list[dict[str, object]]:
        done = run("push", "0x" + job.hex(), *asked, *more)
        assert done.exit_code == 0, done.output
        steps: list[dict[str, object]] = json.loads(done.stdout)["steps"]
        return steps

    job = world.open(world.datasets)
    first, second, third = (world.leg(job, dataset) for dataset in world.datasets)
    world.accepted(first)
    world.delivered(world.accepted(second))
    assert push(job) == []
    world.wait_until(world.now() + ACCEPT_SECONDS)
    assert [(step["dataset_id"], step["step"]) for step in push(job, "--dry-run")] == [
        (third.dataset_id, "release")
    ]
    assert isinstance(run("push", "0x" + job.hex(), *asked).exception, ConfigError)
    paid = ("--key", key, "--passphrase-file", secret)
    assert [step["state"] for step in push(job, *paid)] == ["RELEASED"]
    world.wait_until(max(first.deliver_by_seconds, world.again(second).until_seconds))
    assert [step["state"] for step in push(job, *paid)] == ["EXPIRED", "SETTLED"]
    assert {leg.state for leg in world.chain.job_legs(job)} == {
        LegState.RELEASED, LegState.EXPIRED, LegState.SETTLED,
    }  # fmt: skip
    assert push(job, *paid) == []
    leg = world.leg_in(LegState.DISPUTED)
    world.wait_until(leg.until_seconds)
    assert [step["state"] for step in push(leg.job_id, *paid)] == ["UNRESOLVED"]
    few = world.open(world.datasets[1:], min_legs=2)
    world.accepted(world.leg(few, world.datasets[1]))
    world.wait_until(world.now() + ACCEPT_SECONDS)
    assert [step["state"] for step in push(few, *paid)] == ["RELEASED", "RELEASED"]
    assert world.deposit_of(world.builder) == MONEY - world.leg(job, second.dataset_id).price_units
    with pytest.raises(ChainError) as unknown:
        raise run("push", "0x" + bytes(32).hex(), *asked).exception or AssertionError
    assert unknown.value.reason == "JOB_UNKNOWN"
