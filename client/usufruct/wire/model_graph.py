"""Model graphs: protobuf ↔ dataclasses. Shape only; whether a graph may run is decided by ``usufruct.graph``."""

from __future__ import annotations

import math
from collections.abc import Iterable

from usufruct.errors import InvalidInput
from usufruct.graph.model_graph import (
    Argument,
    FrozenParameter,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    SharedParameter,
)
from usufruct.v1 import model_graph_pb2 as pb
from usufruct.wire.parsing import parse

GRAPH_LIMIT_BYTES = 4 << 20
DEEPEST_LIST = 8

_KINDS = {
    NodeKind.INPUT: pb.NODE_KIND_INPUT,
    NodeKind.MODULE: pb.NODE_KIND_MODULE,
    NodeKind.FUNCTION: pb.NODE_KIND_FUNCTION,
    NodeKind.OUTPUT: pb.NODE_KIND_OUTPUT,
}
_NODE_KINDS = {int(number): kind for kind, number in _KINDS.items()}


def graph_to_bytes(graph: ModelGraph) -> bytes:
    """Serialises a graph; the bytes go into the job spec and are never re-serialised."""
    message = pb.ModelGraph(
        version=graph.version,
        input_shape=graph.input_shape,
        input_dtype=graph.input_dtype,
        modules=[
            pb.ModuleSpec(
                class_name=m.class_name,
                arguments=_named(m.arguments),
                frozen=[pb.FrozenParameter(name=f.name, base_name=f.base_name) for f in m.frozen],
                shared=[
                    pb.SharedParameter(name=s.name, owner=s.owner, owner_name=s.owner_name) for s in m.shared
                ],
            )
            for m in graph.modules
        ],
        nodes=[
            pb.GraphNode(
                kind=_KINDS[n.kind],
                index=n.module_index,
                function=n.function_name,
                arguments=[_value(a) for a in n.arguments],
                keywords=_named(n.keywords),
            )
            for n in graph.nodes
        ],
    )
    return message.SerializeToString(deterministic=True)


def graph_from_bytes(data: bytes) -> ModelGraph:
    """Reads a graph from another party.

    Raises:
        InvalidInput: ``MALFORMED`` or ``TOO_LARGE``; ``GRAPH_NOT_ALLOWED`` for unset values, unknown kinds, repeated
            names, numbers that are not finite, and lists nested deeper than 8.
    """
    m = parse(pb.ModelGraph, data, GRAPH_LIMIT_BYTES)
    return ModelGraph(
        version=m.version,
        input_shape=tuple(m.input_shape),
        input_dtype=m.input_dtype,
        modules=tuple(
            ModuleSpec(
                x.class_name,
                _names(x.arguments),
                tuple(FrozenParameter(f.name, f.base_name) for f in x.frozen),
                tuple(SharedParameter(s.name, s.owner, s.owner_name) for s in x.shared),
            )
            for x in m.modules
        ),
        nodes=tuple(
            Node(
                kind=_kind(n.kind),
                module_index=n.index,
                function_name=n.function,
                arguments=tuple(_argument(a, 0) for a in n.arguments),
                keywords=_names(n.keywords),
            )
            for n in m.nodes
        ),
    )


def _named(arguments: Iterable[tuple[str, Argument]]) -> list[pb.NamedValue]:
    return [pb.NamedValue(name=name, value=_value(value)) for name, value in arguments]


def _value(value: Argument) -> pb.GraphValue:
    if value is None:
        return pb.GraphValue(none=True)
    if isinstance(value, bool):
        return pb.GraphValue(flag=value)
    if isinstance(value, int):
        return pb.GraphValue(integer=value)
    if isinstance(value, float):
        return pb.GraphValue(real=value)
    if isinstance(value, str):
        return pb.GraphValue(text=value)
    if isinstance(value, NodeRef):
        return pb.GraphValue(node=value.index)
    return pb.GraphValue(list=pb.GraphValueList(values=[_value(v) for v in value]))


def _refuse(what: str) -> InvalidInput:
    return InvalidInput(f"model graph: {what}", reason="GRAPH_NOT_ALLOWED")


def _kind(number: int) -> NodeKind:
    if number not in _NODE_KINDS:
        raise _refuse("a node's kind is not known")
    return _NODE_KINDS[number]


def _names(values: Iterable[pb.NamedValue]) -> tuple[tuple[str, Argument], ...]:
    result = tuple((v.name, _argument(v.value, 0)) for v in values)
    if len({name for name, _ in result}) != len(result):
        raise _refuse("an argument is named twice")
    return result


def _argument(value: pb.GraphValue, depth: int) -> Argument:
    which = value.WhichOneof("value")
    if which == "none":
        return None
    if which == "flag":
        return value.flag
    if which == "integer":
        return value.integer
    if which == "real":
        if not math.isfinite(value.real):
            raise _refuse("a number is not finite")
        return value.real
    if which == "text":
        return value.text
    if which == "node":
        return NodeRef(value.node)
    if which == "list":
        if depth >= DEEPEST_LIST:
            raise _refuse("lists are nested too deep")
        return tuple(_argument(v, depth + 1) for v in value.list.values)
    raise _refuse("an argument has no value")
