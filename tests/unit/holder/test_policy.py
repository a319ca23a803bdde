"""What a holder grants, refuses with which reason, and leaves to a person. Pure judgements over facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from usufruct.domain.query import EvaluationQuery, JobKind
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
    check_spec,
)
from usufruct_server.holder.config import Policy
from usufruct_server.holder.policy import DatasetFacts, Decision, HolderFacts, JobFacts, judge

A, B, C, OPERATOR = (f"0x{digit * 40}" for digit in "1234")
NOW = 1_800_000_000
CARD = b"c" * 32


def _terms(dataset_id: int, **changes: Any) -> LegTerms:
    return replace(LegTerms(dataset_id, 7, CARD, 100, OPERATOR, C, 500, 6, 1000, 500_000_000), **changes)


SPEC = check_spec(
    TrainingJobSpec(
        chain_id=1, compute_access=B, builder=A, nonce=bytes(32), model_graph=b"g", loss="x",
        optimizer=LocalOptimizer("sgd", 1), plan=TrainingPlan(NoiseMode.LOCAL, 8, 2, 1, 10**8, 10**6, 10**6, 10**7, 16),
        legs=(_terms(1), _terms(2, holder_id=8)), encryption=EncryptionPlan("p", 16, 10**9, 33), aggregator=AggregatorRef("a:1", bytes(32)),
        min_cohort=2, purpose="", deliver_by_seconds=NOW + 1000, round_timeout_seconds=60,
    )
)  # fmt: skip
EVALUATION = replace(SPEC, query=EvaluationQuery(31, 20, 10**6))
HOLDER = HolderFacts(1, B, 7, OPERATOR, NOW)
DATASET = DatasetFacts(1, True, "", CARD, 100, 6, 1e-5, C, 500, 2, 50_000, 60_000, 0)
JOB = JobFacts("", "", 1000, 33)
KNOWN = Policy(co_holders=(8,))
AUTO = replace(KNOWN, auto_grant=True, unknown_builders="grant")


def _judge(
    spec: TrainingJobSpec = SPEC, caller: str = A, holder: HolderFacts = HOLDER, dataset: DatasetFacts | None = DATASET,
    job: JobFacts = JOB, policy: Policy = AUTO,
) -> Decision:  # fmt: skip
    return judge(spec, caller, holder, dataset, job, policy)


def test_a_job_inside_all_limits_is_granted() -> None:
    assert _judge() == Decision("grant")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("NOT_YOURS", {"caller": B}),
        ("WRONG_CHAIN", {"spec": replace(SPEC, chain_id=2)}),
        ("WRONG_CHAIN", {"spec": replace(SPEC, compute_access=C)}),
        ("LEG_EXPIRED", {"spec": replace(SPEC, deliver_by_seconds=NOW)}),
        ("DATASET_UNKNOWN", {"dataset": None}),
        ("DATASET_UNKNOWN", {"dataset": replace(DATASET, dataset_id=3)}),
        ("DATASET_RETIRED", {"dataset": replace(DATASET, active=False)}),
        ("PERSON_HAS_SEVERAL_ROWS", {"dataset": replace(DATASET, unfit="PERSON_HAS_SEVERAL_ROWS")}),
        ("DATA_UNREADABLE", {"dataset": replace(DATASET, unfit="DATA_UNREADABLE")}),
        ("CARD_MISMATCH", {"dataset": replace(DATASET, card_hash=bytes(32))}),
        ("CARD_MISMATCH", {"dataset": replace(DATASET, nominal_size=99)}),
        ("CARD_MISMATCH", {"holder": replace(HOLDER, operator=A)}),
        ("COHORT_TOO_SMALL", {"dataset": replace(DATASET, min_cohort=3)}),
        ("COHORT_TOO_SMALL", {"spec": replace(SPEC, min_cohort=1)}),
        ("GRAPH_NOT_ALLOWED", {"job": replace(JOB, graph_problem="mixes records")}),
        ("SPEC_INVALID", {"job": replace(JOB, plan_problem="no")}),
        ("SPEC_INVALID", {"job": replace(JOB, parameter_count=34)}),
        ("SPEC_INVALID", {"job": replace(JOB, loss_per_attempt_micro=1001)}),
        ("SPEC_INVALID", {"job": replace(JOB, loss_per_attempt_micro=999)}),
        ("SPEC_INVALID", {"dataset": replace(DATASET, order=16)}),
        ("POLICY_REFUSED", {"policy": replace(AUTO, builders_deny=(A,))}),
        ("POLICY_REFUSED", {"policy": replace(AUTO, unknown_builders="refuse")}),
        ("POLICY_REFUSED", {"policy": replace(AUTO, max_rounds=9)}),
        ("POLICY_NOISE_MODE", {"policy": replace(AUTO, noise_modes=(NoiseMode.DISTRIBUTED,))}),
        ("POLICY_JOB_KIND", {"policy": replace(AUTO, job_kinds=(JobKind.EVALUATION, JobKind.STATISTICS))}),
        ("POLICY_JOB_KIND", {"spec": EVALUATION, "policy": replace(AUTO, job_kinds=(JobKind.TRAINING,))}),
        ("POLICY_PRICE_TOO_LOW", {"dataset": replace(DATASET, price_units=501)}),
        ("POLICY_PRICE_TOO_LOW", {"policy": replace(AUTO, min_price_units=501)}),
        ("POLICY_PRICE_TOO_LOW", {"dataset": replace(DATASET, token=A)}),
        ("BUDGET_SHORT", {"dataset": replace(DATASET, available_micro=9_999)}),
        ("POLICY_LOSS_TOO_HIGH", {"dataset": replace(DATASET, loss_limit_on_chain_micro=9_999)}),
        ("POLICY_LOSS_TOO_HIGH", {"policy": replace(AUTO, max_loss_per_job_micro=9_999)}),
        ("POLICY_LOSS_TOO_HIGH", {"policy": replace(AUTO, max_epsilon_per_job=1.0)}),
    ],
)
def test_each_refusal_has_its_own_reason(reason: str, changes: dict[str, Any]) -> None:
    decision = _judge(**changes)
    assert (decision.outcome, decision.reason) == ("refuse", reason)


@pytest.mark.parametrize(
    ("co_holders", "holder_id", "reason"),
    [
        ((8,), 8, ""),
        ((8, 9), 8, ""),
        ((), 8, "COHORT_TOO_SMALL"),
        ((7, 9), 8, "COHORT_TOO_SMALL"),  # itself counts once, and one that is not in the job not at all
        ((8,), 7, "COHORT_TOO_SMALL"),  # two datasets of one holder are one holder
    ],
)
def test_only_holders_that_the_policy_names_count_towards_the_minimum_cohort(
    co_holders: tuple[int, ...], holder_id: int, reason: str
) -> None:
    """Also with local noise: who registers a second holder must not get a sum over one."""
    spec = replace(SPEC, legs=(_terms(1), _terms(2, holder_id=holder_id)))
    assert _judge(spec=spec, policy=replace(AUTO, co_holders=co_holders)).reason == reason
    alone = replace(DATASET, min_cohort=1)
    assert _judge(spec=spec, dataset=alone, policy=replace(AUTO, co_holders=co_holders)).outcome == "grant"


def test_limits_are_met_exactly() -> None:
    fits = replace(DATASET, available_micro=10_000, loss_limit_on_chain_micro=10_000)
    exact = replace(AUTO, max_loss_per_job_micro=10_000, max_rounds=10, min_price_units=500)
    assert _judge(dataset=fits, policy=exact).outcome == "grant"


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        (KNOWN, "inbox"),
        (replace(AUTO, auto_grant=False), "inbox"),
        (replace(AUTO, unknown_builders="inbox"), "inbox"),
        (replace(AUTO, unknown_builders="inbox", builders_allow=(A,)), "grant"),
        (replace(AUTO, unknown_builders="refuse", builders_allow=(A,)), "grant"),
        (replace(AUTO, auto_grant=False, builders_allow=(A,)), "inbox"),
    ],
)
def test_who_is_granted_at_once_and_who_waits_for_a_person(policy: Policy, outcome: str) -> None:
    assert _judge(policy=policy).outcome == outcome


def test_nobody_is_granted_what_is_outside_the_limits() -> None:
    allowed = replace(AUTO, builders_allow=(A,), max_loss_per_job_micro=1)
    assert _judge(policy=allowed).reason == "POLICY_LOSS_TOO_HIGH"


# -- distributed noise --------------------------------------------------------------------------------------------------

SHARED = check_spec(
    replace(
        SPEC,
        plan=TrainingPlan(
            NoiseMode.DISTRIBUTED, 8, 2, 1, 10**8, 10**6, 0, 10**7, 16, min_honest=2, max_colluding=1, scale_micro=1,
            share_noise=1, clamp=1,
        ),
        legs=tuple(_terms(number, holder_id=6 + number, weight_nano=250_000_000) for number in (1, 2, 3, 4)),
        encryption=EncryptionPlan("p", 0, 0, 33), min_cohort=3,
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("co_holders", "reason"),
    [
        ((8, 9, 10), ""),
        ((8, 10), ""),
        ((7, 8, 9, 99), ""),
        ((), "COHORT_TOO_SMALL"),
        ((8,), "COHORT_TOO_SMALL"),
        ((7, 8), "COHORT_TOO_SMALL"),  # itself counts once
        ((8, 50, 51), "COHORT_TOO_SMALL"),
    ],
)
def test_only_holders_that_the_policy_names_count_towards_the_honest_and_the_colluding(
    co_holders: tuple[int, ...], reason: str
) -> None:
    assert _judge(spec=SHARED, policy=replace(AUTO, co_holders=co_holders)).reason == reason


def test_a_holder_that_takes_local_noise_only_takes_no_share_of_it() -> None:
    assert (
        _judge(spec=SHARED, policy=replace(AUTO, noise_modes=(NoiseMode.LOCAL,), co_holders=(8, 9))).reason
        == "POLICY_NOISE_MODE"
    )


def test_whoever_decides_is_told_both_guarantees() -> None:
    told = replace(JOB, promise="epsilon 3 if two are honest, 9 against everyone")
    person = replace(AUTO, auto_grant=False, co_holders=(8, 9))
    assert told.promise in _judge(spec=SHARED, job=told, policy=person).note
    assert told.promise in _judge(spec=SHARED, job=told, policy=replace(person, auto_grant=True)).note
