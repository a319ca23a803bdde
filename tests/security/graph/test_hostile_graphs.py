"""Graphs and weights that another party crafted. Each is refused before anything is allocated, or does no harm."""

from __future__ import annotations

import dataclasses
import resource
import time
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph import GraphLimits, ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum

INPUT = Node(NodeKind.INPUT)
R = NodeRef


def linear(narrow: Any, wide: Any, bias: Any = True) -> ModuleSpec:
    return ModuleSpec("Linear", (("in_features", narrow), ("out_features", wide), ("bias", bias)))


def module(index: int, at: int) -> Node:
    return Node(NodeKind.MODULE, module_index=index, arguments=(R(at),))


def function(name: str, *arguments: Any, **keywords: Any) -> Node:
    return Node(NodeKind.FUNCTION, function_name=name, arguments=arguments, keywords=tuple(keywords.items()))


def output(at: int) -> Node:
    return Node(NodeKind.OUTPUT, arguments=(R(at),))


def build(
    *nodes: Node, modules: tuple[ModuleSpec, ...] = (linear(20, 2),), shape: tuple[int, ...] = (20,)
) -> ModelGraph:
    return ModelGraph(1, shape, "float32", modules, (INPUT, *nodes))


HONEST = build(module(0, 0), output(1))


def changed(node: Node, **fields: Any) -> ModelGraph:
    return build(dataclasses.replace(node, **fields), output(1))


class Sneaky(str):
    """Equal to an allowed name, yet another type."""


class LongTuple(tuple):
    pass


