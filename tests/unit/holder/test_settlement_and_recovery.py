"""Whatever stops a holder, the loss is never undercounted, no usage record is lost or doubled, and the leg goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from holder_world import Builder, World, free_port, registered, round_parts

from usufruct.chain import LegState as ChainLegState
from usufruct.chain import Sender
from usufruct.domain.training_job import NANO
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import ChainError, UsufructError
from usufruct.v1 import rounds_pb2, usage_pb2, usage_pb2_grpc
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.config import HolderConfig
from usufruct_server.holder.job_store import LegStatus
from usufruct_server.holder.ledger import LedgerReader, LegState
from usufruct_server.holder.server import HolderServer


def _kinds(server: HolderServer, job_id: bytes) -> list[UsageKind]:
    records = map(record_from_bytes, server.ledger.usage_records(0, 10_000))
    return [record.kind for record in records if record.job_id == job_id]


@pytest.mark.parametrize("failing", ["append_usage", "deliver"])
def test_a_delivery_that_the_chain_interrupts_is_finished_by_the_next_call(
    world: World,
    served: HolderServer,
    peer: PinnedEndpoint,
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    dataset_id = registered(served.config)
    spec = builder.granted_and_open(peer, dataset_id)
    builder.start(peer, spec.job_id, dataset_id)

    def down(*_: Any, **__: Any) -> Any:
        raise ChainError()

    with monkeypatch.context() as patched:
        patched.setattr(Sender, failing, down)
        with pytest.raises(UsufructError) as caught:
            builder.finish(peer, spec.job_id, dataset_id, 0)
        assert caught.value.reason == "CHAIN_UNREACHABLE"
        assert served.ledger.leg(dataset_id, spec.job_id).state is LegState.COMMITTED, (
            "the loss is kept first"
        )
    answer = builder.finish(peer, spec.job_id, dataset_id, 0)
    assert answer.loss_micro == spec.reservation_micro(dataset_id)
    assert builder.finish(peer, spec.job_id, dataset_id, 0).transaction_hash == answer.transaction_hash
    assert _kinds(served, spec.job_id) == [UsageKind.GRANTED, UsageKind.DELIVERED]
    leg = world.chain.leg(spec.job_id, dataset_id)
    assert leg is not None and leg.state is ChainLegState.DELIVERED
    assert world.chain.usage_head(1)[0] == served.ledger.usage_count()


def test_a_crash_after_delivery_and_before_its_record_loses_neither(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = registered(served.config)
    spec = builder.granted_and_open(peer, dataset_id)
    builder.start(peer, spec.job_id, dataset_id)
    usage = served.settlement._usage
    record = usage.record

    def crash(kind: UsageKind, **about: Any) -> None:
        if kind is UsageKind.DELIVERED:
            raise ChainError()
        record(kind, **about)

    with monkeypatch.context() as patched:
        patched.setattr(usage, "record", crash)
        with pytest.raises(UsufructError):
            builder.finish(peer, spec.job_id, dataset_id, 0)
    served.settlement.resume_deliveries()
    assert _kinds(served, spec.job_id) == [UsageKind.GRANTED, UsageKind.DELIVERED]


def test_a_leg_that_the_builder_never_ends_is_closed_at_its_whole_reservation(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = registered(served.config)
    spec = builder.granted_and_open(peer, dataset_id)
    builder.start(peer, spec.job_id, dataset_id)
    before = served.ledger.budget(dataset_id)
    assert served.settlement.expire() is not None
    assert served.ledger.budget(dataset_id) == before, "nothing is closed before its deadline"
    monkeypatch.setattr(served.settlement, "_clock", lambda: spec.deliver_by_seconds + 1)
    served.settlement.expire()
    after = served.ledger.budget(dataset_id)
    assert after.spent_micro - before.spent_micro >= spec.reservation_micro(dataset_id)
    assert served.ledger.leg(dataset_id, spec.job_id).state is LegState.COMMITTED
    with pytest.raises(UsufructError) as caught:
        builder.finish(peer, spec.job_id, dataset_id, 0)
    assert caught.value.reason == "LEG_EXPIRED"


def test_a_leg_that_has_trained_is_delivered_before_its_deadline_though_the_builder_is_silent(
    world: World,
    served: HolderServer,
    peer: PinnedEndpoint,
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset_id = registered(served.config)
    spec, idle = (builder.granted_and_open(peer, dataset_id) for _ in range(2))
    for job in (spec, idle):
        builder.start(peer, job.job_id, dataset_id)
    parts = round_parts(builder.account, spec, dataset_id)
    with pytest.raises(UsufructError):  # the aggregator is not there; the attempt is charged and encrypted
        list(builder.run_round(peer, parts.header, parts.key.public_key_bytes, parts.weights))
    served.settlement.deliver_unasked()
    assert served.store.leg(spec.job_id, dataset_id).state is LegStatus.RUNNING, "its time has not come"  # type: ignore[union-attr]
    monkeypatch.setattr(served.settlement, "_clock", lambda: spec.deliver_by_seconds - 60)
    served.settlement.deliver_unasked()
    served.settlement.resume_deliveries()
    states = []
    for job in (spec, idle):
        entry = world.chain.leg(job.job_id, dataset_id)
        assert entry is not None
        states.append(entry.state)
    assert states == [ChainLegState.DELIVERED, ChainLegState.LOCKED], "a leg that never trained earns nothing"


def test_a_leg_that_cannot_be_delivered_keeps_no_other_from_being_delivered(
    served: HolderServer, peer: PinnedEndpoint, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = registered(served.config)
    specs = [builder.granted_and_open(peer, dataset_id) for _ in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "deliver", _down)
        for spec in specs:
            builder.start(peer, spec.job_id, dataset_id)
            with pytest.raises(UsufructError):
                builder.finish(peer, spec.job_id, dataset_id, 0)
    stuck, other = (leg.job_id for leg in served.store.legs(LegStatus.DELIVERING))
    read = type(served.settlement._chain).leg

    def refunded(chain: Any, job_id: bytes, dataset: int) -> Any:
        entry = read(chain, job_id, dataset)
        return replace(entry, state=ChainLegState.REFUNDED) if entry and job_id == stuck else entry

    with monkeypatch.context() as patched:
        patched.setattr(type(served.settlement._chain), "leg", refunded)
        served.settlement.resume_deliveries()
    states = [served.store.leg(job_id, dataset_id).state for job_id in (stuck, other)]  # type: ignore[union-attr]
    assert states == [LegStatus.FAILED, LegStatus.DELIVERED]


def _down(*_: Any, **__: Any) -> Any:
    raise ChainError()


@dataclass
class Process:
    """`usufruct holder serve` as a process of its own."""

    config: HolderConfig
    popen: subprocess.Popen[str]
    peer: PinnedEndpoint

    @classmethod
    def start(cls, config: HolderConfig) -> Process:
        arguments = ["holder", "serve", "--config", str(config.path), "--json"]
        popen = subprocess.Popen(
            [sys.executable, "-m", "usufruct.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert popen.stdout is not None
        ready = json.loads(popen.stdout.readline())
        assert ready["event"] == "serving"
        return cls(
            config,
            popen,
            PinnedEndpoint(ready["endpoint"], bytes.fromhex(ready["fingerprint"].partition(":")[2])),
        )

    def end(self, number: signal.Signals) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(30)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return code


@pytest.fixture
def config(world: World) -> HolderConfig:
    return world.holder("killed", port=free_port())


def test_kill_9_in_the_middle_of_a_round_keeps_the_charge_and_loses_only_the_attempt(
    config: HolderConfig, builder: Builder
) -> None:
    dataset_id = registered(config)
    process = Process.start(config)
    # long enough in the trainer to be killed there
    plan = {"local_steps": 2000, "noise_multiplier_micro": 200_000_000, "sample_rate_nano": NANO}
    spec = builder.granted_and_open(process.peer, dataset_id, plan=plan)
    builder.start(process.peer, spec.job_id, dataset_id)
    parts = round_parts(builder.account, spec, dataset_id)
    events = builder.run_round(process.peer, parts.header, parts.key.public_key_bytes, parts.weights)
    assert next(events).state == rounds_pb2.ROUND_STATE_CHARGED
    process.end(signal.SIGKILL)
    killed_at = time.monotonic()
    with pytest.raises(UsufructError) as caught:
        list(events)
    assert caught.value.reason == "PEER_UNREACHABLE"
    assert time.monotonic() - killed_at < 10

    process = Process.start(config)
    with pytest.raises(UsufructError) as caught:
        list(builder.run_round(process.peer, parts.header, parts.key.public_key_bytes, parts.weights))
    assert caught.value.reason == "ATTEMPT_LOST"
    builder.start(process.peer, spec.job_id, dataset_id)
    following = round_parts(builder.account, spec, dataset_id, attempt=2)
    events = builder.run_round(
        process.peer, following.header, following.key.public_key_bytes, following.weights
    )
    assert next(events).attempts_charged == 2
    stub = usage_pb2_grpc.UsageServiceStub(builder.channel(process.peer))  # type: ignore[no-untyped-call]
    answer = stub.ListUsageRecords(usage_pb2.ListUsageRecordsRequest(first_sequence=0, page_size=100))
    kinds = [record_from_bytes(record).kind for record in answer.records]
    assert kinds[:3] == [UsageKind.GRANTED, UsageKind.CHARGED, UsageKind.LOST]
    assert answer.next_sequence == len(kinds)
    events.close()
    assert process.end(signal.SIGTERM) == 0
    with LedgerReader(config.ledger_path) as book:
        assert book.leg(dataset_id, spec.job_id).charged == 2
