"""What the holder works out about a job by itself, before it judges: graph, loss, plan and price of an attempt.

Nothing a builder claims is taken over; no row is looked at.
"""

from __future__ import annotations

from functools import lru_cache

from usufruct.domain.preprocessing import feature_width
from usufruct.domain.training_job import MICRO, NANO, PICO, TrainingJobSpec
from usufruct.encryption import parameter_set
from usufruct.errors import UsufructError
from usufruct.graph.model_graph import ModelGraph
from usufruct.privacy import LocalPlan
from usufruct.wire.model_graph import graph_from_bytes

from usufruct_server.holder.catalogue import ServedDataset
from usufruct_server.holder.policy import JobFacts


def appraise(spec: TrainingJobSpec, served: ServedDataset | None) -> JobFacts:
    """The facts about a job on one dataset. Never raises for what a builder wrote."""
    if served is None or all(terms.dataset_id != served.dataset_id for terms in spec.legs):
        return JobFacts("", "", 0, 0)
    try:
        parameters, outputs = _graph_bounds(spec.model_graph, spec.plan.micro_batch_size)
        graph = graph_from_bytes(spec.model_graph)
    except UsufructError as error:
        return JobFacts(error.message, "", 0, 0)
    width = feature_width(served.card.card)
    if graph.input_shape != (width,):
        return JobFacts(f"the model takes rows of shape {graph.input_shape}; the card gives {width} features", "", 0, 0)
    try:
        return JobFacts("", _plan_problem(spec, served, outputs), _loss_per_attempt(spec, served), parameters)
    except UsufructError as error:
        return JobFacts("", error.message, 0, parameters)


def plan_of(spec: TrainingJobSpec, dataset_id: int) -> LocalPlan:
    """The plan that the trainer runs and the accountant prices, from the spec's integers.

    Raises:
        PlanInvalid: a figure is out of its range; names the field.
    """
    plan, terms = spec.plan, spec.leg(dataset_id)
    return LocalPlan(
        sample_rate=plan.sample_rate_nano / NANO,
        max_grad_norm=plan.max_grad_norm_micro / MICRO,
        noise_multiplier=plan.noise_multiplier_micro / MICRO,
        local_steps=plan.local_steps,
        rounds=plan.rounds,
        spare_attempts=plan.spare_attempts,
        micro_batch_size=plan.micro_batch_size,
        nominal_size=terms.nominal_size,
        order=terms.order,
        delta=plan.delta_pico / PICO,
    )


def graph_of(spec: TrainingJobSpec) -> ModelGraph:
    """The spec's model graph. Raises :class:`InvalidInput` when its bytes are none."""
    return graph_from_bytes(spec.model_graph)


@lru_cache(maxsize=8)
def _graph_bounds(model_graph: bytes, micro_batch_size: int) -> tuple[int, int]:
    """Parameters and outputs of a graph that passes every check; the same graph comes again for each dataset."""
    from usufruct.graph import GraphLimits, validate

    bounds = validate(graph_from_bytes(model_graph), GraphLimits(physical_batch=micro_batch_size))
    return bounds.parameters, bounds.outputs


def _plan_problem(spec: TrainingJobSpec, served: ServedDataset, outputs: int) -> str:
    from usufruct_server.holder.training.losses import checked_loss

    checked_loss(spec.loss, outputs, len(served.card.card.label.classes))
    parameters = parameter_set(spec.encryption.parameters)
    if (1 << spec.encryption.value_bits) - 1 > parameters.max_value:
        return "value_bits is more than the encryption parameters carry"
    if len(spec.legs) > parameters.max_holders:
        return "more holders than the encryption parameters carry"
    return ""


def _loss_per_attempt(spec: TrainingJobSpec, served: ServedDataset) -> int:
    return plan_of(spec, served.dataset_id).loss_per_attempt_micro