HOSTILE: dict[str, ModelGraph] = {
    # references
    "forward reference": build(module(0, 2), output(1)),
    "reference to itself": build(module(0, 1), output(1)),
    "negative reference": build(module(0, -1), output(1)),
    "reference beyond the end": build(module(0, 0), output(99)),
    "flag as a reference": build(module(0, False), output(1)),
    "huge reference": build(module(0, 10**400), output(1)),
    "reference in a setting": build(module(0, 0), function("flatten", R(1), start_dim=R(0), end_dim=1), output(2)),
    # names
    "unknown function": build(module(0, 0), function("os.system", R(1)), output(2)),
    "dunder function": build(module(0, 0), function("__class__", R(1)), output(2)),
    "function name with code": build(module(0, 0), function("relu\n__import__('os')", R(1)), output(2)),
    "unknown class": build(module(0, 0), output(1), modules=(ModuleSpec("__import__"),)),
    "class of another module": build(module(0, 0), output(1), modules=(ModuleSpec("Bilinear"),)),
    "BatchNorm": build(module(0, 0), module(1, 1), output(2), modules=(linear(20, 2), ModuleSpec("BatchNorm1d"))),
    "name of a subclass of text": build(
        module(0, 0), output(1), modules=(dataclasses.replace(linear(20, 2), class_name=Sneaky("Linear")),)
    ),
    # arguments
    "unknown constructor argument": build(
        module(0, 0),
        output(1),
        modules=(ModuleSpec("Linear", (*linear(20, 2).arguments, ("device", "cuda"))),),
    ),
    "missing constructor argument": build(
        module(0, 0), output(1), modules=(ModuleSpec("Linear", linear(20, 2).arguments[:2]),)
    ),
    "argument twice": build(
        module(0, 0),
        output(1),
        modules=(ModuleSpec("Linear", (("in_features", 20), ("in_features", 20), ("bias", True))),),
    ),
    "flag for a number": build(module(0, 0), output(1), modules=(linear(20, True),)),
    "number for a flag": build(module(0, 0), output(1), modules=(linear(20, 2, 1),)),
    "float for a number": build(module(0, 0), output(1), modules=(linear(20, 2.0),)),
    "negative width": build(module(0, 0), output(1), modules=(linear(20, -2),)),
    "zero width": build(module(0, 0), output(1), modules=(linear(20, 0),)),
    "in-place function": build(module(0, 0), function("relu_", R(1)), output(2)),
    "in-place setting": build(module(0, 0), function("relu", R(1), inplace=True), output(2)),
    "out setting": build(module(0, 0), function("add", R(1), R(1), out=R(1)), output(2)),
    "not a number": build(module(0, 0), function("mul", R(1), float("nan")), output(2)),
    "infinite": build(module(0, 0), function("mul", R(1), float("inf")), output(2)),
    "huge integer": build(module(0, 0), function("mul", R(1), 10**400), output(2)),
    "huge number": build(module(0, 0), function("mul", R(1), 1e300), output(2)),
    "two constants": build(module(0, 0), function("add", 1, 2), output(1)),
    "text as a value": build(module(0, 0), function("add", R(1), "x"), output(2)),
    "none as a value": build(module(0, 0), function("add", R(1), None), output(2)),
    "dictionary as a value": build(module(0, 0), function("add", R(1), {"a": 1}), output(2)),
    "list as a value": build(module(0, 0), function("cat", [R(1), R(1)], dim=1), output(2)),
    "bytes as a value": build(module(0, 0), function("add", R(1), b"x"), output(2)),
    "an object as a value": build(module(0, 0), function("add", R(1), object()), output(2)),
    "long tuple": build(module(0, 0), function("cat", (R(1),) * 65, dim=1), output(2)),
    "deep tuple": build(module(0, 0), function("cat", ((((((R(1),),),),),),), dim=1), output(2)),
    "subclass of a tuple": build(module(0, 0), function("cat", LongTuple((R(1), R(0))), dim=1), output(2)),
    "empty cat": build(module(0, 0), function("cat", (), dim=1), output(1)),
    "dropout of everything": build(module(0, 0), function("dropout", R(1), p=1.0), output(2)),
    "text as a dimension": build(module(0, 0), function("flatten", R(1), start_dim="1", end_dim=-1), output(2)),
    # form
    "wrong version": dataclasses.replace(HONEST, version=2),
    "version as text": dataclasses.replace(HONEST, version="1"),  # type: ignore[arg-type]
    "unknown input type": dataclasses.replace(HONEST, input_dtype="int64"),
    "no nodes": dataclasses.replace(HONEST, nodes=()),
    "no output": dataclasses.replace(HONEST, nodes=HONEST.nodes[:-1]),
    "two inputs": build(INPUT, module(0, 0), output(2)),
    "two outputs": build(module(0, 0), output(1), output(1)),
    "nodes after the output": build(output(0), module(0, 0)),
    "unknown kind": changed(module(0, 0), kind="module"),
    "no such layer": build(module(1, 0), output(1)),
    "negative layer": build(module(-1, 0), output(1)),
    "unused layer": build(module(0, 0), output(1), modules=(linear(20, 2), linear(20, 2))),
    "value that nothing uses": build(module(0, 0), function("relu", R(1)), output(1)),
    "layer with two values": changed(module(0, 0), arguments=(R(0), R(0))),
    "layer with no value": changed(module(0, 0), arguments=()),
    "layer with keywords": changed(module(0, 0), keywords=(("inplace", True),)),
    "layer on a constant": changed(module(0, 0), arguments=(1,)),
    "arguments no tuple": changed(module(0, 0), arguments=[R(0)]),
    "layer and function at once": changed(module(0, 0), function_name="relu"),
    "modules no tuple": dataclasses.replace(HONEST, modules=[linear(20, 2)]),  # type: ignore[arg-type]
    "modules of another type": dataclasses.replace(HONEST, modules=({"class": "Linear"},)),  # type: ignore[arg-type]
    "input shape of zeros": dataclasses.replace(HONEST, input_shape=(0,)),
    "input shape of text": dataclasses.replace(HONEST, input_shape=("20",)),  # type: ignore[arg-type]
    "empty input shape": dataclasses.replace(HONEST, input_shape=()),
    "no parameters": build(function("relu", R(0)), output(1), modules=()),
    # mixing of records
    "flatten of the batch": build(module(0, 0), function("flatten", R(1), start_dim=0, end_dim=-1), output(2)),
    "flatten of the batch from behind": build(
        module(0, 0), function("flatten", R(1), start_dim=-2, end_dim=-1), output(2)
    ),
    "flatten layer of the batch": build(
        module(0, 0),
        module(1, 1),
        output(2),
        modules=(linear(20, 2), ModuleSpec("Flatten", (("start_dim", 0), ("end_dim", 1)))),
    ),
    "records behind each other": build(module(0, 0), function("cat", (R(1), R(1)), dim=0), output(2)),
    "records behind each other from behind": build(module(0, 0), function("cat", (R(1), R(1)), dim=-2), output(2)),
    "LayerNorm over the batch": build(
        module(0, 0),
        module(1, 1),
        output(2),
        modules=(
            linear(20, 2),
            ModuleSpec(
                "LayerNorm",
                (("normalized_shape", (64, 2)), ("eps", 1e-5), ("elementwise_affine", True), ("bias", True)),
            ),
        ),
    ),
    "batch against another dimension": build(
        function("reshape", R(0), shape=(64, 1)), function("add", R(1), R(0)), function("reshape", R(2), shape=(-1,)),
        module(0, 3), output(4), modules=(linear(4096, 2),), shape=(64,),
    ),
    "reshape of the batch": build(function("reshape", R(0), shape=(64, 20)), module(0, 1), output(2)),
    "reshape with two unknowns": build(function("reshape", R(0), shape=(-1, -1)), module(0, 1), output(2)),
    "reshape to a single number": build(function("reshape", R(0), shape=()), module(0, 1), output(2)),
    # size
    "layer of 4 TB": build(module(0, 0), output(1), modules=(linear(10**6, 10**6),), shape=(10**6,)),
    "width beyond the limit": build(module(0, 0), output(1), modules=(linear(20, 10**9),)),
    "more nodes than allowed": build(*(function("relu", R(i)) for i in range(5000)), module(0, 5000), output(5001)),
    "more layers than allowed": build(
        *(module(i, i) for i in range(1600)), output(1600), modules=(linear(20, 20),) * 1600
    ),
    "activation flood": build(
        *(function("relu", R(i)) for i in range(3900)), module(0, 3900), output(3901), modules=(linear(65536, 2),), shape=(65536,)
    ),
    "doubling": build(
        *(function("cat", (R(i), R(i)), dim=1) for i in range(40)), module(0, 40), output(41)
    ),
    "outer product": build(
        function("reshape", R(0), shape=(4096, 1)), function("reshape", R(0), shape=(1, 4096)),
        function("mul", R(1), R(2)), function("flatten", R(3), start_dim=1, end_dim=-1), module(0, 4), output(5),
        modules=(linear(2, 2),), shape=(4096,),
    ),
    "operations flood": build(
        *(module(i, i) for i in range(47)), output(47), modules=(linear(1024, 1024),) * 47, shape=(1024, 64)[::-1],
    ),
    "wide output": build(module(0, 0), output(1), modules=(linear(20, 1 << 17),)),
    "output of three dimensions": build(module(0, 0), function("reshape", R(1), shape=(2, 1)), output(2)),
    "too many dimensions": build(
        module(0, 0), function("reshape", R(1), shape=(1, 1, 1, 1, 1, 2)), function("flatten", R(2), start_dim=1, end_dim=-1), output(3)
    ),
    "overflowing sizes": build(function("reshape", R(0), shape=(1 << 23,) * 5), module(0, 1), output(2)),
    "input row too large": build(module(0, 0), output(1), shape=(1 << 23,)),
}  # fmt: skip


