"""One round of DP-SGD at one holder (Abadi et al. 2016), with full local noise in every step.

Poisson sampling → per-sample gradients → clipping → float64 sum → Gaussian noise → division by the declared nominal
batch size → a step of the local optimiser; several steps, then the difference of the weights.

*Guarantee*: each step's noised sum is the sub-sampled Gaussian mechanism that ``LocalPlan.mechanism`` prices, for
neighbours that differ by one row: sampling by ``poisson_mask``, sensitivity ``max_grad_norm``, noise of standard
deviation ``noise_standard_deviation`` by ``noised_sum``. All else is post-processing of noised sums. No outcome depends
on the rows in any other way: no rows, one class, a row that overflows, all end in an update of the same form.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.graph import own_layers
from usufruct.graph.model_graph import INT64, not_allowed
from usufruct.privacy.gaussian_noise import noised_sum
from usufruct.privacy.leg_plan import LegPlan
from usufruct.privacy.plan import LocalPlan
from usufruct.privacy.sampling import poisson_mask, random_order
from usufruct_server.holder.training.per_sample import ClippedSum, Part
from usufruct_server.holder.training.query_sum import QuerySum
from usufruct_server.holder.training.step_sum import StepSum
from usufruct_server.holder.training.time_slot import Clock, RowTime

_DTYPES = {"f": torch.float32, "i": torch.int64}
_RARE_NATS = 100 * math.log(2)
_REHEARSED_MICRO_BATCHES = 2
_MOST_REHEARSALS = 7
_ENOUGH_SECONDS = 0.2
"""For all rehearsals; two are taken in any case."""

BoundedSum = ClippedSum | QuerySum
"""What a step adds up over its sample: of each row its clipped gradient, or what a query takes of it."""


@lru_cache(maxsize=64)
def micro_batches(plan: LegPlan) -> int:
    """Micro-batches that every step runs, from public figures alone: enough for all samples but a share of 2^-100, by Chernoff's
    bound for the upper tail of a binomial law, exp(-m·((1+x)·ln(1+x) - x)) for (1+x)·m or more where m are expected. A
    larger sample takes more; it is never cut, which would let rows push each other out."""
    expected = plan.nominal_batch_size

    def is_rare(size: int) -> bool:
        excess = size / expected - 1.0
        return expected * ((1.0 + excess) * math.log1p(excess) - excess) >= _RARE_NATS

    size = math.ceil(expected)
    while size < plan.nominal_size and not is_rare(size + 1):
        size += max(1, size >> 10)
    return math.ceil(min(size, plan.nominal_size) / plan.micro_batch_size)


def train_round(
    clipped_sum: BoundedSum,
    data: PreparedData,
    plan: LocalPlan,
    optimizer: LocalOptimizer,
    row_time: RowTime | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Trains from the present weights and gives the update. Call it only after the charge.

    Memory: for one step some chunks, whatever the model's size; for several, the update, and the momentum if there is
    any, in float64.

    Args:
        clipped_sum: the job's model, with this round's weights, and its loss; or its query, of one step. Once the first chunk is given, its weights
            are needed no more: they may be overwritten.
        data: the holder's rows; may have none.
        plan: what is sampled, clipped and noised.
        optimizer: of the job. Its momentum starts at zero in every round.
        row_time: counts what is done with rows.
    Returns:
        New weights minus old ones, float64, finite, in layout order, a chunk at a time.
    """
    several = plan.local_steps > 1
    # kept apart from the weights, so that none of its bits is lost beside them
    update = np.zeros(clipped_sum.parameters) if several else None
    velocity = np.zeros(clipped_sum.parameters) if several and optimizer.momentum_nano else None
    for left in reversed(range(plan.local_steps)):
        at = 0
        for chunk in _chunks(clipped_sum, data, plan, row_time):
            change = noised_chunk(chunk, plan, clipped_sum.parameters)
            part = slice(at, at + change.size)
            at += change.size
            if velocity is not None:
                velocity[part] *= optimizer.momentum_nano / NANO
                velocity[part] += change
                change = velocity[part]
            change = change * -(optimizer.learning_rate_nano / NANO)
            if update is not None:
                update[part] += change
                change = update[part]
            if not left:
                yield change
        if left:
            assert isinstance(clipped_sum, ClippedSum)  # a query has one step
            clipped_sum.move(update)


def noised_chunk(chunk: NDArray[np.float64], plan: LocalPlan, count: int) -> NDArray[np.float64]:
    """A chunk of a step's clipped sum of ``count`` values, noised and divided by the declared nominal batch size."""
    noised = noised_sum(chunk, plan.noise_multiplier, plan.max_grad_norm, count)
    noised /= plan.nominal_batch_size
    return noised


def sum_over_sample(
    clipped_sum: BoundedSum, data: PreparedData, plan: LegPlan, row_time: RowTime | None = None
) -> NDArray[np.float64]:
    """The clipped sum of one step as a whole, without noise; float64, shape (parameters,). It must not leave its caller."""
    row_time = row_time or RowTime()
    with row_time:
        return clipped_sums(clipped_sum, data, plan).whole()


def _chunks(
    clipped_sum: BoundedSum, data: PreparedData, plan: LegPlan, row_time: RowTime | None
) -> Iterator[NDArray[np.float64]]:
    """The chunks of a step's :func:`clipped_sums`."""
    row_time = row_time or RowTime()
    with row_time:
        total = clipped_sums(clipped_sum, data, plan)
    yield from row_time.counting(total.chunks())


