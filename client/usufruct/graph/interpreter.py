"""Runs a model graph: genuine ``torch.nn`` layers as children, and a loop over the nodes.

Not ``torch.fx.GraphModule``: that writes Python text from the graph's names and executes it, and a hostile name ran
code in a test. Here nothing that a peer wrote becomes Python text; children are ``m0``, ``m1``, ... by index. Outputs
and speed are the same (measured on ten models).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.isolation import Application, carries_batch, not_proven
from usufruct.graph.layers import MODULES
from usufruct.graph.limits import GraphLimits
from usufruct.graph.model_graph import (
    INT64,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    not_allowed,
    references,
)

Watch: TypeAlias = Callable[[torch.Tensor], None]
"""Called with the value of every node that computes, in order."""


class InterpreterModule(nn.Module):
    """The model of a graph. Make one with :func:`rebuild`; the constructor trusts that the graph's form was checked.

    Takes a tensor of shape [batch, *graph.input_shape] and returns [batch, outputs]. The isolation rules and
    the form [batch, ...] of every value are checked again at every run: it costs microseconds. Real numbers have one
    type throughout, also those that come of whole ones.

    Attributes:
        real: that type; None for the one of the module's first parameter.
        by_rows: whether an operation has no proof of isolation, so that every row must be run as a batch of its own.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED, when an operation would mix records or lose the batch.
    """

    def __init__(self, graph: ModelGraph) -> None:
        super().__init__()
        self.graph = graph
        self.real: torch.dtype | None = None
        for index, spec in enumerate(graph.modules):
            self.add_module(f"m{index}", MODULES[spec.class_name].build(dict(spec.arguments)))
            self._bind(index, spec)
        self._settings = [_settings(graph, node) for node in graph.nodes]
        self.by_rows = any(
            node.kind is NodeKind.FUNCTION and FUNCTIONS[node.function_name].isolation is not_proven
            for node in graph.nodes
        )
        last_use = {index: position for position, node in enumerate(graph.nodes) for index in _uses(node)}
        self._released: list[list[int]] = [[] for _ in graph.nodes]
        for index, position in last_use.items():
            self._released[position].append(index)

    def _bind(self, index: int, spec: ModuleSpec) -> None:
        """Marks what is frozen, and puts the parameters of earlier layers in the place of those that are shared."""
        for frozen in spec.frozen:
            self._parameter(index, frozen.name).requires_grad_(False)
        for shared in spec.shared:
            owned = self._parameter(shared.owner, shared.owner_name)
            if self._parameter(index, shared.name).shape != owned.shape or not owned.requires_grad:
                raise not_allowed(
                    "Layers may share a parameter of one shape that is trained; a frozen one is named by each."
                )
            path, _, name = f"m{index}.{shared.name}".rpartition(".")
            setattr(self.get_submodule(path), name, owned)

    def _parameter(self, index: int, name: str) -> nn.Parameter:
        try:
            return self.get_submodule(f"m{index}").get_parameter(name)
        except AttributeError as error:
            raise not_allowed(f"Layer {index} has no parameter of a name that the graph gives.") from error

    def forward(self, batch: torch.Tensor, watch: Watch | None = None) -> torch.Tensor:
        rows, real = batch.shape[0], self.real or next(self.parameters()).dtype
        values: list[Any] = [None] * len(self.graph.nodes)
        for position, node in enumerate(self.graph.nodes):
            if node.kind is NodeKind.OUTPUT:
                result: torch.Tensor = _resolve(node.arguments[0], values)
                return result
            value = (
                self._given(batch) if node.kind is NodeKind.INPUT else self._compute(position, node, values)
            )
            if value.is_floating_point():
                value = value.to(real)
            if not carries_batch(tuple(value.shape), rows):
                raise not_allowed("A value of the model lost the batch as its first dimension.")
            if watch is not None:
                watch(value)
            values[position] = value
            for index in self._released[position]:
                values[index] = None  # free after the last use
        raise not_allowed("The graph has no output.")

    def _given(self, batch: torch.Tensor) -> torch.Tensor:
        """The rows as the graph takes them: trainers hold all of them as real numbers, in which ids below 2**24 are exact."""
        return batch.long() if self.graph.input_dtype == INT64 else batch

    def _compute(self, position: int, node: Node, values: list[Any]) -> torch.Tensor:
        settings = self._settings[position]
        operands = [_resolve(argument, values) for argument in node.arguments]
        if node.kind is NodeKind.MODULE:
            name = self.graph.modules[node.module_index].class_name
            operation = MODULES[name]
            operation.isolation(Application(name, _shapes(operands), settings))
            if not operation.admits(operands[0].dtype):
                raise not_allowed(f"The layer {name} takes {operation.takes} numbers.", class_name=name)
            value: torch.Tensor = self._modules[f"m{node.module_index}"](operands[0])  # type: ignore[misc]
            return value
        function = FUNCTIONS[node.function_name]
        if function.takes == "several":
            operands = operands[0]
        if not function.admits(operands):
            raise not_allowed(f"{function.name} takes values of other types.", operation=function.name)
        function.isolation(Application(function.name, _shapes(operands), settings))
        return function.compute(operands, settings, self.training)


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name, in layout order; one that layers share once, in the first of them."""
    return [named for named in module.named_parameters() if named[1].requires_grad]


def rebuild(graph: ModelGraph, limits: GraphLimits | None = None) -> InterpreterModule:
    """Checks ``graph`` (``validate``) and makes its model on the CPU, float32, every weight zero. Weights take memory only
    once they are written.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED.
    """
    from usufruct.graph.validation import validate  # validate itself runs an interpreter

    validate(graph, limits)
    with torch.device("meta"):
        module = InterpreterModule(graph)
    places = [
        (layer, *named) for layer in module.modules() for named in layer.named_parameters(recurse=False)
    ]
    module.to_empty(device="cpu")
    made: dict[nn.Parameter, nn.Parameter] = {}
    for layer, name, parameter in places:
        if parameter not in made:  # it may be that of several layers
            zeros = torch.from_numpy(np.zeros(parameter.shape, np.float32))  # numpy leaves them to the kernel
            made[parameter] = nn.Parameter(zeros, parameter.requires_grad)
        setattr(layer, name, made[parameter])
    return module


def _settings(graph: ModelGraph, node: Node) -> dict[str, Any]:
    return dict(graph.modules[node.module_index].arguments if node.kind is NodeKind.MODULE else node.keywords)


def _shapes(operands: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(operand.shape) for operand in operands if isinstance(operand, torch.Tensor))


def _resolve(argument: Any, values: list[Any]) -> Any:
    if isinstance(argument, NodeRef):
        return values[argument.index]
    if isinstance(argument, tuple):
        return [_resolve(part, values) for part in argument]
    return argument


def _uses(node: Node) -> list[int]:
    return [index for argument in node.arguments for index in references(argument)]
