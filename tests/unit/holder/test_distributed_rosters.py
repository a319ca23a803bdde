"""`distributed` noise at a holder: a plan is priced anew from its integers, and no roster is agreed on in which too few
holders that its policy names could be honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eth_account import Account
from holder_world import MODEL, WIDTH, card, member

from usufruct import graph
from usufruct.chain import DatasetTerms
from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.domain.training_job import (
    MICRO,
    NANO,
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
    check_spec,
)
from usufruct.encryption import BoundedValues, SignedSums, plan
from usufruct.encryption.masks import MaskKey
from usufruct.errors import InvalidInput, Refused
from usufruct.graph.model_graph import ModelGraph
from usufruct.privacy import integer_noise_for, loss_for_epsilon_micro, plan_of
from usufruct.v1 import rounds_pb2
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.signatures import sign_ready, sign_view
from usufruct_server.holder.appraisal import appraise
from usufruct_server.holder.catalogue import CardFile, ServedDataset
from usufruct_server.holder.config import DatasetConfig, Policy
from usufruct_server.holder.legs import GrantedJob
from usufruct_server.holder.policy import JobFacts
from usufruct_server.holder.rounds.submission import Submission, checked_view

OWN = 1
BUILDER = Account.create()
OPERATORS = {number: Account.create() for number in range(1, 6)}
"""Of the datasets 1 to 5; dataset n is holder 10 + n's."""
KNOWN = Policy(co_holders=(12, 13, 14))
"""Of holder 11: it does not know holder 15."""


