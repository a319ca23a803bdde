"""A crash at any step of opening neither locks money twice nor loses the job: resumed, it is the same job, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from escrow_world import PRICE, EscrowWorld

import usufruct as uf
from usufruct.builder.store import JobStore
from usufruct.chain import LegState
from usufruct.chain.rpc import Rpc

pytestmark = pytest.mark.timeout(300)


class Crash(BaseException):
    """What ends the process; nothing catches it."""


@contextmanager
def crash_at(step: int, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The ``step``-th half step crashes: the odd ones before ``owner.name`` is called, the even ones after it.

    Yields:
        How many half steps there were.
    """
    true, counted = getattr(owner, name), [0]

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        counted[0] += 1
        if counted[0] == step:
            raise Crash
        answer = true(self, *arguments, **named)
        counted[0] += 1
        if counted[0] == step:
            raise Crash
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, call)
        yield counted


@pytest.mark.parametrize(("owner", "name"), [(Rpc, "send_raw"), (JobStore, "save")])
def test_a_crash_at_any_step_opens_the_job_once(
    world: EscrowWorld, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    crashed, step = 0, 0
    deposited, wallet = world.money()
    while True:
        step += 1
        proposal = world.propose()
        with crash_at(step, owner, name, monkeypatch):
            try:
                job = proposal.open()
                job.close()
            except Crash:
                crashed += 1
            else:
                break
        resumed = uf.resume(proposal.id)
        resumed.accept()
        job_id = resumed.spec.job_id
        assert resumed.datasets == (1, 2, 3)
        assert world.states(job_id) == dict.fromkeys((1, 2, 3), LegState.ACCEPTED)
        opened = world.chain.find_events("ComputeAccess", "JobOpened", job_id)
        assert len(opened) == 1
        assert world.money() == (deposited, wallet - 3 * PRICE), "deposited once and locked once"
        resumed.cancel()
        assert world.money() == (deposited + 3 * PRICE, wallet - 3 * PRICE)
        world.network.withdraw(3 * PRICE)
    assert crashed == step - 1 >= 8, "approve, deposit, openJob, accept; before and after each"
