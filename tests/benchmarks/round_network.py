"""What ``rounds.py`` measures: whole jobs over a network of real processes, and what each of these processes came to need."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import torch
from torch import nn

import usufruct as uf
from usufruct.builder.results import RoundResult
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct_server.demo.network import DatasetSetup, HolderSetup, LocalNetwork

LOSS = "binary_cross_entropy_with_logits"
TASK = "a trivial step"
ROWS = 8
WATCHED_ROUNDS = 2
"""Rounds after those that are timed, in which memory is watched: to look at it takes a share of the machine."""

STAGES = ("ready", "encrypted", "summed", "checked", "opened")
"""In the order of a round: charged and trained; encrypted; sent, added and fetched; checked; decrypted."""


def model_of(parameters: int) -> nn.Module:
    """A network of two inputs with about so many parameters, nearly all of them in one square layer."""
    width = math.isqrt(parameters) - 2
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )


def hospital(number: int, cohort: int) -> HolderSetup:
    """A holder of eight rows."""
    card = DatasetCard(
        name=f"rows {number}",
        task=TASK,
        description="Eight made-up rows.",
        columns=(Column("a", "number", 0.0, 1.0), Column("b", "number", 0.0, 1.0)),
        label=Label("y", (("0",), ("1",))),
        person_column=None,
        nominal_size=ROWS,
    )
    rows = tuple({"a": f"{row / ROWS}", "b": "0.5", "y": str(row % 2)} for row in range(ROWS))
    return HolderSetup(
        f"holder-{number}", [DatasetSetup(card, rows, price_units=1, min_cohort=cohort, budget_epsilon=100.0)]
    )


@dataclass(frozen=True)
class Rounds:
    """What the rounds of one job took.

    Attributes:
        seconds: median wall time from result to result, so with all that is kept and prepared between rounds, the first left out;
            the model has no validation data.
        stages: medians, by name.
        peak_bytes, start_bytes: by process, the most memory it ever had resident and what it had before the job; a holder's
            are those of all its processes together, without the pages that they share.
    """

    parameters: int
    holders: int
    rounds: int
    seconds: float
    stages: dict[str, float]
    upload_bytes: int
    start_bytes: dict[str, int]
    peak_bytes: dict[str, int]


def measure(folder: Path, parameters: int, holders: int, rounds: int) -> Rounds:
    """One job on a network of its own, encrypted, masked, signed, charged and logged as any job."""
    from memory import Watch

    setups = [hospital(number, holders) for number in range(1, holders + 1)]
    with LocalNetwork(folder / "net", setups) as network:
        builder = uf.connect(network.rpc_url, contract=network.compute_access, key=network.builder_key)
        names = {name: process.pid for name, process in network.processes.items() if name != "chain"}
        names["builder"] = os.getpid()
        watch = Watch(names)
        job = builder.train(
            model_of(parameters),
            builder.datasets(task=TASK),
            aggregator=network.aggregator,
            loss=LOSS,
            optimizer=uf.SGD(lr=0.1, local_steps=1, sample_rate=0.5),
            privacy=uf.Privacy(epsilon=50.0, noise="local"),
            rounds=rounds + 1 + WATCHED_ROUNDS,
            spare_attempts=0,
            round_timeout_seconds=1200,
        )
        results, ends = [], []
        for result in islice(job, rounds + 1):
            results.append(result)
            ends.append(time.monotonic())
        with watch:
            for _ in job:
                pass
        return _rounds(
            results, ends, job.spec.encryption.parameter_count, holders, watch.start_bytes, watch.peak_bytes
        )


def _rounds(
    results: Sequence[RoundResult],
    ends: Sequence[float],
    parameters: int,
    holders: int,
    start: dict[str, int],
    peak: dict[str, int],
) -> Rounds:
    counted = results[1:]
    return Rounds(
        parameters=parameters,
        holders=holders,
        rounds=len(counted),
        seconds=median(after - before for before, after in pairwise(ends)),
        stages={name: median(result.stages[name] for result in counted) for name in STAGES},
        upload_bytes=counted[-1].upload_bytes,
        start_bytes=start,
        peak_bytes=peak,
    )
