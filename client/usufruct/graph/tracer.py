"""From a model builder's ``torch.nn.Module`` to a model graph, with ``torch.fx``.

``torch.fx`` runs ``forward`` once with a stand-in value and records which layers and functions it passes. What it
records is translated here into the closed language of ``model_graph``; everything else is refused with a sentence
that says what to write instead. This runs at the builder only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from usufruct.errors import InvalidInput
from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.layers import MODULES
from usufruct.graph.limits import GraphBounds, GraphLimits
from usufruct.graph.model_graph import (
    FLOAT32,
    GRAPH_VERSION,
    Argument,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    not_allowed,
)
from usufruct.graph.validation import class_not_allowed, function_not_allowed, validate


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A graph and how its weights are called in the builder's own model.

    Attributes:
        graph: the architecture; has passed ``validate``.
        parameter_names: pairs (name in the graph's module, name in the builder's model), in the layout order of
            ``weights.parameter_layout``.
        bounds: what the graph costs.
    """

    graph: ModelGraph
    parameter_names: tuple[tuple[str, str], ...]
    bounds: GraphBounds


def trace(model: nn.Module, input_shape: tuple[int, ...], limits: GraphLimits | None = None) -> TracedModel:
    """Turns ``model`` into a graph. The model is left as it was.

    Args:
        model: takes one float tensor [batch, *input_shape] and returns [batch, outputs].
        input_shape: of one row, without the batch.
        limits: caps, as for ``validate``.
    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED, naming the layer or function and what is allowed.
    """
    was_training = {module: module.training for module in model.modules()}
    model.train()  # so that ``functional.dropout(x, training=self.training)`` is seen as dropout
    try:
        root = nn.Sequential(model)  # so that a model which is a single layer is met like any other layer
        recorded = _Tracer().trace(root)
    except InvalidInput:
        raise
    except Exception as error:
        raise not_allowed(
            "The model's forward() cannot be followed: it must take one tensor, and must not branch or loop on its "
            f"values ({type(error).__name__}: {error})."
        ) from error
    finally:
        for module, training in was_training.items():
            module.training = training
    translation = _Translation(root, recorded)
    graph = ModelGraph(
        GRAPH_VERSION,
        tuple(int(size) for size in input_shape),
        FLOAT32,
        tuple(translation.modules),
        tuple(translation.nodes),
    )
    return TracedModel(graph, tuple(translation.names), validate(graph, limits))


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Tracer(fx.Tracer):
    """Stops at allow-listed layers, looks inside the builder's own modules, refuses other layers of PyTorch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kind = type(m)
        if kind.__name__ in MODULES and MODULES[kind.__name__].module_class is kind:
            return True
        if kind.__module__.startswith("torch.nn") and kind not in _CONTAINERS:
            raise class_not_allowed(kind.__name__)
        if any(isinstance(m, entry.module_class) for entry in MODULES.values()):
            raise not_allowed(
                f"{kind.__name__} is a subclass of a PyTorch layer; use the layer itself.",
                class_name=kind.__name__,
            )
        return False


# -- how PyTorch calls the functions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """A PyTorch callable: which function it is, its parameters in order, and defaults of the settings."""

    name: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, Any]


_ONE = ("input", "inplace")
_PAIR = ("input", "other", "alpha")
_UNARY: dict[str, tuple[Callable[..., Any], ...]] = {
    "relu": (functional.relu, torch.relu),
    "tanh": (functional.tanh, torch.tanh),
    "sigmoid": (functional.sigmoid, torch.sigmoid),
    "silu": (functional.silu,),
}
_BINARY: dict[str, tuple[Callable[..., Any], ...]] = {
    "add": (operator.add, operator.iadd, torch.add),
    "sub": (operator.sub, operator.isub, torch.sub),
    "mul": (operator.mul, operator.imul, torch.mul),
}
_SHAPED: tuple[tuple[Callable[..., Any] | str, _Source], ...] = (
    (functional.gelu, _Source("gelu", ("input", "approximate"), {"approximate": "none"})),
    (functional.elu, _Source("elu", ("input", "alpha", "inplace"), {"alpha": 1.0})),
    (
        functional.leaky_relu,
        _Source("leaky_relu", ("input", "negative_slope", "inplace"), {"negative_slope": 0.01}),
    ),
    (functional.dropout, _Source("dropout", ("input", "p", "training", "inplace"), {"p": 0.5})),
    (torch.flatten, _Source("flatten", ("input", "start_dim", "end_dim"), {"start_dim": 0, "end_dim": -1})),
    ("flatten", _Source("flatten", ("input", "start_dim", "end_dim"), {"start_dim": 0, "end_dim": -1})),
    *(
        (cat, _Source("cat", ("tensors", "dim"), {"dim": 0}))
        for cat in (torch.cat, torch.concat, torch.concatenate)
    ),
)
_SOURCES: dict[Any, _Source] = {
    **{target: _Source(name, _ONE, {}) for name, targets in _UNARY.items() for target in (*targets, name)},
    **{target: _Source(name, _PAIR, {}) for name, targets in _BINARY.items() for target in (*targets, name)},
    **dict(_SHAPED),
}
"""By PyTorch callable, or by name for methods of a tensor (``x.relu()``)."""

_RESHAPES = (torch.reshape, "reshape", "view")
_SAME = ("contiguous",)
_BATCH = object()
"""Stands for the size of the batch, which a graph never names."""
_SHAPE = object()
"""Stands for a whole shape, of which only the batch may be taken."""


class _Translation:
    """Walks a recorded ``fx.Graph`` and fills ``modules``, ``nodes`` and ``names``."""

    def __init__(self, root: nn.Module, recorded: fx.Graph) -> None:
        self.root = root
        self.modules: list[ModuleSpec] = []
        self.nodes: list[Node] = []
        self.names: list[tuple[str, str]] = []
        self._values: dict[fx.Node, NodeRef | object] = {}
        self._module_paths: set[str] = set()
        self._parameters: set[int] = set()
        live = _live(recorded)
        for step in recorded.nodes:
            if step in live:
                self._translate(step)

    def _translate(self, step: fx.Node) -> None:
        if step.op == "placeholder":
            if self.nodes:
                raise not_allowed("The model's forward() must take exactly one tensor.")
            self._add(step, Node(NodeKind.INPUT))
        elif step.op == "call_module":
            self._add_module(step)
        elif step.op in ("call_function", "call_method"):
            self._add_function(step)
        elif step.op == "output":
            result = step.args[0]
            if not isinstance(result, fx.Node):
                raise not_allowed("The model's forward() must return one tensor.")
            self._add(step, Node(NodeKind.OUTPUT, arguments=(self._value(result),)))
        else:
            raise not_allowed(
                f"The model uses the tensor {step.target!r} directly; put parameters into layers such as Linear "
                "(raw parameters come with a later version).",
                operation=str(step.target)[:64],
            )

    def _add(self, step: fx.Node, node: Node) -> None:
        self._values[step] = NodeRef(len(self.nodes))
        self.nodes.append(node)

    def _value(self, step: Any) -> NodeRef:
        value = self._values.get(step) if isinstance(step, fx.Node) else None
        if not isinstance(value, NodeRef):
            raise not_allowed("A size or a constant is used where a value of the model is needed.")
        return value

    # -- layers --

    def _add_module(self, step: fx.Node) -> None:
        path = str(step.target)
        shown = path.removeprefix("0.")
        layer = self.root.get_submodule(path)
        if path in self._module_paths:
            raise not_allowed(
                f"The layer {shown!r} is used twice; use each layer once (tied layers come with a later version)."
            )
        self._module_paths.add(path)
        if (
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or "forward" in vars(layer)
        ):
            raise not_allowed(f"The layer {shown!r} has hooks or a patched forward(); remove them.")
        if len(step.args) != 1 or step.kwargs:
            raise not_allowed(f"The layer {shown!r} must be called with one value.")
        index = len(self.modules)
        operation = MODULES[type(layer).__name__]
        if getattr(layer, "inplace", False):
            self._need_last_use(step, shown)
        self.modules.append(ModuleSpec(operation.name, operation.read(layer)))
        for name, parameter in layer.named_parameters():
            full_name = f"{path}.{name}".removeprefix("0.")
            if id(parameter) in self._parameters:
                raise not_allowed(f"The parameter {full_name!r} is shared by two layers; give each its own.")
            if parameter.dtype != torch.float32 or not parameter.requires_grad:
                raise not_allowed(
                    f"The parameter {full_name!r} must be float32 and trainable (requires_grad); frozen parts come "
                    "with a later version."
                )
            self._parameters.add(id(parameter))
            self.names.append((f"m{index}.{name}", full_name))
        self._add(step, Node(NodeKind.MODULE, module_index=index, arguments=(self._value(step.args[0]),)))

    def _need_last_use(self, step: fx.Node, what: str) -> None:
        """``inplace=True`` changes its input; that means the same as a copy only if nobody else reads the input."""
        source = step.args[0]
        if not isinstance(source, fx.Node) or len(source.users) > 1 or source.op == "placeholder":
            raise not_allowed(
                f"{what!r} works in place on a value that is used elsewhere; drop inplace=True."
            )

    # -- functions --

    def _add_function(self, step: fx.Node) -> None:
        target = step.target
        if self._is_size(step):
            return
        if target in _SAME:
            self._values[step] = self._value(step.args[0])
        elif target in _RESHAPES:
            self._add_reshape(step)
        elif target in _SOURCES:
            self._add_known(step, _SOURCES[target])
        else:
            raise function_not_allowed(
                target if isinstance(target, str) else getattr(target, "__name__", str(target))
            )

    def _is_size(self, step: fx.Node) -> bool:
        """Recognises ``x.shape``, ``x.shape[0]``, ``x.size()`` and ``x.size(0)``."""
        target, args = step.target, step.args
        if (target is getattr and args[1] == "shape") or (
            target == "size" and len(args) == 1 and not step.kwargs
        ):
            self._values[step] = _SHAPE
        elif target == "size" and (args[1:] == (0,) or step.kwargs == {"dim": 0}):
            self._values[step] = _BATCH
        elif (
            target is operator.getitem
            and isinstance(args[0], fx.Node)
            and self._values.get(args[0]) is _SHAPE
        ):
            if args[1] != 0:
                raise not_allowed(
                    "Only the batch size may be taken from a shape; write the other sizes as numbers."
                )
            self._values[step] = _BATCH
        else:
            return False
        return True

    def _add_reshape(self, step: fx.Node) -> None:
        given: Any = step.args[1:] or (step.kwargs.get("shape"),)
        if len(given) == 1 and isinstance(given[0], (tuple, list)):
            given = tuple(given[0])
        first, rest = (given[0], tuple(given[1:])) if given else (None, ())
        keeps_batch = (isinstance(first, fx.Node) and self._values.get(first) is _BATCH) or (
            first == -1 and -1 not in rest
        )
        if not keeps_batch or not rest or not all(type(size) is int for size in rest):
            raise not_allowed(
                "reshape and view must keep the batch: write x.view(x.size(0), ...) with numbers for the rest.",
                operation="reshape",
            )
        value = self._value(step.args[0] if step.args else step.kwargs.get("input"))
        self._add(
            step,
            Node(NodeKind.FUNCTION, function_name="reshape", arguments=(value,), keywords=(("shape", rest),)),
        )

    def _add_known(self, step: fx.Node, source: _Source) -> None:
        given: dict[str, Any] = dict(zip(source.parameters, step.args, strict=False))
        given.update(step.kwargs)
        if "self" in given:
            given["input"] = given.pop("self")
        if len(step.args) > len(source.parameters) or not set(given) <= set(source.parameters):
            raise not_allowed(
                f"{source.name} is called with arguments that are not allowed.", operation=source.name
            )
        if given.pop("inplace", False):
            self._need_last_use(step, source.name)
        operation = FUNCTIONS[source.name]
        if source.name in _BINARY and given.pop("alpha", 1) != 1:
            raise not_allowed(
                f"{source.name} with alpha is not allowed; multiply first.", operation=source.name
            )
        if source.name == "dropout" and given.pop("training", True) is not True:
            raise not_allowed("dropout must be written with training=self.training.", operation="dropout")
        settings = tuple(
            (name, rule.read(given.pop(name, source.defaults.get(name))))
            for name, rule in operation.settings.items()
        )
        arguments: tuple[Argument, ...]
        if operation.takes == "several":
            parts = given["tensors"]
            if not isinstance(parts, (tuple, list)):
                raise not_allowed("cat takes a list of values.", operation="cat")
            arguments = (tuple(self._value(part) for part in parts),)
        elif operation.takes == "pair":
            arguments = (self._operand(given["input"]), self._operand(given["other"]))
        else:
            arguments = (self._value(given["input"]),)
        self._add(
            step,
            Node(NodeKind.FUNCTION, function_name=operation.name, arguments=arguments, keywords=settings),
        )

    def _operand(self, value: Any) -> Argument:
        if type(value) in (int, float):
            number: Argument = value
            return number
        return self._value(value)


def _live(recorded: fx.Graph) -> set[fx.Node]:
    """The steps that the output depends on, and the inputs."""
    live = {step for step in recorded.nodes if step.op in ("placeholder", "output")}
    waiting = list(live)
    while waiting:
        for step in waiting.pop().all_input_nodes:
            if step not in live:
                live.add(step)
                waiting.append(step)
    return live
