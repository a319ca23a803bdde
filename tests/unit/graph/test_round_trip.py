"""A model that is traced, sent as data and rebuilt computes what the builder's model computes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from usufruct import graph
from usufruct.errors import InvalidInput


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12)
        self.last = nn.Linear(24, 3, bias=False)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(functional.gelu(self.norm(self.first(x)), approximate="tanh"))
        h = functional.dropout(h, 0.1, self.training)
        h = 1 - (x + h) * 0.5
        return self.last(torch.cat([h, x.tanh()], dim=-1))


class Shapes(nn.Module):
    """Rows that are matrices, flattened and reshaped in every way a builder writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 5)
        self.out = nn.Linear(30, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inner(x.view(x.size(0), 6, 4)).reshape(x.shape[0], -1)
        h = h.view(h.size()[0], 5, 6).contiguous().flatten(1)
        h = torch.flatten(h.reshape(-1, 10, 3), start_dim=1)
        h = torch.mul(h, torch.sigmoid(h))
        h -= functional.elu(h, 0.7)
        return self.out(functional.leaky_relu(functional.silu(torch.relu(h)), 0.2))


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "logistic regression": (nn.Linear(7, 1), (7,)),
    "perceptron": (
        nn.Sequential(nn.Linear(9, 16), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)),
        (9,),
    ),
    "activations": (
        nn.Sequential(
            nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.LayerNorm(5, elementwise_affine=False), nn.SiLU(), nn.ELU(0.5),
            nn.LeakyReLU(0.1), nn.Identity(), nn.LayerNorm(5, bias=False), nn.Sigmoid(), nn.Linear(5, 2),
        ),
        (2, 3),
    ),
    "residual": (Residual(), (12,)),
    "shapes": (Shapes(), (24,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_rebuilt_model_computes_the_same(name: str) -> None:
    model, shape = MODELS[name]
    traced = graph.trace(model, shape)
    module = graph.rebuild(traced.graph)
    graph.load_weights(module, graph.pack_vector(traced.graph, graph.vector_from_model(model, traced)))
    model.eval()
    module.eval()
    for rows in (1, 2, 13):
        batch = torch.randn(rows, *shape)
        assert torch.equal(module(batch), model(batch))


@pytest.mark.parametrize("name", MODELS)
def test_trained_weights_return_under_the_builders_own_names(name: str) -> None:
    model, shape = MODELS[name]
    traced = graph.trace(model, shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    vector = graph.vector_from_model(model, traced)
    assert vector.dtype == np.float32
    assert vector.shape == (traced.bounds.parameters,) == (graph.parameter_count(traced.graph),)
    graph.load_into_model(model, traced, vector + 1)
    assert sorted(own for _, own in traced.parameter_names) == sorted(before)
    for key, value in model.state_dict().items():
        assert torch.allclose(value, before[key] + 1)
    graph.load_into_model(model, traced, vector)


def test_the_layout_is_the_order_of_layers_weight_then_bias() -> None:
    traced = graph.trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2), nn.Linear(2, 1)), (3,))
    slots = graph.parameter_layout(traced.graph)
    assert [(slot.name, slot.shape, slot.offset) for slot in slots] == [
        ("m0.weight", (2, 3), 0),
        ("m0.bias", (2,), 6),
        ("m2.weight", (2,), 8),
        ("m2.bias", (2,), 10),
        ("m3.weight", (1, 2), 12),
        ("m3.bias", (1,), 14),
    ]
    module = graph.rebuild(traced.graph)
    vector = np.arange(15, dtype=np.float32)
    graph.load_flat(module, vector)
    assert module.get_parameter("m3.weight").tolist() == [[12.0, 13.0]]
    assert np.array_equal(graph.flatten(module), vector)


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = Residual()
    model.drop.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    graph.trace(model, (12,))
    assert modes == {name: module.training for name, module in model.named_modules()}


def test_the_same_weights_give_the_same_bytes() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    traced = graph.trace(model, (3,))
    module = graph.rebuild(traced.graph)
    vector = graph.vector_from_model(model, traced)
    graph.load_flat(module, vector)
    assert graph.pack_weights(module) == graph.pack_vector(traced.graph, vector) == graph.pack_weights(module)


