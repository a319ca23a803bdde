"""A job over three holders, its builder and its aggregator in one process; one attempt at a time, message by message."""

from __future__ import annotations

import copy
import functools
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from eth_account import Account
from holder_here import HolderHere, RoundStream
from in_process import AggregatorHere, BuilderSide, Wire
from numpy.typing import NDArray
from torch import nn

from usufruct import graph
from usufruct.builder.attempt import Attempt
from usufruct.builder.round_stream import CHARGED, CHECKED, ENCRYPTED, READY, SUBMITTED, Talk
from usufruct.builder.summing import check, check_step, compare_uploads
from usufruct.domain import ids
from usufruct.domain.round_view import RoundOffer
from usufruct.domain.training_job import (
    AggregatorRef,
    EncryptionPlan,
    LegTerms,
    LocalOptimizer,
    NoiseMode,
    TrainingJobSpec,
    TrainingPlan,
)
from usufruct.encryption import BoundedValues, EncryptionParameters, plan
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.linear_check import CheckedSum
from usufruct.v1 import rounds_pb2
from usufruct.wire import jobs
from usufruct.wire.aggregation import FetchedSum, RoundToSum
from usufruct.wire.model_graph import graph_to_bytes
from usufruct.wire.parsing import parse
from usufruct.wire.raw import HEADER_LIMIT_BYTES

PLACE = ids.address("0x" + "11" * 20, "test")
VALUE_BITS = 16
PARAMETERS = plan(BoundedValues(VALUE_BITS), 3)
WEIGHTS_BYTES = 64
STATES = (CHARGED, READY, ENCRYPTED, SUBMITTED, CHECKED)


@functools.cache
def model_graph() -> bytes:
    """Some model's; nobody trains it."""
    return graph_to_bytes(graph.trace(nn.Linear(2, 1), (2,)).graph)


