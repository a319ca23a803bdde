"""Making a proposal: from a model, datasets and a builder's choices to a frozen job spec that holders are asked about."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from usufruct import graph
from usufruct.builder import losses
from usufruct.builder import weights as model_weights
from usufruct.builder.base_models import digest_for, frozen_digest
from usufruct.builder.datasets import Dataset
from usufruct.builder.peers import meet_aggregator
from usufruct.builder.planning import make_plan
from usufruct.builder.proposal import Proposal
from usufruct.builder.questions import check_kinds, kind_of, query_of
from usufruct.builder.server_optimizer import ServerOptimizer, write_server_optimizer
from usufruct.builder.settings import SGD, Encryption, EscrowTerms, Privacy, Question, Statistics
from usufruct.builder.store import JobRecord, JobStore
from usufruct.domain.preprocessing import feature_names, feature_shape, feature_type
from usufruct.domain.query import JobKind, Query, layout_of
from usufruct.domain.training_job import AggregatorRef, TrainingJobSpec
from usufruct.errors import InvalidInput
from usufruct.graph import TracedModel
from usufruct.graph.card_input import check_input
from usufruct.privacy import DistributedPlan
from usufruct.wire import jobs
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.model_graph import graph_to_bytes

if TYPE_CHECKING:
    from usufruct.builder.network import Network

log = logging.getLogger("usufruct.builder")

_PURPOSES = {
    JobKind.TRAINING: "Train a model",
    JobKind.EVALUATION: "Evaluate a model",
    JobKind.STATISTICS: "Describe columns",
}


def new_proposal(
    network: Network,
    model: nn.Module | None,
    datasets: Sequence[Dataset],
    *,
    aggregator: str,
    loss: str,
    optimizer: SGD,
    privacy: Privacy,
    rounds: int,
    base: str | Path | None,
    validation: Any,
    server_optimizer: ServerOptimizer | None,
    spare_attempts: int | None,
    min_cohort: int | None,
    encryption: Encryption | None,
    purpose: str | None,
    round_timeout_seconds: int,
    deliver_within_seconds: int,
    escrow: EscrowTerms,
    question: Question | None = None,
) -> Proposal:
    """See :meth:`usufruct.builder.network.Network.propose`.

    Args:
        model, loss: none for statistics.
        question: what is asked of rows in place of training.
    """
    at = PinnedEndpoint.parse(aggregator)
    aggregator_ref = AggregatorRef(at.endpoint, at.fingerprint)
    work = work_on(model, datasets, loss, question)
    traced = work.traced
    base_model, frozen, checked_validation = b"", "", None
    if model is not None and traced is not None:
        base_model = digest_for(model, traced, base)
        frozen = frozen_digest(model)
        checked_validation = losses.read_validation(
            validation, traced.graph.input_shape, traced.graph.input_dtype
        )
    elif base is not None:
        raise InvalidInput("base: statistics have no model.", reason="SPEC_INVALID", field="base")
    plan = make_plan(
        datasets,
        privacy,
        optimizer,
        rounds=rounds,
        spare_attempts=spare_attempts,
        parameter_count=work.values,
        min_cohort=min_cohort,
        encryption=encryption,
    )
    for leg, priced in zip(plan.legs, plan.plans, strict=True):
        if isinstance(priced, DistributedPlan):
            log.info("dataset %d: %s", leg.dataset_id, priced.promise)
    spec = TrainingJobSpec(
        chain_id=network.chain.chain_id,
        compute_access=network.chain.compute_access,
        builder=network.address,
        nonce=secrets.token_bytes(32),
        model_graph=b"" if traced is None else graph_to_bytes(traced.graph),
        loss=loss,
        optimizer=plan.optimizer,
        plan=plan.plan,
        legs=plan.legs,
        encryption=plan.encryption,
        aggregator=aggregator_ref,
        min_cohort=plan.min_cohort,
        purpose=purpose or f"{_PURPOSES[kind_of(question)]} for {datasets[0].task}",
        deliver_by_seconds=max(int(time.time()), network.chain.block_time_seconds()) + deliver_within_seconds,
        round_timeout_seconds=round_timeout_seconds,
        base_model=base_model,
        query=work.query,
    )
    spec_bytes = jobs.spec_to_bytes(spec)
    record = JobRecord(
        rpc_url=network.rpc_url,
        confirmations=network.confirmations,
        compute_access=network.chain.compute_access,
        key_path=str(network.key_path or ""),
        builder=network.address,
        parameter_names=() if traced is None else traced.parameter_names,
        frozen_digest=frozen,
        server_optimizer={} if server_optimizer is None else write_server_optimizer(server_optimizer),
        card="" if work.query is None else datasets[0].card.to_bytes().decode(),
    )
    checkpoint = b"" if model is None or traced is None else _first_checkpoint(model, traced)
    meet_aggregator(network, aggregator_ref)
    store = JobStore.create(spec.job_id, spec_bytes, record, checkpoint, asdict(escrow))
    store.unlock()  # whoever opens the job drives it: this process, or another one in some days
    proposal = Proposal(network, store, model, checked_validation)
    try:
        proposal.status()
    except BaseException:
        proposal.withdraw()
        raise
    return proposal


def _first_checkpoint(model: nn.Module, traced: TracedModel) -> bytes:
    """Raises :class:`InvalidInput` for weights that a holder would refuse."""
    vector = graph.vector_from_model(model, traced)
    graph.pack_vector(traced.graph, vector)
    return model_weights.vector_to_checkpoint(traced.graph, traced.parameter_names, vector)


@dataclass(frozen=True)
class Work:
    """What a job does with rows.

    Attributes:
        traced: the model; None for statistics.
        query: what is asked in place of training, if anything.
        values: numbers of an update.
    """

    traced: TracedModel | None
    query: Query | None
    values: int


def work_on(
    model: nn.Module | None, datasets: Sequence[Dataset], loss: str | None, question: Question | None
) -> Work:
    """What a job on these datasets would do.

    Args:
        loss: None where it is not known yet, and for statistics.
    Raises:
        Refused: POLICY_JOB_KIND.
        InvalidInput: the model is none that can be sent, or the datasets cannot be asked this together.
    """
    check_kinds(datasets, question)
    traced = None if isinstance(question, Statistics) else trace_for(model, datasets, loss)
    parameters = 0 if traced is None else traced.bounds.parameters
    if question is None:
        return Work(traced, None, parameters)
    query = query_of(question, datasets, parameters)
    return Work(traced, query, layout_of(query, loss or "", datasets[0].card).values)


def trace_for(model: nn.Module | None, datasets: Sequence[Dataset], loss: str | None) -> TracedModel:
    """The model's graph for the features of these datasets.

    Raises:
        InvalidInput: the datasets' features or classes differ, the model is no graph, or the loss does not fit.
    """
    if not datasets:
        raise InvalidInput(
            "A job needs at least one dataset; network.datasets() lists what there is.", field="datasets"
        )
    first = datasets[0]
    for other in datasets[1:]:
        if feature_names(other.card) != feature_names(first.card) or len(other.card.label.classes) != len(
            first.card.label.classes
        ):
            raise InvalidInput(
                f"The datasets {first.id} and {other.id} do not have the same features and classes; one model cannot "
                "be trained on both.",
                reason="SPEC_INVALID",
                field="datasets",
                dataset_id=other.id,
            )
    if model is None:
        raise InvalidInput("A job that trains or evaluates needs a model.", field="model")
    traced = graph.trace(model, feature_shape(first.card), input_dtype=feature_type(first.card))
    check_input(traced.graph, first.card)
    if loss is not None:
        losses.checked_loss(loss, traced.bounds.outputs, len(first.card.label.classes))
    return traced
