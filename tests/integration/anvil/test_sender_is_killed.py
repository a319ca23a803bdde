"""kill -9 of the sending process at every step: the transaction is neither lost nor sent twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from token_world import PATIENT, TokenWorld

CHILD = Path(__file__).with_name("sending_child.py")
PURPOSE = "mint once"


def start(
    world: TokenWorld, outbox: Path, step: str, replace_seconds: float = 600.0
) -> subprocess.Popen[bytes]:
    told = {
        "url": world.node.url, "key": world.key.key.hex(), "token": world.token, "data": world.mint(7).hex(),
        "outbox": str(outbox), "step": step, "purpose": PURPOSE, "replace_seconds": replace_seconds,
    }  # fmt: skip
    return subprocess.Popen([sys.executable, str(CHILD), json.dumps(told)])


def wait_killed(child: subprocess.Popen[bytes]) -> None:
    assert child.wait(timeout=60) == -signal.SIGKILL


def minted_once(world: TokenWorld, outbox: Path, nonces: int = 1) -> None:
    """The next process goes on with it; asking again and again changes nothing."""
    account = world.account(outbox, PATIENT)
    first = account.send(world.token, world.mint(7), "mint", PURPOSE)
    account.close()
    again = world.account(outbox, PATIENT)
    assert again.send(world.token, world.mint(7), "mint", PURPOSE).hash == first.hash
    again.settle()
    world.node.mine(3)
    assert again.wait_final(PURPOSE).hash == first.hash
    assert (world.balance(), world.sent()) == (7, nonces)


@pytest.mark.parametrize(
    "step", ["signed, not written", "written, not broadcast", "broadcast", "mined, not recorded", "recorded"]
)
def test_killed_on_the_way_it_is_mined_once(swift: TokenWorld, tmp_path: Path, step: str) -> None:
    wait_killed(start(swift, tmp_path / "outbox", step))
    minted_once(swift, tmp_path / "outbox")


@pytest.mark.parametrize("step", ["replacement signed, not written", "replacement written, not broadcast"])
@pytest.mark.parametrize("dropped", [False, True])
def test_killed_while_fees_are_raised_it_is_mined_once(
    swift: TokenWorld, tmp_path: Path, step: str, dropped: bool
) -> None:
    swift.node.hold()
    wait_killed(start(swift, tmp_path / "outbox", step, replace_seconds=0.3))
    if dropped:
        swift.node.drop_all()
    swift.node.hold(False)
    swift.node.mine()
    minted_once(swift, tmp_path / "outbox")


@pytest.mark.parametrize(
    "step", ["another nonce signed, not written", "another nonce written, not broadcast"]
)
def test_killed_while_it_is_given_another_nonce_it_is_mined_once(
    swift: TokenWorld, tmp_path: Path, step: str
) -> None:
    swift.node.hold()
    outbox = tmp_path / "outbox"
    wait_killed(start(swift, outbox, "written, not broadcast"))
    swift.foreign(0, swift.mint(0))
    swift.node.mine(4)
    swift.node.hold(False)
    wait_killed(start(swift, outbox, step))
    minted_once(swift, outbox, nonces=2)
