"""No job starts on what is not final: the holder's own checks, before it signs and before it charges, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anvil_node import AnvilNode
from eth_account import Account as Keys
from holder_on_node import NodePlace, holder_on, reason_of
from job_world import EPOCH
from lying_proxy import LyingProxy, honest
from node_views import copy_state, lagging, told_by

from usufruct.chain import Chain, LegState, Sender, sign_acceptance, sign_grant
from usufruct.chain.rpc import Rpc
from usufruct.domain.grant import SignedGrant
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.v1 import jobs_pb2
from usufruct.wire.jobs import signed_grant_from_proto, signed_grant_to_proto, spec_to_bytes
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.opening import open_operator

from holder_world import Builder, round_parts  # isort: skip

FINALITY = 6
"""Blocks above one that this node calls finalized."""
CONFIRMATIONS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePlace]:
    with (
        AnvilNode(finality=FINALITY) as node,
        holder_on(node, tmp_path_factory.mktemp("holder"), FINALITY) as place,
    ):
        yield place


@pytest.fixture
def builder(place: NodePlace) -> Iterator[Builder]:
    builder = Builder(place.world)
    yield builder
    builder.close()


def start(legs: Legs, place: NodePlace, spec: TrainingJobSpec) -> Any:
    return legs.start(spec.builder, spec.job_id, place.dataset_id)


def run_round(place: NodePlace, builder: Builder, spec: TrainingJobSpec) -> str:
    """Why a round does not end well; PEER_UNREACHABLE: it was charged, and there is no aggregator."""
    parts = round_parts(builder.account, spec, place.dataset_id)
    return builder.run_alone(place.peer, parts)


@pytest.mark.parametrize("confirmations", [None, CONFIRMATIONS], ids=["finalized", "confirmations"])
def test_a_leg_is_taken_up_and_charged_block_by_block_not_sooner(
    place: NodePlace, builder: Builder, confirmations: int | None
) -> None:
    blocks = FINALITY if confirmations is None else confirmations
    chain = Chain.connect(place.node.url, place.world.chain.compute_access, confirmations=confirmations)
    legs = place.legs_by(chain)
    spec = builder.granted_and_open(place.peer, place.dataset_id)
    for _ in range(blocks):
        assert reason_of(start, legs, place, spec) == "LEG_NOT_OPEN"
        assert not place.reserved(spec)
        place.node.mine()
    started, leg = start(legs, place, spec), chain.leg(spec.job_id, place.dataset_id)
    assert leg is not None
    builder.sender.accept(leg, started.fencing_epoch, started.acceptance)
    for _ in range(blocks):
        assert reason_of(legs.require_trainable, place.job(spec)) == "LEG_NOT_ACCEPTED"
        if confirmations is None:
            assert run_round(place, builder, spec) == "LEG_NOT_ACCEPTED"
        assert place.charged(spec) == 0
        place.node.mine()
    assert reason_of(legs.require_trainable, place.job(spec)) == ""
    if confirmations is None:
        assert run_round(place, builder, spec) == "PEER_UNREACHABLE"
        assert place.charged(spec) == 1


class OtherHolder:
    """Another holder in the same job: it has keys and a dataset, and signs what it is asked to."""

    def __init__(self, place: NodePlace) -> None:
        self.place, self.key, admin_key = place, Keys.create(), Keys.create()
        for key in (self.key, admin_key):
            place.node.fund(key.address)
        chain, like = place.world.chain, place.world.chain.dataset(place.dataset_id)
        admin = Sender(chain, admin_key)
        holder_id = admin.register_holder(self.key.address, admin.address, "127.0.0.1:1", bytes(31) + b"\x01")
        self.dataset_id = admin.register_dataset(
            holder_id, like.card_hash, like.token, like.order, like.cap_micro, like.terms
        )
        Sender(chain, self.key).take_fencing_epoch(holder_id, EPOCH, bytes(31) + b"\x01")
        place.node.mine(FINALITY)

    def grant(self, like: SignedGrant, spec: TrainingJobSpec) -> jobs_pb2.Proposal:
        """Its grant for the job, on the terms of another holder's."""
        chain, loss = self.place.world.chain, spec.reservation_micro(self.dataset_id)
        grant = replace(
            like.grant, dataset_id=self.dataset_id, loss_per_job_micro=loss, loss_total_micro=loss
        )
        signed = sign_grant(self.key, grant, chain.chain_id, chain.registry)
        return jobs_pb2.Proposal(dataset_id=self.dataset_id, grant=signed_grant_to_proto(signed))

    def accept(self, builder: Builder, spec: TrainingJobSpec) -> None:
        """Signs, and the builder sends."""
        leg, chain = builder.leg(spec.job_id, self.dataset_id), self.place.world.chain
        signed = sign_acceptance(self.key, leg.stored_hash(), EPOCH, chain.chain_id, chain.compute_access)
        builder.sender.accept(leg, EPOCH, signed)


