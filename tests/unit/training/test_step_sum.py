"""A step's sum in chunks: the same numbers, noise and integers as of the whole, without the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from usufruct import graph
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.privacy import MechanismInvalid, gaussian_noise, noise_table, noised_sum
from usufruct.privacy.keystream import expand
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training import dpsgd, layer_rules, step_sum
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum, Part
from usufruct_server.holder.training.step_sum import CHUNK_VALUES, StepSum

PLAN = LocalPlan(
    sample_rate=0.5, max_grad_norm=1.0, noise_multiplier=1.0, local_steps=1, rounds=5, spare_attempts=0,
    micro_batch_size=4, nominal_size=40, order=6, delta=1e-5,
)  # fmt: skip


@pytest.fixture
def key_stream(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """One known stream of keys in place of fresh ones; calling it starts the stream again."""
    drawn = [0]

    def words(count: int) -> np.ndarray:
        drawn[0] += 1
        return expand(drawn[0].to_bytes(32, "big"), count)

    monkeypatch.setattr(noise_table, "fresh_words", words)
    monkeypatch.setattr(dpsgd, "random_order", np.arange)

    def again() -> None:
        drawn[0] = 0

    return again


def _clipped_sum() -> ClippedSum:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.LayerNorm(50), nn.Linear(50, 30), nn.Linear(30, 1))
    traced = graph.trace(model, (6,))
    module = graph.rebuild(traced.graph)
    graph.load_flat(module, graph.vector_from_model(model, traced))
    return ClippedSum(module, LOSSES["binary_cross_entropy_with_logits"])


def _data(rows: int) -> PreparedData:
    generator = np.random.default_rng(5)
    return PreparedData(
        generator.uniform(-1, 1, (rows, 6)).astype(np.float32), generator.integers(0, 2, rows)
    )


def _parts(clipped_sum: ClippedSum) -> Iterator[Part]:
    data, present = _data(12), torch.ones(4, dtype=torch.float64)
    for at in range(0, 12, 4):
        features = torch.from_numpy(data.features[at : at + 4]).double()
        yield clipped_sum.part(features, torch.from_numpy(data.labels[at : at + 4]), present, 0.5)


def _summed(clipped_sum: ClippedSum) -> np.ndarray:
    total = StepSum(clipped_sum.parameters)
    for part in _parts(clipped_sum):
        total.add(part)
    return np.concatenate([chunk.copy() for chunk in total.chunks()])


def test_noise_and_rounding_of_chunks_are_those_of_the_whole(key_stream: Callable[[], None]) -> None:
    """Bit for bit, for one stream of keys: so the chunks draw what the whole would, in its order."""
    total = np.random.default_rng(2).normal(size=2 * CHUNK_VALUES + 12_345)
    whole = noised_sum(total, 1.3, 0.7)
    key_stream()
    chunks = [
        noised_sum(total[at : at + CHUNK_VALUES], 1.3, 0.7, total.size)
        for at in range(0, total.size, CHUNK_VALUES)
    ]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert not np.array_equal(noised_sum(total, 1.3, 0.7), whole)  # the stream went on


def test_the_noise_grid_is_judged_by_the_whole_sum_and_not_by_a_chunk() -> None:
    most = gaussian_noise.GRID_SLACK * gaussian_noise.GRID_DEVIATION / 2
    assert noised_sum(np.zeros(4), most / 2.001, 1.0).shape == (4,)
    with pytest.raises(MechanismInvalid, match="on 100 parameters"):
        noised_sum(np.zeros(4), most / 9.999, 1.0, 100)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize("kept_bytes", [0, 4, 1 << 20])
def test_however_it_is_cut_and_kept_the_sum_is_the_same(
    monkeypatch: pytest.MonkeyPatch, chunk: int, kept_bytes: int
) -> None:
    """Micro-batches added up at once, now and then, or at the end: the same additions in the same order."""
    clipped_sum = _clipped_sum()
    want = np.zeros(clipped_sum.parameters)
    for part in _parts(clipped_sum):
        want += np.concatenate([piece.numpy() for piece in part.pieces()])
    monkeypatch.setattr(step_sum, "CHUNK_VALUES", chunk)
    monkeypatch.setattr(step_sum, "_KEPT_BYTES_PER_VALUE", kept_bytes)
    np.testing.assert_array_equal(_summed(clipped_sum), want)


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_however_few_rows_of_a_matrix_are_there_at_once_the_model_is_the_same(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    want = _summed(_clipped_sum())
    monkeypatch.setattr(layer_rules, "PIECE_ELEMENTS", elements)
    np.testing.assert_allclose(_summed(_clipped_sum()), want, rtol=1e-5, atol=1e-6)


def test_a_sample_without_rows_adds_up_to_zeros() -> None:
    assert not np.concatenate([*StepSum(9).chunks()]).any()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("momentum_nano", [0, NANO // 2])
def test_weights_may_be_overwritten_from_the_first_chunk_on(
    key_stream: Callable[[], None], monkeypatch: pytest.MonkeyPatch, steps: int, momentum_nano: int
) -> None:
    """The update takes the place of the weights while it is given out."""
    monkeypatch.setattr(step_sum, "CHUNK_VALUES", 64)
    monkeypatch.setattr(dpsgd, "poisson_mask", lambda count, rate: np.arange(count) % 2 == 0)
    plan, optimizer = dataclasses.replace(PLAN, local_steps=steps), LocalOptimizer("sgd", NANO, momentum_nano)

    def update(spoil: bool) -> np.ndarray:
        key_stream()
        clipped_sum = _clipped_sum()
        names = dict(clipped_sum.module.named_parameters())
        arrays = {name: p.detach().float().numpy().copy() for name, p in names.items()}
        clipped_sum.load(arrays)
        chunks = []
        for chunk in dpsgd.train_round(clipped_sum, _data(40), plan, optimizer):
            chunks.append(chunk.copy())
            for array in arrays.values() if spoil else ():
                array.fill(np.nan)
        assert len(chunks) > 10
        return np.concatenate(chunks)

    np.testing.assert_array_equal(update(spoil=True), update(spoil=False))
