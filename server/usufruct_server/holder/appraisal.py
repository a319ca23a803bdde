"""What the holder works out about a job by itself, before it judges: graph, loss, plan and price of an attempt.

Nothing a builder claims is taken over; no row is looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.query import StatisticsQuery, layout_of
from usufruct.domain.training_job import NoiseMode, TrainingJobSpec
from usufruct.encryption import parameter_set
from usufruct.errors import ConfigError, InvalidInput, Refused, UsufructError
from usufruct.graph.card_input import check_input
from usufruct.graph.model_graph import ModelGraph
from usufruct.privacy import FIELD_BITS, DistributedPlan, plan_of
from usufruct.wire.model_graph import graph_from_bytes
from usufruct_server.holder.catalogue import ServedDataset
from usufruct_server.holder.policy import JobFacts

GraphAppraiser = Callable[[ModelGraph, int, str, int, bytes], int]
"""(graph, micro-batch size, loss, classes, digest of the base model) -> parameters that are trained; raises GRAPH_NOT_ALLOWED,
SPEC_INVALID, BASE_MODEL_UNKNOWN or BASE_MODEL_INVALID."""


def appraise(spec: TrainingJobSpec, served: ServedDataset | None, appraise_graph: GraphAppraiser) -> JobFacts:
    """The facts about a job on one dataset. Never raises for what a builder wrote.

    Args:
        appraise_graph: looks at the graph, in a process of its own.
    Raises:
        RoundFailed: TRAINER_FAILED, when that process did not answer; the job is not judged.
    """
    if served is None or all(terms.dataset_id != served.dataset_id for terms in spec.legs):
        return JobFacts("", "", 0, 0)
    card = served.card.card
    try:
        values = _values(spec, card, appraise_graph)
    except InvalidInput as error:
        return (
            JobFacts(error.message, "", 0, 0)
            if error.reason != "SPEC_INVALID"
            else JobFacts("", error.message, 0, 0)
        )
    except (Refused, ConfigError) as error:
        return JobFacts("", "", 0, 0, base_model_problem=error.reason)
    try:
        plan = plan_of(spec, served.dataset_id)
        loss_micro = plan.loss_per_attempt_micro
        promise = plan.promise if isinstance(plan, DistributedPlan) else ""
        return JobFacts("", _plan_problem(spec), loss_micro, values, promise)
    except UsufructError as error:
        return JobFacts("", error.message, 0, values)


def _values(spec: TrainingJobSpec, card: DatasetCard, appraise_graph: GraphAppraiser) -> int:
    """Numbers of an update: parameters of the model, or what the query takes of a row."""
    if isinstance(spec.query, StatisticsQuery):
        return layout_of(spec.query, spec.loss, card).values
    graph = graph_from_bytes(spec.model_graph)
    parameters = appraise_graph(
        graph, spec.plan.micro_batch_size, spec.loss, len(card.label.classes), spec.base_model
    )
    check_input(graph, card)  # of a graph that has been found to be one
    if spec.query is None:
        return parameters
    if spec.query.model_parameters != parameters:
        raise InvalidInput("model_parameters is not that of the graph", reason="SPEC_INVALID")
    return layout_of(spec.query, spec.loss, card).values


def graph_of(spec: TrainingJobSpec) -> ModelGraph:
    """The spec's model graph. Raises :class:`InvalidInput` when its bytes are none."""
    return graph_from_bytes(spec.model_graph)


def _plan_problem(spec: TrainingJobSpec) -> str:
    """Why the named encryption parameters do not suit the job; empty where they do.

    :func:`parameter_set` has planned them anew from their name: secure, and exact for the needs that it states. Here
    those needs are compared with the job's.
    """
    parameters = parameter_set(spec.encryption.parameters)
    distributed = spec.plan.noise_mode is NoiseMode.DISTRIBUTED
    if parameters.signed is not distributed:
        return "distributed noise needs parameters for signed sums, and local noise needs those for bounded values"
    if distributed and parameters.literal.field_bits != FIELD_BITS:
        return f"a sum with distributed noise has fields of {FIELD_BITS} bits"
    if not distributed and (1 << spec.encryption.value_bits) - 1 > parameters.max_value:
        return "value_bits is more than the encryption parameters carry"
    if len(spec.legs) > parameters.max_holders:
        return "more holders than the encryption parameters carry"
    return ""
