"""`usufruct chain deploy` against a real node: killed on the way, reorganised away, and what it said beforehand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from anvil_node import AnvilNode

from usufruct.chain import Chain, create_key, deploy, read_addresses
from usufruct.chain.deploy import created_address
from usufruct.chain.keys import load_key
from usufruct.chain.rehearsal import rehearse

PASSPHRASE = "for a test"


@pytest.fixture
def payer(node: AnvilNode, tmp_path: Path) -> str:
    account = create_key(tmp_path / "key.json", PASSPHRASE, light=True)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    node.fund(account.address)
    return account.address


def command(node: AnvilNode, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "usufruct.cli", "chain", "deploy", "--guardian", "none", "--rpc", node.url,
            "--key", str(folder / "key.json"), "--passphrase-file", str(folder / "passphrase"),
            "--out", str(folder / "addresses.json"), "--confirmations", "3", "--json",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(said: str, child: subprocess.Popen[str]) -> None:
    assert child.stderr is not None
    assert any(line.startswith(said) for line in child.stderr), "it ended without saying so"


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def finish(node: AnvilNode, folder: Path, payer: str) -> None:
    """Called again it ends well, with the very contracts of the first time."""
    mining, done = threading.Event(), command(node, folder)

    def mine() -> None:
        while not mining.wait(0.2):
            node.mine()

    thread = threading.Thread(target=mine)
    thread.start()
    try:
        said, errors = done.communicate(timeout=120)
    finally:
        mining.set()
        thread.join()
    assert done.returncode == 0, errors
    addresses = read_addresses(folder / "addresses.json")
    assert json.loads(said)["registry"] == addresses.registry == created_address(payer, 1)
    assert node.rpc.nonce(payer, "latest") == 3
    Chain.connect(node.url, addresses.compute_access)
    assert not list(folder.glob("*.outbox*"))


def test_killed_before_anything_is_mined(node: AnvilNode, tmp_path: Path, payer: str) -> None:
    node.hold()
    child = command(node, tmp_path)
    while node.rpc.nonce(payer, "pending") == 0:
        assert child.poll() is None
        threading.Event().wait(0.05)
    kill(child)
    finish(node, tmp_path, payer)


@pytest.mark.parametrize("said", ["UsageLog", "Registry", "ComputeAccess", "waiting for finality"])
def test_killed_between_the_contracts(node: AnvilNode, tmp_path: Path, payer: str, said: str) -> None:
    child = command(node, tmp_path)
    wait_for(said, child)
    kill(child)
    assert not (tmp_path / "addresses.json").exists()
    finish(node, tmp_path, payer)


def test_contracts_that_were_reorganised_away_are_deployed_again(
    node: AnvilNode, tmp_path: Path, payer: str
) -> None:
    child = command(node, tmp_path)
    wait_for("waiting for finality", child)
    kill(child)
    node.reorg(2)  # Registry and ComputeAccess never were; nothing of this was final
    finish(node, tmp_path, payer)


def test_a_rehearsal_on_a_real_node_tells_the_gas(node: AnvilNode, tmp_path: Path, payer: str) -> None:
    rehearsal = rehearse(node.rpc, payer)
    assert node.rpc.nonce(payer, "latest") == 0
    account = load_key(tmp_path / "key.json", PASSPHRASE)
    addresses = deploy(node.url, account, confirmations=0)
    assert abs(addresses.gas_used - rehearsal.total_gas) < addresses.gas_used / 100
