"""``make bench-training``: samples a second of our trainer, of Opacus and of plain PyTorch, as ratios to plain.

One process, all arms interleaved repeat by repeat, medians. On one thread CPU time (the machine may be shared), on two
wall time. A step takes 512 rows of a data set by their indices and ends

* plain: with gradients of the mean loss and new weights (SGD), float32, the graph's own PyTorch model;
* Opacus: the same with clipping, by hooks and by ghost clipping, noise of deviation zero;
* ours: with the float64 sum that noise is added to: ``dpsgd.sum_over_sample``, which is all that the trainer child does
  for a step before its noise: the Poisson draw, the places, micro-batches, interpreter, clipping and adding up.

All arms run as a trainer child does: without the garbage collector, and with the C library keeping memory.
Noise is in none of them: it is drawn once a step, whatever the batch. Only figures named ``noised`` have it: ours by
``dpsgd.train_round``, which ends with the update.
Rows of a sample are as many as places here (a sampling rate of one), so nothing is padded; at lower rates the trainer
runs ``micro_batches`` of them, whatever it drew, and the ratio to a trainer that does not is lower by that.

    python tests/benchmarks/training.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from usufruct import graph
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.privacy import LocalPlan
from usufruct_server.holder.training.dpsgd import sum_over_sample, train_round
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum
from usufruct_server.holder.training.zygote import KEPT_MEMORY

ROWS, WIDTH, CLASSES = 512, 784, 10
PLAN = LocalPlan(
    sample_rate=1.0, max_grad_norm=1.0, noise_multiplier=1.0, local_steps=1, rounds=10, spare_attempts=0,
    micro_batch_size=ROWS, nominal_size=ROWS, order=6, delta=1e-5,
)  # fmt: skip
SGD = LocalOptimizer("sgd", NANO // 100)
STEP = 0.01 / ROWS
STRETCH = 0.02
"""Seconds for which an arm's steps follow each other, as they do in training."""
REQUIRED = {"mlp_1": 0.7, "logreg_1": 0.7, "cnn_1": 0.6}

Step = Callable[[], object]


class SmallCnn(nn.Module):
    """The 26k network of Tramèr & Boneh 2021 for images of 28 × 28, which come as rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 8, 2, padding=2), nn.Conv2d(16, 32, 4, 2)
        self.hidden, self.out = nn.Linear(512, 32), nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.tanh(self.first(x.view(-1, 1, 28, 28))), 2, 1)
        x = functional.max_pool2d(torch.tanh(self.second(x)), 2, 1)
        return self.out(torch.tanh(self.hidden(x.flatten(1))))


def perceptron() -> nn.Module:
    """100k parameters."""
    return nn.Sequential(
        nn.Linear(WIDTH, 120), nn.Tanh(), nn.Linear(120, 48), nn.Tanh(), nn.Linear(48, CLASSES)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": perceptron,
    "logreg": lambda: nn.Linear(WIDTH, CLASSES),
    "cnn": SmallCnn,
}


class Rows:
    """A data set, and 512 of its rows a step."""

    def __init__(self) -> None:
        generator = np.random.default_rng(1)
        self.data = PreparedData(
            generator.random((ROWS, WIDTH), dtype=np.float32), generator.integers(0, CLASSES, ROWS)
        )
        self._features = torch.from_numpy(self.data.features)
        self._labels = torch.from_numpy(self.data.labels)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of a step, in an order of its own."""
        order = torch.randperm(ROWS)
        return self._features[order], self._labels[order]


def plain(model: nn.Module, rows: Rows) -> Step:
    parameters = list(model.parameters())

    def step() -> None:
        features, labels = rows.batch()
        loss = functional.cross_entropy(model(features), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=STEP)

    return step


def opacus_hooks(model: nn.Module, rows: Rows) -> Step:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    sampled = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(sampled.parameters(), lr=STEP),
        noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1, loss_reduction="sum",
    )  # fmt: skip

    def step() -> None:
        features, labels = rows.batch()
        optimizer.zero_grad()
        functional.cross_entropy(sampled(features), labels, reduction="sum").backward()
        optimizer.step()

    return step


def opacus_ghost(model: nn.Module, rows: Rows) -> Step:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    sampled = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="mean"
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(sampled.parameters(), lr=STEP * ROWS),
        noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=ROWS, loss_reduction="mean",
    )  # fmt: skip
    criterion = DPLossFastGradientClipping(sampled, optimizer, nn.CrossEntropyLoss(), "mean")

    def step() -> None:
        features, labels = rows.batch()
        optimizer.zero_grad()
        criterion(sampled(features), labels).backward()
        optimizer.step()

    return step


def ours(model: nn.Module, rows: Rows, noised: bool = False) -> Step:
    traced = graph.trace(model, (WIDTH,))
    module = graph.rebuild(traced.graph)
    graph.load_flat(module, graph.vector_from_model(model, traced))
    clipped_sum = ClippedSum(module, LOSSES["cross_entropy"])
    if noised:
        return lambda: [None for _ in train_round(clipped_sum, rows.data, PLAN, SGD)]
    return lambda: sum_over_sample(clipped_sum, rows.data, PLAN)


def steps(name: str) -> dict[str, Step]:
    """One step of every arm, each with a model of its own that starts from the same weights."""
    rows = Rows()

    def model() -> nn.Module:
        torch.manual_seed(0)
        return MODELS[name]()

    return {
        "plain": plain(model(), rows),
        "": ours(model(), rows),
        "noised": ours(model(), rows, noised=True),
        "opacus_ghost": opacus_ghost(model(), rows),
        "opacus_hooks": opacus_hooks(model(), rows),
    }


def measure(name: str, threads: int, seconds: float) -> dict[str, float]:
    """Median seconds of a step by arm."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    arms = steps(name)
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for step in arms.values():
        step()
        step()
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(taken["plain"]) < 3:
        for arm, step in arms.items():
            gc.collect()
            gc.disable()
            step()  # so that none begins with what another has left in the caches
            count, start = 0, clock()
            while (passed := clock() - start) < STRETCH or not count:
                step()
                count += 1
            taken[arm].append(passed / count)
            gc.enable()
    return {arm: statistics.median(times) for arm, times in taken.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Samples a second of the trainer, as ratios to plain PyTorch."
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds for each model")
    parser.add_argument("--json", action="store_true", help="one line of JSON last")
    given = parser.parse_args()
    if not KEPT_MEMORY.items() <= os.environ.items():  # the C library reads them at its start
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT_MEMORY})
    warnings.filterwarnings("ignore")
    figures: dict[str, float] = {"load": round(os.getloadavg()[0], 1)}
    print(f"{ROWS} rows a step; {os.cpu_count()} cores, load {figures['load']}\n")
    for threads in (1, 2):
        for name in MODELS:
            medians = measure(name, threads, 2.0 if given.quick else 20.0)
            bare = medians.pop("plain")
            print(f"{name}, threads: {threads}; plain {ROWS / bare:,.0f} samples/s", flush=True)
            for arm, seconds in medians.items():
                key = f"{arm}_{name}_{threads}" if arm else f"{name}_{threads}"
                figures[key] = round(bare / seconds, 3)
                required = REQUIRED.get(key)
                note = f"  (required: {required})" if required else ""
                print(f"  {arm or 'ours':22} {figures[key]:.2f}{note}", flush=True)
    if given.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
