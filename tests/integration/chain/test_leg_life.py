"""A leg from grant to payment through real JSON-RPC, and every refusal with its own reason."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from chain_world import CAP, LOSS, PRICE, PURPOSE, SPEC, World
from eth_utils.crypto import keccak

from usufruct.chain import (
    LegState,
    events,
    grant_hash,
    receipt_hash,
    sign_acknowledgement,
    sign_grant,
    sign_receipt,
)
from usufruct.chain.connection import grant_struct
from usufruct.chain.interface import interface
from usufruct.domain.usage_record import leaf, merkle_proof, merkle_root
from usufruct.errors import ChainError


def test_a_leg_is_locked_delivered_and_paid(world: World) -> None:
    chain, dataset = world.chain, world.datasets[0]
    job = world.open(world.datasets[:2])
    leg = world.leg(job, dataset)
    assert (leg.state, leg.price_units, leg.loss_reserved_micro) == (LegState.LOCKED, PRICE, LOSS)
    assert [entry.dataset_id for entry in chain.job_legs(job)] == world.datasets[:2]
    assert chain.deposit_of(world.token, world.builder.address) == 18 * PRICE
    assert chain.dataset(dataset).reserved_micro == LOSS

    receipt = world.receipt(leg)
    world.operator.deliver(leg, receipt)
    leg = world.leg(job, dataset)
    assert leg.state is LegState.DELIVERED
    assert leg.receipt_hash == receipt_hash(receipt, chain.chain_id, chain.compute_access)
    entry = chain.dataset(dataset)
    assert (entry.reserved_micro, entry.spent_micro, entry.left_micro) == (0, LOSS, CAP - LOSS)

    world.builder.acknowledge(leg)
    assert world.leg(job, dataset).state is LegState.PAID
    assert world.leg(job, world.datasets[1]).state is LegState.LOCKED
    assert chain.earnings_of(world.token, world.holder_id) == PRICE
    world.stranger.withdraw_earnings(world.token, world.holder_id)
    assert chain.earnings_of(world.token, world.holder_id) == 0


def test_asking_twice_never_doubles(world: World) -> None:
    nonce, legs = secrets.token_bytes(32), [(world.grant(world.datasets[0]), LOSS)]
    first = world.builder.open_job(nonce, SPEC, PURPOSE, legs, world.now() + 1800, 1)
    again = world.builder.open_job(nonce, SPEC, PURPOSE, legs, world.now() + 1800, 1)
    assert (again.repeated, again.hash) == (True, first.hash)
    job = next(e.job_id for e in world.chain.events() if isinstance(e, events.JobOpened))
    leg = world.leg(job, world.datasets[0])
    receipt = world.receipt(leg)
    delivered = world.operator.deliver(leg, receipt)
    assert world.operator.deliver(leg, receipt).hash == delivered.hash
    with pytest.raises(ChainError, match="another receipt"):
        world.operator.deliver(leg, replace(receipt, rounds_done=19))
    paid = world.builder.acknowledge(leg)
    assert world.builder.acknowledge(leg).hash == paid.hash
    assert world.operator.deliver(leg, receipt).repeated
    assert world.chain.earnings_of(world.token, world.holder_id) == PRICE
    args = (world.operator.address, world.admin.address, "127.0.0.1:7000", b"\x01" * 32)
    assert world.admin.register_holder(*args) == world.holder_id
    assert world.chain.holder_count() == 1
    same = world.admin.register_dataset(
        world.holder_id, b"\x01" * 32, world.token, PRICE, 1, 16, CAP, 5_000_000
    )
    assert same == world.datasets[0]
    assert world.chain.dataset_count() == 3


def test_a_stranger_may_send_what_others_signed(world: World) -> None:
    chain = world.chain
    leg = world.leg(world.open(world.datasets[:1]), world.datasets[0])
    receipt = world.receipt(leg)
    world.stranger.deliver(
        leg, receipt, sign_receipt(world.operator_key, receipt, chain.chain_id, chain.compute_access)
    )
    digest = receipt_hash(receipt, chain.chain_id, chain.compute_access)
    signature = sign_acknowledgement(
        world.builder_key, leg.leg_id, digest, chain.chain_id, chain.compute_access
    )
    world.stranger.acknowledge(leg, signature)
    assert world.leg(leg.job_id, leg.dataset_id).state is LegState.PAID


def test_an_expired_leg_is_refunded_and_its_loss_kept(world: World) -> None:
    leg = world.leg(world.open(world.datasets[:1], term_seconds=600), world.datasets[0])
    with pytest.raises(ChainError, match="DeadlineNotPassed"):
        world.stranger.refund_expired(leg)
    world.node.evm.increase_time(601)
    with pytest.raises(ChainError) as late:
        world.operator.deliver(leg, world.receipt(leg))
    assert late.value.reason == "LEG_EXPIRED"
    first = world.stranger.refund_expired(leg)
    assert world.stranger.refund_expired(leg).hash == first.hash
    assert world.leg(leg.job_id, leg.dataset_id).state is LegState.REFUNDED
    assert world.chain.deposit_of(world.token, world.builder.address) == 20 * PRICE
    assert world.chain.dataset(leg.dataset_id).spent_micro == LOSS


REFUSALS: list[tuple[str, dict[str, object], str]] = [
    ("another builder", {"grantee": "0x" + "11" * 20}, "GRANT_OTHER_BUILDER"),
    ("another spec", {"spec_hash": keccak(b"another")}, "WRONG_SPEC"),
    ("another purpose", {"purpose_hash": keccak(b"another")}, "GRANT_TERMS"),
    ("another token", {"token": "0x" + "22" * 20}, "GRANT_TERMS"),
    ("a lower price", {"price_units": PRICE - 1}, "GRANT_TERMS"),
    ("a smaller loss", {"loss_per_job_micro": LOSS - 1}, "GRANT_TERMS"),
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
            world.builder.open_job(
                secrets.token_bytes(32), SPEC, PURPOSE, [(signed, LOSS)], world.now() + 1800, 1
            )
        assert refused.value.reason == reason, fault
    assert world.chain.deposit_of(world.token, world.builder.address) == 20 * PRICE


def test_a_grant_signed_by_another_key_or_for_another_contract_is_refused(world: World) -> None:
    good, chain = world.grant(world.datasets[0]), world.chain
    assert chain.check_grant(good, SPEC, PURPOSE, world.builder.address, LOSS) == ""
    by_builder = sign_grant(world.builder_key, good.grant, chain.chain_id, chain.registry)
    elsewhere = sign_grant(world.operator_key, good.grant, chain.chain_id, chain.usage_log)
    other_chain = sign_grant(world.operator_key, good.grant, chain.chain_id + 1, chain.registry)
    for bad in (
        by_builder,
        elsewhere,
        other_chain,
        replace(good, signature=b""),
        replace(good, signature=bytes(65)),
    ):
        assert chain.check_grant(bad, SPEC, PURPOSE, world.builder.address, LOSS) == "GRANT_BAD_SIGNATURE"


def test_budget_money_cohort_and_retirement_each_have_their_reason(world: World) -> None:
    dataset = world.datasets[0]
    for _ in range(3):
        world.open([dataset])
    with pytest.raises(ChainError) as refused:
        world.open([dataset])
    assert refused.value.reason == "BUDGET_SHORT"
    world.builder.withdraw(world.token, 17 * PRICE)
    with pytest.raises(ChainError) as refused:
        world.open([world.datasets[1]])
    assert refused.value.reason == "MONEY_SHORT"
    shy = world.admin.register_dataset(
        world.holder_id, b"\x09" * 32, world.token, PRICE, 2, 16, CAP, 5_000_000
    )
    world.builder.deposit(world.token, PRICE)
    with pytest.raises(ChainError) as refused:
        world.open([shy])
    assert refused.value.reason == "COHORT_TOO_SMALL"
    world.admin.retire_dataset(shy)
    assert (
        world.chain.check_grant(world.grant(shy), SPEC, PURPOSE, world.builder.address, LOSS)
        == "DATASET_RETIRED"
    )
    assert not world.chain.dataset(shy).active


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


def test_solidity_and_python_hash_alike(world: World) -> None:
    leg = world.leg(world.open(world.datasets[:1]), world.datasets[0])
    signed = world.grant(world.datasets[1])
    data = interface("Registry").encode_call("hashGrant", grant_struct(signed))
    there = world.chain.rpc.call(world.chain.registry, data, "latest")
    assert there == grant_hash(signed.grant, world.chain.chain_id, world.chain.registry)
    stored = interface("ComputeAccess").encode_call("legHash", leg.leg_id)
    assert world.chain.rpc.call(world.chain.compute_access, stored, "latest") == leg.stored_hash()


def test_usage_batches_are_chained_and_provable(world: World) -> None:
    chain, holder = world.chain, world.holder_id
    leaves = [leaf(i, b"record %d" % i) for i in range(5)]
    root = merkle_root(leaves)
    first = world.operator.append_usage(holder, root, 5, bytes(32), 0)
    assert world.operator.append_usage(holder, root, 5, bytes(32), 0).hash == first.hash
    assert chain.usage_head(holder)[0] == 5
    with pytest.raises(ChainError, match="SequenceGap"):
        world.operator.append_usage(holder, b"\x02" * 32, 5, root, 6)
    with pytest.raises(ChainError, match="WrongPrevious"):
        world.operator.append_usage(holder, b"\x02" * 32, 5, b"\x03" * 32, 5)
    with pytest.raises(ChainError, match="NotOperator"):
        world.stranger.append_usage(holder, b"\x02" * 32, 5, root, 5)
    world.operator.append_usage(holder, b"\x02" * 32, 3, root, 5)
    for index, one in enumerate(leaves):
        assert chain.verify_usage(holder, 0, one, merkle_proof(leaves, index))
        assert not chain.verify_usage(holder, 0, leaf(index, b"changed"), merkle_proof(leaves, index))


def test_events_come_in_order_and_typed(world: World) -> None:
    job = world.open(world.datasets[:2])
    leg = world.leg(job, world.datasets[0])
    world.operator.deliver(leg, world.receipt(leg))
    world.builder.acknowledge(leg)
    seen = list(world.chain.events())
    assert [(e.block_number, e.log_index) for e in seen] == sorted(
        (e.block_number, e.log_index) for e in seen
    )
    names = [type(e).__name__ for e in seen]
    assert names[:4] == ["HolderRegistered"] + ["DatasetRegistered"] * 3
    assert names[-5:] == ["JobOpened", "LegLocked", "LegLocked", "LegDelivered", "LegPaid"]
    delivered = next(e for e in seen if isinstance(e, events.LegDelivered))
    assert delivered.receipt.dimension == 39_700
    assert (delivered.leg_id, delivered.job_id) == (leg.leg_id, job)
    dataset = next(e for e in seen if isinstance(e, events.DatasetRegistered))
    assert (dataset.holder_id, dataset.cap_micro, dataset.order) == (world.holder_id, CAP, 16)
    middle = seen[3].block_number
    assert list(world.chain.events(middle, middle)) == [e for e in seen if e.block_number == middle]