def test_the_last_acceptance_that_is_needed_counts_once_it_is_final(
    place: NodePlace, builder: Builder
) -> None:
    """As long as it is not, it may vanish, and then somebody would have trained with too few others."""
    other, node = OtherHolder(place), place.node
    spec = builder.spec(place.dataset_id, other.dataset_id)
    data = spec_to_bytes(spec)
    mine = builder.propose(place.peer, place.dataset_id, data)
    builder.open(spec, data, mine, other.grant(signed_grant_from_proto(mine.grant), spec))
    node.mine(FINALITY)
    builder.accept(place.peer, spec.job_id, place.dataset_id)
    node.mine(FINALITY)
    legs, job = place.server.legs, place.job(spec)
    assert reason_of(legs.require_trainable, job) == "TOO_FEW_ACCEPTED"
    for _ in range(2):
        other.accept(builder, spec)
        node.mine(FINALITY - 1)
        assert reason_of(legs.require_trainable, job) == "TOO_FEW_ACCEPTED"
        assert run_round(place, builder, spec) == "TOO_FEW_ACCEPTED"
        node.reorg(FINALITY)  # the acceptance has never been
        node.mine(1)
        assert reason_of(legs.require_trainable, job) == "TOO_FEW_ACCEPTED"
    assert place.charged(spec) == 0
    other.accept(builder, spec)
    node.mine(FINALITY)
    assert reason_of(legs.require_trainable, job) == ""


# -- reorganised deeper than what counted as final ---------------------------------------------------------------


def reopen(
    place: NodePlace, builder: Builder, spec: TrainingJobSpec, signed: SignedGrant, **terms: Any
) -> Builder:
    """The same builder opens the job of the same nonce again, by a program that knows nothing of the first time."""
    again = Builder(place.world, builder.account)
    proposal = jobs_pb2.Proposal(dataset_id=place.dataset_id, grant=signed_grant_to_proto(signed))
    again.open(spec, spec_to_bytes(spec), proposal, **terms)
    return again


def dearer(place: NodePlace, signed: SignedGrant) -> SignedGrant:
    """Another grant of the same holder for the same job, at another price."""
    chain = place.world.chain
    grant = replace(signed.grant, price_units=signed.grant.price_units + 1)
    return sign_grant(open_operator(place.server.config), grant, chain.chain_id, chain.registry)


