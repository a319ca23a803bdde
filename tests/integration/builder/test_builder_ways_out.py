"""Leaving a job: what is locked comes back as far and as soon as it can, and what was drawn from the data is never free."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from escrow_world import PRICE, EscrowWorld

import usufruct as uf
from usufruct.builder import JobHandle
from usufruct.builder.receipts import receipt_on_chain
from usufruct.chain import LegState
from usufruct.errors import PeerUnreachable, Refused, RoundFailed, UsufructError

pytestmark = pytest.mark.timeout(180)

WHOLE = dict.fromkeys((1, 2, 3), (0, 0))


def reservation(job: JobHandle, number: int) -> int:
    return job.spec.reservation_micro(number)


def charged(job: JobHandle, number: int, attempts: int) -> int:
    return attempts * job.spec.leg(number).loss_per_attempt_micro


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_before_anything_is_charged_all_of_it_comes_back(world: EscrowWorld) -> None:
    job = world.train()
    departure = job.cancel()
    assert job.cancelled
    assert set(world.states(job.spec.job_id).values()) == {LegState.FAILED}
    assert departure.pending == ()
    assert departure.refunded_units == {world.token: 3 * PRICE}
    assert world.money() == (3 * PRICE, 97 * PRICE)
    assert world.losses() == WHOLE
    assert "1000 back" in str(departure)


def test_cancelling_twice_is_cancelling_once(world: EscrowWorld) -> None:
    job = world.train()
    first = job.cancel()
    spent = world.chain.rpc.nonce(world.network.address, "latest")
    assert job.cancel().results == first.results
    assert uf.resume(job.id).cancel().results == first.results
    assert list(uf.resume(job.id)) == []
    assert world.chain.rpc.nonce(world.network.address, "latest") == spent


def test_after_a_round_what_was_done_is_delivered_and_paid(world: EscrowWorld) -> None:
    job = world.train()
    next(iter(job))
    departure = job.cancel()
    assert [leg.state for leg in departure.results] == ["ACKNOWLEDGED"] * 3
    assert departure.refunded_units == {}
    assert (job.paid, job.refunded) == (3 * PRICE, 0)
    assert world.losses() == {number: (0, charged(job, number, 1)) for number in (1, 2, 3)}
    with pytest.raises(Refused):
        job.finish()


def test_a_holder_that_has_charged_is_paid_and_the_others_are_released(world: EscrowWorld) -> None:
    """An attempt was sent; one holder says it charged it before it was lost, and its budget is not free again."""
    job = world.train()
    job._book.take_attempt()
    world.holders[2].charged[job.spec.job_id] = 1
    departure = job.cancel()
    assert {leg.dataset_id: leg.state for leg in departure.results} == {
        1: "FAILED",
        2: "ACKNOWLEDGED",
        3: "FAILED",
    }
    assert world.losses() == {1: (0, 0), 2: (0, charged(job, 2, 1)), 3: (0, 0)}
    assert (job.paid, job.refunded) == (PRICE, 2 * PRICE)
    assert world.earnings() == {1: 0, 2: PRICE, 3: 0}


def test_a_cancelled_job_whose_holder_is_gone_is_gone_on_with(world: EscrowWorld) -> None:
    job = world.train()
    world.holders[3].refusals["ReleaseLeg"] = PeerUnreachable("gone")
    departure = job.cancel()
    assert [leg.dataset_id for leg in departure.pending] == [3]
    assert departure.pending[0].from_seconds == job.spec.deliver_by_seconds
    assert f"{PRICE} locked until" in str(departure)
    assert not job.cancelled
    del world.holders[3].refusals["ReleaseLeg"]
    assert uf.resume(job.id).cancel().pending == ()
    assert world.losses() == WHOLE


def test_a_proposal_that_was_never_opened_is_just_forgotten(world: EscrowWorld) -> None:
    proposal = world.propose()
    done = usufruct("cancel", proposal.id, "--json")
    assert done["legs"] == []
    with pytest.raises(UsufructError) as caught:
        uf.resume(proposal.id)
    assert caught.value.reason == "JOB_UNKNOWN"
    assert world.money() == (0, 100 * PRICE)


def test_a_finished_job_cannot_be_cancelled(world: EscrowWorld) -> None:
    job = world.train().run()
    with pytest.raises(Refused):
        job.cancel()
    assert job.finished


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_past_the_deadline_money_comes_back_and_the_loss_is_spent_whole(world: EscrowWorld) -> None:
    job = world.train(deliver_within_seconds=7200)
    next(iter(job))
    world.holders[2].refusals["FinishLeg"] = PeerUnreachable("gone")
    with pytest.raises(UsufructError) as caught:
        job.finish()
    assert caught.value.details["dataset_id"] == 2
    assert job.paid == 2 * PRICE, "one dead holder does not keep the others from being paid"
    job.close()
    world.pass_time(7200)
    again = uf.resume(job.id)
    assert list(again) == []
    assert again.finished
    (gone,) = [leg for leg in again.legs if leg.dataset_id == 2]
    assert (gone.state, gone.refunded_units, gone.paid_units) == ("EXPIRED", PRICE, 0)
    assert gone.loss_micro == reservation(job, 2), "what was drawn is unknown"
    assert world.losses()[2] == (0, reservation(job, 2))
    assert world.money() == (PRICE, 97 * PRICE)


def test_rounds_that_are_left_when_the_deadline_passes_are_not_run(world: EscrowWorld) -> None:
    job = world.train(deliver_within_seconds=7200)
    job.close()
    world.pass_time(7201)
    again = uf.resume(job.id)
    assert list(again) == []
    assert "deadline" in again.ended_early
    assert {leg.state for leg in again.legs} == {"EXPIRED"}
    assert again.refunded == 3 * PRICE


# -- receipts ---------------------------------------------------------------------------------------------------------


def test_a_holder_that_delivered_by_itself_is_paid_without_being_asked(world: EscrowWorld) -> None:
    job = world.train(rounds=1)
    next(iter(job))
    peer = world.holders[2]
    peer.refusals["FinishLeg"] = PeerUnreachable("gone")
    with pytest.raises(UsufructError):
        job.finish()
    leg = world.chain.leg(job.spec.job_id, 2)
    assert leg is not None
    receipt = peer.receipt(job.spec.job_id, rounds_done=1)
    world.admin(2).deliver(leg, receipt)
    calls = list(peer.calls)
    assert job.finish()
    assert peer.calls == calls
    assert job.paid == 3 * PRICE
    assert world.losses()[2] == (0, reservation(job, 2)), "without our Lower the whole reservation is spent"


def test_a_receipt_with_another_key_is_not_delivered(world: EscrowWorld) -> None:
    job = world.train(rounds=1)
    next(iter(job))
    world.holders[3].statements = world.holders[1].operator
    with pytest.raises(UsufructError) as caught:
        job.finish()
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("BAD_SIGNATURE", 3)
    assert world.states(job.spec.job_id)[3] is LegState.ACCEPTED


@pytest.mark.parametrize("change", [{"noise_multiplier_micro": 1}, {"attempts_charged": 0}, {"dimension": 9}])
def test_a_receipt_that_says_otherwise_is_delivered_and_not_acknowledged(
    world: EscrowWorld, caplog: pytest.LogCaptureFixture, change: dict[str, int]
) -> None:
    world.holders[2].changed = change
    job = world.train(rounds=1).run()
    assert job.finished
    (odd,) = [leg for leg in job.legs if leg.dataset_id == 2]
    assert (odd.state, odd.paid_units, odd.refunded_units) == ("DELIVERED", 0, 0)
    assert next(iter(change)) in odd.findings[0]
    assert "not acknowledged" in caplog.text
    assert world.earnings() == {1: PRICE, 2: 0, 3: PRICE}
    result = job.acknowledge(2)
    assert (result.state, result.paid_units) == ("ACKNOWLEDGED", PRICE)
    assert result.findings == odd.findings, "what was found stays on record"
    assert world.earnings()[2] == PRICE


def test_a_holder_that_ignores_the_offer_of_a_lower_loss_spends_its_reservation(world: EscrowWorld) -> None:
    job = world.train(rounds=1)
    next(iter(job))
    world.holders[1].changed = {"loss_micro": reservation(job, 1)}
    job.finish()
    assert world.losses() == {
        1: (0, reservation(job, 1)), 2: (0, charged(job, 2, 1)), 3: (0, charged(job, 3, 1)),
    }  # fmt: skip
    assert [leg.findings for leg in job.legs] == [(), (), ()]


def test_a_lost_attempt_is_in_the_agreed_loss(world: EscrowWorld) -> None:
    """One holder fails after its charge; all have charged that attempt, and the next one, and say so in the receipts."""
    job = world.train(rounds=1, min_cohort=3)
    world.holders[2].refusal = RoundFailed(reason="ATTEMPT_LOST")
    world.holders[2].refusals_left = 1
    job.run()
    assert [result.attempt for result in job.history] == [2]
    assert world.losses() == {number: (0, charged(job, number, 2)) for number in (1, 2, 3)}
    for leg in world.chain.job_legs(job.spec.job_id):
        assert receipt_on_chain(world.chain, leg).attempts_charged == 2


# -- at a terminal ----------------------------------------------------------------------------------------------------


def test_cancel_and_withdraw_at_a_terminal(world: EscrowWorld) -> None:
    job = world.train()
    job.close()
    done = usufruct("cancel", job.id, "--json")
    assert [leg["state"] for leg in done["legs"]] == ["FAILED"] * 3
    assert done["refunded_units"] == {world.token: 3 * PRICE}
    place = ("--rpc", world.node.url, "--contract", world.chain.compute_access)
    key = ("--key", str(world.key))
    left = usufruct("withdraw", str(2 * PRICE), *place, *key, "--json")
    assert (left["deposits"], left["wallet"]) == ({world.token: PRICE}, {world.token: 99 * PRICE})
    seen = usufruct("watch", job.id, "--json")
    assert seen["phase"] == "cancelled"


def usufruct(*arguments: str) -> dict[str, object]:
    """A command of the builder; its answer."""
    command = [sys.executable, "-m", "usufruct.cli", "builder", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer
