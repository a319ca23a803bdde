"""Book-keeping gives the sum of clipped per-sample gradients, and no row can move it by more than the clip norm."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from usufruct import graph
from usufruct.domain.training_job import Clipping
from usufruct.privacy.plan import CLIP_SLACK, GRID_SLACK
from usufruct_server.holder.training.kept_layers import ADDED_BY_ROUNDING
from usufruct_server.holder.training.layer_rules import LAYER_RULES
from usufruct_server.holder.training.losses import LOSSES, Loss
from usufruct_server.holder.training.per_sample import STABILITY, ClippedSum, clip_factors

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import training

CROSS_ENTROPY = LOSSES["cross_entropy"]
_LINEAR = LAYER_RULES[nn.Linear].book_keeping
assert _LINEAR is not None


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + functional.gelu(self.norm(self.first(x))))


class Matrices(nn.Module):
    """Layers applied to values of three and four dimensions, where a row uses the weights several times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.deeper = nn.Linear(3, 4), nn.Linear(2, 2)
        self.norm, self.small = nn.LayerNorm((2, 4)), nn.LayerNorm(4)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(torch.tanh(self.inner(x.view(x.size(0), 2, 3))))
        h = self.deeper(self.small(h).view(x.size(0), 2, 2, 2))
        return self.last(h.flatten(1))


MODELS: dict[str, nn.Module] = {
    "logistic regression": nn.Linear(6, 3),
    "perceptron": nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)),
    "layer norms": nn.Sequential(
        nn.LayerNorm(6), nn.Linear(6, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 3)
    ),
    "residual": Residual(),
    "matrices": Matrices(),
}


def _clipped_sum(
    model: nn.Module,
    loss: Loss,
    scale: float = 1.0,
    clipping: Clipping = Clipping.FLAT,
    real: torch.dtype = torch.float64,
    width: int = 6,
) -> ClippedSum:
    traced = graph.trace(model, (width,))
    module = graph.rebuild(traced.graph)
    graph.load_flat(module, graph.vector_from_model(model, traced) * scale)
    return ClippedSum(module, loss, clipping, real)


def _rows(count: int, seed: int, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, 3, (count,), generator=generator)


def _plain(clipped_sum: ClippedSum) -> graph.InterpreterModule:
    """The same model with the same weights, float64 throughout, as PyTorch has it."""
    module = graph.rebuild(clipped_sum.module.graph).double()
    for own, weights in zip(module.parameters(), clipped_sum.module.parameters(), strict=True):
        own.data.copy_(weights)
    return module


