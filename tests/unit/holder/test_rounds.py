"""The order of a round: nothing is charged for a refusal, and nothing is drawn before the charge is on the disk."""

from __future__ import annotations

import os
import signal
import stat
from typing import Any

import numpy as np
import pytest
from holder_world import MODEL, WIDTH, Builder, round_parts, to_sum
from running_leg import Leg

from usufruct import graph
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.keys import RoundKey
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import BuilderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.trainer import Trainer, TrainerFailed


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
    assert leg.refused(round_=3) == "ROUND_OUT_OF_ORDER"
    stranger = round_parts(builder.world.account(), leg.spec, leg.dataset_id)
    assert leg.talk(stranger).error() == "BAD_SIGNATURE"
    assert leg.charged == 0
    assert set(leg.kinds()) == {UsageKind.REFUSED} and len(leg.kinds()) == 6


def test_an_attempt_is_bound_to_its_offer_and_its_view_and_resends_the_same_bytes(
    leg: Leg, aggregator: PinnedEndpoint
) -> None:
    parts = leg.parts()
    talk = leg.talk(parts)
    submission = parts.submit(talk.ready())
    talk.say(submission.step)
    encrypted = talk.until(rounds_pb2.ROUND_STATE_ENCRYPTED)
    assert talk.error() == "ROUND_UNKNOWN"  # nobody has opened the round at the aggregator
    assert leg.refused() == "ROUND_VIEW_CHANGED"  # a fresh key is another offer
    stored = leg.served.ledger.upload(leg.dataset_id, leg.spec.job_id, 1, 1)
    assert stored is not None
    before = stored.path.read_bytes()
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600
    with BuilderAggregation(aggregator, leg.builder.account) as aggregation:
        aggregation.open_round(to_sum(leg.spec, submission.view), 60)
        for _ in range(2):
            again = leg.talk(parts)
            assert again.ready() == submission.step.submit.roster[0], "the mask key is the view's"
            again.say(submission.step)
            assert again.until(rounds_pb2.ROUND_STATE_SUBMITTED).upload_root == encrypted.upload_root
            again.hang_up()
        with aggregation.fetch_sum(to_sum(leg.spec, submission.view), 30) as fetched:
            assert fetched.upload_roots == {leg.dataset_id: encrypted.upload_root}
    assert stored.path.read_bytes() == before
    assert leg.charged == 1
    (charged,), (submitted,) = leg.records(UsageKind.CHARGED), leg.records(UsageKind.SUBMITTED)
    assert charged.view_hash == parts.offer.hash
    assert (submitted.view_hash, submitted.upload_digest) == (submission.view.hash, encrypted.upload_root)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1] * WIDTH, "TRAINER_FAILED"),  # one too few: what follows them are weights
        ([1] * (WIDTH + 2), "TRAINER_FAILED"),
        ([1] * WIDTH + [-1], "ATTEMPT_LOST"),
        ([1] * WIDTH + [1 << 16], "ATTEMPT_LOST"),
    ],
)
def test_what_is_no_update_is_never_sent(
    leg: Leg, monkeypatch: pytest.MonkeyPatch, values: list[int], reason: str
) -> None:
    blocks: list[SharedBlock] = []
    check = Trainer.check_weights

    def noted(self: Trainer, block: SharedBlock, *arguments: Any) -> None:
        blocks.append(block)
        check(self, block, *arguments)

    def written(self: Trainer, *arguments: Any) -> int:
        arguments[-1]()  # what the holder does meanwhile
        blocks[0].write(0, memoryview(np.array(values, "<i4").tobytes()))
        return len(values)

    monkeypatch.setattr(Trainer, "check_weights", noted)
    monkeypatch.setattr(Trainer, "run", written)
    assert leg.refused() == reason
    assert leg.charged == 1
    assert leg.served.ledger.upload(leg.dataset_id, leg.spec.job_id, 1, 1) is None
    assert len(leg.records(UsageKind.LOST)) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        blocks[0].values(0, 1)  # closed, and so wiped


def test_the_block_of_an_attempt_ends_with_it(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, lost or encrypted: whatever becomes of it."""
    blocks: list[SharedBlock] = []
    begin = SharedBlock.__init__

    def noted(self: SharedBlock, size_bytes: int) -> None:
        begin(self, size_bytes)
        blocks.append(self)

    monkeypatch.setattr(SharedBlock, "__init__", noted)
    assert leg.refused(weights=b"pickle") == "WEIGHTS_NOT_ALLOWED"
    assert leg.refused(round_=3) == "ROUND_OUT_OF_ORDER"
    assert leg.refused() == "ROUND_UNKNOWN"
    assert leg.refused() == "ROUND_VIEW_CHANGED"
    assert 2 <= len(blocks) <= 4
    for block in blocks:
        with pytest.raises(OSError, match="Bad file descriptor"):
            block.values(0, 1)


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


def test_a_charge_is_on_record_also_where_the_trainer_takes_no_order(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is written while the trainer works; one that is gone by then works at nothing."""

    def gone(self: Trainer, *arguments: Any) -> int:
        raise TrainerFailed("The trainer process is gone.")

    monkeypatch.setattr(Trainer, "run", gone)
    assert leg.refused() == "TRAINER_FAILED"
    assert leg.charged == 1
    assert [kind for kind in leg.kinds() if kind in (UsageKind.CHARGED, UsageKind.LOST)] == [
        UsageKind.CHARGED,
        UsageKind.LOST,
    ]


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
