"""Checks a model graph that another party wrote, before anything of it is allocated or run.

Three walls, in this order: the form (types, allow-list, references that only point backwards, ranges), the run on
PyTorch's meta device, which computes shapes and allocates nothing (isolation rules, sizes, floating-point operations),
and the output's shape. The builder's SDK and the holder's server call the same function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from usufruct.errors import InvalidInput
from usufruct.graph.base_model import LONGEST_NAME
from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.interpreter import InterpreterModule
from usufruct.graph.layers import MODULES
from usufruct.graph.limits import GraphBounds, GraphLimits
from usufruct.graph.model_graph import (
    GRAPH_VERSION,
    INPUT_DTYPES,
    Argument,
    FrozenParameter,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    SharedParameter,
    not_allowed,
    references,
)
from usufruct.graph.settings import SettingRule

_NUMBER_BYTES = 8


def validate(graph: ModelGraph, limits: GraphLimits | None = None) -> GraphBounds:
    """Checks everything about ``graph`` and returns what it costs.

    Whatever goes wrong inside is a refusal: a graph of another party never raises any other error here.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED; the message names the node or layer and what to do.
    """
    limits = limits or GraphLimits()
    try:
        check_form(graph, limits)
        return _run_on_meta(graph, limits)
    except InvalidInput:
        raise
    except Exception as error:  # a graph that PyTorch itself refuses, or whose fields are of the wrong type
        raise not_allowed(
            f"The graph does not run ({type(error).__name__}); check the layers' widths."
        ) from error


# -- first wall: the form -------------------------------------------------------------------------------------------


def check_form(graph: ModelGraph, limits: GraphLimits) -> None:
    """Checks types, names, references and ranges. Needs no tensor.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED.
    """
    _need(type(graph) is ModelGraph, "This is not a model graph.")
    _need(
        type(graph.version) is int and graph.version == GRAPH_VERSION,
        f"The graph has another version than {GRAPH_VERSION}; use the same version of usufruct at both ends.",
    )
    _need(
        type(graph.input_dtype) is str and graph.input_dtype in INPUT_DTYPES,
        f"The input's type must be one of {', '.join(INPUT_DTYPES)}.",
    )
    shape = graph.input_shape
    _need(
        type(shape) is tuple
        and 1 <= len(shape) < limits.rank
        and all(type(size) is int and 1 <= size <= limits.input_elements for size in shape)
        and math.prod(shape) <= limits.input_elements,
        f"The input shape must be one to {limits.rank - 1} positive sizes, at most {limits.input_elements} numbers a row.",
        limit=limits.input_elements,
    )
    _need(
        type(graph.modules) is tuple and len(graph.modules) <= limits.modules,
        "The graph has too many layers.",
    )
    _need(
        type(graph.nodes) is tuple and 2 <= len(graph.nodes) <= limits.nodes,
        "The graph has too many or no nodes.",
    )
    for index, spec in enumerate(graph.modules):
        _check_module(index, spec, limits)
    used: set[int] = set()
    for index, node in enumerate(graph.nodes):
        _check_node(index, node, graph, used, limits)
    _need(used == set(range(len(graph.modules))), "The graph lists a layer that it does not use.")
    read = {index for node in graph.nodes for argument in node.arguments for index in references(argument)}
    _need(read == set(range(len(graph.nodes) - 1)), "The graph computes a value that nothing uses.")


def _check_module(index: int, spec: ModuleSpec, limits: GraphLimits) -> None:
    _need(type(spec) is ModuleSpec and type(spec.class_name) is str, f"Layer {index} is not a layer.")
    operation = MODULES.get(spec.class_name)
    if operation is None:
        raise class_not_allowed(spec.class_name)
    _check_settings(f"Layer {index} ({spec.class_name})", spec.arguments, operation.settings, limits)
    _check_marks(index, spec, limits)
    for name, value in spec.arguments:
        _need(
            type(value) is not int or abs(value) <= limits.constructor_integer,
            f"Layer {index}: {name} is above {limits.constructor_integer}.",
            limit=limits.constructor_integer,
        )


def _check_marks(index: int, spec: ModuleSpec, limits: GraphLimits) -> None:
    """The form of what is frozen and shared; that the layer has such parameters is seen when it is built."""
    where = f"Layer {index}"
    _need(
        type(spec.frozen) is tuple
        and type(spec.shared) is tuple
        and all(type(each) is FrozenParameter for each in spec.frozen)
        and all(type(each) is SharedParameter for each in spec.shared),
        f"{where} has a wrong form.",
    )
    names = [each.name for each in spec.frozen] + [each.name for each in spec.shared]
    texts = [*names, *(each.base_name for each in spec.frozen), *(each.owner_name for each in spec.shared)]
    _need(
        all(type(text) is str and 0 < len(text) <= LONGEST_NAME for text in texts)
        and len(set(names)) == len(names),
        f"{where} names a parameter twice, or by no name of 1 to {LONGEST_NAME} characters.",
        limit=LONGEST_NAME,
    )
    _need(
        all(type(each.owner) is int and 0 <= each.owner < index for each in spec.shared),
        f"{where} shares a parameter with a layer that does not come before it.",
    )


def _check_node(index: int, node: Node, graph: ModelGraph, used: set[int], limits: GraphLimits) -> None:
    where = f"Node {index}"
    _need(type(node) is Node and isinstance(node.kind, NodeKind), f"{where} is not a node.")
    _need(type(node.arguments) is tuple and type(node.keywords) is tuple, f"{where} has a wrong form.")
    _need(
        (node.kind is NodeKind.INPUT) == (index == 0)
        and (node.kind is NodeKind.OUTPUT) == (index == len(graph.nodes) - 1),
        "A graph has exactly one input, which is its first node, and one output, which is its last.",
    )
    _need(type(node.module_index) is int and type(node.function_name) is str, f"{where} has a wrong form.")
    _need(node.kind is NodeKind.MODULE or node.module_index == 0, f"{where} names a layer but is none.")
    _need(
        node.kind is NodeKind.FUNCTION or node.function_name == "", f"{where} names a function but is none."
    )
    for argument in node.arguments:
        _check_value(where, argument, index, limits)
    if node.kind is NodeKind.INPUT:
        _need(node.arguments == () and node.keywords == (), "The input takes no arguments.")
    elif node.kind is NodeKind.FUNCTION:
        _check_function(where, node, limits)
    else:
        _need(
            len(node.arguments) == 1 and type(node.arguments[0]) is NodeRef and node.keywords == (),
            f"{where} must take one earlier value and nothing else.",
        )
    if node.kind is NodeKind.MODULE:
        _need(0 <= node.module_index < len(graph.modules), f"{where} names a layer that is not there.")
        used.add(node.module_index)


def _check_function(where: str, node: Node, limits: GraphLimits) -> None:
    operation = FUNCTIONS.get(node.function_name)
    if operation is None:
        raise function_not_allowed(node.function_name)
    where = f"{where} ({operation.name})"
    _check_settings(where, node.keywords, operation.settings, limits)
    arguments = node.arguments
    if operation.takes == "one":
        _need(len(arguments) == 1 and type(arguments[0]) is NodeRef, f"{where} takes one value.")
    elif operation.takes == "pair":
        _need(
            len(arguments) == 2
            and all(type(argument) in (NodeRef, int, float) for argument in arguments)
            and any(type(argument) is NodeRef for argument in arguments),
            f"{where} takes two values, or a value and a number.",
        )
    else:
        _need(
            len(arguments) == 1
            and type(arguments[0]) is tuple
            and len(arguments[0]) >= 1
            and all(type(part) is NodeRef for part in arguments[0]),
            f"{where} takes one tuple of values.",
        )


def _check_settings(
    where: str,
    settings: tuple[tuple[str, Argument], ...],
    rules: Mapping[str, SettingRule],
    limits: GraphLimits,
) -> None:
    _need(
        type(settings) is tuple
        and all(type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str for pair in settings)
        and len(settings) == len(rules)
        and {name for name, _ in settings} == set(rules),
        f"{where} must name exactly these settings: {', '.join(rules) or 'none'}.",
    )
    for name, value in settings:
        _check_value(where, value, 0, limits)
        _need(rules[name].admits(value), f"{where}: {name} is out of its range ({rules[name]}).")


def _check_value(where: str, value: Argument, position: int, limits: GraphLimits, depth: int = 0) -> None:
    """``position``: only nodes before it may be referred to."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        _need(
            type(value) is int and abs(value) <= limits.integer,
            f"{where} has an integer above {limits.integer}.",
            limit=limits.integer,
        )
    elif isinstance(value, float):
        _need(
            type(value) is float and math.isfinite(value) and abs(value) <= limits.number,
            f"{where} has a number that is not finite or above {limits.number}.",
            limit=limits.number,
        )
    elif isinstance(value, str):
        _need(type(value) is str and len(value) <= 32, f"{where} has a long text.")
    elif isinstance(value, NodeRef):
        _need(
            type(value.index) is int and 0 <= value.index < position,
            f"{where} refers to a node that does not come before it.",
        )
    else:
        _need(
            isinstance(value, tuple) and len(value) <= limits.tuple_length and depth < limits.depth,
            f"{where} has a value of no known form, or too long or too deep a tuple.",
        )
        for part in value:
            _check_value(where, part, position, limits, depth + 1)