def test_the_honest_graph_is_accepted() -> None:
    assert graph.validate(HONEST).parameters == 42


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_at_once(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(InvalidInput) as caught:
        graph.rebuild(HOSTILE[name])
    assert caught.value.reason == "GRAPH_NOT_ALLOWED"
    assert time.monotonic() - start < 5
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    )  # KiB: nothing of size was made


@pytest.mark.parametrize("what", [None, 1, "x", {}, [], HONEST.nodes[0], object()])
def test_what_is_no_graph_is_refused(what: Any) -> None:
    with pytest.raises(InvalidInput):
        graph.validate(what)


def test_the_limits_are_those_of_the_operator() -> None:
    assert graph.validate(HONEST, GraphLimits(parameters=42)).parameters == 42
    for limits in (
        GraphLimits(parameters=41),
        GraphLimits(nodes=2),
        GraphLimits(modules=0),
        GraphLimits(constructor_integer=19),
        GraphLimits(activation_bytes=8 * 64 * (20 + 2) - 1),
        GraphLimits(flops=3 * 2 * 64 * 40 - 1),
        GraphLimits(outputs=1),
        GraphLimits(value_elements=64 * 20 - 1),
        GraphLimits(input_elements=19),
    ):
        with pytest.raises(InvalidInput):
            graph.validate(HONEST, limits)


def test_no_name_of_a_graph_becomes_python_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def caught(*_: object) -> None:
        raise AssertionError("a graph must never be compiled or executed as text")

    traced = graph.trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2)), (3,))
    monkeypatch.setattr("builtins.exec", caught)
    monkeypatch.setattr("builtins.eval", caught)
    monkeypatch.setattr("builtins.compile", caught)
    rebuilt = graph.rebuild(traced.graph)
    rebuilt(torch.zeros(2, 3))
    assert all(type(child).__module__.startswith("torch.nn.modules") for child in rebuilt.children())


# -- weights -------------------------------------------------------------------------------------------------------


def _bytes(**tensors: np.ndarray) -> bytes:
    return save({name.replace("_", ".", 1): value for name, value in tensors.items()})


