"""Two RPC endpoints that are not of one mind: no step of a job counts until they are, and then each counts once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from anvil_node import AnvilNode
from job_end import check_end
from job_life import Life, Step
from job_world import FINAL_BLOCKS, JobWorld
from lying_proxy import Lie, LyingProxy, honest
from node_views import copy_state, lagging, told_by

from usufruct.chain import Chain
from usufruct.chain.account import SendPolicy
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError

SHORT = SendPolicy(mined_seconds=0.3, replace_seconds=600, rebroadcast_seconds=0.05, final_seconds=20)
STILL = ("CHAIN_DISAGREES", "TRANSACTION_FAILED", "LEG_NOT_OPEN")
"""Contradicted; not mined at both; not there at both."""


@pytest.fixture(scope="module")
def world() -> Iterator[JobWorld]:
    with AnvilNode(finality=FINAL_BLOCKS) as node:
        yield JobWorld.on(node)


@pytest.fixture(scope="module")
def branch(world: JobWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilNode]:
    """A node that has the contracts and goes its own way from here on."""
    state = copy_state(world.node, tmp_path_factory.mktemp("branch") / "state.json")
    with AnvilNode(state, finality=FINAL_BLOCKS) as node:
        node.mine(3)
        yield node


@pytest.mark.parametrize("how", ["on another branch", "lagging"])
def test_no_step_counts_before_both_endpoints_show_it(world: JobWorld, branch: AnvilNode, how: str) -> None:
    with LyingProxy(world.node.url) as proxy:
        both = Rpc([world.node.url, proxy.url], 5.0, patience_seconds=0.2)
        doubtful = replace(world, chain=Chain(both, world.chain.compute_access))
        life = Life(doubtful, "settled", policy=SHORT)
        for step in life.steps:
            life.sign()
            proxy.lie = _view(world, branch, how)
            reason = _reason_of(step)
            if (step.name, how, reason) == ("withdraw earnings", "on another branch", ""):
                assert world.token_balance(life.payout) == 0, "as far as both are, nothing was earned yet"
            else:
                assert reason in STILL, step.name
            proxy.lie = honest
            step.do()
        check_end(life)


def _view(world: JobWorld, branch: AnvilNode, how: str) -> Lie:
    if how == "lagging":
        return lagging(world.node, world.node.height(), FINAL_BLOCKS)
    return told_by(branch)


def _reason_of(step: Step) -> str:
    """Why it was not done; "" where there was nothing to do, or it was."""
    try:
        step.do()
    except ChainError as error:
        return error.reason
    return ""