# -- second and third wall: the run without memory ------------------------------------------------------------------


def _run_on_meta(graph: ModelGraph, limits: GraphLimits) -> GraphBounds:
    batch = limits.physical_batch
    with torch.device("meta"):
        module = InterpreterModule(graph)
        rows = torch.empty((batch, *graph.input_shape), dtype=getattr(torch, graph.input_dtype))
    parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in module.parameters()) - parameters
    _need(
        0 < parameters <= limits.parameters,
        f"The model must have 1 to {limits.parameters} trained parameters; it has {parameters}.",
        limit=limits.parameters,
        requested=parameters,
    )
    _need(
        frozen <= limits.frozen_parameters,
        f"The model may have {limits.frozen_parameters} frozen parameters; it has {frozen}.",
        limit=limits.frozen_parameters,
        requested=frozen,
    )
    elements = 0

    def watch(value: torch.Tensor) -> None:
        nonlocal elements
        _need(
            value.dim() <= limits.rank, f"A value has more than {limits.rank} dimensions.", limit=limits.rank
        )
        _need(value.numel() > 0, "A value of the model is empty.")
        _need(
            value.dtype in (torch.float32, torch.int64, torch.bool),
            "A value is of no type that a graph may have.",
        )
        _need(
            value.numel() <= limits.value_elements,
            "A value of the model is too large.",
            limit=limits.value_elements,
        )
        elements += value.numel()
        _need(
            elements * _NUMBER_BYTES <= limits.activation_bytes,
            f"The model's values take more than {limits.activation_bytes >> 20} MiB at {batch} rows; use fewer or narrower layers.",
            limit=limits.activation_bytes,
        )

    steps = 0

    def count_step(layer: nn.Module, taken: Any) -> None:
        nonlocal steps
        steps += 1
        _need(
            steps <= 2 * limits.recurrent_steps,  # the graph is run twice
            f"The recurrent layers take more than {limits.recurrent_steps} steps together.",
            limit=limits.recurrent_steps,
        )

    for child in module.children():
        for inner in child.children():  # the steps of a recurrent layer, each with its gates
            inner.register_forward_pre_hook(count_step)
            inner.register_forward_hook(lambda layer, taken, value: watch(value))
    module(rows[:1])  # some layers refuse a single row, and a graph by rows is trained as one
    elements = 0
    counter = FlopCounterMode(display=False)
    with counter:
        output = module(rows, watch)
    flops = 3 * int(counter.get_total_flops())
    _need(
        flops <= limits.flops,
        f"The model takes more than {limits.flops:.0e} operations at {batch} rows.",
        limit=limits.flops,
    )
    _need(
        output.dim() == 2 and output.shape[1] <= limits.outputs and output.is_floating_point(),
        f"The output must have the shape [batch, outputs] with at most {limits.outputs} outputs"
        " (one output is [batch, 1], without squeeze).",
        limit=limits.outputs,
    )
    _need(output.requires_grad, "The output does not follow from any parameter by a gradient.")
    return GraphBounds(
        parameters, frozen, elements * _NUMBER_BYTES, flops, int(output.shape[1]), module.by_rows
    )


