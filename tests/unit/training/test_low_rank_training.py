"""Adapters on every family of models: their clipped sums are those of a loop over single records in float64 with the
builder's own model, and nothing frozen has a part in them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from model_families import FAMILIES, rows
from torch import nn
from torch.nn import functional

import usufruct as uf
from usufruct import graph
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum

ROWS = 6
ADAPTED: dict[str, tuple[str, dict[str, object]]] = {
    "ResNet-18, last layer": ("ResNet-18", {}),
    "text CNN": ("text CNN", {"train": ("convolutions.1",)}),
    "LSTM": ("LSTM", {"train": ("rnn",)}),
    "transformer by hand, tied blocks": ("transformer by hand", {"train": ("token",)}),
    "causal attention": ("causal attention", {"targets": ("query", "value"), "train": ("out",)}),
    "nn.TransformerEncoder": ("nn.TransformerEncoder", {"targets": ("linear1", "linear2"), "train": ("out",)}),
    "BERT, attention": ("BERT", {"targets": ("query", "value"), "train": ("classifier",)}),
    "BERT, every layer": ("BERT", {"rank": 3, "alpha": 1.5, "train": ("pooler", "classifier")}),
    "BERT, biases too": ("BERT", {"targets": ("query",), "train": ("LayerNorm.bias", "classifier")}),
    "layers used twice": ("layers used twice", {"train": ("norm",)}),
    "layers that share a matrix": ("layers that share a matrix", {"targets": ("out",), "train": ("embedding",)}),
    "einsum": ("einsum", {"train": ("norm",)}),
    "three-dimensional convolution, frozen": ("three-dimensional convolution", {}),
}  # fmt: skip
BY_ROWS = ("BERT, biases too", "layers that share a matrix", "einsum")


def _made(name: str) -> tuple[nn.Module, graph.TracedModel]:
    """The family with adapters, of which none is at its beginning."""
    family, options = ADAPTED[name]
    make, shape, dtype = FAMILIES[family]
    torch.manual_seed(len(name))
    model = uf.lora(make(), **{"rank": 2, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("up.weight"):
                parameter.normal_(0.0, 0.3)
    return model, graph.trace(model, shape, input_dtype=dtype)


def _trainer(model: nn.Module, traced: graph.TracedModel, folder: Path) -> ClippedSum:
    """As a holder makes it: the frozen part mapped from a file, the rest as weights of a round."""
    graph.base_of(model).write(folder / "base")
    module = graph.rebuild(traced.graph)
    graph.load_frozen(module, graph.open_base_model(folder / "base"))
    clipped_sum = ClippedSum(module, LOSSES["cross_entropy"])
    weights = bytearray(graph.pack_vector(traced.graph, graph.vector_from_model(model, traced)))
    clipped_sum.load(graph.weights_in(module, weights))
    return clipped_sum


def _one_by_one(
    model: nn.Module, traced: graph.TracedModel, features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    own = copy.deepcopy(model).double().train()
    parameters = [own.get_parameter(name) for _, name in traced.parameter_names]
    gradients = []
    for row in range(len(features)):
        loss = functional.cross_entropy(own(features[row : row + 1]), labels[row : row + 1])
        found = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(gradients)


@pytest.mark.parametrize("name", ADAPTED)
def test_clipped_sums_of_adapters_equal_those_of_single_records(name: str, tmp_path: Path) -> None:
    model, traced = _made(name)
    features, labels = rows(*FAMILIES[ADAPTED[name][0]][1:], ROWS, seed=2)
    gradients = _one_by_one(model, traced, features, labels)
    norms = gradients.norm(dim=1, keepdim=True)
    clip_norm = norms.median().item()  # half are clipped, half are not, by the norm over what is trained
    want = (gradients * (clip_norm / norms).clamp(max=1.0)).sum(0)
    clipped_sum = _trainer(model, traced, tmp_path)
    got = clipped_sum(features, labels, torch.ones(ROWS, dtype=torch.float64), clip_norm)
    assert len(got) == clipped_sum.parameters == traced.bounds.parameters
    assert (got - want).norm() <= 1e-5 * want.norm()
    assert clipped_sum.by_rows == (name in BY_ROWS)


@pytest.mark.parametrize("name", ["BERT, attention", "BERT, biases too"])
def test_a_local_step_moves_what_is_trained_and_nothing_else(name: str, tmp_path: Path) -> None:
    model, traced = _made(name)
    features, labels = rows(*FAMILIES["BERT"][1:], ROWS, seed=6)
    clipped_sum = _trainer(model, traced, tmp_path)
    moved = torch.randn(clipped_sum.parameters, dtype=torch.float64).numpy()
    clipped_sum.move(moved)
    own = copy.deepcopy(model).double()
    _put(own, traced, graph.vector_from_model(model, traced) + moved)
    want = _one_by_one(own, traced, features, labels).sum(0)
    got = clipped_sum(features, labels, torch.ones(ROWS, dtype=torch.float64), 1e6)
    assert (got - want).norm() <= 1e-5 * want.norm()


def _put(model: nn.Module, traced: graph.TracedModel, vector: np.ndarray) -> None:
    at = 0
    for _, name in traced.parameter_names:
        parameter = model.get_parameter(name)
        parameter.data.copy_(torch.from_numpy(vector[at : at + parameter.numel()]).view(parameter.shape))
        at += parameter.numel()


def test_the_large_frozen_part_stays_where_it_is_on_disk(tmp_path: Path) -> None:
    model, traced = _made("BERT, attention")
    clipped_sum = _trainer(model, traced, tmp_path)
    before = (tmp_path / "base").read_bytes()
    features, labels = rows(*FAMILIES["BERT"][1:], ROWS, seed=3)
    present = torch.ones(ROWS, dtype=torch.float64)
    for _ in range(2):
        update = clipped_sum(features, labels, present, 0.5).numpy()
        clipped_sum.move(update)
    mapped = 0
    for path, parameter in clipped_sum.module.named_parameters():
        layer = clipped_sum.module.get_submodule(path.rpartition(".")[0])
        if not parameter.requires_grad and isinstance(layer, nn.Linear | nn.Embedding):
            assert parameter.dtype == torch.float32
            mapped += parameter.numel()
    assert mapped > 0.9 * traced.bounds.frozen_parameters
    assert (tmp_path / "base").read_bytes() == before


def test_what_is_frozen_has_no_part_in_the_norm(tmp_path: Path) -> None:
    """The same model with everything trained: its rows have larger gradients and are clipped, these are not."""
    model, traced = _made("BERT, attention")
    features, labels = rows(*FAMILIES["BERT"][1:], ROWS, seed=4)
    norms = _one_by_one(model, traced, features, labels).norm(dim=1)
    whole = copy.deepcopy(model).requires_grad_(True)
    all_traced = graph.trace(whole, FAMILIES["BERT"][1], input_dtype="int64")
    assert (_one_by_one(whole, all_traced, features, labels).norm(dim=1) > norms).all()
    clip_norm = norms.max().item() * 1.001
    got = _trainer(model, traced, tmp_path)(
        features, labels, torch.ones(ROWS, dtype=torch.float64), clip_norm
    )
    want = _one_by_one(model, traced, features, labels).sum(0)
    assert (got - want).norm() <= 1e-5 * want.norm()


class Exploding(nn.Module):
    """Frozen weights within the cap that make a row overflow float64, unless its features are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.frozen(x).pow(8.0).pow(8.0).pow(8.0) + x)


def test_a_row_that_overflows_in_the_frozen_part_counts_as_nothing(tmp_path: Path) -> None:
    model = uf.lora(Exploding(), rank=1, targets=("out",))
    with torch.no_grad():
        model.get_parameter("frozen.weight").fill_(1e4)
        model.get_parameter("frozen.bias").zero_()
        model.get_parameter("out.up.weight").fill_(0.5)
    traced = graph.trace(model, (4,))
    clipped_sum = _trainer(model, traced, tmp_path)
    features = torch.zeros(ROWS, 4, dtype=torch.float64)
    features[:, 0], features[:, 1] = 1e-8, -1e-8  # whose effects cancel in every frozen unit
    labels, present = torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS, dtype=torch.float64)
    fine = clipped_sum(features, labels, present, 0.5)
    assert fine.norm() > 0
    features[2] = 1.0
    assert not torch.isfinite(copy.deepcopy(model).double()(features)[2]).any()
    got = clipped_sum(features, labels, present, 0.5)
    assert torch.allclose(got, fine * (ROWS - 1) / ROWS, rtol=1e-5, atol=0)
