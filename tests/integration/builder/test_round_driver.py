"""One attempt against a real aggregator: the sum is the holders' sum, late and lost holders are done without where the
job's rules allow it, and whoever dies is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from round_world import RoundWorld, close_to
from torch import nn

from usufruct.encryption import parameter_set
from usufruct.errors import PeerUnreachable, RoundFailed, UsufructError
from usufruct.v1 import rounds_pb2


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RoundWorld]:
    running = RoundWorld(tmp_path)
    yield running
    running.stop()


# -- when all goes well -----------------------------------------------------------------------------------------------


def test_the_opened_sum_is_the_sum_of_the_holders_updates(world: RoundWorld) -> None:
    attempt, opened = world.run()
    assert close_to(opened.update, world.average(3, 5, 8))
    assert opened.attempts_charged == {3: 1, 5: 1, 8: 1}
    assert (opened.roster, opened.left_out, world.said) == ((3, 5, 8), {}, [])
    parameters = parameter_set(world.spec.encryption.parameters)
    assert opened.upload_bytes == 3 * parameters.upload_bytes(world.count)
    assert attempt.key.used


def test_every_holder_is_challenged_alike_and_with_a_fresh_seed_in_every_attempt(world: RoundWorld) -> None:
    driver = world.driver()
    for number in (1, 2):
        attempt = driver.prepare(number, number, world.vector)
        driver.run(attempt, lambda dataset_id, event: None)
        driver.forget(attempt)
    told = [holder.challenges for holder in world.holders.values()]
    assert told[0] == told[1] == told[2]
    assert len({challenge.seed for challenge in told[0]}) == 2


def test_events_come_in_the_order_of_a_round(world: RoundWorld) -> None:
    heard: dict[int, list[int]] = {3: [], 5: [], 8: []}
    driver = world.driver()
    attempt = driver.prepare(1, 1, world.vector)
    driver.run(attempt, lambda dataset_id, event: heard[dataset_id].append(event.state))
    assert heard == {3: [1, 2, 3, 4, 5], 5: [1, 2, 3, 4, 5], 8: [1, 2, 3, 4, 5]}


def test_a_roster_of_one_is_a_round_where_the_jobs_rules_allow_it(world: RoundWorld) -> None:
    world.let(min_cohort=1)
    world.holders[3].refusal = world.holders[8].refusal = RoundFailed(reason="TRAINER_FAILED")
    _, opened = world.run()
    assert opened.roster == (5,)
    assert close_to(opened.update, world.average(5), 1, 0.3)


@pytest.mark.parametrize("chunks", [1, 99])
def test_chunks_are_added_again_before_the_sum_is_opened(tmp_path: Path, chunks: int) -> None:
    world = RoundWorld(tmp_path, nn.Linear(1000, 400), 1000)
    try:
        driver = world.driver(verify_chunks=chunks)
        attempt = driver.prepare(1, 1, world.vector)
        opened = driver.run(attempt, lambda dataset_id, event: None)
        assert close_to(opened.update, world.average(3, 5, 8))
        root = world.holders[3].challenges[0].sum_root
        assert driver.verify_chunk(attempt, 1, root)
        with pytest.raises(UsufructError) as of_another:
            driver.verify_chunk(attempt, 1, bytes(32))
        assert of_another.value.reason == "SUM_INVALID"
        driver.forget(attempt)
        with pytest.raises(UsufructError) as closed:
            driver.verify_chunk(attempt, 1, root)
        assert closed.value.reason == "ROUND_UNKNOWN"
    finally:
        world.stop()


# -- the same attempt again -------------------------------------------------------------------------------------------


def test_running_the_same_attempt_again_sends_the_same_view_and_challenge_and_gets_the_same_bytes(
    world: RoundWorld,
) -> None:
    attempt = world.prepare()
    driver = world.driver()
    with pytest.raises(UsufructError):
        driver.run(attempt, _raise_at(rounds_pb2.ROUND_STATE_SUBMITTED))
    assert not attempt.key.used
    with pytest.raises(UsufructError):
        world.driver().run(attempt, _hang_up_on_check(world))
    sent = {number: dict(holder.outbox) for number, holder in world.holders.items()}
    assert not attempt.key.used
    _, opened = world.run(attempt)
    assert close_to(opened.update, world.average(3, 5, 8))
    for number, holder in world.holders.items():
        assert holder.outbox == sent[number]
        assert len({offer for _, offer, _ in holder.seen}) == 1
        assert len({view.hash for view in holder.views}) == 1
        assert len(set(holder.challenges)) == 1


def _raise_at(state: int):  # type: ignore[no-untyped-def]
    def hear(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
        if dataset_id == 5 and event.state == state:
            raise PeerUnreachable("cut off", endpoint="")

    return hear


def _hang_up_on_check(world: RoundWorld):  # type: ignore[no-untyped-def]
    """One holder's answer does not arrive, though it has given it."""

    def change(event: rounds_pb2.RoundEvent) -> None:
        if event.state == rounds_pb2.ROUND_STATE_CHECKED:
            world.holders[8].says = lambda event: None
            raise PeerUnreachable("cut off", endpoint="")

    world.holders[8].says = change
    return lambda dataset_id, event: None