WEIGHT, BIAS = np.zeros((2, 20), np.float32), np.zeros(2, np.float32)
BAD_WEIGHTS: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\xff" * 400,
    "pickle": b"\x80\x04\x95" + b"\x00" * 300,
    "huge header": (10**9).to_bytes(8, "little") + b"{" * 200,
    "cut off": _bytes(m0_weight=WEIGHT, m0_bias=BIAS)[:-1],
    "too long": _bytes(m0_weight=WEIGHT, m0_bias=BIAS) + b"\x00",
    "missing tensor": _bytes(m0_weight=np.zeros((2, 21), np.float32)),
    "other name": _bytes(m0_weight=WEIGHT, m1_bias=BIAS),
    "other shape": _bytes(m0_weight=WEIGHT.T.copy(), m0_bias=BIAS),
    "one tensor more": _bytes(m0_weight=WEIGHT, m0_bias=BIAS, m0_more=BIAS),
    "float64": _bytes(m0_weight=WEIGHT.astype(np.float64), m0_bias=BIAS),
    "float16": _bytes(m0_weight=WEIGHT.astype(np.float16), m0_bias=BIAS),
    "whole numbers": _bytes(m0_weight=WEIGHT.astype(np.int32), m0_bias=BIAS),
    "not a number": _bytes(m0_weight=WEIGHT, m0_bias=BIAS + np.float32("nan")),
    "infinite": _bytes(m0_weight=WEIGHT - np.float32("inf"), m0_bias=BIAS),
    "finite but huge": _bytes(m0_weight=WEIGHT + np.float32(3e38), m0_bias=BIAS),
    "above the cap": _bytes(m0_weight=WEIGHT, m0_bias=BIAS - np.float32(10_001)),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights_are_refused_and_change_nothing(name: str) -> None:
    rebuilt = graph.rebuild(HONEST)
    graph.load_flat(rebuilt, np.ones(42, np.float32))
    with pytest.raises(InvalidInput) as caught:
        graph.load_weights(rebuilt, BAD_WEIGHTS[name])
    assert caught.value.reason == "WEIGHTS_NOT_ALLOWED"
    assert (graph.flatten(rebuilt) == 1).all()


def test_weights_at_the_cap_are_accepted() -> None:
    rebuilt = graph.rebuild(HONEST)
    graph.load_weights(rebuilt, _bytes(m0_weight=WEIGHT + np.float32(1e4), m0_bias=BIAS))
    assert graph.flatten(rebuilt).max() == 1e4


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(41, np.float32),
        np.zeros(42),
        np.full(42, np.nan, np.float32),
        np.zeros((42, 1), np.float32),
        [0.0] * 42,
    ],
)
def test_bad_vectors_are_refused(vector: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        graph.load_flat(graph.rebuild(HONEST), vector)
    assert caught.value.reason == "WEIGHTS_NOT_ALLOWED"


# -- what is accepted and must do no harm --------------------------------------------------------------------------


def test_an_imprint_layer_recovers_nothing_once_clipped_and_noised() -> None:
    """A layer of identical rows with graded biases ("Robbing the Fed", Fowl et al. 2022) is a valid model and reads
    single records out of plain gradients. Clipping alone does not stop it; the noise of the plan does."""
    width, bins = 20, 400
    crafted = build(
        module(0, 0),
        function("relu", R(1)),
        module(1, 2),
        output(3),
        modules=(linear(width, bins), linear(bins, 2)),
    )
    rebuilt = graph.rebuild(crafted)
    with torch.no_grad():
        rebuilt.get_parameter("m0.weight").fill_(1.0)
        rebuilt.get_parameter("m0.bias").copy_(-torch.linspace(-12, 12, bins))
        rebuilt.get_parameter("m1.weight").copy_(torch.tensor([[0.01], [-0.01]]).expand(2, bins))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (8,), generator=generator)
    clipped = ClippedSum(rebuilt, LOSSES["cross_entropy"])(
        rows, labels, torch.ones(8, dtype=torch.float64), 1.0
    )
    noise = torch.randn(clipped.shape, generator=generator, dtype=torch.float64)

    def recovered(sums: torch.Tensor) -> int:
        weight, bias = sums[: bins * width].view(bins, width), sums[bins * width : bins * (width + 1)]
        by_bias = (bias[:-1] - bias[1:])[:, None]
        guesses = ((weight[:-1] - weight[1:]) / by_bias)[by_bias[:, 0].abs() > 1e-12]
        errors = [(guesses - row).norm(dim=1).min() / row.norm() for row in rows]
        return sum(int(error < 1e-2) for error in errors)

    assert recovered(clipped) >= 3  # the attack works without noise: the test has teeth
    assert recovered(clipped + 0.5 * noise) == 0