def clipped_sums(clipped_sum: BoundedSum, data: PreparedData, plan: LegPlan) -> StepSum:
    """Clipped sum over a fresh Poisson sample, without noise: it must not leave the process. The sample ends here.

    Rows go to random places, since a row's rounding may depend on where it is, and a hostile model can make much of the last
    bit. So one row more moves no other as long as the sample fits into :func:`micro_batches`: given the places of the others
    it is a row in a place or none. What a place's number is says nothing else. No more rows are there than the plan's nominal
    size (``load_card_data``), so a sample does not fit with a probability below 2^-100, which is counted with the samplers'.
    """
    sample = np.flatnonzero(poisson_mask(len(data.labels), plan.sample_rate))
    size, least = plan.micro_batch_size, micro_batches(plan)
    row_at = np.full(max(least, math.ceil(len(sample) / size)) * size, -1)
    row_at[random_order(len(row_at))[: len(sample)]] = sample
    total = StepSum(clipped_sum.parameters)
    for rows in row_at.reshape(-1, size):
        for part in _clipped(clipped_sum, plan.clip_norm, *_gathered(data, rows)):
            total.add(part)
    return total


def _gathered(data: PreparedData, rows: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
    """Features, labels, which are present, and squared lengths of the features, of the rows at some places; -1 for none."""
    absent, size = rows < 0, len(rows)
    # PyTorch's memory begins where a vector does: the last bits of a product may depend on that
    features = torch.empty((size, *data.features.shape[1:]), dtype=_DTYPES[data.features.dtype.kind])
    labels = torch.empty(size, dtype=torch.int64)
    squares = torch.zeros(size, dtype=torch.float64)
    of_features, of_labels = features.numpy(), labels.numpy()
    if len(data.labels):
        np.take(data.features, rows, axis=0, mode="clip", out=of_features)
        np.take(data.labels, rows, mode="clip", out=of_labels)
        np.take(data.squared_lengths, rows, mode="clip", out=squares.numpy())
    of_features[absent], of_labels[absent] = 0, 0
    return features, labels, torch.from_numpy(~absent).double(), squares


def _clipped(
    clipped_sum: BoundedSum,
    clip_norm: float,
    features: torch.Tensor,
    labels: torch.Tensor,
    present: torch.Tensor,
    squares: torch.Tensor,
) -> Iterator[Part]:
    """The clipped sum of a micro-batch, whatever its rows do. Where PyTorch stops at a row, which nothing in the
    allow-list is known to make it do, every row is taken alone and those that stop it count as nothing: to let the
    whole micro-batch count as nothing would let one row take all others with it."""
    try:
        whole = clipped_sum.part(features, labels, present, clip_norm, squares)
    except Exception:
        for row in range(len(features)):
            alone = torch.zeros_like(present)
            alone[row] = present[row]
            only = features * alone.reshape(-1, *(1 for _ in features.shape[1:]))
            with contextlib.suppress(Exception):
                yield clipped_sum.part(only, labels, alone, clip_norm)
    else:
        yield whole


def rehearse(clipped_sum: BoundedSum, plan: LegPlan, clock: Clock | None = None) -> float:
    """Takes steps on made-up rows, so that a graph or a size that cannot be run is refused before any charge, and that the
    time of a step is known before any row is read.

    Every micro-batch is full. Of a step with many, two are taken for all; the first rehearsal is not counted, for much
    of what it does is done once, and neither is the worst of several, which is a moment without the processor.

    Returns:
        Seconds of the worst one counted, from what is done with rows.
    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED.
    """
    size, count = plan.micro_batch_size, micro_batches(plan)
    taken = min(count, _REHEARSED_MICRO_BATCHES)
    made_up = _made_up(clipped_sum, taken * size)
    seconds: list[float] = []
    spent = 0.0
    while len(seconds) < 2 or (len(seconds) <= _MOST_REHEARSALS and spent < _ENOUGH_SECONDS):
        sampling, step = (RowTime(clock) if clock else RowTime() for _ in range(2))
        with sampling:
            np.flatnonzero(poisson_mask(plan.nominal_size, plan.sample_rate))
            random_order(count * size)
        try:
            with step:
                summed = StepSum(clipped_sum.parameters)
                for index in range(taken):
                    rows = np.arange(index * size, (index + 1) * size)
                    features, labels, present, squares = _gathered(made_up, rows)
                    summed.add(clipped_sum.part(features, labels, present, plan.clip_norm, squares))
                for _ in summed.chunks():
                    pass
        except Exception as error:
            raise not_allowed(
                f"The model cannot be trained at {size} rows at once ({type(error).__name__}); use a smaller micro-batch "
                "or a smaller model."
            ) from error
        spent += sampling.seconds + step.seconds
        seconds.append(sampling.seconds + step.seconds * count / taken)
    counted = sorted(seconds[1:])
    return counted[-2 if len(counted) > 2 else -1]


def _made_up(clipped_sum: BoundedSum, count: int) -> PreparedData:
    """Rows of the features' shape that are nobody's."""
    generator, shape = np.random.default_rng(0), (count, *clipped_sum.input_shape)
    labels = np.zeros(count, dtype=np.int64)
    module = clipped_sum.module
    if module is not None and module.graph.input_dtype == INT64:
        layers = module.modules()
        known = max(
            (layer.num_embeddings for layer in layers if isinstance(layer, own_layers.Embedding)), default=2
        )
        return PreparedData(generator.integers(0, known, shape), labels)
    return PreparedData(generator.uniform(-1.0, 1.0, shape).astype(np.float32), labels)
