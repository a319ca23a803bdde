"""Every family of models that is promised: it crosses as data unchanged, and its clipped sums are those of a loop over
single records in float64 with the builder's own model."""

from __future__ import annotations

import copy

import pytest
import torch
from model_families import FAMILIES, rows
from torch import nn
from torch.nn import functional

from usufruct import graph
from usufruct.domain.training_job import Clipping
from usufruct_server.holder.training import per_sample
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import STABILITY, ClippedSum

ROWS = 6
BY_ROWS = ("layers that share a matrix", "einsum", "three-dimensional convolution")


def _made(name: str) -> tuple[nn.Module, graph.TracedModel]:
    make, shape, dtype = FAMILIES[name]
    torch.manual_seed(len(name))
    model = make()
    return model, graph.trace(model, shape, input_dtype=dtype)


def _clipped_sum(
    model: nn.Module, traced: graph.TracedModel, clipping: Clipping, real: torch.dtype = torch.float64
) -> ClippedSum:
    module = graph.rebuild(traced.graph)
    graph.load_flat(module, graph.vector_from_model(model, traced))
    return ClippedSum(module, LOSSES["cross_entropy"], clipping, real)


def _one_by_one(
    model: nn.Module, traced: graph.TracedModel, features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Per-sample gradients [batch, parameters] of the builder's own model, one record at a time."""
    own = copy.deepcopy(model).double().train()
    parameters = [own.get_parameter(name) for _, name in traced.parameter_names]
    gradients = []
    for row in range(len(features)):
        loss = functional.cross_entropy(own(features[row : row + 1]), labels[row : row + 1])
        found = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(gradients)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rebuilt_model_computes_the_same(name: str) -> None:
    model, traced = _made(name)
    module = graph.rebuild(traced.graph)
    graph.load_weights(module, graph.pack_vector(traced.graph, graph.vector_from_model(model, traced)))
    model.double().eval()
    module.double().eval()
    for count in (1, 5):
        features, _ = rows(*FAMILIES[name][1:], count, seed=1)
        assert torch.allclose(module(features), model(features), rtol=1e-9, atol=1e-9)
    assert sorted(own for _, own in traced.parameter_names) == sorted(dict(model.named_parameters()))


@pytest.mark.parametrize(
    ("real", "kept_numbers"), [(torch.float64, 0), (torch.float64, 1 << 23), (torch.float32, 1 << 23)]
)
@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("name", FAMILIES)
def test_clipped_sums_equal_those_of_single_records(
    name: str, clipping: Clipping, real: torch.dtype, kept_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By gradients as numbers and by book-keeping, and as they are shipped."""
    monkeypatch.setattr(per_sample, "KEPT_NUMBERS", kept_numbers)
    model, traced = _made(name)
    features, labels = rows(*FAMILIES[name][1:], ROWS, seed=2)
    gradients = _one_by_one(model, traced, features, labels)
    norms = gradients.norm(dim=1, keepdim=True)
    clip_norm = norms.median().item()  # half are clipped, half are not
    flat = (clip_norm / norms).clamp(max=1.0)
    want = (gradients * (flat if clipping is Clipping.FLAT else clip_norm / (norms + STABILITY))).sum(0)
    clipped_sum = _clipped_sum(model, traced, clipping, real)
    got = clipped_sum(features, labels, torch.ones(ROWS, dtype=torch.float64), clip_norm)
    assert (got - want).norm() <= (1e-9 if real == torch.float64 else 1e-4) * want.norm()
    assert clipped_sum.by_rows == (name in BY_ROWS)


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_micro_batches_give_the_sum_of_one_batch(name: str) -> None:
    model, traced = _made(name)
    clipped_sum = _clipped_sum(model, traced, Clipping.FLAT)
    features, labels = rows(*FAMILIES[name][1:], ROWS, seed=3)
    whole = clipped_sum(features, labels, torch.ones(ROWS, dtype=torch.float64), 0.5)
    parts = torch.zeros_like(whole)
    size = 4
    for at in range(0, ROWS, size):
        taken = min(size, ROWS - at)
        padded = torch.zeros((size, *features.shape[1:]), dtype=features.dtype)
        padded[:taken] = features[at : at + taken]
        targets = torch.zeros(size, dtype=torch.int64)
        targets[:taken] = labels[at : at + taken]
        present = (torch.arange(size) < taken).double()
        parts += clipped_sum(padded, targets, present, 0.5)
    assert torch.allclose(parts, whole, rtol=1e-9, atol=1e-12)
    empty = clipped_sum(features * 0, labels, torch.zeros(ROWS, dtype=torch.float64), 0.5)
    assert not empty.any()  # padding is nothing, exactly


@pytest.mark.parametrize("name", FAMILIES)
def test_another_record_does_not_reach_what_a_record_adds(name: str) -> None:
    model, traced = _made(name)
    clipped_sum = _clipped_sum(model, traced, Clipping.FLAT)
    features, labels = rows(*FAMILIES[name][1:], ROWS, seed=4)
    present = torch.ones(ROWS, dtype=torch.float64)
    present[2] = 0.0
    before = clipped_sum(features, labels, present, 0.5)
    altered = features.clone()
    for other in (features[2] * 0, features[2] * -7, features[2] * 0 + (1 << 40)):
        altered[2] = other
        assert torch.allclose(clipped_sum(altered, labels, present, 0.5), before, rtol=1e-9, atol=1e-12)