class JobHere:
    """Three holders, or those of ``numbers``, and what they have agreed on."""

    def __init__(
        self, folder: Path, *, count: int, rounds: int, spare: int, min_cohort: int = 3,
        numbers: tuple[int, ...] = (3, 5, 8), liars: tuple[int, ...] = (), round_timeout_seconds: int = 60,
        parameters: EncryptionParameters = PARAMETERS, people: JobHere | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            folder: of the test; it gets one for every party.
            liars: datasets of the job whose operator keys the test has; nothing runs for them.
            people: another job whose builder and holders are the same.
        """
        folder.mkdir(exist_ok=True)
        self.builder = people.builder if people else Account.create()
        self.count, self.parameters = count, parameters
        self.aggregator = AggregatorHere(folder / "aggregator")
        self.holders = {
            number: HolderHere(
                folder / str(number), number, self.aggregator, self.values_of(number), min_cohort
            )
            for number in numbers
        }
        if people:
            for number, holder in self.holders.items():
                holder.is_run_by(people.holders[number].operator)
        self.liars = {number: Account.create() for number in liars}
        operators = {number: holder.operator for number, holder in self.holders.items()} | self.liars
        share, rest = divmod(10**9, len(operators))
        legs = tuple(
            LegTerms(
                number, number, bytes(32), 100, operators[number].address, PLACE, 1, 6, 1000, share + rest * (not index)
            )
            for index, number in enumerate(sorted(operators))
        )  # fmt: skip
        self.spec = TrainingJobSpec(
            chain_id=1,
            compute_access=PLACE,
            builder=self.builder.address,
            nonce=secrets.token_bytes(32),
            model_graph=model_graph(),
            loss="mse_loss",
            optimizer=LocalOptimizer("sgd", 10**9),
            plan=TrainingPlan(NoiseMode.LOCAL, rounds, spare, 1, 10**9, 10**6, 10**7, 10**7, 64),
            legs=legs,
            encryption=EncryptionPlan(parameters.name, VALUE_BITS, 10**9, count),
            aggregator=AggregatorRef("127.0.0.1:1", bytes(32)),
            min_cohort=min_cohort,
            purpose="test",
            deliver_by_seconds=2_000_000_000,
            round_timeout_seconds=round_timeout_seconds,
        )
        self.spec_hash = jobs.spec_hash(jobs.spec_to_bytes(self.spec))
        self.wire = Wire(self.aggregator, self.builder.address)
        self.aggregation = BuilderSide(self.wire, self.builder)
        for holder in self.holders.values():
            holder.begin(self.spec)

    def values_of(self, number: int) -> Any:
        """What a holder's trainer gives for an attempt; another thing for every attempt, the largest values among them."""

        def values(attempt: int) -> NDArray[np.int32]:
            drawn = np.random.default_rng([number, attempt]).integers(0, 1 << VALUE_BITS, self.count)
            drawn[0] = (1 << VALUE_BITS) - 1
            return drawn.astype(np.int32)

        return values

    def offer(self, round_: int, attempt: int, key: RoundKey, weights: bytes) -> Attempt:
        """An attempt as the builder would offer it."""
        digests = hashlib.sha256(key.public_key_bytes).digest(), hashlib.sha256(weights).digest()
        offer = RoundOffer(self.spec.job_id, self.spec_hash, round_, attempt, *digests)
        return Attempt(offer, key, weights, self.builder)

    def fresh(self, round_: int, attempt: int) -> RoundHere:
        """A new attempt of an honest builder, with a key of its own."""
        key = RoundKey.generate(self.parameters)
        return RoundHere(self, self.offer(round_, attempt, key, secrets.token_bytes(WEIGHTS_BYTES)))

    def expected(self, attempt: int, *numbers: int) -> NDArray[np.int64]:
        """The sum of these holders' values."""
        return np.sum([self.values_of(number)(attempt).astype(np.int64) for number in numbers], axis=0)

    def stop(self) -> None:
        """Ends everything."""
        for holder in self.holders.values():
            holder.stop()
        self.aggregator.rounds.stop()


class RoundHere:
    """One attempt as its builder conducts it, over streams to the holders; each method is one step of the protocol.

    Attributes:
        talks: what each holder has said, checked.
        streams: to the holders, by dataset.
    """

    def __init__(self, job: JobHere, attempt: Attempt) -> None:
        self.job, self.attempt = job, attempt
        self.talks = {number: Talk(number, job.spec.leg(number).operator) for number in job.holders}
        self.streams: dict[int, RoundStream] = {}

    def offer(self, number: int, **other: bytes) -> RoundStream:
        """Opens a stream to a holder; the last one counts.

        Args:
            other: header, key or weights in place of the attempt's.
        """
        attempt = self.attempt
        parts = {
            "header": attempt.header(number).SerializeToString(),
            "public_key": attempt.key.public_key_bytes,
            "weights": attempt.weights,
        }
        self.streams[number] = self.job.holders[number].stream(self.job.builder.address, **{**parts, **other})
        return self.streams[number]

    def hear(self, number: int, data: bytes | None = None) -> rounds_pb2.RoundEvent:
        """The next event of a holder, or ``data`` in its place, as the builder takes it."""
        event = parse(
            rounds_pb2.RoundEvent, self.streams[number].hear() if data is None else data, HEADER_LIMIT_BYTES
        )
        self.talks[number].hear(self.attempt, event)
        return event

    def talk_that_would_hear(self, number: int, data: bytes) -> Talk:
        """What the builder would have of a holder after ``data``; its own talk stays as it is."""
        talk = copy.copy(self.talks[number])
        talk.events = dict(talk.events)
        talk.hear(self.attempt, parse(rounds_pb2.RoundEvent, data, HEADER_LIMIT_BYTES))
        return talk

    def to_sum(self) -> RoundToSum:
        """What is summed under its view."""
        view, job = self.attempt.fixed_view, self.job
        operators = {number: job.spec.leg(number).operator for number in view.datasets}
        offer = view.offer
        return RoundToSum(
            offer.job_id, offer.round, offer.attempt, view.hash, operators, job.count, job.parameters
        )

    def fetch(self) -> FetchedSum:
        """The aggregator's sum, with its signatures checked."""
        return self.job.aggregation.fetch_sum(self.to_sum(), 1)

    def said(self, state: int) -> dict[int, rounds_pb2.RoundEvent]:
        """What each of the roster has said."""
        return {number: self.talks[number].events[state] for number in self.attempt.fixed_view.datasets}

    # -- an honest builder's way through --------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Offers it to every holder and hears that it is ready."""
        for number in self.job.holders:
            self.offer(number)
            self.hear(number)
            self.hear(number)

    def submit(self) -> rounds_pb2.RoundStep:
        """Fixes the roster over all that are ready, and opens the round at the aggregator; what the holders are told."""
        self.attempt.fix_view([number for number, talk in self.talks.items() if READY in talk.events])
        self.job.aggregation.open_round(self.to_sum(), self.job.spec.round_timeout_seconds)
        return self.attempt.submit()

    def collect(self, step: rounds_pb2.RoundStep) -> None:
        """Has the roster encrypt and send."""
        for number in self.attempt.fixed_view.datasets:
            self.streams[number].say(step)
        for number in self.attempt.fixed_view.datasets:
            self.hear(number)
            self.hear(number)

    def checked(self, fetched: FetchedSum) -> CheckedSum:
        """Challenges the holders about a sum."""
        compare_uploads(fetched, self.to_sum(), self.said(ENCRYPTED))
        challenge = self.attempt.challenge(fetched)
        for number in self.attempt.fixed_view.datasets:
            self.streams[number].say(check_step(challenge, fetched))
        for number in self.attempt.fixed_view.datasets:
            self.hear(number)
        return check(challenge, fetched, self.to_sum(), lambda: self.said(CHECKED))

    def open(self, checked: CheckedSum, fetched: FetchedSum) -> NDArray[np.int64]:
        """What it opens to; and the aggregator may forget it."""
        opened = np.concatenate(list(self.attempt.key.open_sum(checked, fetched.chunks())))
        self.job.aggregation.close_round(self.to_sum())
        return opened

    def run(self) -> NDArray[np.int64]:
        """All of it, with nobody in the way."""
        self.make_ready()
        self.collect(self.submit())
        with self.fetch() as fetched:
            opened = self.open(self.checked(fetched), fetched)
        self.hang_up()
        return opened

    def hang_up(self) -> None:
        """Ends its streams."""
        for number, stream in self.streams.items():
            stream.hang_up()
            holder = self.job.holders[number]
            if stream in holder.streams:
                holder.streams.remove(stream)


def opens_rightly(
    job: JobHere, attempt: int, opened: NDArray[np.int64], roster: Mapping[int, object]
) -> bool:
    """Whether it is the exact sum of the roster's values."""
    return bool(np.array_equal(opened, job.expected(attempt, *roster)))
