"""The order of a round: nothing is charged for a refusal, and nothing is drawn before the charge is on the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from holder_world import MODEL, WIDTH, Builder, registered, round_parts

from usufruct import graph
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.keys import RoundKey
from usufruct.errors import UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation, RoundToSum
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.server import HolderServer
from usufruct_server.holder.training.trainer import Trainer


class Leg:
    """One running leg of the served dataset."""

    def __init__(
        self, served: HolderServer, peer: PinnedEndpoint, builder: Builder, spec: TrainingJobSpec
    ) -> None:
        self.served, self.peer, self.builder, self.spec = served, peer, builder, spec
        self.dataset_id = registered(served.config)

    def run(self, **changes: Any) -> list[rounds_pb2.RoundEvent]:
        parts = round_parts(self.builder.account, self.spec, self.dataset_id, **changes)
        return list(
            self.builder.run_round(self.peer, parts.header, parts.key.public_key_bytes, parts.weights)
        )

    def refused(self, **changes: Any) -> str:
        with pytest.raises(UsufructError) as caught:
            self.run(**changes)
        return caught.value.reason

    @property
    def charged(self) -> int:
        return self.served.ledger.leg(self.dataset_id, self.spec.job_id).charged

    def kinds(self) -> list[UsageKind]:
        records = map(record_from_bytes, self.served.ledger.usage_records(0, 10_000))
        return [r.kind for r in records if r.job_id == self.spec.job_id and r.kind is not UsageKind.GRANTED]


@pytest.fixture
def leg(
    served: HolderServer, peer: PinnedEndpoint, aggregator: PinnedEndpoint, builder: Builder
) -> Iterator[Leg]:
    spec = builder.started(peer, registered(served.config), aggregator=aggregator)
    leg = Leg(served, peer, builder, spec)
    yield leg
    served.trainers.end((spec.job_id, leg.dataset_id))


def test_the_charge_is_on_disk_before_the_trainer_runs(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = Trainer.run

    def watched(self: Trainer, *arguments: Any, **named: Any) -> Any:
        with LedgerReader(leg.served.config.ledger_path) as on_disk:
            seen.append(on_disk.leg(leg.dataset_id, leg.spec.job_id).charged)
        return run(self, *arguments, **named)

    monkeypatch.setattr(Trainer, "run", watched)
    leg.refused()  # the aggregator has no such round: everything before it happened
    assert seen == [1]


def test_what_fails_before_the_charge_costs_nothing(
    leg: Leg, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("the trainer ran"))
    nan = graph.pack_vector(MODEL, np.zeros(WIDTH + 1, dtype=np.float32)).replace(
        np.float32(0).tobytes(), np.float32("nan").tobytes()
    )
    key = RoundKey.generate(DEFAULT_PARAMETERS)
    broken = RoundKey.generate(DEFAULT_PARAMETERS)
    broken._public_key_bytes = key.public_key_bytes[:-8] + b"\xff" * 8
    assert leg.refused(weights=nan) == "WEIGHTS_NOT_ALLOWED"
    assert leg.refused(weights=b"pickle") == "WEIGHTS_NOT_ALLOWED"
    assert leg.refused(weights=bytes(3 << 20)) == "TOO_LARGE"
    assert leg.refused(key=broken) == "PUBLIC_KEY_INVALID"
    assert leg.refused(roster=()) == "ROSTER_MISMATCH"
    assert leg.refused(roster=(leg.dataset_id, 99)) == "ROSTER_MISMATCH"
    assert leg.refused(round_=3) == "ROUND_OUT_OF_ORDER"
    stranger = round_parts(builder.world.account(), leg.spec, leg.dataset_id)
    with pytest.raises(UsufructError) as caught:
        list(
            leg.builder.run_round(leg.peer, stranger.header, stranger.key.public_key_bytes, stranger.weights)
        )
    assert caught.value.reason == "BAD_SIGNATURE"
    assert leg.charged == 0
    assert set(leg.kinds()) == {UsageKind.REFUSED} and len(leg.kinds()) == 8


def test_an_attempt_is_bound_to_its_view_and_resends_the_same_bytes(
    leg: Leg, aggregator: PinnedEndpoint
) -> None:
    parts = round_parts(leg.builder.account, leg.spec, leg.dataset_id)
    body = parts.key.public_key_bytes, parts.weights
    with pytest.raises(UsufructError) as caught:  # nobody has opened the round at the aggregator
        list(leg.builder.run_round(leg.peer, parts.header, *body))
    assert caught.value.reason == "ROUND_UNKNOWN"
    assert leg.refused() == "ROUND_VIEW_CHANGED"  # a fresh key is another view
    operator = leg.served.operator
    to_sum = RoundToSum(
        leg.spec.job_id, 1, 1, parts.view.hash, {leg.dataset_id: operator}, WIDTH + 1, DEFAULT_PARAMETERS
    )
    with BuilderAggregation(aggregator, leg.builder.account) as aggregation:
        aggregation.open_round(to_sum, 60)
        events = list(leg.builder.run_round(leg.peer, parts.header, *body))
        assert [e.state for e in events] == [
            rounds_pb2.ROUND_STATE_ENCRYPTED,
            rounds_pb2.ROUND_STATE_SUBMITTED,
        ]
        digests = {e.upload_digest for e in leg.builder.run_round(leg.peer, parts.header, *body)}
        assert digests == {events[-1].upload_digest}
        aggregation.fetch_sum(to_sum, 30)
    assert leg.charged == 1
    assert leg.kinds().count(UsageKind.CHARGED) == leg.kinds().count(UsageKind.SUBMITTED) == 1


def test_a_trainer_that_dies_after_the_charge_loses_the_attempt_and_not_the_leg(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer.run

    def killed(self: Trainer, *arguments: Any, **named: Any) -> Any:
        os.kill(self.pid, signal.SIGKILL)
        return run(self, *arguments, **named)

    key = RoundKey.generate(DEFAULT_PARAMETERS)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run", killed)
        assert leg.refused(key=key) == "TRAINER_FAILED"
    assert leg.charged == 1
    assert leg.refused(key=key) == "ATTEMPT_LOST"
    assert (
        leg.refused(attempt=2) == "ROUND_UNKNOWN"
    )  # trained and encrypted; only the aggregator is not ready
    assert leg.charged == 2
    assert leg.kinds().count(UsageKind.LOST) == 1


def test_no_attempt_is_drawn_beyond_the_reservation(leg: Leg) -> None:
    assert leg.refused(attempt=4) == "ATTEMPTS_EXHAUSTED"
    assert leg.charged == 0, "an auditor would find the charge of a number that was never reserved"
    for attempt in (1, 2, 3):
        assert leg.refused(attempt=attempt) == "ROUND_UNKNOWN"
    assert leg.refused(attempt=4) == "ATTEMPTS_EXHAUSTED"
    assert leg.refused(attempt=2, key=RoundKey.generate(DEFAULT_PARAMETERS)) == "ROUND_VIEW_CHANGED"
    assert leg.charged == 3
    budget = leg.served.ledger.leg(leg.dataset_id, leg.spec.job_id)
    assert budget.remaining_micro == 0
