"""From a model builder's ``torch.nn.Module`` to a model graph: ``recording``, then ``translation``, then ``validate``.

This runs at the builder only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from usufruct.errors import InvalidInput
from usufruct.graph.interpreter import InterpreterModule, trained
from usufruct.graph.limits import GraphBounds, GraphLimits
from usufruct.graph.model_graph import FLOAT32, GRAPH_VERSION, INPUT_DTYPES, ModelGraph, not_allowed
from usufruct.graph.recording import EXAMPLE_BATCHES, Recorder
from usufruct.graph.translation import Translation
from usufruct.graph.validation import validate


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A graph and how its weights are called in the builder's own model.

    Attributes:
        graph: the architecture; has passed ``validate``.
        parameter_names: pairs (name in the graph's module, name in the builder's model) of what is trained, in the layout
            order of ``weights.parameter_layout``.
        bounds: what the graph costs.
    """

    graph: ModelGraph
    parameter_names: tuple[tuple[str, str], ...]
    bounds: GraphBounds


def trace(
    model: nn.Module,
    input_shape: tuple[int, ...],
    limits: GraphLimits | None = None,
    input_dtype: str = FLOAT32,
) -> TracedModel:
    """Turns ``model`` into a graph. The model is left as it was.

    Args:
        model: takes one tensor [batch, *input_shape] and returns [batch, outputs].
        input_shape: of one row, without the batch.
        limits: caps, as for ``validate``.
        input_dtype: ``float32``, or ``int64`` for tokens.
    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED, naming the layer or function and what is allowed.
    """
    if input_dtype not in INPUT_DTYPES:
        raise not_allowed(f"The input's type must be one of {', '.join(INPUT_DTYPES)}.")
    shape = tuple(int(size) for size in input_shape)
    was_training = {module: module.training for module in model.modules()}
    model.train()  # so that ``functional.dropout(x, training=self.training)`` is seen as dropout
    try:
        first, second = (_translate(model, shape, input_dtype, batch) for batch in EXAMPLE_BATCHES)
    finally:
        for module, training in was_training.items():
            module.training = training
    if (first.modules, first.nodes) != (second.modules, second.nodes):
        raise not_allowed("The model depends on the size of the batch, beyond keeping it in its shapes.")
    graph = ModelGraph(GRAPH_VERSION, shape, input_dtype, tuple(first.modules), tuple(first.nodes))
    bounds = validate(graph, limits)
    with torch.device("meta"):
        names = [name for name, _ in trained(InterpreterModule(graph))]
    return TracedModel(graph, tuple((name, first.names[name]) for name in names), bounds)


def _translate(model: nn.Module, shape: tuple[int, ...], input_dtype: str, batch: int) -> Translation:
    root = nn.Sequential(model)  # so that a model which is a single layer is met like any other layer
    recorder = Recorder(shape, getattr(torch, input_dtype), batch)
    try:
        recorded = recorder.trace(root)
    except InvalidInput:
        raise
    except Exception as error:
        raise not_allowed(
            "The model's forward() cannot be followed: it must take one tensor, and must not branch or loop on its "
            f"values ({type(error).__name__}: {error})."
        ) from error
    return Translation(model, recorder, recorded, batch)
