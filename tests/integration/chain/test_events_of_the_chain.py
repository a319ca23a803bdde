"""Every event of the contracts is read with its type; a node that invents, changes or withholds one is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
from chain_world import CAP, ENDPOINT, EPOCH, FINGERPRINT, LOSS, MONEY, ORDER, PRICE, TERMS, World, terms_with
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from usufruct.chain import Chain, LegState, events
from usufruct.chain.endpoint import Endpoint
from usufruct.chain.events import _KINDS
from usufruct.chain.interface import interface
from usufruct.domain.ids import ZERO_ADDRESS, to_hex
from usufruct.domain.usage_record import leaf, merkle_root
from usufruct.errors import ChainError


def everything_happens(world: World) -> None:
    """Every transaction that has an event of its own; a leg in every final state."""
    holder, dataset, admin = world.holder_id, world.datasets[0], world.admin
    admin.set_operator(holder, world.stranger.address)
    admin.set_operator(holder, world.operator.address)
    admin.update_endpoint(holder, "127.0.0.1:7001", FINGERPRINT)
    admin.offer_admin(holder, world.stranger.address)
    world.stranger.accept_admin(holder)
    world.stranger.offer_admin(holder, admin.address)
    admin.accept_admin(holder)
    admin.schedule_payout(holder, world.stranger.address)
    admin.set_cap(dataset, 10 * CAP)
    world.guardian.schedule_fee(100)
    world.wait_until(world.chain.settings().fee_from_seconds)
    world.stranger.apply_payout(holder)
    world.stranger.apply_cap(dataset)
    world.stranger.apply_fee()
    for state in (state for state in LegState if state >= LegState.ACKNOWLEDGED):
        world.leg_in(state)
    world.stranger.withdraw_earnings(world.token, holder)
    world.builder.withdraw(world.token, PRICE, world.stranger.address)
    world.operator.cancel_grant(world.grant(dataset))
    world.operator.revoke_grants(holder)
    admin.set_terms(dataset, terms_with(min_cohort=2))
    following = admin.register_dataset(
        holder, b"\x21" * 32, world.token, ORDER, 10 * CAP, TERMS, previous_id=dataset
    )
    assert world.chain.dataset(following).previous_id == dataset
    records = [leaf(i, b"record %d" % i) for i in range(2)]
    world.operator.append_usage(holder, merkle_root(records), 2, bytes(32), 0)
    for sequence in (0, 1):
        world.stranger.call_record(holder, sequence)
    world.operator.show_record(holder, 0, 0, b"record 0", [records[1]])
    world.wait_until(world.chain.record_call(holder, 1).answer_by_seconds)
    world.stranger.record_silence(holder, 1)
    world.guardian.set_paused(True)
    world.guardian.offer_guardian(world.stranger.address)
    world.stranger.accept_guardian()


def test_every_kind_of_event_comes_typed_and_in_order(world: World) -> None:
    everything_happens(world)
    seen = list(world.chain.events())
    assert {type(event).__name__ for event in seen} == set(_KINDS)
    places = [(event.block_number, event.log_index) for event in seen]
    assert places == sorted(places)

    def first(kind: type[events.Event]) -> Any:
        return next(event for event in seen if type(event) is kind)

    def told(kind: type[events.Event]) -> tuple[Any, ...]:
        return astuple(first(kind))[3:]

    holder, dataset, token = world.holder_id, world.datasets[0], world.token
    assert told(events.HolderRegistered) == (
        holder, world.admin.address, world.operator.address, world.admin.address, ENDPOINT, FINGERPRINT,
    )  # fmt: skip
    assert told(events.FencingEpochTaken) == (holder, EPOCH, bytes(32))
    assert told(events.OperatorChanged) == (holder, world.stranger.address)
    assert told(events.EndpointChanged) == (holder, "127.0.0.1:7001", FINGERPRINT)
    assert told(events.AdminOffered) == told(events.AdminChanged) == (holder, world.stranger.address)
    assert told(events.PayoutScheduled)[:2] == told(events.PayoutChanged) == (holder, world.stranger.address)
    assert told(events.CapScheduled)[:2] == told(events.CapChanged) == (dataset, 10 * CAP)
    assert told(events.FeeScheduled)[:1] == told(events.FeeChanged) == (100,)
    announced = first(events.PayoutScheduled)
    block = world.chain.rpc.block(announced.block_number)
    assert block is not None
    assert announced.from_seconds == block.time_seconds + 48 * 3600
    assert told(events.DatasetRegistered) == (
        dataset, holder, 0, False, b"\x01" * 32, token, ORDER, CAP, astuple(TERMS), 0,
    )  # fmt: skip
    version = [event for event in seen if isinstance(event, events.DatasetRegistered)][-1]
    spent = world.chain.dataset(dataset).spent_micro
    assert (version.previous_id, version.inherited_micro) == (dataset, spent)
    assert spent == LOSS * sum(isinstance(e, events.LegClosed) and e.loss_micro > 0 for e in seen)
    assert first(events.TermsChanged).terms == terms_with(min_cohort=2)
    assert told(events.DatasetRetired) == (dataset,)
    assert told(events.Deposited) == (token, world.builder.address, MONEY)
    assert told(events.Withdrawn) == (token, world.builder.address, world.stranger.address, PRICE)
    assert told(events.PausedChanged) == (True,)
    assert told(events.GuardianOffered) == told(events.GuardianChanged) == (world.stranger.address,)
    assert told(events.GrantsRevoked) == (holder, 1)
    assert told(events.UsageBatch)[:3] == (holder, 0, 2)
    assert told(events.RecordCalled)[:3] == (holder, 0, world.stranger.address)
    assert told(events.RecordShown) == (holder, 0, b"record 0")
    assert told(events.SilenceRecorded) == (holder, 1)
    delivered, disputed, bond = first(events.LegDelivered), first(events.LegDisputed), first(events.BondPaid)
    assert (delivered.receipt.dimension, delivered.receipt.fencing_epoch) == (39_700, EPOCH)
    assert (disputed.reason_hash, bond.to_holder) == (keccak(b"reason"), True)
    assert disputed.bond_units == bond.bond_units == -(-PRICE // 10)
    closed = [event for event in seen if isinstance(event, events.LegClosed)]
    assert {event.state for event in closed} == {s for s in LegState if s >= LegState.ACKNOWLEDGED}
    assert all(event.holder_units + event.fee_units + event.payer_units == PRICE for event in closed)
    middle = seen[3].block_number
    assert list(world.chain.events(middle, middle)) == [e for e in seen if e.block_number == middle]


# -- strangers and liars -----------------------------------------------------------------------------------------


def test_a_holder_whose_endpoint_is_no_text_stops_nobody(world: World) -> None:
    hostile = b"a\xff\x1b[2J\xe2\x80\xae:70"
    data = interface("Registry").encode_call(
        "registerHolder", world.stranger.address, world.stranger.address, "", FINGERPRINT
    )[:4] + encode(
        ["address", "address", "bytes", "bytes32"],
        [world.stranger.address, world.stranger.address, hostile, FINGERPRINT],
    )
    world.stranger.account.send(world.chain.registry, data, "registerHolder")
    registered = [e for e in world.chain.events() if isinstance(e, events.HolderRegistered)][-1]
    entry = world.chain.holder(registered.holder_id)
    assert registered.endpoint == entry.endpoint == "a\\xff\\x1b[2J\\u202e:70"


def _changed_price(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**log, "data": log["data"].replace(f"{PRICE:064x}", f"{1:064x}")} for log in answer]


def _without_the_last(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return answer[:-1]


def _without_the_opening(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    locked = to_hex(interface("ComputeAccess").topics["LegLocked"])
    return [log for log in answer if log["topics"][0] != locked]


def _in_no_state(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last word of a locked leg is its state."""
    return [
        {**log, "data": log["data"][:-64] + f"{200:064x}"} if len(log["data"]) == 2 + 17 * 64 else log
        for log in answer
    ]


