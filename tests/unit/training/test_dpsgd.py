"""A round is the mechanism that the plan prices: sampled, clipped, noised and divided exactly so."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from usufruct import graph
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.errors import UsufructError
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training import dpsgd
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum, Part

WIDTH = 5
PLAN = LocalPlan(
    sample_rate=0.25,
    max_grad_norm=0.8,
    noise_multiplier=1.5,
    local_steps=1,
    rounds=10,
    spare_attempts=1,
    micro_batch_size=16,
    nominal_size=100,
    order=6,
    delta=1e-5,
)
SGD = LocalOptimizer("sgd", NANO // 2)


def _plan(**changes: object) -> LocalPlan:
    return dataclasses.replace(PLAN, **changes)  # type: ignore[arg-type]


def _module() -> graph.InterpreterModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, 1))
    traced = graph.trace(model, (WIDTH,))
    module = graph.rebuild(traced.graph)
    graph.load_flat(module, graph.vector_from_model(model, traced))
    return module


def _model() -> ClippedSum:
    """In float64, so that the arithmetic around it shows to the last bits."""
    return ClippedSum(_module(), LOSSES["binary_cross_entropy_with_logits"], real=torch.float64)


def _train(
    clipped_sum: ClippedSum, data: PreparedData, plan: LocalPlan, optimizer: LocalOptimizer
) -> np.ndarray:
    return np.concatenate([*dpsgd.train_round(clipped_sum, data, plan, optimizer)])


def _data(count: int, seed: int = 1) -> PreparedData:
    generator = np.random.default_rng(seed)
    features = generator.uniform(-1, 1, (count, WIDTH)).astype(np.float32)
    return PreparedData(features, generator.integers(0, 2, count))


def _weights(module: nn.Module) -> np.ndarray:
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()


def _clipped(module: nn.Module, data: PreparedData, rows: np.ndarray, clip_norm: float) -> np.ndarray:
    """Sum of clipped gradients by plain autograd, a row at a time."""
    total = np.zeros(len(_weights(module)))
    for row in rows:
        output = module(torch.from_numpy(data.features[row : row + 1]).double())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            output[0, 0], torch.tensor(float(data.labels[row]), dtype=torch.float64)
        )
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        gradient = torch.cat([g.flatten() for g in gradients]).numpy()
        total += gradient * min(1.0, clip_norm / np.linalg.norm(gradient))
    return total


@pytest.fixture
def known_noise(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Replaces the noise by ones times its standard deviation, and records what was asked for."""
    asked: list[tuple[int, float]] = []

    def ones(total: np.ndarray, noise_multiplier: float, max_grad_norm: float, parameters: int) -> np.ndarray:
        assert len(total) == parameters  # so small a model is one chunk
        asked.append((len(total), noise_multiplier * max_grad_norm))
        return total + noise_multiplier * max_grad_norm

    monkeypatch.setattr(dpsgd, "noised_sum", ones)
    return asked


