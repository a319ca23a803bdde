"""Rounds of a job go on without a holder that fails, as long as the job's rules allow it; it is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest
from escrow_world import EscrowWorld

from usufruct.encryption.parameters import HEADER_BYTES
from usufruct.errors import RoundFailed, UsufructError


def garbage(path: Path) -> None:
    """An update whose coefficients are out of range."""
    path.write_bytes(path.read_bytes()[:HEADER_BYTES] + b"\xff" * (path.stat().st_size - HEADER_BYTES))


def moving(world: EscrowWorld) -> EscrowWorld:
    for holder in world.holders.values():
        holder.moves_by = 0.01
    return world


def test_a_holder_that_loses_a_round_is_in_the_next_one(
    world: EscrowWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="usufruct.builder")
    job = moving(world).train()
    world.holders[2].refusal, world.holders[2].refusals_left = RoundFailed(reason="TRAINER_FAILED"), 1
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    results = list(job)
    assert [(result.attempt, result.left_out) for result in results] == [(1, (2,)), (2, ())]
    assert job.history == tuple(results)
    assert "attempt 1 goes on without dataset 2" in caplog.text
    assert all(leg.acknowledged and not leg.findings for leg in job.receipts)
    for name, value in job.model.state_dict().items():
        assert (value - before[name]).flatten().tolist() == pytest.approx([0.02] * value.numel(), rel=0.02)


def test_where_all_are_needed_the_next_attempt_follows(world: EscrowWorld) -> None:
    job = world.train(min_cohort=3)
    world.holders[2].refusal, world.holders[2].refusals_left = RoundFailed(reason="TRAINER_FAILED"), 1
    assert [(result.attempt, result.left_out) for result in job] == [(2, ()), (3, ())]


def test_a_holder_that_signs_what_cannot_be_added_is_asked_no_more(
    world: EscrowWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="usufruct.builder")
    job = world.train()
    world.holders[2].sends = garbage
    results = list(job)
    assert [(result.attempt, result.left_out) for result in results] == [(2, (2,)), (3, (2,))]
    assert "asks the holder of dataset 2 no more" in caplog.text
    assert world.aggregator.rounds.open_rounds == 0, "the attempt that was given up is closed there, too"
    assert {attempt for attempt, _, _ in world.holders[2].seen} == {1}


def test_where_it_is_needed_that_is_told(world: EscrowWorld) -> None:
    job = world.train(min_cohort=3)
    world.holders[2].sends = garbage
    with pytest.raises(UsufructError) as caught:
        list(job)
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("UPLOAD_INVALID", "2")


def test_rounds_go_on_without_a_dead_holder_until_too_few_are_left(
    world: EscrowWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="usufruct.builder")
    job = world.train(rounds=4)
    rounds = iter(job)
    assert next(rounds).left_out == ()
    world.holders[3].stop()
    assert next(rounds).left_out == (3,), "it died while it was connected"
    assert next(rounds).left_out == (3,), "it cannot be connected to"
    assert "the job goes on without dataset 3 for now" in caplog.text
    used = job._state.next_attempt
    world.holders[2].stop()
    with pytest.raises(UsufructError) as caught:
        next(rounds)
    assert caught.value.reason == "PEER_UNREACHABLE"
    assert job._state.next_attempt == used, "no attempt is used up on too few"


def test_chunks_are_added_again_where_the_builder_wants_it(
    world: EscrowWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usufruct.wire.aggregation import BuilderAggregation

    fetched: list[int] = []
    fetch = BuilderAggregation.fetch_chunk
    monkeypatch.setattr(
        BuilderAggregation, "fetch_chunk", lambda *args: (fetched.append(args[2]), fetch(*args))[1]
    )
    job = world.train()
    job.verify_chunks = 3
    list(job)
    assert fetched == [0, 0], "its updates have one chunk"
