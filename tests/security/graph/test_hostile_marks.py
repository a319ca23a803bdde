"""What a crafted graph may say of frozen and shared parameters: every lie is refused before anything is allocated, and no
mark lets one record reach another or a row add more than its bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph import GraphLimits, ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
from usufruct.graph.base_model import LONGEST_NAME
from usufruct.graph.model_graph import FrozenParameter, SharedParameter
from usufruct_server.holder.training.kept_layers import ADDED_BY_ROUNDING
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.messages import graph_from_header, graph_to_header
from usufruct_server.holder.training.per_sample import ClippedSum

WIDTH, CLASSES = 4, 3


def linear(narrow: int, wide: int, *marks: FrozenParameter | SharedParameter) -> ModuleSpec:
    arguments = (("in_features", narrow), ("out_features", wide), ("bias", True))
    frozen = tuple(mark for mark in marks if isinstance(mark, FrozenParameter))
    shared = tuple(mark for mark in marks if isinstance(mark, SharedParameter))
    return ModuleSpec("Linear", arguments, frozen, shared)


def chain(*modules: ModuleSpec) -> ModelGraph:
    """The layers one after the other."""
    inner = [Node(NodeKind.MODULE, module_index=at, arguments=(NodeRef(at),)) for at, _ in enumerate(modules)]
    last = Node(NodeKind.OUTPUT, arguments=(NodeRef(len(modules)),))
    return ModelGraph(1, (WIDTH,), "float32", modules, (Node(NodeKind.INPUT), *inner, last))


def frozen(name: Any = "weight", base_name: Any = "base.weight") -> FrozenParameter:
    return FrozenParameter(name, base_name)


def shared(name: Any = "weight", owner: Any = 0, owner_name: Any = "weight") -> SharedParameter:
    return SharedParameter(name, owner, owner_name)


WITHOUT_BIAS = (("in_features", WIDTH), ("out_features", CLASSES), ("bias", False))
SQUARE, LAST = linear(WIDTH, WIDTH), linear(WIDTH, CLASSES)
HONEST = chain(linear(WIDTH, WIDTH, frozen()), linear(WIDTH, WIDTH, shared("bias", 0, "bias")), LAST)
HOSTILE: dict[str, ModelGraph] = {
    "all is frozen": chain(linear(WIDTH, CLASSES, frozen(), frozen("bias", "b"))),
    "a parameter that is not there": chain(linear(WIDTH, CLASSES, frozen("weights"))),
    "an attribute": chain(linear(WIDTH, CLASSES, frozen("__class__"))),
    "a method": chain(linear(WIDTH, CLASSES, frozen("forward"))),
    "a path into another layer": chain(SQUARE, linear(WIDTH, CLASSES, frozen("..m0.weight"))),
    "dots": chain(linear(WIDTH, CLASSES, frozen("..."))),
    "named twice": chain(linear(WIDTH, CLASSES, frozen(), frozen())),
    "frozen and shared": chain(SQUARE, linear(WIDTH, WIDTH, frozen(), shared()), LAST),
    "no name": chain(linear(WIDTH, CLASSES, frozen(""))),
    "a long name": chain(linear(WIDTH, CLASSES, frozen("weight", "w" * (LONGEST_NAME + 1)))),
    "no name in the base model": chain(linear(WIDTH, CLASSES, frozen("weight", ""))),
    "a name that is no text": chain(linear(WIDTH, CLASSES, frozen(("weight",)))),
    "a base name that is no text": chain(linear(WIDTH, CLASSES, frozen("weight", 1))),
    "shared with itself": chain(SQUARE, linear(WIDTH, WIDTH, shared(owner=1)), LAST),
    "shared with a later layer": chain(linear(WIDTH, WIDTH, shared(owner=1)), SQUARE, LAST),
    "shared with nobody": chain(SQUARE, linear(WIDTH, WIDTH, shared(owner=99)), LAST),
    "a negative owner": chain(SQUARE, linear(WIDTH, WIDTH, shared(owner=-1)), LAST),
    "an owner that is no number": chain(SQUARE, linear(WIDTH, WIDTH, shared(owner=True)), LAST),
    "of another shape": chain(SQUARE, linear(WIDTH, CLASSES, shared())),
    "of another shape, without a bias that would not fit": chain(
        SQUARE, replace(linear(WIDTH, CLASSES, shared()), arguments=WITHOUT_BIAS)
    ),
    "of another number of dimensions": chain(SQUARE, linear(WIDTH, WIDTH, shared("weight", 0, "bias")), LAST),
    "shared with what is frozen": chain(linear(WIDTH, WIDTH, frozen()), linear(WIDTH, WIDTH, shared()), LAST),
    "an owner's attribute": chain(SQUARE, linear(WIDTH, WIDTH, shared("weight", 0, "__dict__")), LAST),
    "a list of marks": chain(replace(LAST, frozen=[frozen()])),  # type: ignore[arg-type]
    "marks of another kind": chain(replace(LAST, frozen=(shared(),))),  # type: ignore[arg-type]
    "marks that are pairs": chain(replace(LAST, shared=(("weight", 0, "weight"),))),  # type: ignore[arg-type]
}


def test_the_honest_graph_is_accepted_and_counted() -> None:
    bounds = graph.validate(HONEST)
    assert (bounds.parameters, bounds.frozen_parameters) == (4 + 16 + 15, 16)
    assert graph_from_header(graph_to_header(HONEST)) == HONEST


@pytest.mark.parametrize("name", HOSTILE)
def test_a_lie_about_parameters_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        graph.rebuild(HOSTILE[name])
    assert caught.value.reason == "GRAPH_NOT_ALLOWED"


def test_both_kinds_of_parameters_have_their_limit() -> None:
    assert graph.validate(HONEST, GraphLimits(parameters=35, frozen_parameters=16)).parameters == 35
    for limits in (GraphLimits(parameters=34), GraphLimits(frozen_parameters=15)):
        with pytest.raises(InvalidInput):
            graph.validate(HONEST, limits)


def test_a_frozen_flood_is_refused_without_memory() -> None:
    wide = 1 << 20
    flood = chain(
        linear(WIDTH, wide, frozen()), linear(wide, wide, frozen("weight", "w")), linear(wide, CLASSES)
    )
    with pytest.raises(InvalidInput, match="frozen"):
        graph.validate(flood)


def test_weights_of_a_round_cannot_name_a_frozen_parameter() -> None:
    module = graph.rebuild(HONEST)
    honest = dict(module.named_parameters())
    for more in (honest, {name: honest[name] for name in honest if name != "m0.bias"}):
        with pytest.raises(InvalidInput) as caught:
            graph.load_weights(module, graph.pack_weights(more))
        assert caught.value.reason == "WEIGHTS_NOT_ALLOWED"


@pytest.mark.parametrize("model", [HONEST, chain(linear(WIDTH, WIDTH, frozen(), frozen("bias", "b")), LAST)])
def test_a_record_moves_the_sum_by_its_bound_and_no_other_record(model: ModelGraph) -> None:
    """By rows and by book-keeping, with the largest weights that are allowed."""
    generator = torch.Generator().manual_seed(0)
    module = graph.rebuild(model)
    tensors = {
        each.base_name: torch.randn(module.get_parameter(f"m{at}.{each.name}").shape, generator=generator).numpy()
        for at, spec in enumerate(model.modules)
        for each in spec.frozen
    }  # fmt: skip
    graph.load_frozen(module, graph.BaseModel({name: values * 1e3 for name, values in tensors.items()}))
    size = graph.parameter_count(model)
    graph.load_flat(module, np.float32(1e4) * np.sign(torch.randn(size, generator=generator).numpy()))
    clipped_sum = ClippedSum(module, LOSSES["cross_entropy"])
    features = torch.randn(5, WIDTH, generator=generator, dtype=torch.float64)
    labels, present = torch.arange(5) % CLASSES, torch.ones(5, dtype=torch.float64)
    whole, moved = clipped_sum(features, labels, present, 0.7), []
    for row in range(5):
        without, others = present.clone(), features.clone()
        without[row], others[row] = 0.0, 1e9
        rest = clipped_sum(features, labels, without, 0.7)
        moved.append((whole - rest).norm())
        assert torch.equal(clipped_sum(others, labels, without, 0.7), rest)
    assert 0.6 < max(moved) <= 0.7 * (1 + ADDED_BY_ROUNDING)