def job_spec() -> TrainingJobSpec:
    """Epsilon 3 over five holders: three honest, one that may collude."""
    noise = integer_noise_for(
        {6: loss_for_epsilon_micro(3.0, 6, 1e-5)}, sample_rate=0.2, max_grad_norm_micro=MICRO, parameter_count=WIDTH + 1,
        holders=5, min_honest=3, attempts=3, largest_batch=12.0,
    )  # fmt: skip
    figures = TrainingPlan(
        NoiseMode.DISTRIBUTED, 2, 1, 1, NANO // 5, MICRO, 0, 10_000_000, 16, min_honest=3, max_colluding=1,
        scale_micro=noise.scale_micro, share_noise=noise.share_noise, clamp=noise.clamp,
    )  # fmt: skip
    legs = tuple(
        LegTerms(number, 10 + number, bytes(32), 60, account.address, account.address, 1, 6, 1, NANO // 5)
        for number, account in OPERATORS.items()
    )
    spec = TrainingJobSpec(
        chain_id=1, compute_access=BUILDER.address, builder=BUILDER.address, nonce=bytes(32),
        model_graph=graph_to_bytes(MODEL), loss="binary_cross_entropy_with_logits", optimizer=LocalOptimizer("sgd", NANO),
        plan=figures, legs=legs, encryption=EncryptionPlan(plan(SignedSums(22), 5).name, 0, 0, WIDTH + 1),
        aggregator=AggregatorRef("a:1", bytes(32)), min_cohort=4, purpose="", deliver_by_seconds=2_000_000_000,
        round_timeout_seconds=60,
    )  # fmt: skip
    loss = plan_of(spec, OWN).loss_per_attempt_micro
    return check_spec(replace(spec, legs=tuple(replace(leg, loss_per_attempt_micro=loss) for leg in legs)))


SPEC = job_spec()
SERVED = ServedDataset(
    OWN,
    DatasetConfig(
        Path("card.json"), Path("data.csv"), OWN, 1, BUILDER.address, 1, 6, 10**9, 1e-5, None, None, False
    ),
    CardFile(Path("card.json"), card(), card().to_bytes(), bytes(32)),
    b"{}",
    DatasetTerms(1, 1, 10**9, 10**9, 86_400, bytes(32)),
)


# -- the price ----------------------------------------------------------------------------------------------------------


def facts(spec: TrainingJobSpec) -> JobFacts:
    """What the holder works out by itself."""

    def look(model: ModelGraph, micro_batch_size: int, loss: str, classes: int, base_model: bytes) -> int:
        return graph.validate(model, graph.GraphLimits(physical_batch=micro_batch_size)).parameters

    return appraise(spec, SERVED, look)


def test_an_honest_plan_has_no_problem_and_both_its_guarantees_are_said() -> None:
    found = facts(SPEC)
    assert (found.graph_problem, found.plan_problem) == ("", "")
    assert found.loss_per_attempt_micro == SPEC.leg(OWN).loss_per_attempt_micro
    assert found.parameter_count == SPEC.encryption.parameter_count
    assert found.promise.startswith("epsilon 3.0") or found.promise.startswith("epsilon 2.99")
    assert "3 holders of every sum are honest" in found.promise
    assert "against everyone else together" in found.promise


@pytest.mark.parametrize(
    "change",
    [
        {"share_noise": SPEC.plan.share_noise - SPEC.plan.share_noise // 100},
        {"scale_micro": SPEC.plan.scale_micro + SPEC.plan.scale_micro // 100},
        {"sample_rate_nano": NANO // 4},
        {"max_grad_norm_micro": 1_010_000},
        {"min_honest": 2},
        {"clamp": 10**6},
        {"share_noise": 10**11},
        {"scale_micro": 1},
    ],
)  # fmt: skip
def test_a_tampered_number_has_another_price_or_none(change: dict[str, int]) -> None:
    found = facts(replace(SPEC, plan=replace(SPEC.plan, **change)))
    assert found.plan_problem or found.loss_per_attempt_micro > SPEC.leg(OWN).loss_per_attempt_micro


def test_the_encryption_must_be_one_for_signed_sums_of_the_plans_field() -> None:
    for need in (SignedSums(20), SignedSums(30), BoundedValues(16)):
        encryption = replace(SPEC.encryption, parameters=plan(need, 5).name)
        assert facts(replace(SPEC, encryption=encryption)).plan_problem
    few = replace(SPEC.encryption, parameters=plan(SignedSums(22), 4).name)
    assert "more holders" in facts(replace(SPEC, encryption=few)).plan_problem


# -- rosters ------------------------------------------------------------------------------------------------------------

OFFER = RoundOffer(SPEC.job_id, bytes(32), 1, 1, bytes(32), bytes(32))
MASKS = {number: MaskKey(SPEC.job_id, number) for number in OPERATORS}
JOB = GrantedJob(SPEC, bytes(32), BUILDER.address, 2_000_000_000, bytes(32), SERVED)


def agree(roster: Sequence[int], policy: Policy = KNOWN, job: GrantedJob = JOB) -> RoundView:
    """What holder 11 makes of this roster, of which everyone says that it is ready."""
    view = RoundView(OFFER, tuple((number, MASKS[number].public_bytes) for number in roster))
    members = [
        member(number, key, sign_ready(OPERATORS[number], OFFER.hash, number, key))
        for number, key in view.roster
    ]
    submit = rounds_pb2.Submit(roster=members, view_signature=sign_view(BUILDER, view.hash))
    return checked_view(OFFER, MASKS[OWN].public_bytes, job, submit, policy)


@pytest.mark.parametrize("roster", [(1, 2, 3, 4, 5), (1, 2, 3, 4)])
def test_a_roster_of_enough_known_holders_is_agreed_on(roster: tuple[int, ...]) -> None:
    assert agree(roster).datasets == roster


@pytest.mark.parametrize(
    ("roster", "policy"),
    [
        ((1, 2, 3), KNOWN),  # three honest, and nobody may collude
        ((1, 2, 3, 5), KNOWN),  # four, but one that may be the builder itself
        ((1, 2, 3, 4), Policy(co_holders=(12, 13))),
        ((1, 2, 3, 4, 5), Policy()),
        ((1, 2, 3, 4, 5), Policy(co_holders=(12, 13, 11, 99))),
    ],
)
def test_a_roster_in_which_too_few_known_holders_could_be_honest_is_refused(
    roster: tuple[int, ...], policy: Policy
) -> None:
    with pytest.raises(Refused) as caught:
        agree(roster, policy)
    assert caught.value.reason == "COHORT_TOO_SMALL"


def test_a_spec_cannot_ask_for_smaller_sums_than_its_noise_is_sized_for() -> None:
    for change in ({"min_cohort": 3}, {"plan": replace(SPEC.plan, min_honest=4)}):
        with pytest.raises(InvalidInput) as caught:
            check_spec(replace(SPEC, **change))  # type: ignore[arg-type]
        assert caught.value.details["field"] == "min_cohort"


def test_a_share_is_never_encrypted_without_masks(tmp_path: Path) -> None:
    untouched: Any = SimpleNamespace()  # neither ledger nor zeros may be asked for anything
    submission = Submission(
        store=untouched,
        ledger=untouched,
        log=untouched,
        pools=untouched,
        operator=OPERATORS[OWN],
        policy=KNOWN,
    )
    with pytest.raises(Refused) as caught:
        submission.encrypt(untouched_attempt(), agree((1, 2, 3, 4)), None, untouched, untouched)
    assert caught.value.reason == "COHORT_TOO_SMALL"


def untouched_attempt() -> Any:
    return SimpleNamespace(job=JOB, offer=OFFER)
