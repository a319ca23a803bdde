"""Judges a proposal: pure functions from facts to a decision with a reason of the catalogue.

Everything a judgement depends on is public: the spec, the registration, the policy and the budget's integers. No row is
looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from usufruct.domain.training_job import LegTerms, TrainingJobSpec
from usufruct.errors import UsufructError
from usufruct_server.holder.config import Policy

Outcome = Literal["grant", "refuse", "inbox"]
MINIMUM_TIME_LEFT_SECONDS = 10


@dataclass(frozen=True)
class HolderFacts:
    """What the holder knows of itself and its surroundings when it judges.

    Attributes:
        chain_id, compute_access: the chain it works with.
        holder_id, operator: its registration.
        now_seconds: UTC, of the chain's final block.
    """

    chain_id: int
    compute_access: str
    holder_id: int
    operator: str
    now_seconds: int


@dataclass(frozen=True)
class DatasetFacts:
    """What the holder knows of the dataset that is asked for.

    Attributes:
        active: whether the registration on chain is active.
        unfit: reason of the catalogue why the data cannot be used now (known since the server last checked), or "".
        card_hash, nominal_size: of the card.
        order, delta: of the lifetime budget.
        token, price_units, min_cohort: registered.
        available_micro: what is left of the budget: the smaller of the chain's figure and the ledger's.
        loss_limit_on_chain_micro: the admin key's limit for one job; 0 for none.
    """

    dataset_id: int
    active: bool
    unfit: str
    card_hash: bytes
    nominal_size: int
    order: int
    delta: float
    token: str
    price_units: int
    min_cohort: int
    available_micro: int
    cap_micro: int
    loss_limit_on_chain_micro: int


@dataclass(frozen=True)
class JobFacts:
    """What the holder worked out about the job itself.

    Attributes:
        graph_problem: what is wrong with the model graph, or "".
        loss_per_attempt_micro: the holder's own figure for one attempt; 0 where the plan cannot be priced.
        parameter_count: of the graph, or numbers that the query takes of a row.
        plan_problem: what is wrong with the training plan, or "".
        promise: with distributed noise, in words, what holds against the coalition that the spec assumes, which is what is
            charged, and what remains against everyone else together.
        base_model_problem: the reason, of the catalogue, why the job's base model cannot be used, or "".
    """

    graph_problem: str
    plan_problem: str
    loss_per_attempt_micro: int
    parameter_count: int
    promise: str = ""
    base_model_problem: str = ""


@dataclass(frozen=True)
class Decision:
    """What becomes of a proposal. ``reason`` is of the catalogue; ``note`` is for the person at the holder."""

    outcome: Outcome
    reason: str = ""
    note: str = ""


def judge(
    spec: TrainingJobSpec,
    caller: str,
    holder: HolderFacts,
    dataset: DatasetFacts | None,
    job: JobFacts,
    policy: Policy,
) -> Decision:
    """Decides about one proposal.

    Args:
        spec: checked by ``check_spec``.
        caller: the address that the caller proved.
        dataset: None where the holder serves no such dataset.
    Returns:
        ``refuse`` with the first reason that applies; else ``grant`` or ``inbox``, as the policy says.
    """
    refusal = (
        _about_the_job(spec, caller, holder)
        or _about_the_dataset(spec, dataset, holder)
        or _about_the_plan(spec, dataset, job)
        or _about_the_policy(spec, dataset, policy)
    )
    if refusal:
        return refusal
    known = "grant" if spec.builder in policy.builders_allow else policy.unknown_builders
    if known == "refuse":
        return Decision("refuse", "POLICY_REFUSED", "the builder is not on the list builders_allow")
    if policy.auto_grant and known == "grant":
        return Decision("grant", note=job.promise)
    waits = "inside all limits; waits for a person to decide"
    return Decision("inbox", note="; ".join(filter(None, (waits, job.promise))))


def counted_holders(spec: TrainingJobSpec, datasets: Iterable[int], policy: Policy, holder_id: int) -> int:
    """How many holders of a roster count towards :func:`least_counted`: this one, and those that its policy names.
    Registration is open, so a stranger may be the builder itself (soundness 5)."""
    holders = {spec.leg(dataset_id).holder_id for dataset_id in datasets}
    return len(holders & {holder_id, *policy.co_holders})


def least_counted(spec: TrainingJobSpec, min_cohort: int) -> int:
    """How many holders must count in every sum: as many as the dataset wants in one, and with distributed noise at least
    ``min_honest + max_colluding``. The spec's own minimum is the builder's wish, and counts everybody."""
    return max(min_cohort, spec.plan.min_honest + spec.plan.max_colluding)


def _about_the_job(spec: TrainingJobSpec, caller: str, holder: HolderFacts) -> Decision | None:
    if spec.builder != caller:
        return Decision("refuse", "NOT_YOURS", "the spec names another builder than the caller")
    if (spec.chain_id, spec.compute_access) != (holder.chain_id, holder.compute_access):
        return Decision("refuse", "WRONG_CHAIN", "the spec names another chain or contract")
    if spec.deliver_by_seconds < holder.now_seconds + MINIMUM_TIME_LEFT_SECONDS:
        return Decision("refuse", "LEG_EXPIRED", "the job would have to be delivered at once")
    return None


def _about_the_dataset(
    spec: TrainingJobSpec, dataset: DatasetFacts | None, holder: HolderFacts
) -> Decision | None:
    if dataset is None or all(terms.dataset_id != dataset.dataset_id for terms in spec.legs):
        return Decision("refuse", "DATASET_UNKNOWN", "no such dataset here, or the spec has no leg on it")
    if not dataset.active:
        return Decision("refuse", "DATASET_RETIRED", "the dataset is retired on chain")
    if dataset.unfit:
        return Decision("refuse", dataset.unfit, "the data cannot be used; `usufruct holder doctor` says why")
    terms = spec.leg(dataset.dataset_id)
    if (terms.card_hash, terms.nominal_size) != (dataset.card_hash, dataset.nominal_size):
        return Decision("refuse", "CARD_MISMATCH", "the spec was written for another card")
    if (terms.holder_id, terms.operator) != (holder.holder_id, holder.operator):
        return Decision("refuse", "CARD_MISMATCH", "the spec names another holder or operator key")
    if min(spec.min_cohort, len(spec.legs)) < dataset.min_cohort:
        return Decision("refuse", "COHORT_TOO_SMALL", f"the dataset's minimum cohort is {dataset.min_cohort}")
    return None


def _about_the_plan(spec: TrainingJobSpec, dataset: DatasetFacts | None, job: JobFacts) -> Decision | None:
    assert dataset is not None
    if job.graph_problem:
        return Decision("refuse", "GRAPH_NOT_ALLOWED", job.graph_problem)
    if job.base_model_problem:
        note = f"the job's base model is sha256:{spec.base_model.hex()}"
        return Decision("refuse", job.base_model_problem, note)
    if job.plan_problem:
        return Decision("refuse", "SPEC_INVALID", job.plan_problem)
    if spec.encryption.parameter_count != job.parameter_count:
        return Decision("refuse", "SPEC_INVALID", "parameter_count is not that of the graph or query")
    terms: LegTerms = spec.leg(dataset.dataset_id)
    if terms.order != dataset.order:
        return Decision("refuse", "SPEC_INVALID", f"the dataset's Rényi order is {dataset.order}")
    if terms.loss_per_attempt_micro != job.loss_per_attempt_micro:
        return Decision("refuse", "SPEC_INVALID", "loss_per_attempt_micro is not what this holder computes")
    return None


def _about_the_policy(spec: TrainingJobSpec, dataset: DatasetFacts | None, policy: Policy) -> Decision | None:
    assert dataset is not None
    terms, loss = spec.leg(dataset.dataset_id), spec.reservation_micro(dataset.dataset_id)
    if spec.builder in policy.builders_deny:
        return Decision("refuse", "POLICY_REFUSED", "the builder is on the list builders_deny")
    if spec.kind not in policy.job_kinds:
        return Decision("refuse", "POLICY_JOB_KIND", f"{spec.kind} is not in job_kinds")
    if spec.plan.noise_mode not in policy.noise_modes:
        return Decision("refuse", "POLICY_NOISE_MODE", "the noise mode is not in noise_modes")
    least = least_counted(spec, dataset.min_cohort)
    numbers = [leg.dataset_id for leg in spec.legs]
    counted = counted_holders(spec, numbers, policy, terms.holder_id)
    if counted < least:
        return Decision(
            "refuse",
            "COHORT_TOO_SMALL",
            f"{least} holders must be in every sum, and {counted} of the job's count: this one and those in [policy] "
            "co_holders; name there the numbers of others that you know",
        )
    if terms.token != dataset.token or terms.price_units < max(dataset.price_units, policy.min_price_units):
        return Decision("refuse", "POLICY_PRICE_TOO_LOW", "another token, or less than the price")
    if loss > dataset.available_micro:
        return Decision(
            "refuse", "BUDGET_SHORT", f"{loss} of {dataset.available_micro} millionths of a nat left"
        )
    if spec.plan.attempts > policy.max_rounds:
        return Decision("refuse", "POLICY_REFUSED", f"more attempts than max_rounds = {policy.max_rounds}")
    limit = dataset.loss_limit_on_chain_micro or dataset.cap_micro
    try:
        limit = min(limit, policy.loss_limit_micro(dataset.order, dataset.delta, dataset.cap_micro))
    except UsufructError as error:
        return Decision("refuse", "POLICY_LOSS_TOO_HIGH", error.message)
    if loss > limit:
        return Decision("refuse", "POLICY_LOSS_TOO_HIGH", f"asks for {loss}, one job may have {limit}")
    return None