def test_an_acceptance_holds_for_the_very_leg_that_was_accepted(place: NodePlace, builder: Builder) -> None:
    """The opening is reorganised away after the holder has signed, and the builder opens on other terms."""
    node, chain = place.node, place.world.chain
    spec = builder.spec(place.dataset_id)
    data = spec_to_bytes(spec)
    signed = signed_grant_from_proto(builder.propose(place.peer, place.dataset_id, data).grant)
    asked: dict[str, Any] = {"accept_by_seconds": spec.deliver_by_seconds - 600}
    others: dict[str, tuple[SignedGrant, dict[str, Any], str, str]] = {
        "price": (dearer(place, signed), {}, "GRANT_TERMS", "GRANT_TERMS"),
        "deadline": (
            signed,
            {"deliver_by_seconds": spec.deliver_by_seconds - 1},
            "GRANT_TERMS",
            "GRANT_TERMS",
        ),
        "arbiter": (signed, {"arbiter": Keys.create().address}, "POLICY_REFUSED", "LEG_NOT_ACCEPTED"),
        "challenge": (signed, {"challenge_term_seconds": 8 * 86_400}, "POLICY_REFUSED", "LEG_NOT_ACCEPTED"),
        "nothing": (signed, {}, "", ""),
    }
    before = node.height()
    for other, (granted, terms, refused, untrainable) in others.items():
        # another server of this holder each time, which has seen nothing as final that is gone
        early = place.legs_by(Chain.connect(node.url, chain.compute_access, confirmations=CONFIRMATIONS))
        reopen(place, builder, spec, signed, **asked)
        node.mine(CONFIRMATIONS)
        started = start(early, place, spec)
        node.reorg(CONFIRMATIONS + 1)
        assert chain.job(spec.job_id, "latest") is None
        assert reason_of(start, early, place, spec) == "LEG_NOT_OPEN"
        again = reopen(place, builder, spec, granted, **asked, **terms)
        node.mine(CONFIRMATIONS)
        assert reason_of(start, early, place, spec) == refused, other
        leg = chain.leg(spec.job_id, place.dataset_id, "latest")
        assert leg is not None
        taken = reason_of(again.sender.accept, leg, started.fencing_epoch, started.acceptance)
        assert taken == ("" if other == "nothing" else "BAD_SIGNATURE"), other
        node.mine(FINALITY)
        later = Chain.connect(node.url, chain.compute_access)
        entry = later.leg(spec.job_id, place.dataset_id)
        assert entry is not None
        assert entry.state is (LegState.ACCEPTED if other == "nothing" else LegState.LOCKED), other
        assert reason_of(place.legs_by(later).require_trainable, place.job(spec)) == untrainable, other
        assert place.charged(spec) == 0
        if other != "nothing":
            node.reorg(node.height() - before)
            node.mine()
    assert reason_of(place.server.legs.require_trainable, place.job(spec)) == "", (
        "nor has the server that runs"
    )


# -- endpoints that disagree -------------------------------------------------------------------------------------


def test_a_holder_whose_endpoints_disagree_neither_signs_nor_trains(
    place: NodePlace, builder: Builder, tmp_path: Path
) -> None:
    """One of the two lags, or is on a branch on which the job was never opened."""
    node, contract = place.node, place.world.chain.compute_access
    with (
        AnvilNode(copy_state(node, tmp_path / "state.json"), finality=FINALITY) as branch,
        LyingProxy(node.url) as proxy,
    ):
        urls = [node.url, proxy.url]
        legs = place.legs_by(Chain(Rpc(urls, 5.0, patience_seconds=0.2), contract))
        hasty = place.legs_by(Chain(Rpc(urls, 5.0, patience_seconds=0.2, lag_seconds=0), contract))
        spec = builder.granted_and_open(place.peer, place.dataset_id)
        behind = lagging(node, node.height() + FINALITY - 1, FINALITY)
        node.mine(FINALITY)
        branch.mine(20)
        proxy.lie = behind
        assert reason_of(start, legs, place, spec) == "LEG_NOT_OPEN"
        looks = [reason_of(start, hasty, place, spec) for _ in range(2)]
        assert looks == ["LEG_NOT_OPEN", "CHAIN_DISAGREES"], (
            "it lags for too long, from when that is seen first"
        )
        proxy.lie = told_by(branch)
        assert reason_of(start, legs, place, spec) == "CHAIN_DISAGREES"
        assert not place.reserved(spec)
        proxy.lie = honest
        started = start(legs, place, spec)
        leg = builder.leg(spec.job_id, place.dataset_id)
        builder.sender.accept(leg, started.fencing_epoch, started.acceptance)
        node.mine(FINALITY)
        for lie in (behind, told_by(branch)):
            proxy.lie = lie
            assert reason_of(legs.require_trainable, place.job(spec)) == "CHAIN_DISAGREES"
        proxy.lie = honest
        assert reason_of(legs.require_trainable, place.job(spec)) == ""
