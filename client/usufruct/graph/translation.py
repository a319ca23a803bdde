"""From a recording of ``torch.fx`` to the closed language of ``model_graph``; what has no translation is refused with a
sentence that says what to write instead. This runs at the builder only."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.layers import MODULES
from usufruct.graph.low_rank import base_parameters
from usufruct.graph.model_graph import (
    Argument,
    FrozenParameter,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    SharedParameter,
    not_allowed,
)
from usufruct.graph.recognised import CALLS, CAST, EXPANDS, PERMUTES, RESHAPES, SAME, TRANSPOSES, Call
from usufruct.graph.recording import Recorder
from usufruct.graph.validation import function_not_allowed


class Translation:
    """Walks a recorded ``fx.Graph`` and fills ``modules``, ``nodes`` and ``names``.

    Values that follow from parameters or constants alone have no batch in the builder's model; here they get one in
    front (or in the place of a leading 1), as every value of a graph has it.

    Attributes:
        modules, nodes: of the graph.
        names: by parameter in the graph's module (``m3.weight``) that is trained, its name in the builder's model.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, recorded: fx.Graph, batch: int) -> None:
        self.modules: list[ModuleSpec] = []
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}
        self._recorder, self._batch = recorder, batch
        self._own_names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._base_names = {id(parameter): name for name, parameter in base_parameters(model)}
        self._values: dict[fx.Node, NodeRef] = {}
        self._ranks: list[int] = []
        self._layers: dict[int, int] = {}
        self._raw: dict[int, NodeRef] = {}
        self._owners: dict[int, tuple[int, str]] = {}
        live = _live(recorded)
        for step in recorded.nodes:
            if step in live:
                self._translate(step)

    def _translate(self, step: fx.Node) -> None:
        if step.op == "placeholder":
            self._values[step] = self._add(Node(NodeKind.INPUT), len(_shape(step)))
        elif step.op == "call_module":
            self._add_module(step)
        elif step.op in ("call_function", "call_method"):
            self._add_function(step)
        elif step.op == "output":
            result = step.args[0]
            if not isinstance(result, fx.Node):
                raise not_allowed("The model's forward() must return one tensor.")
            self._add(Node(NodeKind.OUTPUT, arguments=(self._value(result),)), 2)

    def _add(self, node: Node, rank: int) -> NodeRef:
        """``rank``: dimensions of the node's value, the batch included."""
        self.nodes.append(node)
        self._ranks.append(rank)
        return NodeRef(len(self.nodes) - 1)

    def _call(self, name: str, value: NodeRef, rank: int, **settings: Argument) -> NodeRef:
        return self._add(
            Node(NodeKind.FUNCTION, function_name=name, arguments=(value,), keywords=tuple(settings.items())),
            rank,
        )

    # -- values --

    def _value(self, step: Any) -> NodeRef:
        if not isinstance(step, fx.Node):
            raise not_allowed("A size or a constant is used where a value of the model is needed.")
        if step.op == "get_attr" and step not in self._values:
            self._values[step] = self._raw_tensor(step)
        return self._values[step]

    def _raw_tensor(self, step: fx.Node) -> NodeRef:
        found: Any = self._recorder.tensor(step)
        shape = tuple(found.shape)
        row = (shape[1:] if len(shape) > 1 and shape[0] in (1, self._batch) else shape) or (1,)
        if isinstance(found, nn.Parameter):
            if id(found) not in self._raw:
                index = self._add_layer("RowParameter", (("shape", row),), {"weight": found})
                node = Node(NodeKind.MODULE, module_index=index, arguments=(NodeRef(0),))
                self._raw[id(found)] = self._add(node, 1 + len(row))
            return self._raw[id(found)]
        flat = found.reshape(-1, shape[-1] if shape else 1)[0]
        if found.dtype == torch.int64 and len(row) == 1 and torch.equal(found, flat.expand(shape)):
            step_size = int(flat[1] - flat[0]) if len(flat) > 1 else 0
            if torch.equal(flat, flat[0] + step_size * torch.arange(len(flat))):
                start, length = int(flat[0]), len(flat)
                return self._call("indices", NodeRef(0), 2, start=start, step=step_size, length=length)
        raise not_allowed(
            f"The model uses the constant tensor {step.target!r:.64}; use numbers, layers, or parameters.",
            operation=str(step.target)[:64],
        )

    def _operand(self, step: Any, rank: int) -> Argument:
        """One side of a pair; ``rank`` dimensions, where it has no batch of its own and fewer."""
        number: Argument = self._number(step)
        if number is not None:
            return number
        value = self._value(step)
        missing = rank - self._ranks[value.index]
        if missing > 0 and not self._has_batch(step):
            shape = _shape(step)
            row = shape if len(shape) < self._ranks[value.index] else shape[1:]
            return self._call("reshape", value, rank, shape=(1,) * missing + tuple(row or (1,)))
        return value

    def _number(self, step: Any) -> Any:
        """The number that a step is, or the constant of no dimension, which cannot change a shape."""
        if type(step) in (int, float):
            return step
        if not isinstance(step, fx.Node) or step.op != "get_attr":
            return None
        found: Any = self._recorder.tensor(step)
        if isinstance(found, nn.Parameter) or found.dtype is torch.bool or found.dim() > 0:
            return None
        return found.item()

    def _has_batch(self, step: fx.Node) -> bool:
        waiting, seen = [step], {step}
        while waiting:
            here = waiting.pop()
            if here.op == "placeholder":
                return True
            waiting += [other for other in here.all_input_nodes if other not in seen]
            seen |= set(here.all_input_nodes)
        return False

    # -- layers --

    def _add_module(self, step: fx.Node) -> None:
        path = str(step.target)
        shown = path.removeprefix("0.")
        layer = self._recorder.layer(path)
        if (
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or "forward" in vars(layer)
        ):
            raise not_allowed(f"The layer {shown!r} has hooks or a patched forward(); remove them.")
        if len(step.args) != 1 or step.kwargs:
            raise not_allowed(f"The layer {shown!r} must be called with one value.")
        if getattr(layer, "inplace", False):
            self._need_last_use(step, shown)
        source = self._value(step.args[0])
        if id(layer) not in self._layers:
            operation = MODULES[type(layer).__name__]
            with torch.device("meta"):
                mine = operation.build(dict(operation.read(layer)))
            parameters = {
                name: layer.get_parameter(operation.parameter_name(name))
                for name, _ in mine.named_parameters()
            }
            self._layers[id(layer)] = self._add_layer(operation.name, operation.read(layer), parameters)
        node = Node(NodeKind.MODULE, module_index=self._layers[id(layer)], arguments=(source,))
        added = 0 if self._has_batch(step) else self._ranks[source.index] - len(_shape(step.args[0]))
        self._values[step] = self._add(node, len(_shape(step)) + added)

    def _add_layer(
        self,
        class_name: str,
        arguments: tuple[tuple[str, Argument], ...],
        parameters: dict[str, nn.Parameter],
    ) -> int:
        """A layer with its parameters: of its own, of an earlier layer, or of the base model."""
        index = len(self.modules)
        frozen, shared = [], []
        for name, parameter in parameters.items():
            full_name = self._own_names.get(id(parameter), name)
            if parameter.dtype != torch.float32:
                raise not_allowed(f"The parameter {full_name!r} must be float32.")
            if not parameter.requires_grad:
                frozen.append(FrozenParameter(name, self._base_names.get(id(parameter), full_name)))
            elif id(parameter) in self._owners:
                shared.append(SharedParameter(name, *self._owners[id(parameter)]))
            else:
                self._owners[id(parameter)] = (index, name)
                self.names[f"m{index}.{name}"] = full_name
        self.modules.append(ModuleSpec(class_name, arguments, tuple(frozen), tuple(shared)))
        return index

    def _need_last_use(self, step: fx.Node, what: str) -> None:
        """``inplace=True`` changes its input; that means the same as a copy only if nobody else reads the input."""
        source = step.args[0]
        if not isinstance(source, fx.Node) or len(source.users) > 1 or source.op == "placeholder":
            raise not_allowed(
                f"{what!r} works in place on a value that is used elsewhere; drop inplace=True."
            )

    # -- functions --

    def _add_function(self, step: fx.Node) -> None:
        target: Any = step.target
        rank = len(_shape(step))
        if target in SAME:
            self._values[step] = self._value(step.args[0])
        elif target in RESHAPES:
            self._values[step] = self._reshape(step)
        elif target in EXPANDS:
            self._values[step] = self._expand(step)
        elif target in PERMUTES or target in TRANSPOSES:
            self._values[step] = self._permute(step)
        elif target == CAST:
            self._values[step] = self._cast(step)
        elif target is operator.getitem:
            self._values[step] = self._index(self._value(step.args[0]), step.args[1])
        elif target is torch.where or target == "where":
            self._values[step] = self._where(step)
        elif target is torch.einsum:
            equation, *operands = step.args
            node = Node(
                NodeKind.FUNCTION,
                function_name="einsum",
                arguments=(tuple(self._value(operand) for operand in operands),),
                keywords=(("equation", str(equation).replace(" ", "")),),
            )
            self._values[step] = self._add(node, rank)
        elif target in CALLS:
            self._values[step] = self._known(step, CALLS[target], rank)
        else:
            raise function_not_allowed(
                target if isinstance(target, str) else getattr(target, "__name__", str(target))
            )

    def _reshape(self, step: fx.Node) -> NodeRef:
        given: Any = step.args[1:] or (step.kwargs.get("shape"),)
        if len(given) == 1 and isinstance(given[0], (tuple, list)):
            given = tuple(given[0])
        first, rest = (given[0], tuple(given[1:])) if given else (None, ())
        keeps_batch = first == self._batch or (first == -1 and -1 not in rest)
        if not keeps_batch or not rest or not all(type(size) is int for size in rest):
            raise not_allowed(
                "reshape and view must keep the batch: write x.view(x.size(0), ...).", operation="reshape"
            )
        value = self._value(step.args[0] if step.args else step.kwargs.get("input"))
        return self._call("reshape", value, 1 + len(rest), shape=rest)

    def _expand(self, step: fx.Node) -> NodeRef:
        """Along the row's own dimensions; of a parameter or constant to the batch, which it has here from the start."""
        source: Any = step.args[0]
        value = self._value(source)
        shape, wanted = _shape(source), tuple(_shape(step))
        if self._has_batch(source):
            if len(shape) != len(wanted):
                raise not_allowed("expand must keep the number of dimensions.", operation="expand")
            if wanted == tuple(shape):
                return value
            return self._call("expand", value, len(wanted), shape=wanted[1:])
        inner = shape[1:] if len(shape) == len(wanted) else shape
        if wanted[0] != self._batch or wanted[1:] != tuple(inner):
            raise not_allowed("expand of a parameter is allowed along the batch only.", operation="expand")
        return value

    def _permute(self, step: fx.Node) -> NodeRef:
        given: Any = step.args[1:] or tuple(step.kwargs.values())
        if len(given) == 1 and isinstance(given[0], (tuple, list)):
            given = tuple(given[0])
        value = self._value(step.args[0])
        name = "permute" if step.target in PERMUTES else "transpose"
        return self._call(name, value, self._ranks[value.index], dims=tuple(given))

    def _cast(self, step: fx.Node) -> NodeRef:
        source, now = step.args
        value = self._value(source)
        if now not in (torch.float32, torch.int64):
            raise not_allowed(f"The type {now} is not allowed; use float32 or int64.", operation="to")
        return self._call("float" if now == torch.float32 else "long", value, self._ranks[value.index])

    def _index(self, value: NodeRef, index: Any) -> NodeRef:
        """``x[:, 2:5]``, ``x[:, -1]``, ``x[:, None]``, ``x[..., 0]``: slices, numbers and new dimensions."""
        parts = list(index) if isinstance(index, tuple) else [index]
        rank = self._ranks[value.index]
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            named = sum(part is not None for part in parts) - 1
            parts[at : at + 1] = [slice(None)] * (rank - named)
        dimension = 0
        for part in parts:
            if part is None:
                value = self._call("unsqueeze", value, rank := rank + 1, dim=dimension)
                dimension += 1
            elif type(part) is int:
                value = self._call("select", value, rank := rank - 1, dim=dimension, index=part)
            elif isinstance(part, slice):
                if part != slice(None):
                    value = self._call(
                        "slice",
                        value,
                        rank,
                        dim=dimension,
                        start=part.start,
                        stop=part.stop,
                        step=part.step or 1,
                    )
                dimension += 1
            else:
                raise not_allowed(
                    "An index may consist of numbers, slices and None only.", operation="getitem"
                )
        return value

    def _where(self, step: fx.Node) -> NodeRef:
        mask, chosen, other = (
            *step.args,
            *(step.kwargs.get(name) for name in ("input", "other") if step.kwargs),
        )[:3]
        rank = len(_shape(step))
        first, second, shown = self._number(chosen), self._number(other), self._value(mask)
        if first is not None and second is not None:
            base = self._fill(self._call("float", shown, rank), shown, first, rank)
        elif first is not None:
            return self._fill(self._value(other), shown, first, rank)
        elif second is not None:
            base = self._value(chosen)
        else:
            raise not_allowed("where is allowed with a number for one of its values.", operation="where")
        hidden = self._call("logical_not", shown, self._ranks[shown.index])
        return self._fill(base, hidden, second, rank)

    def _fill(self, value: NodeRef, mask: NodeRef, number: Any, rank: int) -> NodeRef:
        arguments: tuple[Argument, ...] = (value, mask)
        keywords: tuple[tuple[str, Argument], ...] = (("value", float(number)),)
        node = Node(NodeKind.FUNCTION, 0, "masked_fill", arguments, keywords)
        return self._add(node, rank)

    def _known(self, step: fx.Node, call: Call, rank: int) -> NodeRef:
        given: dict[str, Any] = dict(zip(call.parameters, step.args, strict=False))
        given.update(step.kwargs)
        if "self" in given:
            given["input"] = given.pop("self")
        if len(step.args) > len(call.parameters) or not set(given) <= set(call.parameters):
            raise not_allowed(
                f"{call.name} is called with arguments that are not allowed.", operation=call.name
            )
        if given.pop("inplace", False):
            self._need_last_use(step, call.name)
        operation = FUNCTIONS[call.name]
        if "alpha" not in operation.settings and given.pop("alpha", 1) != 1:
            raise not_allowed(f"{call.name} with alpha is not allowed; multiply first.", operation=call.name)
        if call.name == "dropout" and given.pop("training", True) is not True:
            raise not_allowed("dropout must be written with training=self.training.", operation="dropout")
        for name, only in call.fixed.items():
            if given.pop(name, only) not in (only, (only,), (only, only)):
                raise not_allowed(f"{call.name} is allowed with {name}={only} only.", operation=call.name)
        if "stride" in operation.settings and given.get("stride") in (None, []):
            given["stride"] = given["kernel_size"]
        source: Any = step.args[0] if step.args else given.get("input")
        if call.name == "unsqueeze" and given.get("dim") == 0 and not self._has_batch(source):
            return self._value(source)
        settings = tuple(
            (name, rule.read(given.pop(name, call.defaults.get(name))))
            for name, rule in operation.settings.items()
        )
        arguments: tuple[Argument, ...]
        if operation.takes == "several":
            parts = given["tensors"]
            if not isinstance(parts, (tuple, list)):
                raise not_allowed(f"{call.name} takes a list of values.", operation=call.name)
            arguments = (tuple(self._value(part) for part in parts),)
        elif call.name == "masked_fill":
            arguments = (self._value(given["input"]), self._value(given["mask"]))
        elif operation.takes == "pair":
            arguments = tuple(self._real(given[name], call, rank) for name in ("input", "other"))
        else:
            arguments = (self._value(given["input"]),)
        return self._add(Node(NodeKind.FUNCTION, 0, operation.name, arguments, settings), rank)

    def _real(self, step: Any, call: Call, rank: int) -> Argument:
        """A side of a pair, where true and false are one and zero if it is a pair of numbers."""
        operand = self._operand(step, rank)
        mask = isinstance(operand, NodeRef) and step.meta["example"].dtype is torch.bool
        if mask and isinstance(operand, NodeRef) and FUNCTIONS[call.name].types == "number":
            return self._call("float", operand, self._ranks[operand.index])
        return operand


def _shape(step: Any) -> torch.Size:
    example = step.meta["example"]
    return example.shape if isinstance(example, torch.Tensor) else torch.Size()


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
