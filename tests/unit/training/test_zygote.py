"""Children are forked from a process that knows nothing, and differ in all that must differ."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_end import gone

from usufruct_server.holder.training.trainer import TrainerFailed
from usufruct_server.holder.training.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """One for the tests that do not mind that it runs already; the last of them closes it."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def starting() -> Iterator[Zygote]:
    """One that has just been started: it loads for seconds before it forks."""
    zygote = Zygote()
    yield zygote
    zygote.close()


def test_children_have_processes_sessions_and_scratch_directories_of_their_own(zygote: Zygote) -> None:
    with zygote.spawn() as one, zygote.spawn() as two:
        pids = [one.pid, two.pid]
        assert len({zygote.pid, *pids}) == 3
        assert len({os.getsid(pid) for pid in (zygote.pid, *pids)}) == 3
        assert len({os.readlink(f"/proc/{pid}/cwd") for pid in (zygote.pid, *pids)}) == 3
        assert len(list(Path(f"/proc/{zygote.pid}/task").iterdir())) == 1, (
            "only a process of one thread may fork"
        )
        sockets = [
            {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            for pid in (zygote.pid, *pids)
        ]
        common = sockets[0] & sockets[1] | sockets[1] & sockets[2] | sockets[0] & sockets[2]
        assert not [place for place in common if place.startswith("socket:")], (
            "nobody hears another's orders or rows"
        )
    assert all(map(gone, pids))
    assert not gone(zygote.pid, 0)


def test_a_zygote_that_died_is_replaced_and_its_children_live_on(zygote: Zygote) -> None:
    with zygote.spawn() as before:
        before.wait_ready()
        first = zygote.pid
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        with zygote.spawn() as after:
            after.wait_ready()
            assert zygote.pid != first
            assert before.alive
        child = before.pid
    assert gone(child), "without its zygote it ends by its socket"


def test_a_child_that_had_not_begun_is_stopped_at_once_and_never_begins(starting: Zygote) -> None:
    early = starting.spawn()
    early.stop()
    assert not early.alive
    with pytest.raises(TrainerFailed):
        early.wait_ready()
    with starting.spawn() as later:
        later.wait_ready()
        children = Path(f"/proc/{starting.pid}/task/{starting.pid}/children").read_text().split()
        assert all(gone(int(pid)) for pid in children if int(pid) != later.pid)


def test_when_the_server_closes_it_nothing_is_left(zygote: Zygote) -> None:
    trainer = zygote.spawn()
    pids = [zygote.pid, trainer.pid]
    zygote.close()
    trainer.stop()
    assert all(map(gone, pids))
