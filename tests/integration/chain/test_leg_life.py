"""A leg in every state through real JSON-RPC: who got what, what was spent, and every refusal with its own reason."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from chain_world import (
    ACCEPT_SECONDS,
    DELIVER_SECONDS,
    EPOCH,
    LOSS,
    MONEY,
    PRICE,
    PURPOSE,
    SPEC,
    World,
    terms_with,
)
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain import (
    ENDED,
    HANDED_IN,
    UNSPENT,
    Chain,
    LegState,
    bond_units,
    grant_hash,
    receipt_hash,
    sign_grant,
    sign_sponsorship,
)
from usufruct.domain.grant import SignedSponsorship, Sponsorship
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.domain.usage_record import leaf, merkle_proof, merkle_root
from usufruct.errors import ChainError

BOND = bond_units(PRICE)
TO_HOLDER = PRICE * 6_000 // 10_000
OUTCOMES: dict[LegState, tuple[int, int, int, int]] = {
    # the builder's deposit less MONEY; the holder's earnings; reserved; spent
    LegState.LOCKED: (-PRICE, 0, LOSS, 0),
    LegState.ACCEPTED: (-PRICE, 0, LOSS, 0),
    LegState.DELIVERED: (-PRICE, 0, 0, LOSS),
    LegState.DISPUTED: (-PRICE - BOND, 0, 0, LOSS),
    LegState.ACKNOWLEDGED: (-PRICE, PRICE, 0, LOSS),
    LegState.SETTLED: (-PRICE, PRICE, 0, LOSS),
    LegState.RESOLVED: (-TO_HOLDER - BOND, TO_HOLDER + BOND, 0, LOSS),
    LegState.UNRESOLVED: (0, 0, 0, LOSS),
    LegState.CANCELLED: (0, 0, 0, 0),
    LegState.DECLINED: (0, 0, 0, 0),
    LegState.RELEASED: (0, 0, 0, 0),
    LegState.FAILED: (0, 0, 0, LOSS),
    LegState.EXPIRED: (0, 0, 0, LOSS),
}


@pytest.mark.parametrize("state", list(LegState), ids=lambda state: state.name)
def test_a_leg_in_every_state_is_read_as_the_contract_stores_it(world: World, state: LegState) -> None:
    leg, chain = world.leg_in(state), world.chain
    assert leg.state is state
    balance, earned, reserved, spent = OUTCOMES[state]
    assert world.deposit_of(world.builder) - MONEY == balance
    assert chain.earnings_of(world.token, world.holder_id) == earned
    assert world.budget(leg.dataset_id) == (reserved, spent)
    assert leg.loss_micro == (0 if state in UNSPENT else LOSS)
    assert (leg.receipt_hash != bytes(32)) == (state in HANDED_IN) == (leg.until_seconds != 0)
    assert (leg.builder, leg.payer, leg.arbiter) == (
        world.builder.address, world.builder.address, world.arbiter.address,
    )  # fmt: skip
    # one who reads for the first time folds all of its events; one who knows it reads one word
    fresh = Chain.connect(world.node.url, world.addresses.compute_access)
    assert fresh.leg(leg.job_id, leg.dataset_id) == leg == chain.leg(leg.job_id, leg.dataset_id, "latest")
    assert fresh.job_legs(leg.job_id) == [leg]


def test_final_states_are_final(world: World) -> None:
    assert {
        state
        for state in LegState
        if OUTCOMES[state][2] == 0 and state not in (LegState.DELIVERED, LegState.DISPUTED)
    } == ENDED
    leg = world.leg_in(LegState.CANCELLED)
    for push in (
        world.stranger.release,
        world.stranger.expire,
        world.stranger.settle,
        world.stranger.refund_unresolved,
    ):
        with pytest.raises(ChainError) as refused:
            push(leg)
        assert refused.value.reason == "LEG_NOT_OPEN"


def test_a_leg_is_found_at_every_block_of_its_life(world: World) -> None:
    leg = world.leg_in(LegState.ACKNOWLEDGED)
    first, last = (
        world.chain.find_events("ComputeAccess", "LegLocked", leg.job_id)[0].block_number,
        world.chain.final_block()[0],
    )
    seen = []
    for block in range(first - 1, last + 1):
        found = world.chain.leg(leg.job_id, leg.dataset_id, block)
        seen.append(None if found is None else found.state)
    assert list(dict.fromkeys(seen)) == [
        None, LegState.LOCKED, LegState.ACCEPTED, LegState.DELIVERED, LegState.ACKNOWLEDGED,
    ]  # fmt: skip


def test_legs_of_a_job_go_their_own_ways(world: World) -> None:
    job = world.open(world.datasets)
    first, second, third = (world.leg(job, dataset) for dataset in world.datasets)
    world.delivered(world.accepted(first))
    world.builder.cancel(second)
    entry = world.chain.job(job)
    assert entry is not None
    assert (entry.legs, entry.accepted, entry.min_legs, entry.started) == (3, 1, 1, True)
    assert [leg.state for leg in world.chain.job_legs(job)] == [
        LegState.DELIVERED, LegState.CANCELLED, LegState.LOCKED,
    ]  # fmt: skip
    assert world.deposit_of(world.builder) == MONEY - 2 * PRICE
    world.stranger.accept(third, EPOCH, world.acceptance(third))
    assert world.again(third).state is LegState.ACCEPTED


def test_a_lower_loss_needs_the_builders_consent(world: World) -> None:
    leg = world.accepted(world.locked())
    receipt = world.receipt(leg, loss_micro=LOSS - 1)
    with pytest.raises(ChainError) as refused:
        world.operator.deliver(leg, receipt)
    assert refused.value.reason == "BAD_SIGNATURE"
    world.operator.deliver(leg, receipt, lower_signature=world.lower(leg, LOSS - 1))
    assert world.again(leg).loss_micro == LOSS - 1
    assert world.budget(leg.dataset_id) == (0, LOSS - 1)
    other = world.accepted(world.locked(world.datasets[1]))
    world.operator.fail(other, 0, EPOCH, lower_signature=world.lower(other, 0))
    assert world.again(other).loss_micro == 0
    assert world.budget(other.dataset_id) == (0, 0)


def test_delivering_and_acknowledging_in_one_transaction_that_anybody_sends(world: World) -> None:
    leg = world.accepted(world.locked())
    receipt = world.receipt(leg)
    signed = (world.signed(receipt), b"", world.acknowledgement(receipt))
    sent = world.stranger.deliver_and_acknowledge(leg, receipt, *signed)
    ended = world.again(leg)
    assert (ended.state, ended.receipt_hash) == (LegState.ACKNOWLEDGED, receipt_hash(receipt, *world.domain))
    again = world.stranger.deliver_and_acknowledge(leg, receipt, *signed)
    assert (again.repeated, again.hash) == (True, sent.hash)
    delivered = world.delivered(world.accepted(world.locked(world.datasets[1])))
    receipt = world.receipt(delivered)
    with pytest.raises(ChainError, match="another receipt"):
        world.stranger.deliver_and_acknowledge(delivered, replace(receipt, rounds_done=19), b"", b"", b"")


def test_nobody_trains_before_enough_have_accepted(world: World) -> None:
    job = world.open(world.datasets[:2], min_legs=2)
    first = world.accepted(world.leg(job, world.datasets[0]))
    with pytest.raises(ChainError) as refused:
        world.operator.deliver(first, world.receipt(first))
    assert refused.value.reason == "TOO_FEW_ACCEPTED"
    with pytest.raises(ChainError, match="DeadlineNotPassed"):
        world.stranger.release(first)
    world.wait_until(world.now() + DELIVER_SECONDS)
    with pytest.raises(ChainError) as refused:
        world.stranger.expire(first)
    assert refused.value.reason == "TOO_FEW_ACCEPTED"
    for dataset in world.datasets[:2]:
        world.stranger.release(world.leg(job, dataset))
    assert {leg.state for leg in world.chain.job_legs(job)} == {LegState.RELEASED}
    assert world.deposit_of(world.builder) == MONEY
    assert world.budget(world.datasets[0]) == (0, 0)


def test_an_acceptance_is_refused_late_fenced_out_withdrawn_or_signed_by_another(world: World) -> None:
    def reason(leg_signature: bytes, epoch: int = EPOCH) -> str:
        with pytest.raises(ChainError) as refused:
            world.stranger.accept(leg, epoch, leg_signature)
        return refused.value.reason

    leg = world.locked()
    assert reason(world.decline(leg)) == "BAD_SIGNATURE"
    assert reason(world.acceptance(leg), EPOCH + 1) == "FENCED_OUT"
    world.admin.revoke_grants(world.holder_id)
    assert reason(world.acceptance(leg)) == "GRANT_WITHDRAWN"
    leg = world.locked(world.datasets[1])
    world.wait_until(world.now() + ACCEPT_SECONDS)
    assert reason(world.acceptance(leg)) == "LEG_EXPIRED"


def test_a_server_that_was_overtaken_cannot_state_anything(world: World) -> None:
    leg = world.accepted(world.locked())
    world.operator.take_fencing_epoch(world.holder_id, EPOCH + 1, b"\x05" * 32)
    with pytest.raises(ChainError) as refused:
        world.operator.deliver(leg, world.receipt(leg))
    assert refused.value.reason == "FENCED_OUT"
    with pytest.raises(ChainError) as refused:
        world.operator.fail(leg, LOSS, EPOCH)
    assert refused.value.reason == "FENCED_OUT"
    with pytest.raises(ChainError) as refused:
        world.operator.take_fencing_epoch(world.holder_id, EPOCH + 1, b"\x06" * 32)
    assert refused.value.reason == "FENCED_OUT"
    holder = world.chain.holder(world.holder_id)
    assert (holder.fencing_epoch, holder.ledger_head) == (EPOCH + 1, b"\x05" * 32)
    world.operator.deliver(leg, world.receipt(leg, fencing_epoch=EPOCH + 1))


def test_a_dispute_is_the_payers_with_an_arbiter_and_in_time(world: World) -> None:
    without = world.delivered(world.accepted(world.locked(arbiter=ZERO_ADDRESS)))
    with pytest.raises(ChainError) as refused:
        world.builder.dispute(without, keccak(b"reason"))
    assert refused.value.reason == "NO_ARBITER"
    leg = world.delivered(world.accepted(world.locked(world.datasets[1])))
    with pytest.raises(ChainError) as refused:
        world.stranger.dispute(leg, keccak(b"reason"))
    assert refused.value.reason == "NOT_YOURS"
    with pytest.raises(ChainError, match="DeadlineNotPassed"):
        world.stranger.settle(leg)
    world.wait_until(leg.until_seconds)
    with pytest.raises(ChainError) as refused:
        world.builder.dispute(leg, keccak(b"reason"))
    assert refused.value.reason == "LEG_EXPIRED"


def test_somebody_else_may_pay(world: World) -> None:
    payer = world.stranger
    payer.mint_test_token(world.token, payer.address, MONEY)
    payer.deposit(world.token, MONEY)
    nonce = secrets.token_bytes(32)
    promise = Sponsorship(payer.address, world.job_of(nonce), SPEC, world.token, PRICE, world.now() + 600)
    legs = [(world.grant(world.datasets[0]), LOSS)]

    def signed_by(key: LocalAccount, **changes: object) -> SignedSponsorship:
        changed = replace(promise, **changes)  # type: ignore[arg-type]
        return SignedSponsorship(changed, sign_sponsorship(key, changed, *world.domain))

    for fault in (
        {"units": PRICE - 1},
        {"job_id": bytes(32)},
        {"spec_hash": PURPOSE},
        {"deadline_seconds": 1},
    ):
        with pytest.raises(ChainError, match="WrongSponsorship"):
            world.open_with(nonce, legs, sponsorship=signed_by(world.stranger_key, **fault))
    with pytest.raises(ChainError) as refused:
        world.open_with(nonce, legs, sponsorship=signed_by(world.builder_key))
    assert refused.value.reason == "BAD_SIGNATURE"
    signed = signed_by(world.stranger_key)
    leg = world.leg(world.open_with(nonce, legs, sponsorship=signed), world.datasets[0])
    assert (leg.payer, leg.builder) == (payer.address, world.builder.address)
    assert (world.deposit_of(payer), world.deposit_of(world.builder)) == (MONEY - PRICE, MONEY)
    payer.cancel(leg)
    assert world.deposit_of(payer) == MONEY


# -- grants, budgets, money --------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, dict[str, object], str]] = [
    ("another builder", {"grantee": "0x" + "11" * 20}, "GRANT_OTHER_BUILDER"),
    ("another spec", {"spec_hash": keccak(b"another")}, "WRONG_SPEC"),
    ("another purpose", {"purpose_hash": keccak(b"another")}, "GRANT_TERMS"),
    ("another token", {"token": "0x" + "22" * 20}, "GRANT_TERMS"),
    ("a lower price", {"price_units": PRICE - 1}, "GRANT_TERMS"),
    ("a smaller loss", {"loss_per_job_micro": LOSS - 1}, "GRANT_TERMS"),
    ("more loss than the operator may grant", {"loss_per_job_micro": 5_000_001}, "GRANT_TERMS"),
    ("no use", {"max_uses": 0}, "GRANT_USED_UP"),
    ("an earlier deadline", {"deadline_seconds": 1}, "GRANT_EXPIRED"),
    ("a later beginning", {"not_before_seconds": 1 << 39}, "GRANT_NOT_YET"),
    ("another epoch", {"revocation_epoch": 1}, "GRANT_REVOKED"),
    ("an unknown dataset", {"dataset_id": 99}, "DATASET_UNKNOWN"),
]


def test_a_grant_with_a_fault_is_refused_by_view_and_by_open_job_alike(world: World) -> None:
    for fault, changes, reason in REFUSALS:
        signed = world.grant(world.datasets[0], **changes)
        assert world.chain.check_grant(signed, SPEC, PURPOSE, world.builder.address, LOSS) == reason, fault
        with pytest.raises(ChainError) as refused:
            world.open_with(secrets.token_bytes(32), [(signed, LOSS)])
        assert refused.value.reason == reason, fault
    assert world.deposit_of(world.builder) == MONEY


def test_a_grant_that_is_cancelled_revoked_or_stopped_by_a_pause_opens_nothing(world: World) -> None:
    def reason() -> str:
        return world.chain.check_grant(signed, SPEC, PURPOSE, world.builder.address, LOSS)

    signed = world.grant(world.datasets[0])
    assert reason() == ""
    world.guardian.set_paused(True)
    assert (reason(), world.chain.settings().paused) == ("PAUSED", True)
    world.guardian.set_paused(False)
    world.operator.cancel_grant(signed)
    assert reason() == "GRANT_CANCELLED"
    signed = world.grant(world.datasets[0])
    world.operator.revoke_grants(world.holder_id)
    assert reason() == "GRANT_REVOKED"
    signed = world.grant(world.datasets[0])
    assert reason() == ""


def test_a_grant_signed_by_another_key_or_for_another_contract_is_refused(world: World) -> None:
    good, chain = world.grant(world.datasets[0]), world.chain
    by_builder = sign_grant(world.builder_key, good.grant, chain.chain_id, chain.registry)
    elsewhere = sign_grant(world.operator_key, good.grant, chain.chain_id, chain.usage_log)
    other_chain = sign_grant(world.operator_key, good.grant, chain.chain_id + 1, chain.registry)
    empty, zeros = replace(good, signature=b""), replace(good, signature=bytes(65))
    for bad in (by_builder, elsewhere, other_chain, empty, zeros):
        assert chain.check_grant(bad, SPEC, PURPOSE, world.builder.address, LOSS) == "GRANT_BAD_SIGNATURE"


def test_what_a_grant_was_used_for_is_on_chain(world: World) -> None:
    signed = world.grant(world.datasets[0], max_uses=2, loss_total_micro=2 * LOSS)
    for _ in range(2):
        world.open_with(secrets.token_bytes(32), [(signed, LOSS)])
    use = world.chain.grant_use(grant_hash(signed.grant, world.chain.chain_id, world.chain.registry))
    assert (use.uses, use.loss_micro, use.revocation_epoch, use.cancelled) == (2, 2 * LOSS, 0, False)
    with pytest.raises(ChainError) as refused:
        world.open_with(secrets.token_bytes(32), [(signed, LOSS)])
    assert refused.value.reason == "GRANT_USED_UP"


def test_budget_money_cohort_and_retirement_each_have_their_reason(world: World) -> None:
    dataset = world.datasets[0]
    for _ in range(3):
        world.open([dataset])
    with pytest.raises(ChainError) as refused:
        world.open([dataset])
    assert refused.value.reason == "BUDGET_SHORT"
    world.builder.withdraw(world.token, MONEY - 3 * PRICE)
    with pytest.raises(ChainError) as refused:
        world.open([world.datasets[1]])
    assert refused.value.reason == "MONEY_SHORT"
    world.builder.deposit(world.token, PRICE)
    world.admin.set_terms(world.datasets[2], terms_with(min_cohort=2))
    with pytest.raises(ChainError) as refused:
        world.open([world.datasets[2]])
    assert refused.value.reason == "COHORT_TOO_SMALL"
    world.admin.retire_dataset(world.datasets[2])
    signed = world.grant(world.datasets[2])
    assert world.chain.check_grant(signed, SPEC, PURPOSE, world.builder.address, LOSS) == "DATASET_RETIRED"
    assert not world.chain.dataset(world.datasets[2]).active


def test_two_jobs_at_once_cannot_both_take_the_last_of_a_budget(world: World) -> None:
    dataset = world.datasets[0]
    world.open([dataset], loss=5_000_000)
    world.open([dataset], loss=2_000_000)

    def attempt(_: int) -> str:
        try:
            world.open([dataset], loss=3_000_000)
        except ChainError as error:
            return error.reason
        return "opened"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(attempt, range(4)))
    assert outcomes == ["BUDGET_SHORT"] * 3 + ["opened"]
    assert world.chain.dataset(dataset).left_micro == 0


def test_the_fee_of_opening_holds_for_the_leg(world: World) -> None:
    world.guardian.schedule_fee(100)
    with pytest.raises(ChainError, match="TooEarly"):
        world.stranger.apply_fee()
    world.wait_until(world.now() + 7 * 86_400)
    world.stranger.apply_fee()
    leg = world.locked()
    assert leg.fee_bps == world.chain.settings().fee_bps == 100
    leg = world.delivered(world.accepted(leg))
    world.builder.acknowledge(leg)
    fee = PRICE * 100 // 10_000
    assert world.chain.earnings_of(world.token, 0) == fee
    assert world.chain.earnings_of(world.token, world.holder_id) == PRICE - fee
    world.stranger.withdraw_earnings(world.token, 0)
    world.stranger.withdraw_earnings(world.token, world.holder_id)
    assert world.chain.token_balance(world.token, world.guardian.address) == fee
    assert world.chain.token_balance(world.token, world.admin.address) == PRICE - fee


# -- usage -------------------------------------------------------------------------------------------------------


def test_usage_batches_are_chained_and_provable(world: World) -> None:
    chain, holder = world.chain, world.holder_id
    leaves = [leaf(i, b"record %d" % i) for i in range(5)]
    root = merkle_root(leaves)
    world.operator.append_usage(holder, root, 5, bytes(32), 0)
    assert chain.usage_head(holder) == (5, int.from_bytes(root[-4:], "big"))
    with pytest.raises(ChainError, match="SequenceGap"):
        world.operator.append_usage(holder, b"\x02" * 32, 5, root, 6)
    with pytest.raises(ChainError, match="WrongPrevious"):
        world.operator.append_usage(holder, b"\x02" * 32, 5, b"\x03" * 32, 5)
    with pytest.raises(ChainError) as refused:
        world.stranger.append_usage(holder, b"\x02" * 32, 5, root, 5)
    assert refused.value.reason == "BAD_SIGNATURE"
    world.operator.append_usage(holder, b"\x02" * 32, 3, root, 5)
    for index, one in enumerate(leaves):
        assert chain.verify_usage(holder, 0, one, merkle_proof(leaves, index))
        assert not chain.verify_usage(holder, 0, leaf(index, b"changed"), merkle_proof(leaves, index))
