"""Every refusal has its own reason of the catalogue, comes before a row is used, and stands in the usage log.

The SDK would catch most of this itself, so the specs go to the holders past it; what the SDK says is tested below.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest
from clinics import (
    CAREFUL,
    HOSPITALS,
    PRICE_UNITS,
    TRIO,
    TWO_ROWS_OF_ONE_PERSON,
    WIDTH,
    Clinics,
    Finished,
    anew,
    model,
    reason_of,
)  # fmt: skip
from eth_account import Account
from torch import nn

import usufruct as uf
from usufruct.chain import sign_grant
from usufruct.domain.grant import SignedGrant
from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.errors import UsufructError
from usufruct.graph import ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
from usufruct.v1 import jobs_pb2
from usufruct.wire.jobs import purpose_hash, signed_grant_from_proto, spec_hash, spec_to_bytes
from usufruct.wire.model_graph import graph_to_bytes

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

FIRST = HOSPITALS[0]
GRANTED, REFUSED = jobs_pb2.PROPOSAL_STATE_GRANTED, jobs_pb2.PROPOSAL_STATE_REFUSED


def ending_in(function: str, **settings: int) -> bytes:
    """The bytes of a graph that no ``nn.Module`` was traced for: a linear layer, then a function."""
    linear = ModuleSpec("Linear", (("in_features", WIDTH), ("out_features", 1), ("bias", True)))
    nodes = (
        Node(NodeKind.INPUT),
        Node(NodeKind.MODULE, module_index=0, arguments=(NodeRef(0),)),
        Node(
            NodeKind.FUNCTION,
            function_name=function,
            arguments=(NodeRef(1),),
            keywords=tuple(settings.items()),
        ),
        Node(NodeKind.OUTPUT, arguments=(NodeRef(2),)),
    )
    return graph_to_bytes(ModelGraph(1, (WIDTH,), "float32", (linear,), nodes))


def alone(spec: TrainingJobSpec) -> TrainingJobSpec:
    """The first hospital by itself."""
    return anew(spec, legs=(replace(spec.legs[0], weight_nano=NANO),), min_cohort=1)


# -- proposals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("WRONG_CHAIN", lambda spec: anew(spec, chain_id=spec.chain_id + 1)),
        ("WRONG_CHAIN", lambda spec: anew(spec, compute_access=Account.create().address)),
        ("BUDGET_SHORT", lambda spec: anew(spec, plan=replace(spec.plan, rounds=900))),
        ("COHORT_TOO_SMALL", alone),
        ("COHORT_TOO_SMALL", lambda spec: anew(spec, min_cohort=2)),
        ("GRAPH_NOT_ALLOWED", lambda spec: anew(spec, model_graph=ending_in("softmax", dim=0))),
        (
            "GRAPH_NOT_ALLOWED",
            lambda spec: anew(spec, model_graph=ending_in("flatten", start_dim=0, end_dim=1)),
        ),
        ("GRAPH_NOT_ALLOWED", lambda spec: anew(spec, model_graph=b"\xff" * 40)),
        ("WRONG_SPEC", lambda spec: replace(spec, purpose="Something else")),
    ],
)
def test_a_proposal_past_the_sdk_is_refused_with_its_own_reason(
    clinics: Clinics, granted: TrainingJobSpec, reason: str, change: Any
) -> None:
    spec = change(granted)
    with clinics.nothing_used() as logged:
        assert answer(clinics, spec) == reason
    assert logged == [(FIRST, "REFUSED", reason)]


def test_the_same_graph_that_leaves_records_apart_is_granted(
    clinics: Clinics, granted: TrainingJobSpec
) -> None:
    apart = ending_in("flatten", start_dim=1, end_dim=-1)
    with clinics.nothing_used() as logged:
        assert answer(clinics, anew(granted, model_graph=apart)) == "granted"
    assert logged == [(FIRST, "GRANTED", "")]


def test_nobody_proposes_in_another_builders_name(clinics: Clinics, granted: TrainingJobSpec) -> None:
    with clinics.nothing_used() as logged:
        assert reason_of(clinics.propose, anew(granted), 1, clinics.second) == "NOT_YOURS"
    assert logged == [(FIRST, "REFUSED", "NOT_YOURS")]


def test_rows_of_one_person_are_refused_and_the_person_is_not_named(clinics: Clinics) -> None:
    odd = clinics.first.datasets(ids=[TWO_ROWS_OF_ONE_PERSON])
    with clinics.nothing_used() as logged, pytest.raises(UsufructError) as caught:
        clinics.first.train(model(), odd, grant_timeout_seconds=10.0, **clinics.settings())
    assert caught.value.reason == "PERSON_HAS_SEVERAL_ROWS"
    assert f"dataset {TWO_ROWS_OF_ONE_PERSON}" in caught.value.message
    assert "patient-" not in repr(caught.value) + str(caught.value.details)
    assert set(logged) == {(CAREFUL, "REFUSED", "PERSON_HAS_SEVERAL_ROWS")}
    logs = "".join(path.read_text(errors="replace") for path in clinics.local.logs.glob(f"{CAREFUL}*"))
    assert "PERSON_HAS_SEVERAL_ROWS" in logs
    assert "patient-" not in logs


# -- grants -----------------------------------------------------------------------------------------------------------


def test_without_a_grant_no_leg_starts_and_no_round_runs(clinics: Clinics, granted: TrainingJobSpec) -> None:
    never_proposed = anew(granted)
    with clinics.nothing_used() as logged:
        assert reason_of(clinics.start, never_proposed, 1) == "GRANT_MISSING"
        assert reason_of(clinics.run_round, never_proposed, clinics.first) == "GRANT_MISSING"
        assert reason_of(clinics.run_round, granted, clinics.second) == "GRANT_MISSING"
    assert logged == [(FIRST, "REFUSED", "GRANT_MISSING")] * 3


def test_a_grant_that_the_builder_signed_itself_opens_nothing(
    clinics: Clinics, granted: TrainingJobSpec
) -> None:
    spec = replace(anew(granted), builder=clinics.second.address)
    chain = clinics.second.chain
    mine = {
        "grantee": spec.builder,
        "spec_hash": spec_hash(spec_to_bytes(spec)),
        "salt": secrets.token_bytes(32),
    }
    forged = []
    for dataset_id in TRIO:
        grant = replace(signed_grant_from_proto(clinics.propose(granted, dataset_id).grant).grant, **mine)
        forged.append(sign_grant(clinics.second.account, grant, chain.chain_id, chain.registry))
    with clinics.nothing_used() as logged:
        assert reason_of(open_job, clinics, clinics.second, spec, forged) == "GRANT_BAD_SIGNATURE"
        assert reason_of(clinics.start, spec, 1, clinics.second) == "GRANT_MISSING"
    assert logged == [(FIRST, "REFUSED", "GRANT_MISSING")]


def test_a_grant_for_another_builder_is_worthless(clinics: Clinics, granted: TrainingJobSpec) -> None:
    stolen = [signed_grant_from_proto(clinics.propose(granted, dataset_id).grant) for dataset_id in TRIO]
    with clinics.nothing_used() as logged:
        assert reason_of(open_job, clinics, clinics.second, granted, stolen) == "GRANT_OTHER_BUILDER"
        assert reason_of(clinics.start, granted, 1, clinics.second) == "GRANT_OTHER_BUILDER"
        peer = clinics.holder(1, clinics.second)
        assert reason_of(peer.proposal, granted.job_id) == "NOT_YOURS"
        assert reason_of(peer.finish_leg, granted.job_id, 1) == "NOT_YOURS"
        peer.close()
    assert logged == [(FIRST, "REFUSED", "GRANT_OTHER_BUILDER")]


def test_a_builder_with_a_grant_of_its_own_cannot_run_another_builders_job(
    clinics: Clinics, granted: TrainingJobSpec, finished: Finished
) -> None:
    own = replace(anew(granted), builder=clinics.second.address)
    assert clinics.propose(own, 1, clinics.second).state == GRANTED
    with clinics.nothing_used() as logged:
        assert reason_of(clinics.run_round, granted, clinics.second) == "GRANT_OTHER_BUILDER"
        assert reason_of(clinics.run_round, finished.job.spec, clinics.second) == "GRANT_OTHER_BUILDER"
        peer = clinics.holder(1, clinics.second)
        assert reason_of(peer.finish_leg, finished.job.spec.job_id, 2) == "NOT_YOURS"
        peer.close()
    assert logged == [(FIRST, "REFUSED", "GRANT_OTHER_BUILDER")] * 2


def test_a_grant_for_another_spec_opens_nothing(clinics: Clinics, granted: TrainingJobSpec) -> None:
    grants = [signed_grant_from_proto(clinics.propose(granted, dataset_id).grant) for dataset_id in TRIO]
    with clinics.nothing_used() as logged:
        other = anew(granted, plan=replace(granted.plan, rounds=granted.plan.rounds + 1))
        assert reason_of(open_job, clinics, clinics.first, other, grants) == "WRONG_SPEC"
    assert logged == []


def test_granted_is_not_yet_open(clinics: Clinics, granted: TrainingJobSpec) -> None:
    with clinics.nothing_used() as logged:
        assert reason_of(clinics.start, granted, 1) == "LEG_NOT_OPEN"
        assert reason_of(clinics.run_round, granted, clinics.first) == "LEG_NOT_OPEN"
    assert logged == [(FIRST, "REFUSED", "LEG_NOT_OPEN")] * 2


def test_a_finished_leg_takes_no_more_rounds(clinics: Clinics, finished: Finished) -> None:
    with clinics.nothing_used() as logged:
        assert reason_of(clinics.run_round, finished.job.spec, clinics.first) == "LEG_NOT_OPEN"
    assert logged == [(FIRST, "REFUSED", "LEG_NOT_OPEN")]


# -- what the SDK says before anyone is asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "said", "options"),
    [
        ("BUDGET_SHORT", "Dataset 1 ", {"privacy": uf.Privacy(epsilon=100.0)}),
        ("EPSILON_BELOW_FLOOR", "Dataset 1 ", {"privacy": uf.Privacy(epsilon=0.1)}),
        ("COHORT_TOO_SMALL", "3 holders together", {"datasets": TRIO[:2]}),
        (
            "GRAPH_NOT_ALLOWED",
            "BatchNorm1d",
            {"model": nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1))},
        ),
        ("GRAPH_NOT_ALLOWED", "softmax", {"model": nn.Sequential(nn.Linear(WIDTH, 1), nn.Softmax(dim=0))}),
    ],
)
def test_what_cannot_be_granted_is_refused_before_anyone_is_asked(
    clinics: Clinics, reason: str, said: str, options: dict[str, Any]
) -> None:
    settings = clinics.settings(**options)
    hospitals = clinics.first.datasets(ids=settings.pop("datasets", TRIO))
    with clinics.nothing_used() as logged, pytest.raises(UsufructError) as caught:
        clinics.first.train(settings.pop("model", model()), hospitals, **settings)
    assert caught.value.reason == reason
    assert said.lower() in caught.value.message.lower()
    assert logged == [], "nobody was asked"


def test_without_money_nothing_opens(clinics: Clinics) -> None:
    with clinics.nothing_used() as logged, pytest.raises(UsufructError) as caught:
        clinics.second.train(model(), clinics.second.datasets(ids=TRIO), **clinics.settings())
    assert caught.value.reason == "MONEY_SHORT"
    assert f"Send it {len(TRIO) * PRICE_UNITS} more" in caught.value.message
    assert logged == [(name, "GRANTED", "") for name in HOSPITALS]


# -- inside -----------------------------------------------------------------------------------------------------------


def answer(clinics: Clinics, spec: TrainingJobSpec) -> str:
    """What the first hospital says: "granted", or its reason."""
    try:
        proposal = clinics.propose(spec, 1)
    except UsufructError as error:
        return error.reason
    assert proposal.state in (GRANTED, REFUSED)
    assert bool(proposal.text) == (proposal.state == REFUSED)
    return "granted" if proposal.state == GRANTED else str(proposal.reason)


def open_job(clinics: Clinics, builder: Any, spec: TrainingJobSpec, grants: list[SignedGrant]) -> None:
    """Sends ``openJob`` past the SDK's own look at the grants."""
    legs = [(signed, spec.reservation_micro(signed.grant.dataset_id)) for signed in grants]
    with builder.sending() as sender:
        sender.open_job(
            spec.nonce,
            spec_hash(spec_to_bytes(spec)),
            purpose_hash(spec.purpose),
            legs,
            accept_by_seconds=spec.deliver_by_seconds - 1,
            deliver_by_seconds=spec.deliver_by_seconds,
            challenge_term_seconds=86_400,
            min_legs=3,
        )