def _with_a_topic_less(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**log, "topics": log["topics"][:3]} for log in answer]


@pytest.mark.parametrize("lie", [_changed_price, _without_the_last, _without_the_opening, _in_no_state])
def test_a_node_that_lies_about_a_legs_events_is_found_out(
    world: World, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Any], Any]
) -> None:
    leg = world.leg_in(LegState.ACKNOWLEDGED)
    honest = Endpoint.request

    def lying(endpoint: Endpoint, method: str, *params: object) -> object:
        answer = honest(endpoint, method, *params)
        return lie(answer) if method == "eth_getLogs" and answer else answer

    fresh = Chain.connect(world.node.url, world.addresses.compute_access)
    monkeypatch.setattr(Endpoint, "request", lying)
    for ask in (lambda: fresh.leg(leg.job_id, leg.dataset_id), lambda: fresh.job_legs(leg.job_id)):
        with pytest.raises(ChainError, match=r"another node|does not fit"):
            ask()


def test_an_event_of_another_shape_is_an_error_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.leg_in(LegState.ACKNOWLEDGED)
    honest = Endpoint.request

    def lying(endpoint: Endpoint, method: str, *params: object) -> object:
        answer = honest(endpoint, method, *params)
        return _with_a_topic_less(answer) if method == "eth_getLogs" else answer  # type: ignore[arg-type]

    monkeypatch.setattr(Endpoint, "request", lying)
    with pytest.raises(ChainError, match="topics"):
        list(world.chain.events())


def test_a_leg_that_never_was_is_none(world: World) -> None:
    assert world.chain.leg(bytes(32), 1) is None
    assert world.chain.job(bytes(32)) is None
    assert world.chain.job_legs(bytes(32)) == []
    assert world.chain.settings().guardian == world.guardian.address != ZERO_ADDRESS