# -- messages -------------------------------------------------------------------------------------------------------

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        **{
            f"{kind}BatchNorm{n}": "it mixes records; use GroupNorm or LayerNorm"
            for kind in ("", "Lazy")
            for n in ("1d", "2d", "3d")
        },
        "SyncBatchNorm": "it mixes records; use GroupNorm or LayerNorm",
        "RNN": "use LSTM or GRU",
        "item": "a graph is the same for all records",
    }
)
"""What to do instead, for what people try most."""


def _allowed_names() -> str:
    """The whole allow-list, for an error message."""
    return f"layers {', '.join(sorted(MODULES))}; functions {', '.join(sorted(FUNCTIONS))}"


def class_not_allowed(class_name: str) -> InvalidInput:
    """The refusal of a layer that is not in the allow-list; says what to use instead."""
    advice = f" ({ADVICE[class_name]})" if class_name in ADVICE else ""
    return not_allowed(
        f"The layer {class_name[:64]!r} is not allowed{advice}. Allowed: {_allowed_names()}.",
        class_name=class_name[:64],
    )


def function_not_allowed(name: str) -> InvalidInput:
    """The refusal of a function that is not in the allow-list; says what to use instead."""
    advice = f" ({ADVICE[name]})" if name in ADVICE else ""
    return not_allowed(
        f"The function {name[:64]!r} is not allowed{advice}. Allowed: {_allowed_names()}.",
        operation=name[:64],
    )


def _need(condition: bool, message: str, **details: Any) -> None:
    if not condition:
        raise not_allowed(message, **details)