def _one_by_one(
    clipped_sum: ClippedSum, features: torch.Tensor, labels: torch.Tensor, clip_norm: float
) -> torch.Tensor:
    """The definition: a backward pass for every row alone, each gradient clipped, then the sum."""
    module = _plain(clipped_sum)
    total = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    for row in range(len(features)):
        loss = clipped_sum.loss.per_row(module(features[row : row + 1]), labels[row : row + 1]).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        norm = gradient.norm().item()
        if clipped_sum.clipping is Clipping.AUTOMATIC:
            total += gradient * clip_norm / (norm + STABILITY)
        else:
            total += gradient * min(1.0, clip_norm / norm)
    return total


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("clip_norm", [1e-3, 0.3, 1.0, 1e6])
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_a_loop_over_single_rows(name: str, clip_norm: float, clipping: Clipping) -> None:
    clipped_sum = _clipped_sum(MODELS[name], CROSS_ENTROPY, clipping=clipping)
    features, labels = _rows(17, seed=1)
    got = clipped_sum(features, labels, torch.ones(17, dtype=torch.float64), clip_norm)
    want = _one_by_one(clipped_sum, features, labels, clip_norm)
    assert (got - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize("clip_share", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", training.MODELS)
def test_the_measured_models_are_within_1e_6_in_float32(name: str, clip_share: float) -> None:
    """As they are shipped and measured, beside a loop over single rows in float64; more rows than a block has."""
    torch.manual_seed(1)
    clipped_sum = _clipped_sum(
        training.MODELS[name](), CROSS_ENTROPY, real=torch.float32, width=training.WIDTH
    )
    features, labels = _rows(150, seed=8, width=training.WIDTH)
    features = features.float().double().clamp(-1, 1)
    present = torch.ones(150, dtype=torch.float64)
    bare = clipped_sum(features[:1], labels[:1], present[:1], 1e9).norm().item()
    clip_norm = bare * clip_share
    got = clipped_sum(features, labels, present, clip_norm)
    want = _one_by_one(clipped_sum, features, labels, clip_norm)
    assert (got - want).norm() <= 1e-6 * want.norm()
    assert (got - want).norm() > 1e-12 * want.norm()  # it is float32


@pytest.mark.parametrize("rows", [64, 200, 600])
@pytest.mark.parametrize("name", training.MODELS)
def test_a_row_moves_a_float32_sum_by_no_more_than_is_left_for_rounding(name: str, rows: int) -> None:
    """Rows that are all alike add up to the largest partial sums, and so to the largest rounding errors. At least half
    of a block's errors must point one way for this to be off: it shows gross faults, the proof is in kept_layers."""
    assert (1 - CLIP_SLACK) * (1 + ADDED_BY_ROUNDING + 2.0**-18) <= 1 - GRID_SLACK
    torch.manual_seed(1)
    clipped_sum = _clipped_sum(
        training.MODELS[name](), CROSS_ENTROPY, 3.0, real=torch.float32, width=training.WIDTH
    )
    features, _ = _rows(1, seed=8, width=training.WIDTH)
    features, labels = features.expand(rows, -1).contiguous(), torch.zeros(rows, dtype=torch.int64)
    present = torch.ones(rows, dtype=torch.float64)
    bare = clipped_sum(features[:1], labels[:1], present[:1], 1e9).norm().item()
    total = clipped_sum(features, labels, present, bare / 3)
    for row in (0, 1, rows // 2, rows - 1):
        without = present.clone()
        without[row] = 0.0
        moved = (total - clipped_sum(features, labels, without, bare / 3)).norm().item()
        assert moved == pytest.approx(bare / 3, rel=ADDED_BY_ROUNDING)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_one_of_single_rows(name: str) -> None:
    outputs = 3 if name == "cross_entropy" else 1
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, outputs))
    clipped_sum = _clipped_sum(model, LOSSES[name])
    features, labels = _rows(9, seed=2)
    labels %= 2
    got = clipped_sum(features, labels, torch.ones(9, dtype=torch.float64), 0.5)
    assert torch.allclose(got, _one_by_one(clipped_sum, features, labels, 0.5), rtol=1e-9, atol=1e-12)


def test_opacus_has_the_same_per_sample_gradients() -> None:
    from opacus import GradSampleModule

    clipped_sum = _clipped_sum(MODELS["layer norms"], CROSS_ENTROPY)
    features, labels = _rows(12, seed=3)
    sampled = GradSampleModule(_plain(clipped_sum), loss_reduction="sum")
    functional.cross_entropy(sampled(features), labels, reduction="sum").backward()
    gradients = torch.cat([p.grad_sample.flatten(1) for p in sampled.parameters()], dim=1)
    want = (gradients * (0.4 / gradients.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(0)
    got = clipped_sum(features, labels, torch.ones(12, dtype=torch.float64), 0.4)
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("scale", [1.0, 100.0, 9000.0])
@pytest.mark.parametrize("name", MODELS)
def test_one_row_moves_the_sum_by_at_most_the_clip_norm(name: str, scale: float, clipping: Clipping) -> None:
    clipped_sum = _clipped_sum(MODELS[name], CROSS_ENTROPY, scale, clipping)
    features, labels = _rows(16, seed=4)
    features[::2] *= 1e4
    everyone = torch.ones(16, dtype=torch.float64)
    total = clipped_sum(features, labels, everyone, 0.7)
    for row in range(16):
        without = everyone.clone()
        without[row] = 0.0
        assert (total - clipped_sum(features, labels, without, 0.7)).norm() <= 0.7 * (1 + 1e-9)


def test_large_gradients_are_clipped_to_the_norm_and_small_ones_are_left() -> None:
    clipped_sum = _clipped_sum(MODELS["perceptron"], CROSS_ENTROPY)
    features, labels = _rows(1, seed=5)
    present = torch.ones(1, dtype=torch.float64)
    bare = clipped_sum(features, labels, present, 1e9).norm()
    assert clipped_sum(features, labels, present, bare.item() / 3).norm() == pytest.approx(bare.item() / 3)
    assert clipped_sum(features, labels, present, bare.item() * 3).norm() == pytest.approx(bare.item())


def test_automatic_clipping_takes_all_but_the_smallest_gradients_to_about_the_norm() -> None:
    clipped_sum = _clipped_sum(MODELS["perceptron"], CROSS_ENTROPY, clipping=Clipping.AUTOMATIC)
    features, labels = _rows(8, seed=5)
    present = torch.eye(8, dtype=torch.float64)
    norms = [clipped_sum(features, labels, alone, 50.0).norm().item() for alone in present]
    assert all(48.0 < norm < 50.0 for norm in norms)


@pytest.mark.parametrize("clipping", Clipping)
def test_no_norm_is_taken_above_the_bound(clipping: Clipping) -> None:
    tiny = torch.finfo(torch.float64).tiny
    norms = torch.tensor([0.0, tiny, 1e-9, STABILITY, 0.5, 1.0, 1e6, 1e300], dtype=torch.float64)
    for clip_norm in (1e-3, 0.999, 1e3):
        factors = clip_factors(norms, clip_norm, clipping)
        assert torch.isfinite(factors).all()
        assert (factors * norms <= clip_norm * (1 + 1e-15)).all()


@pytest.mark.parametrize("clipping", Clipping)
def test_a_gradient_of_zero_stays_zero(clipping: Clipping) -> None:
    clipped_sum = _clipped_sum(nn.Linear(6, 3, bias=False), CROSS_ENTROPY, clipping=clipping)
    features, labels = _rows(4, seed=8)
    nothing = torch.zeros_like(features)
    assert clipped_sum(nothing, labels, torch.ones(4, dtype=torch.float64), 1.0).tolist() == [0.0] * 18
    features[1:] = 0.0
    one = clipped_sum(features, labels, torch.ones(4, dtype=torch.float64), 1.0)
    assert 0.0 < one.norm() <= 1.0


def test_padding_counts_as_nothing() -> None:
    clipped_sum = _clipped_sum(MODELS["matrices"], CROSS_ENTROPY)
    features, labels = _rows(5, seed=6)
    bare = clipped_sum(features, labels, torch.ones(5, dtype=torch.float64), 1.0)
    present = torch.tensor([1.0] * 5 + [0.0] * 11, dtype=torch.float64)
    padded = torch.cat([features, torch.zeros(11, 6, dtype=torch.float64)])
    got = clipped_sum(padded, torch.cat([labels, torch.zeros(11, dtype=torch.int64)]), present, 1.0)
    assert torch.allclose(got, bare, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("real", [torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e300, -1e300, 1e25])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_that_overflows_counts_as_zero_and_hurts_no_other(
    name: str, poison: float, real: torch.dtype
) -> None:
    clipped_sum = _clipped_sum(MODELS[name], CROSS_ENTROPY, real=real)
    features, labels = _rows(8, seed=7)
    everyone = torch.ones(8, dtype=torch.float64)
    without = everyone.clone()
    without[3] = 0.0
    want = clipped_sum(features, labels, without, 1.0)
    poisoned = features.clone()
    poisoned[3] = poison
    got = clipped_sum(poisoned, labels, everyone, 1.0)
    assert torch.isfinite(got).all()
    assert (got - want).norm() <= 1.0 + (ADDED_BY_ROUNDING if real == torch.float32 else 1e-9)
    if not math.isfinite(poison):
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-14)


def _cancelling(width: int, size: float, rest: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, d) of one row at two places whose products nearly cancel: each has the norm size², their sum about ``rest``."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(1, 1, width, generator=generator, dtype=torch.float64)
    d = torch.randn(1, 1, width, generator=generator, dtype=torch.float64)
    a, d = a / a.norm() * size, d / d.norm() * size
    little = (
        torch.randn(1, 1, width, generator=generator, dtype=torch.float64) * rest / size / math.sqrt(width)
    )
    return torch.cat([a, a], dim=1), torch.cat([d, little - d], dim=1)


def test_a_norm_from_a_gram_matrix_is_never_below_the_true_one() -> None:
    layer = nn.Linear(32, 32, bias=False)
    lost = 0
    for seed in range(40):
        a, d = _cancelling(32, 1e8, 1e8, seed)
        true = torch.bmm(d.transpose(1, 2), a).norm().item()
        grams = (
            (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(d, d.transpose(1, 2)))
            .sum()
            .clamp(min=0)
            .sqrt()
            .item()
        )
        lost += grams < 0.5 * true  # what the rule would say without its margin
        squares, masses = _LINEAR.squares(layer, [(a, d)])
        assert squares.sqrt().item() >= true * (1 - 1e-9)
        assert masses.sqrt().item() == pytest.approx(2e16, rel=1e-6)
    assert lost >= 5  # so the test can fail


@pytest.mark.parametrize("clipping", Clipping)
def test_a_row_whose_terms_cancel_does_not_swallow_the_others(clipping: Clipping) -> None:
    """In a float64 sum a term of 1e24 leaves nothing of a term of 1: such a row must be scaled by its terms."""
    layer = nn.Linear(3, 3, bias=False)  # so narrow that no Gram matrix is used
    clipped_sum = _clipped_sum(MODELS["perceptron"], CROSS_ENTROPY)
    clipped_sum.clipping = clipping
    generator = torch.Generator().manual_seed(0)
    bad_a, bad_d = _cancelling(3, 1e12, 1.0, 0)
    good = [torch.randn(1, 2, 3, generator=generator, dtype=torch.float64) for _ in range(8)]
    a, d = torch.cat([bad_a, *good[:4]]), torch.cat([bad_d, *good[4:]])
    present = torch.ones(5, dtype=torch.float64)
    rule = _LINEAR
    for where in range(5):
        order = [*range(1, where + 1), 0, *range(where + 1, 5)]
        squares, masses = rule.squares(layer, [(a[order], d[order])])
        factors = clipped_sum._factors(squares, masses, present, 1.0)
        (total,) = rule.weighted_sums(layer, [(a[order], d[order])], factors)
        without = factors * (torch.arange(5) != where)
        (rest,) = rule.weighted_sums(layer, [(a[order], d[order])], without)
        assert (total - rest).norm() <= 1 + 1e-9
        assert factors[where] * masses[where].sqrt() <= 4096 * (1 + 1e-9)


def test_numbers_too_small_to_be_normal_are_zero_in_the_sum_and_nowhere_else() -> None:
    """float64 below 1e-308 is tens of times slower where it is kept, so the time of a sum would tell of it."""
    seen: list[bool] = []

    def tiny() -> bool:
        return bool((torch.full((64,), 1e-300, dtype=torch.float64) * 1e-20).any())

    def per_row(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(tiny())
        return CROSS_ENTROPY.per_row(output, labels)

    clipped_sum = _clipped_sum(MODELS["perceptron"], Loss("watched", per_row, CROSS_ENTROPY.outputs))
    features, labels = _rows(4, seed=9)
    clipped_sum(features, labels, torch.ones(4, dtype=torch.float64), 1.0)
    assert seen == [False]
    assert tiny()
