"""Opening a job and having it accepted: who takes part, and where the money is when too few do."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from escrow_world import HOUR, PRICE, EscrowWorld
from eth_account import Account

import usufruct as uf
from usufruct.builder.store import JobStore
from usufruct.chain import LegState
from usufruct.errors import PeerUnreachable, Refused, UsufructError

pytestmark = pytest.mark.timeout(120)

REFUSAL = Refused(reason="POLICY_REFUSED")


def test_every_holder_accepts_trains_delivers_and_is_paid(world: EscrowWorld) -> None:
    job = world.train()
    assert world.states(job.spec.job_id) == dict.fromkeys((1, 2, 3), LegState.ACCEPTED)
    assert job.datasets == (1, 2, 3)
    each = {leg.dataset_id: leg.loss_per_attempt_micro for leg in job.spec.legs}
    reserved = {number: job.spec.reservation_micro(number) for number in each}
    assert world.losses() == {number: (reserved[number], 0) for number in each}
    assert [result.index for result in job] == [1, 2]
    assert job.finished
    assert set(world.states(job.spec.job_id).values()) == {LegState.ACKNOWLEDGED}
    assert world.losses() == {number: (0, 2 * loss) for number, loss in each.items()}, (
        "the spare attempts are free again"
    )
    assert all(2 * each[number] < reserved[number] for number in each)
    assert world.earnings() == dict.fromkeys((1, 2, 3), PRICE)
    assert world.money() == (0, 97 * PRICE)
    assert (job.paid, job.refunded) == (3 * PRICE, 0)
    assert [(leg.state, leg.findings, leg.loss_micro) for leg in job.receipts] == [
        ("ACKNOWLEDGED", (), 2 * each[number]) for number in (1, 2, 3)
    ]


def test_the_job_goes_on_without_a_holder_that_refuses(
    world: EscrowWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="usufruct.builder")
    world.holders[2].refusals["StartLeg"] = REFUSAL
    job = world.train()
    assert job.datasets == (1, 3)
    assert world.states(job.spec.job_id) == {
        1: LegState.ACCEPTED,
        2: LegState.CANCELLED,
        3: LegState.ACCEPTED,
    }
    assert world.losses()[2] == (0, 0)
    assert "2 of 3 legs accepted" in caplog.text
    assert "goes on without dataset 2" in caplog.text
    assert len(list(job)) == 2
    assert {view for _, view, _ in world.holders[1].seen} == {view for _, view, _ in world.holders[3].seen}
    assert world.holders[2].seen == []
    assert (job.paid, job.refunded) == (2 * PRICE, PRICE)
    assert world.earnings() == {1: PRICE, 2: 0, 3: PRICE}
    (without,) = [leg for leg in job.legs if leg.dataset_id == 2]
    assert (without.state, without.refusal, without.loss_micro) == ("CANCELLED", "POLICY_REFUSED", 0)


def test_the_average_is_over_the_holders_that_take_part(world: EscrowWorld) -> None:
    """Each holder weights its update by its share of all; where one is missing, the others' shares are of the rest."""
    for holder in world.holders.values():
        holder.moves_by = 0.01
    world.holders[2].refusals["StartLeg"] = REFUSAL
    job = world.train(rounds=1)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    list(job)
    for name, value in job.model.state_dict().items():
        assert (value - before[name]).flatten().tolist() == pytest.approx([0.01] * value.numel(), rel=0.02)


def test_a_holder_that_does_not_answer_in_time_is_left_out(world: EscrowWorld) -> None:
    silent = world.holders[3]
    silent.refusals["StartLeg"] = PeerUnreachable("asleep")
    passed, asked = threading.Event(), list[bytes]()
    silent.before["StartLeg"] = asked.append

    def pass_the_time() -> None:
        while len(asked) < 2:  # asked again, less and less often
            threading.Event().wait(0.02)
        for number in (1, 2):
            world.until_accepted(number)(asked[0])
        world.pass_time(HOUR)
        passed.set()

    threading.Thread(target=pass_the_time, daemon=True).start()
    job = world.train()
    assert passed.is_set()
    assert job.datasets == (1, 2)
    assert world.states(job.spec.job_id)[3] in (LegState.CANCELLED, LegState.RELEASED)
    assert world.losses()[3] == (0, 0)


