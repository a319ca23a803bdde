"""Disputes with bond and arbiter, jobs that somebody else pays for, and what a quote says before anything is signed."""

from __future__ import annotations

from decimal import Decimal

import pytest
from escrow_world import DAY, PRICE, EscrowWorld, model

import usufruct as uf
from usufruct.builder import JobHandle, Network
from usufruct.builder.gas import Circumstances, job_transactions, total
from usufruct.builder.store import JobStore
from usufruct.chain import LegState, Sender
from usufruct.errors import InvalidInput, PeerUnreachable, UsufructError

pytestmark = pytest.mark.timeout(180)

BOND = PRICE // 10


def odd_job(world: EscrowWorld, arbiter: Network) -> JobHandle:
    """A job whose second receipt says otherwise than the builder saw."""
    world.holders[2].changed = {"dimension": 9}
    return world.train(rounds=1, arbiter=arbiter.address, challenge_seconds=2 * DAY).run()


# -- disputes ---------------------------------------------------------------------------------------------------------


def test_an_arbiter_decides_about_a_leg_that_is_disputed(world: EscrowWorld) -> None:
    arbiter = world.another("arbiter")
    job = odd_job(world, arbiter)
    dispute = job.dispute(2, "It trained another model.")
    assert (dispute.bond_units, dispute.arbiter) == (BOND, arbiter.address)
    assert world.money() == (0, 97 * PRICE - BOND)
    kept = (JobStore.find(job.id).directory / "dispute-2.txt").read_text()
    assert kept == "It trained another model."
    leg = world.chain.leg(job.spec.job_id, 2)
    assert leg is not None
    assert leg.state is LegState.DISPUTED
    Sender(world.chain, arbiter.account).resolve(leg, 2000)
    job.finish()
    (resolved,) = [leg for leg in job.legs if leg.dataset_id == 2]
    assert (resolved.state, resolved.paid_units, resolved.refunded_units) == (
        "RESOLVED",
        PRICE // 5,
        PRICE * 4 // 5,
    )
    assert world.money() == (PRICE * 4 // 5 + BOND, 97 * PRICE - BOND)


def test_when_the_arbiter_is_silent_price_and_bond_come_back(world: EscrowWorld) -> None:
    job = odd_job(world, world.another("arbiter"))
    dispute = job.dispute(2, "It trained another model.")
    world.pass_time(dispute.until_seconds - world.chain.block_time_seconds() + 1)
    job.finish()
    (leg,) = [leg for leg in job.legs if leg.dataset_id == 2]
    assert (leg.state, leg.refunded_units) == ("UNRESOLVED", PRICE)
    assert world.money() == (PRICE + BOND, 97 * PRICE - BOND)


def test_without_an_arbiter_there_is_no_dispute(world: EscrowWorld) -> None:
    world.holders[2].changed = {"dimension": 9}
    job = world.train(rounds=1).run()
    with pytest.raises(UsufructError) as caught:
        job.dispute(2, "It trained another model.")
    assert caught.value.reason == "NO_ARBITER"
    assert world.states(job.spec.job_id)[2] is LegState.DELIVERED


def test_what_is_paid_cannot_be_disputed(world: EscrowWorld) -> None:
    job = odd_job(world, world.another("arbiter"))
    with pytest.raises(UsufructError) as caught:
        job.dispute(1, "I have changed my mind.")
    assert caught.value.reason == "LEG_NOT_OPEN"


# -- somebody else pays -----------------------------------------------------------------------------------------------


def test_somebody_else_pays_and_gets_back_what_comes_back(world: EscrowWorld) -> None:
    payer = world.another("payer", 10 * PRICE)
    world.holders[3].refusals["StartLeg"] = InvalidInput("no", reason="DATA_UNREADABLE")
    job = world.train(rounds=1, sponsorship=payer.sponsor).run()
    assert {leg.payer for leg in world.chain.job_legs(job.spec.job_id)} == {payer.address}
    assert world.money() == (0, 100 * PRICE), "the builder's own is not touched"
    assert world.money(payer) == (PRICE, 7 * PRICE), "deposited for three legs; one came back"
    assert world.earnings() == {1: PRICE, 2: PRICE, 3: 0}


def test_the_payer_may_sit_elsewhere_and_disputes_what_it_paid_for(world: EscrowWorld) -> None:
    payer, arbiter = world.another("payer", 10 * PRICE), world.another("arbiter")
    world.holders[2].changed = {"dimension": 9}
    proposal = world.propose(rounds=1)
    signed = payer.sponsor(proposal.to_sponsor, valid_seconds=600)
    job = proposal.open(sponsorship=signed, arbiter=arbiter.address).run()
    with pytest.raises(UsufructError) as caught:
        job.dispute(2, "It trained another model.")
    assert caught.value.reason == "NOT_YOURS"
    dispute = payer.dispute(job.id, 2, "It trained another model.")
    assert dispute.bond_units == BOND
    assert world.states(job.spec.job_id)[2] is LegState.DISPUTED
    assert world.money() == (0, 100 * PRICE)


def test_a_job_that_was_to_be_sponsored_is_not_opened_on_the_builders_money(world: EscrowWorld) -> None:
    payer = world.another("payer")
    with pytest.raises(UsufructError) as caught:
        world.train(sponsorship=payer.sponsor)
    assert caught.value.reason == "MONEY_SHORT"
    assert payer.address in caught.value.message

    def die(proposal: object) -> object:
        raise PeerUnreachable("the payer's machine is off")

    with pytest.raises(PeerUnreachable) as gone:
        world.train(sponsorship=die)
    job_id = str(gone.value.details["job_id"])
    with pytest.raises(InvalidInput):
        uf.resume(job_id)
    assert world.money() == (0, 100 * PRICE)
    world.mint(payer, 3 * PRICE)
    signed = payer.sponsor(world.network.proposal(job_id))
    job = uf.resume(job_id, sponsorship=signed)
    assert job.datasets == (1, 2, 3)


def test_a_sponsorship_for_another_job_opens_nothing(world: EscrowWorld) -> None:
    payer = world.another("payer", 10 * PRICE)
    other, proposal = world.propose(), world.propose()
    with pytest.raises(UsufructError) as caught:
        proposal.open(sponsorship=payer.sponsor(other))
    assert "contract_reason" in caught.value.details
    assert world.money() == (0, 100 * PRICE)
    assert proposal.withdraw(), "nothing was locked, so it is a proposal still"


# -- quotes -----------------------------------------------------------------------------------------------------------


def test_every_quoted_figure_is_within_15_percent_above_what_the_gas_is(world: EscrowWorld) -> None:
    world.another("somebody", 1).deposit(1, world.token)  # the contract has held the token before
    for first_job in (True, False):
        offer = world.network.quote(model(), world.datasets(), **world.settings(rounds=1))
        assert [(quoted.function, quoted.count) for quoted in offer.transactions] == [
            ("approve", 1), ("deposit", 1), ("openJob", 1), ("accept", 3), ("deliverAndAcknowledge", 3),
        ]  # fmt: skip
        job = world.train(rounds=1).run()
        spent = by_function(job)
        for quoted in offer.transactions[1:]:  # to approve is the token's own affair
            truth = spent.pop(quoted.function)
            said = f"{quoted.function}: {truth} gas where {quoted.gas} are quoted"
            assert truth <= quoted.gas <= 1.15 * truth, f"{said}, {first_job=}"
        assert spent == {}, "nothing was sent that was not quoted"


@pytest.mark.parametrize("deposited", [0, 5 * PRICE])
def test_so_are_those_of_a_sponsored_job_and_of_one_that_was_deposited_for(
    world: EscrowWorld, deposited: int
) -> None:
    payer = world.another("payer", 10 * PRICE)
    if deposited:
        world.network.deposit(deposited)
    options = {"rounds": 1, "sponsorship": None if deposited else payer.sponsor}
    offer = world.network.quote(model(), world.datasets(), **world.settings(**options))
    spent = by_function(world.train(**options).run())
    assert [quoted.function for quoted in offer.transactions] == [
        "openJob",
        "accept",
        "deliverAndAcknowledge",
    ]
    for quoted in offer.transactions:
        assert spent[quoted.function] <= quoted.gas <= 1.15 * spent[quoted.function]


def by_function(job: JobHandle) -> dict[str, int]:
    """What the builder's transactions took."""
    spent: dict[str, int] = {}
    for what, gas in JobStore.find(job.id).state().gas.items():
        spent[what.split()[0]] = spent.get(what.split()[0], 0) + gas
    return spent


def test_a_quote_says_what_everything_costs_before_anything_is_signed(world: EscrowWorld) -> None:
    arbiter = world.another("arbiter").address
    world.network.deposit(PRICE)
    sent = world.chain.rpc.nonce(world.network.address, "latest")
    offer = world.network.quote(model(), world.datasets(), **world.settings(arbiter=arbiter))
    assert offer.price_units == {world.token: 3 * PRICE}
    assert offer.deposit_units == {world.token: 2 * PRICE}
    assert offer.bond_units == dict.fromkeys((1, 2, 3), BOND)
    assert offer.fee_bps == 0
    assert offer.cost_wei == offer.gas * world.chain.rpc.gas_price_wei() > 0
    assert offer.cost_coin == Decimal(offer.cost_wei) / 10**18
    text = repr(offer)
    for said in (str(3 * PRICE), str(2 * PRICE), str(BOND), str(offer.gas), f"{offer.cost_wei} wei"):
        assert said in text
    assert offer.to_json()["cost_wei"] == offer.cost_wei
    assert world.chain.rpc.nonce(world.network.address, "latest") == sent


def test_a_sponsored_job_costs_its_builder_no_deposit(world: EscrowWorld) -> None:
    payer = world.another("payer")
    own = world.network.quote(None, world.datasets(), **world.settings())
    offer = world.network.quote(None, world.datasets(), **world.settings(sponsorship=payer.sponsor))
    assert offer.deposit_units == {}
    assert {quoted.function for quoted in own.transactions} - {quoted.function for quoted in offer.transactions} == {
        "approve", "deposit",
    }  # fmt: skip


def test_a_fee_is_in_the_price_and_costs_gas() -> None:
    without, with_fee = job_transactions(Circumstances(3)), job_transactions(Circumstances(3, fee=True))
    assert total(with_fee) > total(without)


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_a_holder_that_shows_another_policy_than_the_registered_one_is_not_listed(world: EscrowWorld) -> None:
    world.holders[2].policy = b'{"scripted":false}'
    found = world.network.datasets()
    assert [dataset.id for dataset in found] == [1, 3]
    assert [(gone.dataset_id, gone.reason) for gone in found.unreachable] == [(2, "POLICY_MISMATCH")]
    assert found[0].policy == world.holders[1].policy


def test_money_goes_in_and_out_of_the_deposit(world: EscrowWorld) -> None:
    world.network.deposit(5 * PRICE)
    assert world.money() == (5 * PRICE, 95 * PRICE)
    assert world.network.withdraw(2 * PRICE) > 0
    assert world.money() == (3 * PRICE, 97 * PRICE)
    with pytest.raises(UsufructError) as caught:
        world.network.withdraw(4 * PRICE)
    assert caught.value.reason == "MONEY_SHORT"
