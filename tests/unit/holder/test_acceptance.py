"""A leg is accepted only on the terms that were granted, and trained only while the chain says that it may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from holder_world import ACCEPT_SECONDS, Builder, Place, free_port, round_parts, server_of

from usufruct.chain import LegState as ChainLegState
from usufruct.chain import Sender, acceptance_hash, signer
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import UsufructError
from usufruct.wire.jobs import signed_grant_from_proto, spec_to_bytes
from usufruct_server.holder.job_store import LegStatus
from usufruct_server.holder.ledger import LegState, LegUnknown
from usufruct_server.holder.opening import open_admin


def _reason(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UsufructError) as caught:
        call(*arguments, **named)
    return caught.value.reason


def _round(place: Place, builder: Builder, spec: TrainingJobSpec, attempt: int = 1) -> str:
    """Why a round does not end well; PEER_UNREACHABLE: it was charged, and there is no aggregator."""
    parts = round_parts(builder.account, spec, place.dataset_id, attempt=attempt)
    return builder.run_alone(place.peer, parts)


def _charged(place: Place, spec: TrainingJobSpec) -> int:
    return place.server.ledger.leg(place.dataset_id, spec.job_id).charged


def test_an_acceptance_is_signed_over_the_leg_and_the_epoch_as_often_as_it_is_asked_for(
    quiet: Place, customer: Builder
) -> None:
    spec = customer.granted_and_open(quiet.peer, quiet.dataset_id)
    first, second = (customer.start(quiet.peer, spec.job_id, quiet.dataset_id) for _ in range(2))
    assert first == second
    leg, chain = customer.leg(spec.job_id, quiet.dataset_id), quiet.world.chain
    assert first.fencing_epoch == chain.holder(leg.holder_id).fencing_epoch
    digest = acceptance_hash(leg.stored_hash(), first.fencing_epoch, chain.chain_id, chain.compute_access)
    assert signer(digest, first.acceptance_signature) == quiet.server.operator
    customer.sender.accept(leg, first.fencing_epoch, first.acceptance_signature)
    assert customer.start(quiet.peer, spec.job_id, quiet.dataset_id).acceptance_signature == b""


@pytest.mark.parametrize(
    ("reason", "terms"),
    [
        ("POLICY_REFUSED", {"arbiter": Account.create().address}),
        ("POLICY_REFUSED", {"challenge_term_seconds": 8 * 86_400}),
        ("GRANT_TERMS", {"deliver_by_seconds": 1}),
        ("GRANT_TERMS", {"deliver_by_seconds": -1}),
    ],
)
def test_a_leg_on_other_terms_is_not_accepted_and_reserves_nothing(
    quiet: Place, customer: Builder, reason: str, terms: dict[str, Any]
) -> None:
    spec = customer.spec(quiet.dataset_id)
    if "deliver_by_seconds" in terms:
        terms = {"deliver_by_seconds": spec.deliver_by_seconds + terms["deliver_by_seconds"]}
    data = spec_to_bytes(spec)
    customer.open(spec, data, customer.propose(quiet.peer, quiet.dataset_id, data), **terms)
    assert _reason(customer.start, quiet.peer, spec.job_id, quiet.dataset_id) == reason
    with pytest.raises(LegUnknown):
        quiet.server.ledger.leg(quiet.dataset_id, spec.job_id)


def test_an_arbiter_of_the_policy_is_accepted(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    arbiter = Account.create().address
    spec = customer.granted_and_open(quiet.peer, quiet.dataset_id, terms={"arbiter": arbiter})
    policy = replace(quiet.server.config.policy, arbiters=(arbiter,))
    monkeypatch.setattr(quiet.server.legs, "_policy", policy)
    assert customer.start(quiet.peer, spec.job_id, quiet.dataset_id).acceptance_signature


def test_a_job_that_may_start_below_the_minimum_cohort_is_not_accepted(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = customer.granted_and_open(quiet.peer, quiet.dataset_id)
    catalogue = quiet.server.catalogue
    served = catalogue.find(quiet.dataset_id)
    assert served is not None
    larger = replace(served, config=replace(served.config, min_cohort=2))
    monkeypatch.setitem(catalogue._datasets, quiet.dataset_id, larger)
    assert _reason(customer.start, quiet.peer, spec.job_id, quiet.dataset_id) == "COHORT_TOO_SMALL"


def test_a_leg_whose_time_to_be_accepted_is_over_is_released_by_its_holder(
    quiet: Place, customer: Builder
) -> None:
    late, unaccepted = (customer.granted_and_open(quiet.peer, quiet.dataset_id) for _ in range(2))
    customer.start(quiet.peer, unaccepted.job_id, quiet.dataset_id)
    before = quiet.budgets()
    quiet.world.pass_time(ACCEPT_SECONDS + 1)
    assert _reason(customer.start, quiet.peer, late.job_id, quiet.dataset_id) == "LEG_EXPIRED"
    quiet.server.following.follow()
    assert customer.leg(unaccepted.job_id, quiet.dataset_id).state is ChainLegState.RELEASED
    quiet.server.following.follow()
    assert quiet.status(unaccepted) is LegStatus.RELEASED
    assert quiet.server.ledger.leg(quiet.dataset_id, unaccepted.job_id).state is LegState.RELEASED
    freed = [then - now for then, now in zip(before, quiet.budgets(), strict=True)]
    assert freed[0] == freed[2] >= unaccepted.reservation_micro(quiet.dataset_id), "free in both books"


def test_a_leg_that_its_builder_cancels_frees_its_reservation(quiet: Place, customer: Builder) -> None:
    spec = customer.granted_and_open(quiet.peer, quiet.dataset_id)
    customer.start(quiet.peer, spec.job_id, quiet.dataset_id)
    before = quiet.budgets()
    customer.sender.cancel(customer.leg(spec.job_id, quiet.dataset_id))
    quiet.server.following.follow()
    assert quiet.status(spec) is LegStatus.RELEASED
    assert before[0] - quiet.budgets()[0] == spec.reservation_micro(quiet.dataset_id)
    assert quiet.server.ledger.leg(quiet.dataset_id, spec.job_id).state is LegState.RELEASED


def test_no_round_runs_before_the_leg_is_accepted(quiet: Place, customer: Builder) -> None:
    spec = customer.granted_and_open(quiet.peer, quiet.dataset_id)
    customer.start(quiet.peer, spec.job_id, quiet.dataset_id)
    assert _round(quiet, customer, spec) == "LEG_NOT_ACCEPTED"
    assert _reason(customer.finish, quiet.peer, spec.job_id, quiet.dataset_id, 0) == "LEG_NOT_ACCEPTED"
    assert _reason(customer.release, quiet.peer, spec.job_id, quiet.dataset_id) == "LEG_NOT_ACCEPTED"
    assert _charged(quiet, spec) == 0


def test_nothing_runs_or_is_spent_while_too_few_are_accepted_and_then_all_is_free_again(
    quiet: Place, customer: Builder
) -> None:
    config = quiet.world.holder("absent", port=free_port())
    absent = Place(quiet.world, server_of(config))
    absent.server.start()
    before = quiet.budgets()
    spec = customer.spec(quiet.dataset_id, absent.dataset_id)
    data = spec_to_bytes(spec)
    proposals = [customer.propose(p.peer, p.dataset_id, data, "two") for p in (quiet, absent)]
    customer.open(spec, data, *proposals)
    absent.server.stop()
    customer.accept(quiet.peer, spec.job_id, quiet.dataset_id)
    assert _round(quiet, customer, spec) == "TOO_FEW_ACCEPTED"
    assert _reason(customer.finish, quiet.peer, spec.job_id, quiet.dataset_id, 0) == "TOO_FEW_ACCEPTED"
    assert _charged(quiet, spec) == 0
    quiet.world.pass_time(ACCEPT_SECONDS + 1)
    quiet.server.following.follow()
    assert customer.leg(spec.job_id, quiet.dataset_id).state is ChainLegState.RELEASED
    quiet.server.following.follow()
    assert quiet.status(spec) is LegStatus.RELEASED
    assert quiet.server.ledger.leg(quiet.dataset_id, spec.job_id).state is LegState.RELEASED
    after = quiet.budgets()
    assert (after[1], after[3]) == (before[1], before[3]), "nothing was spent in either book"


@pytest.mark.parametrize("how", ["all", "one"])
def test_after_a_grant_is_withdrawn_no_further_round_is_charged(
    quiet: Place, customer: Builder, how: str
) -> None:
    spec = customer.spec(quiet.dataset_id)
    data = spec_to_bytes(spec)
    proposal = customer.propose(quiet.peer, quiet.dataset_id, data)
    customer.open(spec, data, proposal)
    customer.accept(quiet.peer, spec.job_id, quiet.dataset_id)
    assert _round(quiet, customer, spec) == "PEER_UNREACHABLE"
    admin = Sender(quiet.world.chain, open_admin(quiet.server.config))
    if how == "all":
        admin.revoke_grants(customer.leg(spec.job_id, quiet.dataset_id).holder_id)
    else:
        admin.cancel_grant(signed_grant_from_proto(proposal.grant))
    assert _round(quiet, customer, spec, attempt=2) == "GRANT_WITHDRAWN"
    assert _charged(quiet, spec) == 1
    signed = customer.finish(quiet.peer, spec.job_id, quiet.dataset_id, 1)
    assert signed.receipt.attempts_charged == 1, "what was done is still accounted for"