def wrong_key(world: EscrowWorld) -> None:
    for number in (1, 2):
        world.holders[number].before["StartLeg"] = world.until_accepted(3)
        world.holders[number].statements = Account.create()


def refusing(world: EscrowWorld) -> None:
    for number in (1, 2):
        world.holders[number].before["StartLeg"] = world.until_accepted(3)
        world.holders[number].refusals["StartLeg"] = REFUSAL


@pytest.mark.parametrize(("happens", "reason"), [(wrong_key, "BAD_SIGNATURE"), (refusing, "POLICY_REFUSED")])
def test_with_too_few_everything_comes_back_at_once(
    world: EscrowWorld, happens: Callable[[EscrowWorld], None], reason: str
) -> None:
    happens(world)
    with pytest.raises(UsufructError) as caught:
        world.train()
    assert caught.value.reason == "TOO_FEW_ACCEPTED"
    said = caught.value.message
    assert "1 of 3 legs were accepted and 2 are needed" in said
    assert "dataset 1: " in said and "dataset 2: " in said
    assert "still locked" not in said
    assert world.losses() == dict.fromkeys((1, 2, 3), (0, 0))
    assert world.money() == (3 * PRICE, 97 * PRICE)
    assert world.earnings() == dict.fromkeys((1, 2, 3), 0)
    state = JobStore.find(caught.value.details["job_id"]).state()
    assert state.phase == "cancelled"
    assert state.refusals["1"] == state.refusals["2"] == reason


def test_what_cannot_end_at_once_says_until_when_and_is_gone_on_with(world: EscrowWorld) -> None:
    refusing(world)
    world.holders[3].refusals["ReleaseLeg"] = PeerUnreachable("gone")
    with pytest.raises(UsufructError) as caught:
        world.train()
    job_id = caught.value.details["job_id"]
    assert f"dataset 3: {PRICE} locked until " in caught.value.message
    assert world.money() == (2 * PRICE, 97 * PRICE)
    again = uf.resume(job_id)
    departure = again.cancel()
    assert [leg.dataset_id for leg in departure.pending] == [3], "it is early yet"
    world.pass_time(HOUR + 1)
    again = uf.resume(job_id)
    assert list(again) == []
    assert again.cancelled
    assert again.refunded == 3 * PRICE
    assert world.money() == (3 * PRICE, 97 * PRICE)
    assert world.losses() == dict.fromkeys((1, 2, 3), (0, 0))
    assert world.states(again.spec.job_id)[3] is LegState.RELEASED


def test_a_holder_whose_node_lags_is_asked_again_and_no_attempt_is_lost(world: EscrowWorld) -> None:
    job = world.train(rounds=1)
    world.holders[2].lags = 2
    world.holders[3].not_yet = 2
    (result,) = list(job)
    assert result.attempt == 1
    assert world.holders[2].calls.count("StartLeg") >= 3
    assert (world.holders[2].lags, world.holders[3].not_yet) == (0, 0)
    assert len({view for _, view, _ in world.holders[1].seen}) == 1, "the same attempt was sent again"
    assert job.paid == 3 * PRICE


def test_a_leg_that_is_accepted_behind_our_back_is_released_unused(world: EscrowWorld) -> None:
    """A holder refuses us and yet has its acceptance sent by somebody: its leg takes no part, so it is not paid."""
    job = world.train(rounds=1)
    world.holders[3].charged[job.spec.job_id] = 0
    job._book.save(roster=(1, 2))
    job.run()
    assert {leg.dataset_id: leg.state for leg in job.legs} == {
        1: "ACKNOWLEDGED",
        2: "ACKNOWLEDGED",
        3: "FAILED",
    }
    assert world.losses()[3] == (0, 0)
    assert (job.paid, job.refunded) == (2 * PRICE, PRICE)


def test_a_grant_that_was_revoked_is_found_before_anything_is_sent(world: EscrowWorld) -> None:
    proposal = world.propose()
    world.admin(2).revoke_grants(world.holders[2].holder_id)
    sent = world.chain.rpc.nonce(world.network.address, "latest")
    with pytest.raises(Refused) as caught:
        proposal.open()
    assert caught.value.reason == "GRANT_REVOKED"
    assert "dataset 2" in caught.value.message
    assert world.chain.rpc.nonce(world.network.address, "latest") == sent
    assert proposal.withdraw()
