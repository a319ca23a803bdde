"""A crash at any step of opening neither locks money twice nor loses the job: resumed, it is the same job, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
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
def crash_at(step: int, owner: type, name: str, when: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The ``step``-th call of ``owner.name`` crashes, before or after it has done its work."""
    true, counted = getattr(owner, name), count(1)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        mine = next(counted) == step
        if mine and when == "before":
            raise Crash
        answer = true(self, *arguments, **named)
        if mine:
            raise Crash
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, call)
        yield


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [(Rpc, "send_raw", "before"), (Rpc, "send_raw", "after"), (JobStore, "save", "before")],
)
def test_a_crash_at_any_step_opens_the_job_once(
    world: EscrowWorld, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, when: str
) -> None:
    crashed, step = 0, 0
    while True:
        step += 1
        deposited, wallet = world.money()
        proposal = world.propose()
        with crash_at(step, owner, name, when, monkeypatch):
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
        resumed.close()
    assert crashed == step - 1 >= 6, "approve, deposit, openJob, and three times accept"