def test_an_attempt_with_a_view_is_never_run_over_another_roster(world: RoundWorld) -> None:
    world.let(min_cohort=2)
    attempt = world.prepare()
    with pytest.raises(UsufructError):
        world.driver().run(attempt, _raise_at(rounds_pb2.ROUND_STATE_SUBMITTED))
    fixed = attempt.fixed_view
    assert fixed.datasets == (3, 5, 8)
    world.holders[5].refusal = RoundFailed(reason="ATTEMPT_LOST")
    _, error = world.failure(attempt)
    assert error.reason == "ATTEMPT_LOST", "two would do, but not for a view of three"
    assert attempt.view == fixed
    with pytest.raises(RoundFailed) as caught:
        attempt.fix_view((3, 8))
    assert caught.value.reason == "ROUND_VIEW_CHANGED"
    assert all({view.hash for view in holder.views} == {fixed.hash} for holder in world.holders.values())


# -- holders that are late, or lose what they had ---------------------------------------------------------------------


def test_a_late_holder_is_left_out_and_is_in_the_next_attempt_again(world: RoundWorld) -> None:
    world.let(min_cohort=2, round_timeout_seconds=5)
    world.holders[5].trained.clear()
    started = time.monotonic()
    _, opened = world.run()
    assert 2.5 <= time.monotonic() - started < 5
    assert (opened.roster, list(opened.left_out)) == ((3, 8), [5])
    assert close_to(opened.update, world.average(3, 8), 2, 0.7)
    assert opened.attempts_charged == {3: 1, 5: 1, 8: 1}, "it has charged all the same"
    assert len(world.said) == 1
    assert "without dataset 5" in world.said[0]
    assert not world.holders[5].views
    world.holders[5].trained.set()
    _, again = world.run(world.prepare(2))
    assert (again.roster, again.left_out) == ((3, 5, 8), {})


def test_with_too_few_ready_in_time_the_attempt_is_lost_and_names_who_was_late(world: RoundWorld) -> None:
    world.let(round_timeout_seconds=5)
    world.holders[5].trained.clear()
    attempt, error = world.failure()
    assert (error.reason, error.details["missing"]) == ("ATTEMPT_LOST", [5])
    assert attempt.view is None
    assert not any(holder.views for holder in world.holders.values())


@pytest.mark.parametrize("reason", ["ATTEMPT_LOST", "TRAINER_FAILED", "POLICY_REFUSED"])
def test_a_holder_that_fails_before_the_roster_is_fixed_is_left_out_at_once(
    world: RoundWorld, reason: str
) -> None:
    world.let(min_cohort=2)
    world.holders[5].refusal = RoundFailed(reason=reason)
    started = time.monotonic()
    _, opened = world.run()
    assert time.monotonic() - started < 5
    assert opened.roster == (3, 8)
    assert "dataset 5" in world.said[0]


@pytest.mark.parametrize("reason", ["ATTEMPT_LOST", "TRAINER_FAILED"])
def test_a_lost_attempt_is_told_once_the_others_are_ready(world: RoundWorld, reason: str) -> None:
    world.holders[5].refusal = RoundFailed(reason=reason)
    world.holders[8].trained.clear()
    ready: set[int] = set()
    driver = world.driver()
    attempt = driver.prepare(1, 1, world.vector)

    def hear(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
        if event.state == rounds_pb2.ROUND_STATE_READY:
            ready.add(dataset_id)
            world.holders[8].trained.set()

    with pytest.raises(UsufructError) as caught:
        driver.run(attempt, hear)
    assert (caught.value.reason, caught.value.details["dataset_id"]) == (reason, 5)
    assert ready == {3, 8}
    assert not attempt.key.used


def test_a_holder_that_sees_too_few_acceptances_is_asked_again_rather_than_left_out(
    world: RoundWorld,
) -> None:
    world.let(min_cohort=2)
    world.holders[5].not_yet = 1
    attempt, error = world.failure()
    assert error.reason == "TOO_FEW_ACCEPTED"
    _, opened = world.run(attempt)
    assert opened.roster == (3, 5, 8)


def test_but_not_for_ever(world: RoundWorld) -> None:
    world.let(min_cohort=2)
    world.holders[5].not_yet = 99
    opened = world.driver().run(world.prepare(), lambda dataset_id, event: None, patient=False)
    assert opened.roster == (3, 8)


# -- deaths -----------------------------------------------------------------------------------------------------------


def test_a_holder_that_dies_is_named_at_once(world: RoundWorld) -> None:
    world.holders[8].silent = True
    driver = world.driver()
    attempt = driver.prepare(1, 1, world.vector)

    def kill(dataset_id: int, event: object) -> None:
        if dataset_id == 8:
            world.holders[8].stop()

    started = time.monotonic()
    with pytest.raises(PeerUnreachable) as caught:
        driver.run(attempt, kill)
    assert time.monotonic() - started < 10
    assert "dataset 8" in caught.value.message
    assert world.holders[8].peer.endpoint in caught.value.message


@pytest.mark.parametrize("state", [rounds_pb2.ROUND_STATE_CHARGED, rounds_pb2.ROUND_STATE_ENCRYPTED])
def test_an_aggregator_that_dies_is_named_at_once(world: RoundWorld, state: int) -> None:
    driver = world.driver()
    attempt = driver.prepare(1, 1, world.vector)

    def kill(dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
        if (dataset_id, event.state) == (8, state):
            world.aggregator._server.stop(None).wait()
            dead.set()

    def wait_for_it(event: rounds_pb2.RoundEvent) -> None:
        if event.state == rounds_pb2.ROUND_STATE_ENCRYPTED:
            dead.wait(10)

    dead = threading.Event()
    world.holders[3].says = wait_for_it
    started = time.monotonic()
    with pytest.raises(UsufructError) as caught:
        driver.run(attempt, kill)
    assert time.monotonic() - started < 10
    assert "aggregator" in caught.value.message
    assert not attempt.key.used
