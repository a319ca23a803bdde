"""A job whose chain is reorganised between any two of its steps ends as if it had not been.

Every party repeats its steps, with the statements that were signed the first time; in the end each has had its effect
exactly once: legs paid, losses spent, usage logged without a gap, money withdrawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from anvil_node import AnvilNode
from job_end import check_end
from job_life import Life, Step
from job_world import FINAL_BLOCKS, JobWorld

from usufruct.chain.account import SendPolicy
from usufruct.chain.answers import Log
from usufruct.chain.event_reader import EventReader
from usufruct.errors import ChainError

HASTY = SendPolicy(mined_seconds=2, replace_seconds=600, rebroadcast_seconds=0.05, final_seconds=2)
"""Gives up soon: what waits for another party is asked for again."""
ENDINGS = ("acknowledged", "settled", "resolved")
SEEDS = range(3)
"""Of what happens at random, one for each ending: more of them show more, and take two seconds each."""


@pytest.fixture
def world() -> Iterator[JobWorld]:
    with AnvilNode(finality=FINAL_BLOCKS) as node:
        yield JobWorld.on(node)


def take(life: Life, step: Step) -> None:
    """Takes a step. What failed on the new branch is tried anew once that is final: then blocks pass."""
    for _ in range(5):
        try:
            step.do()
            return
        except ChainError as error:
            if error.reason != "TRANSACTION_FAILED":
                raise
        life.world.node.mine(FINAL_BLOCKS)
    raise AssertionError(f"{step.name}: it does not come to an end")


@pytest.mark.parametrize(
    ("depth", "gap", "ending", "put_back"),
    [
        (1, 0, "settled", True),
        (2, 0, "resolved", False),
        (63, 20, "acknowledged", False),
        (64, 12, "settled", True),
    ],
)
def test_reorganised_after_every_step(
    world: JobWorld, depth: int, gap: int, ending: str, put_back: bool
) -> None:
    """The newest blocks vanish after each step in turn; their transactions are lost, or wait in the pool again.

    Every step whose block has vanished is then taken again; and in the end all of them, whether they had vanished or not.
    """
    life, node = Life(world, ending, policy=HASTY), world.node
    taken: dict[int, int] = {}
    first = 0
    for last in range(len(life.steps)):
        for number in range(first, last + 1):
            take(life, life.steps[number])
            taken[number] = node.height()
        node.mine(gap)
        kept = node.height() - depth
        world.reorganise(depth, world.newest_transactions(depth) if put_back else [])
        first = min(number for number, height in taken.items() if height > kept)
    for step in life.steps:
        take(life, step)
    check_end(life, in_order=not put_back)


class Follower:
    """Keeps the three contracts' events as a reader tells it to, and goes on from a file as another process would."""

    def __init__(self, world: JobWorld, path: Path) -> None:
        self._world, self._path = world, path
        self.events: list[Log] = []

    def read(self) -> None:
        chain = self._world.chain
        contracts = [chain.registry, chain.compute_access, chain.usage_log]
        reader = EventReader(chain.rpc, contracts, chain.deployment_block, self._path)
        reading = reader.read(final=False)
        for log in reading.vanished:
            assert self.events.pop() == log
        self.events.extend(reading.found)
        reader.keep(reading)

    def check(self) -> None:
        """What it was told of while the chain changed is what a reader is told that begins now."""
        self.read()
        chain = self._world.chain
        contracts = sorted([chain.registry, chain.compute_access, chain.usage_log])
        fresh = EventReader(chain.rpc, contracts, chain.deployment_block).read(final=False)
        assert self.events == list(fresh.found)
        assert fresh.vanished == ()


def repeat_in_any_order(life: Life, last: int, random: Random) -> None:
    """Everybody repeats what is theirs of the first ``last`` steps, not knowing how far the others are."""
    for _ in range(8):
        waiting = 0
        for party in random.sample(sorted(life.parties), len(life.parties)):
            life.world.node.mine(FINAL_BLOCKS)
            if random.random() < 0.3:
                life.restart(party)
            with contextlib.suppress(ChainError):
                life.parties[party].account.settle()
            try:
                for step in life.steps[:last]:
                    if step.party == party:
                        step.do()
            except ChainError:
                waiting += 1  # for somebody else's step, or until its own failure is final
        if not waiting:
            return
    raise AssertionError("the parties do not come to an end")


@pytest.mark.parametrize("seed", SEEDS)
def test_reorganised_at_random(world: JobWorld, tmp_path: Path, seed: int) -> None:
    """Any depths between any steps; what vanished is lost or put back in any order; nobody waits for anybody.

    Whoever follows the contracts' events through all that has in the end exactly what is there.
    """
    random = Random(seed)
    life = Life(world, ENDINGS[seed % len(ENDINGS)], tmp_path, HASTY)
    follower = Follower(world, tmp_path / "checkpoints")
    done = 0
    while done < len(life.steps):
        following = random.randint(done + 1, len(life.steps))
        gaps = [0] * done + [random.choice((0, 1, 5, 20)) for _ in life.steps]
        life.run(following, gaps)
        follower.read()
        depth, lost = random.randint(1, 64), random.random() < 0.5
        put_back = world.newest_transactions(depth)
        world.reorganise(depth, [] if lost else random.sample(put_back, len(put_back)))
        follower.read()
        repeat_in_any_order(life, following, random)
        done = following
    life.run(len(life.steps))
    check_end(life, in_order=False)
    life.close()
    follower.check()


def test_a_grant_for_a_number_that_became_a_strangers_opens_nothing(world: JobWorld) -> None:
    """Registrations vanish, and a stranger is the first to register again: the same numbers are its datasets now."""
    stranger, life = Life(world), Life(world)
    deposited = [step.name for step in life.steps].index("open")
    life.run(deposited)
    life.sign()
    numbers = (life.holder_id, *life.datasets)
    world.reorganise(world.node.height() - life.first_block + 1)
    stranger.run(4)
    assert (stranger.holder_id, *stranger.datasets) == numbers
    for step in life.steps[4:deposited]:
        step.do()
    with pytest.raises(ChainError) as refused:
        life.steps[deposited].do()
    assert refused.value.reason == "GRANT_BAD_SIGNATURE"
    world.node.mine(FINAL_BLOCKS)
    for dataset in stranger.datasets:
        assert world.chain.dataset(dataset).reserved_micro == 0
    # registered again, under other numbers, the holder grants anew
    life.run(4)
    assert not {*stranger.datasets} & {*life.datasets}
    del life.grants
    life.run(len(life.steps))
    check_end(life)
