"""Adapters: the formula, what is frozen, which base model a graph names, and that nothing else is sent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import usufruct as uf
from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph.low_rank import LoraLinear
from usufruct.wire.model_graph import graph_from_bytes, graph_to_bytes


class Encoder(nn.Module):
    """Names and raw parameters as a pretrained model has them, and a layer that is not applied."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.key_bias = nn.Linear(4, 6), nn.Linear(4, 6, bias=False), nn.Linear(2, 2)
        self.position = nn.Parameter(torch.randn(1, 6))
        self.norm, self.classifier = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.query(x) * self.key(x) + self.position))


def _encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder()


def _adapted(**options: object) -> nn.Module:
    return uf.lora(_encoder(), **{"rank": 2, "targets": ("query",), "train": ("classifier",), **options})  # type: ignore[arg-type]


def _stirred(model: nn.Module) -> nn.Module:
    """With other numbers wherever something is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def test_an_adapter_is_the_formula() -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 3)
    layer = LoraLinear(base, rank=2, alpha=6.0)
    x = torch.randn(7, 5)
    assert torch.equal(layer(x), base(x)), "B begins at zero"
    bound = math.sqrt(6 / ((1 + 5) * 5))  # Kaiming uniform with a = √5: gain √(2/(1+5)), fan-in 5
    assert 0 < layer.down.weight.abs().max() <= bound
    _stirred(layer)
    want = x @ (base.weight + 6.0 / 2 * layer.up.weight @ layer.down.weight).T + base.bias
    assert torch.allclose(layer(x), want, atol=1e-6)
    assert torch.allclose(layer.weight @ x.T + layer.bias[:, None], want.T, atol=1e-6)
    assert torch.allclose(layer.merged()(x), want, atol=1e-6)


def test_adapters_and_what_is_named_are_trained_and_nothing_else() -> None:
    model = _adapted()
    assert set(uf.adapters(model)) == {
        "query.down.weight", "query.up.weight", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    traced = graph.trace(model, (4,))
    assert traced.bounds.parameters == 2 * (4 + 6) + 14
    assert traced.bounds.frozen_parameters == (4 * 6 + 6) + 4 * 6 + 6 + 12
    assert [own for _, own in traced.parameter_names] == [
        "query.down.weight", "query.up.weight", "classifier.weight", "classifier.bias",
    ]  # fmt: skip
    assert len(graph.vector_from_model(model, traced)) == traced.bounds.parameters


def test_a_graph_names_frozen_parameters_as_the_base_model_does() -> None:
    traced = graph.trace(_adapted(), (4,))
    named = {frozen.base_name for spec in traced.graph.modules for frozen in spec.frozen}
    assert named == {"query.weight", "query.bias", "key.weight", "position", "norm.weight", "norm.bias"}
    assert named < set(dict(_encoder().named_parameters()))


def test_the_base_model_is_the_same_before_and_after() -> None:
    before, after = graph.base_of(_encoder()), graph.base_of(_adapted(targets=None))
    assert set(after.tensors) == set(before.tensors)
    assert after.digest == before.digest
    assert graph.base_of(_stirred(_encoder())).digest != before.digest


def test_a_graph_with_adapters_crosses_and_computes_the_same() -> None:
    model = _stirred(_adapted())
    traced = graph.trace(model, (4,))
    received = graph_from_bytes(graph_to_bytes(traced.graph))
    assert received == traced.graph
    module = graph.rebuild(received)
    graph.load_frozen(module, graph.base_of(model))
    weights = graph.pack_vector(received, graph.vector_from_model(model, traced))
    graph.load_weights(module, weights)
    x = torch.randn(5, 4)
    assert torch.allclose(module(x), model(x), atol=1e-6)
    assert graph.pack_weights(module) == weights, "what is sent is what is trained"
    assert not any(module.get_parameter(f"m{i}.{f.name}").requires_grad
                   for i, spec in enumerate(received.modules) for f in spec.frozen)  # fmt: skip


def test_merging_gives_the_base_models_architecture_and_the_adapted_function() -> None:
    model = _stirred(_adapted(alpha=5.0, targets=("query", "key")))
    merged = uf.merged(model)
    assert set(merged.state_dict()) == set(_encoder().state_dict())
    x = torch.randn(5, 4)
    assert torch.allclose(merged(x), model(x), atol=1e-5)
    assert isinstance(model.query, LoraLinear), "the model itself stays as it is"  # type: ignore[union-attr]


def test_adapters_alone_bring_a_model_back() -> None:
    trained = _stirred(_adapted())
    again = _adapted()
    again.load_state_dict(uf.adapters(trained), strict=False)
    x = torch.randn(5, 4)
    assert torch.equal(again(x), trained(x))


def test_a_model_that_is_one_layer_and_a_layer_in_two_places_are_adapted() -> None:
    alone = uf.lora(nn.Linear(3, 1), rank=1)
    assert isinstance(alone, LoraLinear)
    assert set(graph.base_of(alone).tensors) == {"weight", "bias"}
    layer = nn.Linear(3, 3)
    twice = uf.lora(nn.Sequential(layer, nn.Tanh(), layer), rank=1)
    assert twice[0] is twice[2]  # type: ignore[index]
    traced = graph.trace(twice, (3,))
    assert (traced.bounds.parameters, traced.bounds.frozen_parameters) == (6, 12)


def test_torchs_encoder_layer_is_adapted_and_its_fast_path_agrees() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    model = _stirred(uf.lora(layer, rank=2, targets=("linear1", "linear2"))).eval()
    x = torch.randn(3, 5, 4)
    slow = model(x)
    with torch.no_grad():
        assert torch.allclose(model(x), slow.detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"targets": ("quer",)}, "targets"),
        ({"train": ("bert",)}, "targets"),
        ({"targets": ("norm",)}, "targets"),
        ({"targets": ("classifier",)}, "targets"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _adapted(**options)
    assert caught.value.details["field"] == field


def test_a_model_is_adapted_once() -> None:
    with pytest.raises(InvalidInput, match="already"):
        uf.lora(_adapted())


def test_a_graph_needs_every_frozen_tensor_in_its_shape() -> None:
    model = _adapted()
    traced = graph.trace(model, (4,))
    tensors = dict(graph.base_of(model).tensors)
    found = graph.frozen_values(traced.graph, graph.BaseModel(tensors))
    assert sum(values.size for values in found.values()) == traced.bounds.frozen_parameters
    without = {name: values for name, values in tensors.items() if name != "key.weight"}
    turned = {**tensors, "key.weight": np.ascontiguousarray(tensors["key.weight"].T)}
    for other in (without, turned):
        with pytest.raises(InvalidInput) as caught:
            graph.frozen_values(traced.graph, graph.BaseModel(other))
        assert caught.value.reason == "GRAPH_NOT_ALLOWED"
        assert caught.value.details["operation"] == "key.weight"
