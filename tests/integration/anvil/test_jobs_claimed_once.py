"""Whatever happens to the process that claims, or to its transaction: it is mined once, and pays once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from anvil_node import AnvilNode
from job_end import check_end
from job_life import Life
from job_world import FINAL_BLOCKS, JobWorld
from sending_child import STEPS as DEATHS
from token_world import PATIENT, QUICK

from usufruct.chain import Sender
from usufruct.chain.outbox import Entry
from usufruct.errors import ChainError

DYING = ("signed, not written", "written, not broadcast", "broadcast", "mined, not recorded")
SHIFTS = (0, 2)
"""Each is one job in which every step dies in the way after that of the step before; 0 to 3 are every way at every step."""


@pytest.fixture(scope="module")
def world() -> Iterator[JobWorld]:
    with AnvilNode(finality=FINAL_BLOCKS) as node:
        yield JobWorld.on(node)


def number_of(life: Life, name: str) -> int:
    """How many steps come before the one of this name."""
    return [step.name for step in life.steps].index(name)


# -- killed ------------------------------------------------------------------------------------------------------


def kill_doing(life: Life, number: int, death: str) -> None:
    """A process of the party whose step it is does the step, and is killed (SIGKILL) on the way."""
    step = life.steps[number]
    life.parties[step.party].close()
    child = os.fork()
    if child == 0:
        try:
            life.world = replace(life.world, chain=life.world.connected())
            for party in life.parties:
                life.parties[party].chain = life.world.chain
            life.parties[step.party] = life._sender(step.party)
            DEATHS[death]()
            step.do()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step.name}: it came to its end"
    assert os.WTERMSIG(status) == signal.SIGKILL
    life.parties[step.party] = life._sender(step.party)


@pytest.mark.parametrize("shift", SHIFTS)
def test_killed_at_every_step_all_is_done_once(world: JobWorld, tmp_path: Path, shift: int) -> None:
    life = Life(world, "settled", tmp_path, PATIENT)
    counted = {name: world.node.rpc.nonce(sender.address, "latest") for name, sender in life.parties.items()}
    for number, step in enumerate(life.steps):
        life.sign()
        kill_doing(life, number, DYING[(number + shift) % len(DYING)])
        step.do()
        life.restart(step.party)
        step.do()
    check_end(life)
    sent = {
        name: world.node.rpc.nonce(sender.address, "latest") - counted[name]
        for name, sender in life.parties.items()
    }
    assert sent == {"admin": 4, "operator": 5, "builder": 8, "arbiter": 0}, "one transaction for each step"
    life.close()


# -- held, replaced, dropped -------------------------------------------------------------------------------------


class Asking(threading.Thread):
    """Asks for something in the background; :meth:`wait` returns what went wrong, if anything did."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._do, self._error = do, None
        self.start()

    def run(self) -> None:
        try:
            self._do()
        except ChainError as error:
            self._error = error

    def wait(self) -> ChainError | None:
        self.join(60)
        assert not self.is_alive()
        return self._error


def waiting(sender: Sender, attempts: int = 1) -> Entry:
    """The sender's newest transaction, once it is in the pool and was signed so often."""
    account, pause = sender.account, threading.Event()
    for _ in range(3000):
        with account._lock:
            entries = account._outbox.open_entries()
        if entries and entries[-1].receipt is None and len(entries[-1].attempts) >= attempts:
            return entries[-1]
        pause.wait(0.01)
    raise AssertionError("nothing waits")


def claims(life: Life, name: str) -> tuple[str, Callable[[Sender], object]]:
    """Who claims first, and how anybody claims."""
    world = life.world
    if name == "withdraw earnings":
        return "admin", lambda sender: sender.withdraw_earnings(world.token, life.holder_id, "of this job")
    leg = life.leg(1)
    world.pass_until(leg.until_seconds)
    return "operator", lambda sender: sender.settle(leg)


@pytest.mark.parametrize("dropped", [False, True], ids=["replaced", "replaced and dropped"])
@pytest.mark.parametrize("name", ["settle", "withdraw earnings"])
def test_asked_again_while_nothing_is_mined_it_pays_once(world: JobWorld, name: str, dropped: bool) -> None:
    """Three requests and higher fees are one transaction; and somebody else claims the same in the same block."""
    life = Life(world, "settled", policy=QUICK)
    life.run(number_of(life, name))
    party, claim = claims(life, name)
    sender, stranger = life.parties[party], life.parties["arbiter"]
    counted = world.node.rpc.nonce(sender.address, "latest")
    world.node.hold()
    try:
        asking = [Asking(lambda: claim(sender)) for _ in range(3)]
        elsewhere = Asking(lambda: claim(stranger))
        waiting(stranger)
        replaced = waiting(sender, attempts=2)
        if dropped:
            world.node.drop(replaced.attempts[-1].hash)
    finally:
        world.node.hold(False)
    world.node.mine()
    errors = [one.wait() for one in (*asking, elsewhere)]
    assert sum(error is None for error in errors) in (1, 3), "those of one account, or of the other"
    assert world.node.rpc.nonce(sender.address, "latest") == counted + 1
    life.run(len(life.steps))
    check_end(life)


def test_a_receipt_that_is_delivered_by_both_sides_at_once_is_taken_once(world: JobWorld) -> None:
    """The holder delivers shortly before the deadline, and so does its builder, in one block."""
    life = Life(world, "acknowledged", policy=PATIENT)
    number = number_of(life, "deliver")
    life.run(number)
    world.node.hold()
    try:
        holder = Asking(life.steps[number].do)
        builder = Asking(lambda: life.deliver_as_builder(1))
        waiting(life.parties["operator"])
        waiting(life.parties["builder"])
    finally:
        world.node.hold(False)
    world.node.mine()
    errors = [holder.wait(), builder.wait()]
    assert sum(error is None for error in errors) == 1
    life.run(len(life.steps))
    check_end(life)
