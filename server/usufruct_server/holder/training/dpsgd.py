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

import numpy as np
import torch
from numpy.typing import NDArray

from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.graph.model_graph import not_allowed
from usufruct.privacy.gaussian_noise import noised_sum
from usufruct.privacy.leg_plan import LegPlan
from usufruct.privacy.plan import LocalPlan
from usufruct.privacy.sampling import poisson_mask
from usufruct_server.holder.training.per_sample import ClippedSum

_SPARE_DEVIATIONS = 6.0


def micro_batches(plan: LegPlan) -> int:
    """Micro-batches that every step runs, from public figures alone: enough for all but one step in about 10^9 at a
    holder of the nominal size. A larger sample takes more; it is never cut, which would let rows push each other out."""
    expected = plan.nominal_batch_size
    largest = min(
        float(plan.nominal_size), expected + _SPARE_DEVIATIONS * math.sqrt(expected) + _SPARE_DEVIATIONS
    )
    return math.ceil(largest / plan.micro_batch_size)


def train_round(
    clipped_sum: ClippedSum, data: PreparedData, plan: LocalPlan, optimizer: LocalOptimizer
) -> NDArray[np.float64]:
    """Trains from the module's present weights and returns the update. Call it only after the charge.

    Args:
        clipped_sum: the job's model, with this round's weights, and its loss.
        data: the holder's rows; may have none.
        plan: what is sampled, clipped and noised.
        optimizer: of the job. Its momentum starts at zero in every round.
    Returns:
        New weights minus old ones, float64, shape (parameters,), in layout order, finite.
    """
    parameters = list(clipped_sum.module.parameters())
    old = torch.nn.utils.parameters_to_vector(parameters).detach()
    update = torch.zeros_like(
        old
    )  # kept apart from the weights, so that none of its bits is lost beside them
    velocity = torch.zeros_like(old)
    for _ in range(plan.local_steps):
        noised = _noised_sum(clipped_sum, data, plan, old.numel())
        velocity = velocity * (optimizer.momentum_nano / NANO) + noised / plan.nominal_batch_size
        update -= velocity * (optimizer.learning_rate_nano / NANO)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(old + update, parameters)
    result: NDArray[np.float64] = update.numpy()
    return result


def sum_over_sample(
    clipped_sum: ClippedSum, data: PreparedData, plan: LegPlan, count: int
) -> NDArray[np.float64]:
    """Clipped sum over a fresh Poisson sample, without noise; float64, shape (count,), finite. It must not leave its caller.

    A sum that is not finite, which no rows are known to bring about, counts as zero: what follows is an update like any
    other and not a failure that tells of the rows.
    """
    sample = np.flatnonzero(poisson_mask(len(data.labels), plan.sample_rate))
    size = plan.micro_batch_size
    total = torch.zeros(count, dtype=torch.float64)
    shape = clipped_sum.module.graph.input_shape
    for index in range(max(micro_batches(plan), math.ceil(len(sample) / size))):
        rows = sample[index * size : (index + 1) * size]
        features = torch.zeros((size, *shape), dtype=torch.float64)
        labels = torch.zeros(size, dtype=torch.int64)
        present = torch.zeros(size, dtype=torch.float64)
        features[: len(rows)] = torch.from_numpy(data.features[rows])
        labels[: len(rows)] = torch.from_numpy(data.labels[rows])
        present[: len(rows)] = 1.0
        total += _clipped(clipped_sum, features, labels, present, plan.clip_norm)
    result: NDArray[np.float64] = total.numpy()
    return result if np.isfinite(result).all() else np.zeros_like(result)


def _noised_sum(clipped_sum: ClippedSum, data: PreparedData, plan: LocalPlan, count: int) -> torch.Tensor:
    """The same plus noise; float64 [count]. The sample and the bare sum end here."""
    total = sum_over_sample(clipped_sum, data, plan, count)
    return torch.from_numpy(noised_sum(total, plan.noise_multiplier, plan.max_grad_norm))


def _clipped(
    clipped_sum: ClippedSum,
    features: torch.Tensor,
    labels: torch.Tensor,
    present: torch.Tensor,
    clip_norm: float,
) -> torch.Tensor:
    """The clipped sum of a micro-batch, whatever its rows do. Where PyTorch stops at a row, which nothing in the
    allow-list is known to make it do, every row is taken alone and those that stop it count as nothing: to let the
    whole micro-batch count as nothing would let one row take all others with it."""
    try:
        return clipped_sum(features, labels, present, clip_norm)
    except Exception:
        total = torch.zeros(sum(p.numel() for p in clipped_sum.module.parameters()), dtype=torch.float64)
        for row in range(len(features)):
            alone = torch.zeros_like(present)
            alone[row] = present[row]
            only = features * alone.reshape(-1, *(1 for _ in features.shape[1:]))
            with contextlib.suppress(Exception):
                total += clipped_sum(only, labels, alone, clip_norm)
        return total


def rehearse(clipped_sum: ClippedSum, plan: LegPlan) -> None:
    """Runs one micro-batch of padding, so that a graph or a size that cannot be run is refused before any charge.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED.
    """
    size = plan.micro_batch_size
    features = torch.zeros((size, *clipped_sum.module.graph.input_shape), dtype=torch.float64)
    try:
        clipped_sum(
            features,
            torch.zeros(size, dtype=torch.int64),
            torch.zeros(size, dtype=torch.float64),
            plan.clip_norm,
        )
    except Exception as error:
        raise not_allowed(
            f"The model cannot be trained at {size} rows at once ({type(error).__name__}); use a smaller micro-batch "
            "or a smaller model."
        ) from error