@pytest.fixture
def known_samples(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Replaces the Poisson sample by a fixed sequence, and records every mask."""
    masks: list[np.ndarray] = []
    generator = np.random.default_rng(9)

    def fixed(count: int, sample_rate: float) -> np.ndarray:
        assert sample_rate == PLAN.sample_rate
        masks.append(generator.random(count) < sample_rate)
        return masks[-1]

    monkeypatch.setattr(dpsgd, "poisson_mask", fixed)
    return masks


def test_a_step_is_the_noised_clipped_sum_over_the_declared_batch(
    known_noise: list[tuple[int, float]], known_samples: list[np.ndarray]
) -> None:
    plain, data = _module().double(), _data(60)
    got = _train(_model(), data, PLAN, SGD)
    total = _clipped(plain, data, np.flatnonzero(known_samples[0]), 0.8 * (1 - 1e-3))
    want = -0.5 * (total + 1.5 * 0.8) / (0.25 * 100)
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)
    assert known_noise == [(len(got), 1.5 * 0.8)]
    # The test can see each factor: without clipping, or by the drawn batch, the result would differ.
    unclipped = _clipped(plain, data, np.flatnonzero(known_samples[0]), math.inf)
    assert np.linalg.norm(unclipped - total) > 1e-2 * np.linalg.norm(total)
    assert known_samples[0].sum() != 25


def test_every_step_draws_its_own_sample_and_noise(
    known_noise: list[tuple[int, float]], known_samples: list[np.ndarray]
) -> None:
    _train(_model(), _data(60), _plan(local_steps=7), SGD)
    assert len(known_noise) == len(known_samples) == 7
    assert all(len(mask) == 60 for mask in known_samples)


def test_several_steps_with_momentum_follow_torchs_sgd(
    known_noise: list[tuple[int, float]], known_samples: list[np.ndarray]
) -> None:
    reference, data = _module().double(), _data(60)
    before = _weights(reference)
    got = _train(_model(), data, _plan(local_steps=4), LocalOptimizer("sgd", NANO // 2, 9 * NANO // 10))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5, momentum=0.9)
    for mask in known_samples[:4]:
        noised = _clipped(reference, data, np.flatnonzero(mask), PLAN.clip_norm) + 1.5 * 0.8
        parts = torch.from_numpy(noised / 25).split([p.numel() for p in reference.parameters()])
        for parameter, gradient in zip(reference.parameters(), parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
        optimizer.step()
    assert np.allclose(got, _weights(reference) - before, rtol=1e-9, atol=1e-12)


def test_the_sum_is_divided_by_the_declared_size_and_not_by_the_rows(
    known_noise: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpsgd, "poisson_mask", lambda count, rate: np.ones(count, dtype=np.bool_))
    once = _train(_model(), _data(30), PLAN, SGD)
    twice = _train(_model(), _data(30), _plan(nominal_size=200), SGD)
    assert np.allclose(once, 2 * twice, rtol=1e-9)


def test_the_size_of_micro_batches_changes_nothing(
    known_noise: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpsgd, "poisson_mask", lambda count, rate: np.ones(count, dtype=np.bool_))
    updates = [_train(_model(), _data(200), _plan(micro_batch_size=size), SGD) for size in (1, 7, 64, 512)]
    for update in updates[1:]:
        assert np.allclose(update, updates[0], rtol=1e-10, atol=1e-13)


def test_the_work_of_a_step_does_not_follow_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    inner = ClippedSum.part

    def counted(self: ClippedSum, features: torch.Tensor, *rest: torch.Tensor) -> Part:
        calls.append(features.shape)
        return inner(self, features, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ClippedSum, "part", counted)
    shapes = []
    for count in (0, 1, 50, 100):
        calls.clear()
        _train(_model(), _data(count), PLAN, SGD)
        shapes.append(list(calls))
    assert shapes == [shapes[0]] * 4 == [[torch.Size((16, WIDTH))] * dpsgd.micro_batches(PLAN)] * 4


def test_a_holder_without_rows_sends_noise_of_the_priced_deviation() -> None:
    """Mean and deviation over 40,001 coordinates. Each bound is at 6.1 deviations of its estimator: together a false
    alarm about once in 5·10^8 runs. Noise that is 4 % off, or left out of one of the three steps, is found."""
    torch.manual_seed(0)
    traced = graph.trace(nn.Sequential(nn.Linear(WIDTH, 5715), nn.ReLU(), nn.Linear(5715, 1)), (WIDTH,))
    clipped_sum = ClippedSum(graph.rebuild(traced.graph), LOSSES["binary_cross_entropy_with_logits"])
    update = _train(clipped_sum, _data(0), _plan(local_steps=3), SGD)
    deviation = 0.5 * 1.5 * 0.8 / 25 * math.sqrt(3)
    count = len(update)
    assert abs(update.std() / deviation - 1) <= 6.1 / math.sqrt(2 * count)
    assert abs(update.mean()) <= 6.1 * deviation / math.sqrt(count)


def test_no_two_rounds_share_noise() -> None:
    first = _train(_model(), _data(0), PLAN, SGD)
    second = _train(_model(), _data(0), PLAN, SGD)
    assert not np.isclose(first, second, rtol=1e-6).any()


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_no_plan_is_without_noise(noise_multiplier: float) -> None:
    with pytest.raises(UsufructError):
        _plan(noise_multiplier=noise_multiplier)


@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("rate_nano", [1, NANO, 1000 * NANO])
def test_every_holder_and_rate_gives_a_finite_update_of_the_same_form(count: int, rate_nano: int) -> None:
    data = _data(count)
    one_class = PreparedData(data.features, np.ones(count, dtype=np.int64))
    optimizer = LocalOptimizer("sgd", rate_nano, 999_000_000)
    update = _train(_model(), one_class, _plan(local_steps=5), optimizer)
    assert update.dtype == np.float64
    assert update.shape == (29,)
    assert np.isfinite(update).all()


def test_a_row_that_overflows_leaves_a_normal_update() -> None:
    module = _module().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1e300)
    clipped_sum = ClippedSum(module, LOSSES["binary_cross_entropy_with_logits"])
    update = _train(clipped_sum, _data(60), _plan(micro_batch_size=64), SGD)
    assert np.isfinite(update).all()
    assert (update != 0).all()
    assert np.abs(update).max() < 10 * 0.5 * (1.5 * 0.8 + 60 * 0.8) / 25


def test_a_row_at_which_pytorch_stops_counts_as_nothing_and_hurts_no_other(
    known_noise: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpsgd, "poisson_mask", lambda count, rate: np.ones(count, dtype=np.bool_))
    data = _data(40)
    inner = ClippedSum.part
    trigger = torch.from_numpy(data.features[17]).double()

    def stopping(self: ClippedSum, features: torch.Tensor, *rest: object) -> Part:
        if (features == trigger).all(dim=1).any():
            raise RuntimeError("stopped by a row")
        return inner(self, features, *rest)  # type: ignore[arg-type]

    kept = np.arange(40) != 17
    want = _train(_model(), PreparedData(data.features[kept], data.labels[kept]), PLAN, SGD)
    monkeypatch.setattr(ClippedSum, "part", stopping)
    got = _train(_model(), data, PLAN, SGD)
    assert np.allclose(got, want, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_run_is_refused_before_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    dpsgd.rehearse(_model(), PLAN)

    def stopping(self: ClippedSum, *rest: object) -> Part:
        raise MemoryError

    monkeypatch.setattr(ClippedSum, "part", stopping)
    with pytest.raises(UsufructError, match="cannot be trained at 16 rows"):
        dpsgd.rehearse(_model(), PLAN)
