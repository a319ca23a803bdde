"""A builder, a real aggregator and three stand-in holders with a job between them, for one attempt at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from eth_account import Account
from stand_in_holder import StandInHolder
from torch import nn

from usufruct import graph
from usufruct.builder.attempt import Attempt
from usufruct.builder.peers import AggregatorPeer, HolderPeer
from usufruct.builder.rounds import RoundDriver
from usufruct.builder.summing import OpenedSum
from usufruct.domain import ids
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.encryption import BoundedValues, parameter_set, plan
from usufruct.errors import UsufructError
from usufruct.wire import jobs
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.tls import generate_identity
from usufruct_server.aggregator.config import AggregatorConfig
from usufruct_server.aggregator.server import AggregatorServer

PLACE = ids.address("0x" + "11" * 20, "test")
WEIGHTS_NANO = {3: 5 * 10**8, 5: 3 * 10**8, 8: 2 * 10**8}


class RoundWorld:
    """Holders of the datasets 3, 5 and 8, all of which have to be in a sum until :meth:`let` says otherwise."""

    def __init__(self, directory: Path, model: nn.Module | None = None, inputs: int = 6) -> None:
        self.builder = Account.create()
        self.aggregator = AggregatorServer(AggregatorConfig("127.0.0.1:0", directory), generate_identity())
        self.holders = {number: StandInHolder(number) for number in WEIGHTS_NANO}
        self.traced = graph.trace(model or nn.Linear(inputs, 1), (inputs,))
        self.count = self.traced.bounds.parameters
        legs = tuple(
            LegTerms(number, number, bytes(32), 100, holder.operator.address, PLACE, 1, 6, 1000, WEIGHTS_NANO[number])
            for number, holder in self.holders.items()
        )  # fmt: skip
        self.spec = TrainingJobSpec(
            chain_id=1,
            compute_access=PLACE,
            builder=self.builder.address,
            nonce=bytes(32),
            model_graph=graph_to_bytes(self.traced.graph),
            loss="mse_loss",
            optimizer=LocalOptimizer("sgd", 10**9),
            plan=TrainingPlan(NoiseMode.LOCAL, 3, 2, 1, 10**9, 10**6, 10**7, 10**7, 64),
            legs=legs,
            encryption=EncryptionPlan(plan(BoundedValues(16), 3).name, 16, 10**9, self.count),
            aggregator=AggregatorRef(self.aggregator.peer.endpoint, self.aggregator.peer.fingerprint),
            min_cohort=3,
            purpose="test",
            deliver_by_seconds=2_000_000_000,
            round_timeout_seconds=20,
        )
        self.let()
        random = np.random.default_rng(3)
        for holder in self.holders.values():
            holder.update = random.uniform(-0.9, 0.9, self.count)
        self.vector = np.zeros(self.count, np.float32)
        self.said: list[str] = []
        self._opened: list[HolderPeer | AggregatorPeer] = []

    def let(self, **changes: Any) -> None:
        """Changes the job that everybody knows."""
        self.spec = replace(self.spec, **changes)
        for holder in self.holders.values():
            holder.spec = self.spec

    def driver(self, verify_chunks: int = 0) -> RoundDriver:
        """With connections of its own."""
        holders = {
            number: HolderPeer(number, holder.peer, self.builder) for number, holder in self.holders.items()
        }
        aggregator = AggregatorPeer(self.aggregator.peer, self.builder)
        self._opened += [*holders.values(), aggregator]
        return RoundDriver(
            self.spec, jobs.spec_to_bytes(self.spec), self.traced.graph, parameter_set(self.spec.encryption.parameters),
            self.builder, holders, aggregator, verify_chunks,
        )  # fmt: skip

    def prepare(self, attempt: int = 1) -> Attempt:
        """An attempt at round 1."""
        return self.driver().prepare(1, attempt, self.vector)

    def run(self, attempt: Attempt | None = None, **options: Any) -> tuple[Attempt, OpenedSum]:
        """Runs an attempt over connections of its own."""
        attempt = attempt or self.prepare()
        opened = self.driver(**options).run(attempt, lambda dataset_id, event: None, self.said.append)
        return attempt, opened

    def failure(self, attempt: Attempt | None = None, **options: Any) -> tuple[Attempt, UsufructError]:
        """What an attempt fails with."""
        attempt = attempt or self.prepare()
        try:
            self.run(attempt, **options)
        except UsufructError as error:
            return attempt, error
        raise AssertionError("the attempt should have failed")

    def average(self, *datasets: int) -> np.ndarray:
        """What a sum over these holders has to open to, within the rounding of each."""
        weight = sum(WEIGHTS_NANO[number] for number in datasets) / 10**9
        return np.sum([self.holders[number].update for number in datasets], axis=0) / weight

    def stop(self) -> None:
        """Ends everything."""
        for peer in self._opened:
            peer.close()
        for holder in self.holders.values():
            holder.trained.set()
            holder.stop()
        self.aggregator.stop()


def close_to(found: np.ndarray, expected: np.ndarray, holders: int = 3, weight: float = 1.0) -> bool:
    """Whether they differ by no more than half a rounding step a holder."""
    return bool(np.abs(found - expected).max() <= holders / weight / 32767 / 2 + 1e-12)