def test_bounds_count_parameters_values_and_operations() -> None:
    bounds = graph.validate(
        graph.trace(nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2)), (10,)).graph
    )
    assert bounds.parameters == 54
    assert bounds.activation_bytes == 8 * 64 * (10 + 4 + 4 + 2)
    assert bounds.flops == 3 * 2 * 64 * (10 * 4 + 4 * 2)
    assert bounds.outputs == 2


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Calls(nn.Module):
    """Applies one function after a linear layer."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x))  # type: ignore[operator]


class MyLinear(nn.Linear):
    pass


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def _hooked() -> nn.Module:
    layer = nn.Linear(3, 1)
    layer.register_forward_hook(lambda *_: None)
    return nn.Sequential(layer)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "BatchNorm": (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "or LayerNorm"),
    "softmax over the batch": (nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=0)), "along the batch"),
    "convolution without the batch": (Calls(nn.Conv1d(3, 3, 1)), "does not run"),
    "attention of batches": (
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.TransformerEncoderLayer(3, 1)),
        "'Unflatten' is not allowed",
    ),
    "attention by steps": (
        Calls(lambda h, layer=nn.TransformerEncoderLayer(3, 1): layer(h[:, None])),
        "batch_first=True",
    ),
    "branch on values": (Branches(), "must not branch"),
    "subclass": (nn.Sequential(MyLinear(3, 1)), "subclass of a PyTorch layer"),
    "two inputs": (TwoInputs(), "must take one tensor"),
    "hooks": (_hooked(), "has hooks"),
    "frozen": (nn.Linear(3, 1).requires_grad_(False), "parameters; it has 0"),
    "float64": (nn.Linear(3, 1).double(), "float32"),
    "no parameters": (nn.Sequential(nn.ReLU()), "parameters; it has 0"),
    "mean over the batch": (Calls(lambda h: h - h.mean(0)), "mean works along the batch"),
    "squeezed output": (Calls(lambda h: h[:, :1].squeeze(-1)), "lost the batch"),
    "three-dimensional output": (Calls(lambda h: h.view(h.size(0), 3, 1)), r"shape \[batch, outputs\]"),
    "reshape of the batch": (Calls(lambda h: h.view(3, -1)), "must keep the batch"),
    "flatten of the batch": (Calls(lambda h: torch.flatten(h)), "use start_dim=1"),
    "records behind each other": (Calls(lambda h: torch.cat([h, h])), "cat works along the batch"),
    "alpha": (Calls(lambda h: torch.add(h, h, alpha=2)), "multiply first"),
    "in place and used again": (Calls(lambda h: functional.relu(h, inplace=True) + h), "drop inplace=True"),
    "a constant tensor": (Calls(lambda h: h + torch.ones(3)), "the constant tensor"),
    "transpose": (Calls(lambda h: h.t()), "'t' is not allowed"),
    "index": (Calls(lambda h: h[0:1]), "slice works along the batch"),
    "dtype": (Calls(lambda h: h.double()), "'double' is not allowed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_with_what_to_do(name: str) -> None:
    model, text = REFUSED[name]
    with pytest.raises(InvalidInput, match=text) as caught:
        graph.trace(model, (3,))
    assert caught.value.reason == "GRAPH_NOT_ALLOWED"


def test_the_error_for_a_layer_names_its_class() -> None:
    with pytest.raises(InvalidInput) as caught:
        graph.trace(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), (3,))
    assert caught.value.public_details["class_name"] == "BatchNorm1d"


def test_a_wrong_input_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not run"):
        graph.trace(nn.Linear(3, 1), (4,))


def test_the_language_and_the_package_need_no_torch() -> None:
    program = (
        "import sys, usufruct.graph, usufruct.graph.model_graph, usufruct.graph.limits; "
        "usufruct.graph.ModelGraph, usufruct.graph.GraphLimits; sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert all(getattr(graph, name) is not None for name in graph.__all__)
    with pytest.raises(AttributeError):
        graph.nothing  # noqa: B018
