"""Whatever stops a holder, the loss is never undercounted, no usage record is lost or doubled, and the leg goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest
from holder_world import Builder, Place, World, free_port, registered, round_parts

from usufruct.chain import LegEntry, Sender
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.training_job import NANO, TrainingJobSpec
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


def _charge_once(place: Place, builder: Builder, spec: TrainingJobSpec, attempt: int = 1) -> None:
    """One attempt that is charged and encrypted, and finds no aggregator."""
    parts = round_parts(builder.account, spec, place.dataset_id, attempt=attempt)
    assert builder.run_alone(place.peer, parts) == "PEER_UNREACHABLE"


def test_a_receipt_that_the_chain_interrupts_is_signed_by_the_next_call(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, dataset_id = quiet.server, quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "append_usage", _down)
        with pytest.raises(UsufructError) as caught:
            customer.finish(quiet.peer, spec.job_id, dataset_id, 0)
        assert caught.value.reason == "CHAIN_UNREACHABLE"
        assert server.ledger.leg(dataset_id, spec.job_id).state is LegState.COMMITTED, (
            "the loss is kept first"
        )
    answer = customer.finish(quiet.peer, spec.job_id, dataset_id, 0)
    assert answer.receipt.loss_micro == spec.reservation_micro(dataset_id)
    assert customer.finish(quiet.peer, spec.job_id, dataset_id, 0) == answer
    assert _kinds(server, spec.job_id) == [UsageKind.GRANTED, UsageKind.DELIVERED]
    customer.deliver(spec.job_id, dataset_id, answer)
    assert customer.leg(spec.job_id, dataset_id).state is ChainLegState.ACKNOWLEDGED


def test_a_crash_between_receipt_and_record_loses_neither(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id, usage = quiet.dataset_id, quiet.server.settlement._usage
    spec = customer.started(quiet.peer, dataset_id)
    record = usage.record

    def crash(kind: UsageKind, **about: Any) -> None:
        if kind is UsageKind.DELIVERED:
            raise ChainError()
        record(kind, **about)

    with monkeypatch.context() as patched:
        patched.setattr(usage, "record", crash)
        with pytest.raises(UsufructError):
            customer.finish(quiet.peer, spec.job_id, dataset_id, 0)
    customer.finish(quiet.peer, spec.job_id, dataset_id, 0)
    assert _kinds(quiet.server, spec.job_id) == [UsageKind.GRANTED, UsageKind.DELIVERED]


def test_a_leg_that_the_builder_never_ends_is_delivered_before_its_deadline_trained_or_not(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, dataset_id = quiet.server.following, quiet.dataset_id
    trained, untouched = (customer.started(quiet.peer, dataset_id) for _ in range(2))
    _charge_once(quiet, customer, trained)
    following.follow()
    assert quiet.status(trained) is quiet.status(untouched) is LegStatus.RUNNING, "their time has not come"
    monkeypatch.setattr(following, "_clock", lambda: untouched.deliver_by_seconds - 60)
    following.follow()
    for spec, charged in ((trained, 1), (untouched, 0)):
        leg = customer.leg(spec.job_id, dataset_id)
        assert leg.state is ChainLegState.DELIVERED
        assert leg.loss_micro == spec.reservation_micro(dataset_id), "a job that lies about is paid for whole"
        receipt = quiet.server.store.leg(spec.job_id, dataset_id).receipt  # type: ignore[union-attr]
        assert receipt is not None and receipt.attempts_charged == charged
    following.follow()
    assert quiet.status(trained) is quiet.status(untouched) is LegStatus.DELIVERED
    assert _reserved_and_spent(quiet, trained) == (0, trained.reservation_micro(dataset_id))


def test_a_delivered_leg_is_settled_by_its_holder_once_it_can_no_longer_be_disputed(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, dataset_id = quiet.server.following, quiet.dataset_id
    spec = customer.started(quiet.peer, dataset_id)
    customer.finish(quiet.peer, spec.job_id, dataset_id, 0)
    with monkeypatch.context() as patched:
        patched.setattr(following, "_clock", lambda: spec.deliver_by_seconds - 60)
        following.follow()
    before = quiet.world.chain.earnings_of(quiet.world.token, 1)
    following.follow()
    assert customer.leg(spec.job_id, dataset_id).state is ChainLegState.DELIVERED, "it may still be disputed"
    quiet.world.pass_time(3700)
    following.follow()
    leg = customer.leg(spec.job_id, dataset_id)
    assert leg.state is ChainLegState.SETTLED
    assert quiet.world.chain.earnings_of(quiet.world.token, 1) >= before + leg.price_units
    following.follow()
    assert quiet.status(spec) is LegStatus.ENDED


def test_a_leg_whose_deadline_passes_is_closed_at_its_whole_reservation(
    quiet: Place, customer: Builder
) -> None:
    spec = customer.started(quiet.peer, quiet.dataset_id)
    quiet.world.pass_time(3700)  # the server was down, say
    quiet.server.following.follow()
    assert customer.leg(spec.job_id, quiet.dataset_id).state is ChainLegState.EXPIRED
    quiet.server.following.follow()
    assert quiet.status(spec) is LegStatus.FAILED
    assert _reserved_and_spent(quiet, spec) == (0, spec.reservation_micro(quiet.dataset_id))
    with pytest.raises(UsufructError) as caught:
        customer.finish(quiet.peer, spec.job_id, quiet.dataset_id, 0)
    assert caught.value.reason == "LEG_EXPIRED"


def test_a_leg_that_cannot_be_delivered_keeps_no_other_from_being_delivered(
    quiet: Place, customer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    following, dataset_id = quiet.server.following, quiet.dataset_id
    stuck, other = (customer.started(quiet.peer, dataset_id) for _ in range(2))
    deliver = Sender.deliver

    def refuse(self: Sender, leg: LegEntry, *rest: Any) -> Any:
        if leg.job_id == stuck.job_id:
            raise ChainError("refused", reason="TRANSACTION_FAILED")
        return deliver(self, leg, *rest)

    monkeypatch.setattr(Sender, "deliver", refuse)
    monkeypatch.setattr(following, "_clock", lambda: other.deliver_by_seconds - 60)
    following.follow()
    following.follow()
    assert (quiet.status(stuck), quiet.status(other)) == (LegStatus.DELIVERING, LegStatus.DELIVERED)


def _reserved_and_spent(place: Place, spec: TrainingJobSpec) -> tuple[int, int]:
    """Of one leg, in the ledger."""
    leg = place.server.ledger.leg(place.dataset_id, spec.job_id)
    return leg.remaining_micro, place.server.ledger.committed_micro(place.dataset_id, spec.job_id)


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
    port = free_port()
    return world.holder(f"killed-{port}", port=port)


def test_kill_9_in_the_middle_of_a_round_keeps_the_charge_and_loses_only_the_attempt(
    config: HolderConfig, builder: Builder
) -> None:
    dataset_id = registered(config)
    process = Process.start(config)
    # long enough in the trainer to be killed there
    plan = {"local_steps": 300, "noise_multiplier_micro": 200_000_000, "sample_rate_nano": NANO}
    spec = builder.started(process.peer, dataset_id, plan=plan)
    parts = round_parts(builder.account, spec, dataset_id)
    talk = builder.run_round(process.peer, parts)
    talk.until(rounds_pb2.ROUND_STATE_CHARGED)
    process.end(signal.SIGKILL)
    killed_at = time.monotonic()
    assert talk.error() == "PEER_UNREACHABLE"
    assert time.monotonic() - killed_at < 10

    process = Process.start(config)
    assert builder.run_round(process.peer, parts).error() == "ATTEMPT_LOST"
    builder.start(process.peer, spec.job_id, dataset_id)
    following = round_parts(builder.account, spec, dataset_id, attempt=2)
    talk = builder.run_round(process.peer, following)
    assert talk.until(rounds_pb2.ROUND_STATE_CHARGED).attempts_charged == 2
    stub = usage_pb2_grpc.UsageServiceStub(builder.channel(process.peer))  # type: ignore[no-untyped-call]
    answer = stub.ListUsageRecords(usage_pb2.ListUsageRecordsRequest(first_sequence=0, page_size=100))
    kinds = [record_from_bytes(record).kind for record in answer.records]
    assert kinds[:3] == [UsageKind.GRANTED, UsageKind.CHARGED, UsageKind.LOST]
    assert answer.next_sequence == len(kinds)
    talk.hang_up()
    assert process.end(signal.SIGTERM) == 0
    with LedgerReader(config.ledger_path) as book:
        assert book.leg(dataset_id, spec.job_id).charged == 2


def test_kill_9_keeps_what_was_encrypted_for_its_roster_and_loses_what_only_waited_for_one(
    config: HolderConfig, builder: Builder
) -> None:
    dataset_id = registered(config)
    process = Process.start(config)
    spec = builder.started(process.peer, dataset_id)
    parts = round_parts(builder.account, spec, dataset_id)
    talk = builder.run_round(process.peer, parts)
    member = talk.ready()
    talk.say(parts.submit(member).step)
    encrypted = talk.until(rounds_pb2.ROUND_STATE_ENCRYPTED)
    assert talk.error() == "PEER_UNREACHABLE"
    (path,) = config.ledger_path.with_name(config.ledger_path.name + ".outbox").iterdir()
    data = path.read_bytes()
    process.end(signal.SIGKILL)

    process = Process.start(config)
    again = builder.run_round(process.peer, parts)
    assert again.ready() == member, "another mask key would be another view"
    again.say(parts.submit(member).step)
    assert again.until(rounds_pb2.ROUND_STATE_ENCRYPTED).upload_root == encrypted.upload_root
    assert again.error() == "PEER_UNREACHABLE"
    assert path.read_bytes() == data
    builder.start(process.peer, spec.job_id, dataset_id)
    second = round_parts(builder.account, spec, dataset_id, attempt=2)
    builder.run_round(process.peer, second).ready()
    process.end(signal.SIGKILL)

    process = Process.start(config)
    assert builder.run_alone(process.peer, second) == "ATTEMPT_LOST"
    damaged = bytearray(data)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    third = builder.run_round(process.peer, parts)
    third.say(parts.submit(third.ready()).step)
    assert third.error() == "ATTEMPT_LOST", "damaged bytes are never sent"
    process.end(signal.SIGTERM)
    with LedgerReader(config.ledger_path) as book:
        assert book.leg(dataset_id, spec.job_id).charged == 2
        records = map(record_from_bytes, book.usage_records(0, 100))
        kinds = [(record.kind, record.attempt) for record in records if record.attempt]
    assert [pair for pair in kinds if pair[0] is not UsageKind.REFUSED] == [
        (UsageKind.CHARGED, 1),
        (UsageKind.SUBMITTED, 1),  # nobody could be reached, but none of its bytes may leave unrecorded
        (UsageKind.CHARGED, 2),
        (UsageKind.LOST, 2),
    ]
