"""What is asked twice is done once, and the second answer is the first one's receipt; also by a sender that knows nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest
from chain_world import (
    CAP,
    ENDPOINT,
    EPOCH,
    FINGERPRINT,
    LOSS,
    ORDER,
    PRICE,
    PURPOSE,
    SPEC,
    TERMS,
    World,
    terms_with,
)
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain import (
    CallState,
    LegEntry,
    LegState,
    Sender,
    TransactionReceipt,
    call_hash,
    sign,
    sign_call,
    usage_batch_hash,
)
from usufruct.chain.interface import interface
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.domain.usage_record import leaf, merkle_proof, merkle_root
from usufruct.errors import ChainError

Do = Callable[[Sender], TransactionReceipt]


def fresh(sender: Sender) -> Sender:
    """Another sender of the same account, with an empty outbox: all that it can go by is the chain."""
    return Sender(sender.chain, sender.account._account)


def once(sender: Sender, do: Do) -> TransactionReceipt:
    """Does it, and asks for it again twice: the account sends one transaction."""
    counted = sender.chain.rpc.nonce(sender.address, "latest")
    first = do(sender)
    assert not first.repeated
    assert first.succeeded
    for again in (do(sender), do(fresh(sender))):
        assert (again.hash, again.repeated) == (first.hash, True)
    assert sender.chain.rpc.nonce(sender.address, "latest") == counted + 1
    return first


# -- holders and datasets ----------------------------------------------------------------------------------------


def test_registering(world: World) -> None:
    counted = world.chain.rpc.nonce(world.admin.address, "latest")
    for admin in (world.admin, fresh(world.admin)):
        assert admin.register_holder(world.operator.address, world.admin.address, ENDPOINT, FINGERPRINT) == 1
        same = admin.register_dataset(world.holder_id, b"\x01" * 32, world.token, ORDER, CAP, TERMS)
        assert same == world.datasets[0]
    assert world.chain.rpc.nonce(world.admin.address, "latest") == counted
    other = world.admin.register_dataset(world.holder_id, b"\x01" * 32, world.token, ORDER, CAP - 1, TERMS)
    assert other == len(world.datasets) + 1


def test_settings_of_a_holder(world: World) -> None:
    holder, new = world.holder_id, world.stranger.address
    once(world.admin, lambda s: s.set_operator(holder, new))
    once(world.admin, lambda s: s.set_operator(holder, world.operator.address))
    once(world.admin, lambda s: s.update_endpoint(holder, "127.0.0.1:7001", b"\x02" * 32))
    once(world.admin, lambda s: s.update_endpoint(holder, ENDPOINT, FINGERPRINT))
    once(world.admin, lambda s: s.offer_admin(holder, new))
    once(world.stranger, lambda s: s.accept_admin(holder))
    once(world.stranger, lambda s: s.offer_admin(holder, world.admin.address))
    once(world.stranger, lambda s: s.offer_admin(holder, ZERO_ADDRESS))
    entry = world.chain.holder(holder)
    assert (entry.operator, entry.endpoint, entry.admin, entry.next_admin) == (
        world.operator.address, ENDPOINT, new, ZERO_ADDRESS,
    )  # fmt: skip


def test_what_was_registered_needs_no_transaction_to_be_so(world: World) -> None:
    registered = world.chain.find_events("Registry", "HolderRegistered")[0].transaction_hash
    assert world.admin.set_operator(world.holder_id, world.operator.address).hash == registered
    assert world.admin.update_endpoint(world.holder_id, ENDPOINT, FINGERPRINT).hash == registered


def test_another_payout_address(world: World) -> None:
    holder, new = world.holder_id, world.stranger.address
    with pytest.raises(ChainError, match="TooEarly"):
        world.stranger.apply_payout(holder)
    announced = once(world.admin, lambda s: s.schedule_payout(holder, new))
    with pytest.raises(ChainError, match="TooEarly"):
        world.stranger.apply_payout(holder)
    entry = world.chain.holder(holder)
    assert (entry.payout, entry.next_payout) == (world.admin.address, new)
    world.wait_until(entry.payout_from_seconds)
    once(world.stranger, lambda s: s.apply_payout(holder))
    entry = world.chain.holder(holder)
    assert (entry.payout, entry.next_payout, entry.payout_from_seconds) == (new, ZERO_ADDRESS, 0)
    # what was announced and applied once can be announced again, and is then another announcement
    assert once(world.admin, lambda s: s.schedule_payout(holder, new)).hash != announced.hash
    with pytest.raises(ChainError, match="TooEarly"):
        world.stranger.apply_payout(holder)


def test_terms_and_budget_of_a_dataset(world: World) -> None:
    dataset, terms = world.datasets[0], terms_with(price_units=PRICE + 1, policy_hash=b"\x09" * 32)
    once(world.admin, lambda s: s.set_terms(dataset, terms))
    assert world.chain.dataset(dataset).terms == terms
    assert world.chain.dataset(dataset).policy_hash == b"\x09" * 32
    once(world.admin, lambda s: s.set_cap(dataset, CAP + 5))
    entry = world.chain.dataset(dataset)
    assert (entry.cap_micro, entry.next_cap_micro) == (CAP, CAP + 5)
    world.wait_until(entry.cap_from_seconds)
    once(world.stranger, lambda s: s.apply_cap(dataset))
    once(world.admin, lambda s: s.set_cap(dataset, CAP))
    entry = world.chain.dataset(dataset)
    assert (entry.cap_micro, entry.next_cap_micro, entry.cap_from_seconds) == (CAP, 0, 0)
    with pytest.raises(ChainError, match="TooEarly"):  # what was applied has been lowered since
        world.stranger.apply_cap(dataset)
    once(world.admin, lambda s: s.retire_dataset(dataset))


def test_a_lower_budget_takes_an_announcement_back(world: World) -> None:
    dataset = world.datasets[0]
    world.admin.set_cap(dataset, CAP + 5)
    with pytest.raises(
        ChainError, match="BadCap"
    ):  # the budget of now, while another is announced, is no answer
        world.admin.set_cap(dataset, CAP)
    once(world.admin, lambda s: s.set_cap(dataset, CAP - 1))
    with pytest.raises(ChainError, match="TooEarly"):
        world.stranger.apply_cap(dataset)


def test_grants(world: World) -> None:
    signed = world.grant(world.datasets[0])
    once(world.operator, lambda s: s.cancel_grant(signed))
    another = world.grant(world.datasets[0])
    once(world.admin, lambda s: s.cancel_grant(another))


def test_taking_an_epoch_and_revoking_are_done_as_often_as_they_are_asked_for(world: World) -> None:
    for epoch in (1, 2):
        world.operator.revoke_grants(world.holder_id)
        assert world.chain.holder(world.holder_id).revocation_epoch == epoch
    world.operator.take_fencing_epoch(world.holder_id, EPOCH + 1, bytes(32))
    for operator in (
        world.operator,
        fresh(world.operator),
    ):  # a copy of the server must not believe that it was it
        with pytest.raises(ChainError) as refused:
            operator.take_fencing_epoch(world.holder_id, EPOCH + 1, bytes(32))
        assert refused.value.reason == "FENCED_OUT"


def test_the_guardian(world: World) -> None:
    once(world.guardian, lambda s: s.set_paused(True))
    with pytest.raises(ChainError) as refused:
        world.stranger.register_holder(world.stranger.address, world.stranger.address, ENDPOINT, FINGERPRINT)
    assert refused.value.reason == "PAUSED"
    once(world.guardian, lambda s: s.set_paused(False))
    once(world.guardian, lambda s: s.schedule_fee(500))
    world.wait_until(world.chain.settings().fee_from_seconds)
    once(world.stranger, lambda s: s.apply_fee())
    once(world.guardian, lambda s: s.schedule_fee(0))
    once(world.guardian, lambda s: s.offer_guardian(world.stranger.address))
    once(world.guardian, lambda s: s.offer_guardian(ZERO_ADDRESS))
    with pytest.raises(ChainError, match="NotGuardian"):
        world.stranger.accept_guardian()
    world.guardian.offer_guardian(world.stranger.address)
    once(world.stranger, lambda s: s.accept_guardian())
    settings = world.chain.settings()
    assert (settings.guardian, settings.paused, settings.fee_bps) == (world.stranger.address, False, 500)


def test_a_call_that_its_decider_signed_is_sent_once_by_anybody(world: World) -> None:
    admin: LocalAccount = Account.create()  # has no coin at all
    deadline = world.now() + 600

    def signed(function: str, *arguments: object) -> tuple[bytes, bytes]:
        return sign_call(world.chain, admin, function, *arguments, deadline_seconds=deadline)

    def send(sender: Sender, call: tuple[bytes, bytes]) -> TransactionReceipt:
        return sender.by_signature(admin.address, call[0], deadline, call[1])

    register = signed("registerHolder", world.operator.address, admin.address, ENDPOINT, FINGERPRINT)
    first = send(world.stranger, register)
    assert send(world.stranger, register).hash == first.hash
    with pytest.raises(ChainError) as refused:  # its nonce is used up
        send(world.builder, register)
    assert refused.value.reason == "BAD_SIGNATURE"
    holder = world.chain.holder_count()
    assert world.chain.holder(holder).admin == admin.address
    assert world.chain.call_nonce(admin.address) == 1
    send(world.builder, signed("setOperator", holder, world.stranger.address))
    assert world.chain.holder(holder).operator == world.stranger.address
    data = interface("Registry").encode_call("setOperator", holder, world.builder.address)
    digest = call_hash(admin.address, data, 1, deadline, world.chain.chain_id, world.chain.registry)
    with pytest.raises(ChainError) as refused:
        send(world.builder, (data, sign(admin, digest)))
    assert refused.value.reason == "BAD_SIGNATURE"
    world.wait_until(deadline)
    with pytest.raises(ChainError, match="SignatureExpired"):
        send(world.builder, signed("setOperator", holder, world.builder.address))


# -- jobs and legs -----------------------------------------------------------------------------------------------


def test_opening_a_job(world: World) -> None:
    nonce, legs = secrets.token_bytes(32), [(world.grant(world.datasets[0]), LOSS)]
    terms = {
        "accept_by_seconds": world.now() + 600, "deliver_by_seconds": world.now() + 1800,
        "challenge_term_seconds": 3600, "min_legs": 1,
    }  # fmt: skip
    once(world.builder, lambda s: s.open_job(nonce, SPEC, PURPOSE, legs, **terms))
    assert world.chain.dataset(world.datasets[0]).reserved_micro == LOSS


def acceptance(world: World, leg: LegEntry) -> Do:
    signature = world.acceptance(leg)
    return lambda s: s.accept(leg, EPOCH, signature)


def delivery(world: World, leg: LegEntry) -> Do:
    receipt = world.receipt(leg)
    return lambda s: s.deliver(leg, receipt, world.signed(receipt))


def both(world: World, leg: LegEntry) -> Do:
    receipt = world.receipt(leg)
    signed = (world.signed(receipt), b"", world.acknowledgement(receipt))
    return lambda s: s.deliver_and_acknowledge(leg, receipt, *signed)


def failure(world: World, leg: LegEntry) -> Do:
    signature = world.failure(leg, LOSS)
    return lambda s: s.fail(leg, LOSS, EPOCH, signature)


def refusal(world: World, leg: LegEntry) -> Do:
    signature = world.decline(leg)
    return lambda s: s.decline(leg, signature)


STEPS: list[tuple[str, LegState, str, Callable[[World, LegEntry], Do]]] = [
    ("accept", LegState.LOCKED, "stranger", acceptance),
    ("decline", LegState.LOCKED, "stranger", refusal),
    ("cancel", LegState.LOCKED, "builder", lambda w, leg: lambda s: s.cancel(leg)),
    ("release", LegState.LOCKED, "stranger", lambda w, leg: lambda s: s.release(leg)),
    ("deliver", LegState.ACCEPTED, "stranger", delivery),
    ("deliver_and_acknowledge", LegState.ACCEPTED, "stranger", both),
    ("fail", LegState.ACCEPTED, "stranger", failure),
    ("expire", LegState.ACCEPTED, "stranger", lambda w, leg: lambda s: s.expire(leg)),
    ("acknowledge", LegState.DELIVERED, "builder", lambda w, leg: lambda s: s.acknowledge(leg)),
    ("settle", LegState.DELIVERED, "stranger", lambda w, leg: lambda s: s.settle(leg)),
    ("dispute", LegState.DELIVERED, "builder", lambda w, leg: lambda s: s.dispute(leg, keccak(b"reason"))),
    ("resolve", LegState.DISPUTED, "arbiter", lambda w, leg: lambda s: s.resolve(leg, 3_333)),
    ("refund_unresolved", LegState.DISPUTED, "stranger", lambda w, leg: lambda s: s.refund_unresolved(leg)),
]


@pytest.mark.parametrize(("name", "before", "who", "step"), STEPS, ids=[step[0] for step in STEPS])
def test_every_step_of_a_leg(
    world: World, name: str, before: LegState, who: str, step: Callable[[World, LegEntry], Do]
) -> None:
    """Asked with the leg as it was before, too: whoever asks again may not have heard of the first time."""
    leg = world.leg_in(before)
    do = step(world, leg)
    overdue = {
        "release": leg.deliver_by_seconds, "expire": leg.deliver_by_seconds, "settle": leg.until_seconds,
        "refund_unresolved": leg.until_seconds,
    }  # fmt: skip
    if name in overdue:
        world.wait_until(overdue[name])
    sender: Sender = getattr(world, who)
    once(sender, do)
    assert world.again(leg).state is not before


def test_what_was_decided_otherwise_is_not_taken_for_it(world: World) -> None:
    leg = world.accepted(world.locked())
    world.operator.fail(leg, LOSS, EPOCH)
    with pytest.raises(ChainError, match="another loss"):
        world.operator.fail(leg, LOSS - 1, EPOCH)
    leg = world.accepted(world.locked(world.datasets[1]))
    receipt = world.receipt(leg)
    world.operator.deliver(leg, receipt)
    with pytest.raises(ChainError, match="another receipt"):
        world.operator.deliver(leg, replace(receipt, rounds_done=19))
    world.builder.dispute(leg, keccak(b"reason"))
    world.arbiter.resolve(leg, 2_000)
    with pytest.raises(ChainError, match="another share"):
        world.arbiter.resolve(leg, 2_001)
    assert world.operator.deliver(leg, receipt).repeated


# -- usage -------------------------------------------------------------------------------------------------------


def test_usage_and_calls_for_records(world: World) -> None:
    holder, chain, records = world.holder_id, world.chain, [b"first", b"second"]
    leaves = [leaf(i, record) for i, record in enumerate(records)]
    root = merkle_root(leaves)
    digest = usage_batch_hash(holder, root, 2, bytes(32), 0, chain.chain_id, chain.usage_log)
    signature = sign(world.operator_key, digest)
    once(world.stranger, lambda s: s.append_usage(holder, root, 2, bytes(32), 0, signature))
    with pytest.raises(ChainError, match="WrongCall"):
        world.stranger.call_record(holder, 2)
    for sequence in (0, 1):
        once(world.stranger, lambda s, sequence=sequence: s.call_record(holder, sequence))  # type: ignore[misc]
    called = chain.record_call(holder, 1)
    assert called.state is CallState.OPEN
    proof = merkle_proof(leaves, 0)
    once(world.operator, lambda s: s.show_record(holder, 0, 0, records[0], proof))
    assert chain.record_call(holder, 0).state is CallState.ANSWERED
    with pytest.raises(ChainError, match="WrongRecord"):
        world.operator.show_record(holder, 1, 0, records[0], proof)
    world.wait_until(called.answer_by_seconds)
    once(world.stranger, lambda s: s.record_silence(holder, 1))
    assert (chain.record_call(holder, 1).state, chain.silences(holder)) == (CallState.SILENT, 1)
    once(world.operator, lambda s: s.show_record(holder, 1, 0, records[1], merkle_proof(leaves, 1)))
    assert (chain.record_call(holder, 1).state, chain.silences(holder)) == (CallState.ANSWERED, 1)


# -- money -------------------------------------------------------------------------------------------------------


def test_money_moves_as_often_as_it_is_told_to(world: World) -> None:
    before = world.deposit_of(world.builder)
    for _ in range(2):
        world.builder.deposit(world.token, 7)
        world.builder.withdraw(world.token, 3, world.stranger.address)
    assert world.deposit_of(world.builder) == before + 8
    assert world.chain.token_balance(world.token, world.stranger.address) == 6
    for _ in range(2):
        world.builder.deposit(world.token, 5, "a deposit with a name")
    assert world.deposit_of(world.builder) == before + 13
    with pytest.raises(ChainError, match="NothingToWithdraw"):
        world.stranger.withdraw_earnings(world.token, world.holder_id)
