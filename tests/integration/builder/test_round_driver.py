"""One attempt against a real aggregator: the sum is the holders' sum, and nothing doubtful is ever decrypted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eth_account import Account
from stand_in_holder import StandInHolder
from torch import nn

from usufruct import graph
from usufruct.builder.peers import AggregatorPeer, HolderPeer
from usufruct.builder.attempt import Attempt
from usufruct.builder.rounds import RoundDriver
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
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.errors import PeerUnreachable, RoundFailed, UsufructError
from usufruct.v1 import aggregation_pb2
from usufruct.wire import jobs
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.raw import with_header
from usufruct.wire.tls import generate_identity
from usufruct_server.aggregator.config import AggregatorConfig
from usufruct_server.aggregator.server import AggregatorServer
from usufruct_server.aggregator.service import AggregationService

PLACE = ids.address("0x" + "11" * 20, "test")


class Network:
    """A builder, a real aggregator and three stand-in holders, with a job between them."""

    def __init__(self, directory: Path) -> None:
        self.builder = Account.create()
        self.aggregator = AggregatorServer(AggregatorConfig("127.0.0.1:0", directory), generate_identity())
        self.holders = {number: StandInHolder(number) for number in (3, 5, 8)}
        self.traced = graph.trace(nn.Linear(6, 1), (6,))
        count = self.traced.bounds.parameters
        self.spec = TrainingJobSpec(
            chain_id=1,
            compute_access=PLACE,
            builder=self.builder.address,
            nonce=bytes(32),
            model_graph=graph_to_bytes(self.traced.graph),
            loss="mse_loss",
            optimizer=LocalOptimizer("sgd", 10**9),
            plan=TrainingPlan(NoiseMode.LOCAL, 3, 2, 1, 10**9, 10**6, 10**7, 10**7, 64),
            legs=tuple(
                LegTerms(number, number, bytes(32), 100, holder.operator.address, PLACE, 1, 6, 1000, weight)
                for (number, holder), weight in zip(
                    self.holders.items(), (5 * 10**8, 3 * 10**8, 2 * 10**8), strict=True
                )
            ),
            encryption=EncryptionPlan(DEFAULT_PARAMETERS.name, 16, 10**9, count),
            aggregator=AggregatorRef(self.aggregator.peer.endpoint, self.aggregator.peer.fingerprint),
            min_cohort=3,
            purpose="test",
            deliver_by_seconds=2_000_000_000,
            round_timeout_seconds=20,
        )
        random = np.random.default_rng(3)
        for holder in self.holders.values():
            holder.spec, holder.update = self.spec, random.uniform(-0.9, 0.9, count)
        self.vector = np.zeros(count, np.float32)
        self.opened: list[HolderPeer | AggregatorPeer] = []

    def driver(self) -> RoundDriver:
        holders = {
            number: HolderPeer(number, holder.peer, self.builder) for number, holder in self.holders.items()
        }
        aggregator = AggregatorPeer(self.aggregator.peer, self.builder)
        self.opened += [*holders.values(), aggregator]
        return RoundDriver(
            self.spec, jobs.spec_to_bytes(self.spec), self.traced.graph, DEFAULT_PARAMETERS, self.builder, holders,
            aggregator,
        )  # fmt: skip

    def stop(self) -> None:
        for peer in self.opened:
            peer.close()
        for holder in self.holders.values():
            holder.stop()
        self.aggregator.stop()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    running = Network(tmp_path)
    yield running
    running.stop()


def run(network: Network, attempt: int = 1) -> tuple[Attempt, object]:
    driver = network.driver()
    prepared = driver.prepare(1, attempt, network.vector)
    try:
        return prepared, driver.run(prepared, lambda dataset_id, event: None)
    except UsufructError as error:
        return prepared, error


def failure(network: Network) -> tuple[Attempt, UsufructError]:
    attempt, error = run(network)
    assert isinstance(error, UsufructError), "the attempt should have failed"
    return attempt, error


def test_the_opened_sum_is_the_sum_of_the_holders_updates(network: Network) -> None:
    attempt, opened = run(network)
    expected = sum(holder.update for holder in network.holders.values())
    step = 1.0 / 32767
    assert np.abs(opened.update - expected).max() <= 3 * step / 2  # type: ignore[attr-defined]
    assert opened.attempts_charged == {3: 1, 5: 1, 8: 1}  # type: ignore[attr-defined]
    assert opened.upload_bytes == 3 * DEFAULT_PARAMETERS.upload_bytes(7)  # type: ignore[attr-defined]
    assert attempt.key.used


def test_running_the_same_attempt_again_sends_the_same_view_and_gets_the_same_bytes(network: Network) -> None:
    driver = network.driver()
    attempt = driver.prepare(1, 1, network.vector)
    network.holders[5].silent = True
    network.spec = replace(network.spec, round_timeout_seconds=5)
    hurried = network.driver()
    with pytest.raises(UsufructError):
        hurried.run(attempt, lambda dataset_id, event: None)
    assert not attempt.key.used
    sent = dict(network.holders[3].outbox)
    network.holders[5].silent = False
    opened = network.driver().run(attempt, lambda dataset_id, event: None)
    assert network.holders[3].outbox == sent
    assert len({view for _, view, _ in network.holders[3].seen}) == 1
    assert np.abs(opened.update).max() > 0


@pytest.mark.parametrize("reason", ["ATTEMPT_LOST", "TRAINER_FAILED"])
def test_a_lost_attempt_is_told_after_the_other_holders_have_ended(network: Network, reason: str) -> None:
    network.holders[5].refusal = RoundFailed(reason=reason)
    attempt, error = failure(network)
    assert (error.reason, error.details["dataset_id"]) == (reason, 5)
    assert len(network.holders[3].outbox) == len(network.holders[8].outbox) == 1
    assert not attempt.key.used


def test_a_holder_that_dies_is_named_at_once(network: Network) -> None:
    network.holders[8].silent = True
    driver = network.driver()
    attempt = driver.prepare(1, 1, network.vector)

    def kill(dataset_id: int, event: object) -> None:
        if dataset_id == 8:
            network.holders[8].stop()

    started = time.monotonic()
    with pytest.raises(PeerUnreachable) as caught:
        driver.run(attempt, kill)
    assert time.monotonic() - started < 10
    assert "dataset 8" in caught.value.message
    assert network.holders[8].peer.endpoint in caught.value.message


def test_an_aggregator_that_dies_is_named_at_once(network: Network) -> None:
    network.holders[8].silent = True
    driver = network.driver()
    attempt = driver.prepare(1, 1, network.vector)

    def kill(dataset_id: int, event: object) -> None:
        if dataset_id == 8:
            network.aggregator._server.stop(None)

    started = time.monotonic()
    with pytest.raises(UsufructError) as caught:
        driver.run(attempt, kill)
    assert time.monotonic() - started < 10
    assert "aggregator" in caught.value.message
    assert not attempt.key.used


# -- an aggregator that lies ------------------------------------------------------------------------------------------

Lie = Callable[[aggregation_pb2.SumHeader, bytes], tuple[aggregation_pb2.SumHeader, bytes]]


def one_bit(header: aggregation_pb2.SumHeader, body: bytes) -> tuple[aggregation_pb2.SumHeader, bytes]:
    return header, body[:-1] + bytes([body[-1] ^ 1])


def shorter(header: aggregation_pb2.SumHeader, body: bytes) -> tuple[aggregation_pb2.SumHeader, bytes]:
    header.sum_bytes -= 1
    return header, body[:-1]


def without_one(header: aggregation_pb2.SumHeader, body: bytes) -> tuple[aggregation_pb2.SumHeader, bytes]:
    del header.uploads[0]
    return header, body


def one_twice(header: aggregation_pb2.SumHeader, body: bytes) -> tuple[aggregation_pb2.SumHeader, bytes]:
    header.uploads[0].CopyFrom(header.uploads[1])
    return header, body


def another_signature(
    header: aggregation_pb2.SumHeader, body: bytes
) -> tuple[aggregation_pb2.SumHeader, bytes]:
    header.uploads[0].signature = header.uploads[1].signature
    return header, body


def another_view(header: aggregation_pb2.SumHeader, body: bytes) -> tuple[aggregation_pb2.SumHeader, bytes]:
    header.uploads[0].view_hash = bytes(32)
    return header, body


def another_attempt(
    header: aggregation_pb2.SumHeader, body: bytes
) -> tuple[aggregation_pb2.SumHeader, bytes]:
    header.uploads[0].attempt += 1
    return header, body


@pytest.mark.parametrize(
    "lie", [one_bit, shorter, without_one, one_twice, another_signature, another_view, another_attempt]
)
def test_a_sum_that_is_not_the_rosters_is_never_decrypted(
    lie: Lie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = AggregationService.fetch_sum

    def lying(service: AggregationService, message: bytes, context: object) -> Iterator[bytes]:
        first, *rest = honest(service, message, context)  # type: ignore[arg-type]
        header, body = lie(aggregation_pb2.SumHeader.FromString(first), b"".join(rest))
        yield from with_header(header, body)

    monkeypatch.setattr(AggregationService, "fetch_sum", lying)
    network = Network(tmp_path)
    try:
        attempt, error = failure(network)
    finally:
        network.stop()
    assert error.reason in ("SUM_INVALID", "ROSTER_MISMATCH", "BAD_SIGNATURE", "MALFORMED")
    assert not attempt.key.used


def test_a_holder_that_signs_one_upload_and_tells_of_another_is_found(network: Network) -> None:
    driver = network.driver()
    attempt = driver.prepare(1, 1, network.vector)
    heard = {}

    def listen(dataset_id: int, event: object) -> None:
        if dataset_id == 3 and event.upload_digest:  # type: ignore[attr-defined]
            event.upload_digest = bytes(32)  # type: ignore[attr-defined]
            heard[dataset_id] = event

    with pytest.raises(RoundFailed) as caught:
        driver.run(attempt, listen)
    assert (caught.value.reason, caught.value.details["dataset_id"]) == ("SUM_INVALID", 3)
    assert heard
    assert not attempt.key.used


def test_an_update_signed_with_another_key_is_not_in_any_sum(network: Network) -> None:
    network.holders[5].signer = Account.create()
    attempt, error = failure(network)
    assert error.reason == "BAD_SIGNATURE"
    assert not attempt.key.used
