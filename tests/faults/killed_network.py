"""A network to be killed in parts: three hospitals, one builder; and what their ledgers say about a job afterwards."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import usufruct as uf
from usufruct.builder import JobHandle, Network
from usufruct.builder.receipts import receipt_on_chain
from usufruct.chain import LegState
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.wire.usage import record_from_bytes
from usufruct_server.demo.network import DatasetSetup, HolderSetup, LocalNetwork
from usufruct_server.holder.config import read_config
from usufruct_server.holder.ledger import LedgerReader

COLUMNS, ROWS = 4, 40
PRICE_UNITS = 1000
ROUNDS, SPARE_ATTEMPTS = 3, 3
LOCAL_STEPS = 300
"""About half a second of one core: the victim's trainer is held still long before it is done."""

VICTIM, VICTIM_DATASET = "ward-2", 2
"""Whose trainer is held, and who is killed where a holder or a trainer is."""

MESSAGE_SECONDS = 10.0
"""From a death to a message that names who died: the requirement."""

HANG_SECONDS = 90.0
"""A condition that has not come true by then never will."""

LOOK_EVERY_SECONDS = 0.02

Attempts = frozenset[tuple[int, int]]
"""(round, attempt)."""


def hospital(number: int) -> HolderSetup:
    """A holder whose label says on which side of a plane a row lies."""
    drawn = torch.Generator().manual_seed(number)
    values = torch.rand((ROWS, COLUMNS), generator=drawn) * 2 - 1
    names = [f"x{column}" for column in range(COLUMNS)]
    rows = [{name: f"{value:.6f}" for name, value in zip(names, row, strict=True)} for row in values.tolist()]
    labels = (values.sum(1) > 0).int().tolist()
    labelled = [{**row, "y": str(label)} for row, label in zip(rows, labels, strict=True)]
    card = DatasetCard(
        name=f"ward {number}",
        task="planes",
        description="made up: the label is whether the numbers add up to more than 0",
        columns=tuple(Column(name, "number", -1.0, 1.0) for name in names),
        label=Label("y", (("0",), ("1",))),
        person_column=None,
        nominal_size=ROWS,
    )
    return HolderSetup(
        f"ward-{number}",
        [DatasetSetup(card, labelled, price_units=PRICE_UNITS, min_cohort=3, budget_epsilon=40.0)],
    )


def open_job(local: LocalNetwork, *, spare_attempts: int = SPARE_ATTEMPTS, rounds: int = ROUNDS) -> JobHandle:
    """A job over all three holders, granted and open on chain."""
    network = uf.connect(local.rpc_url, contract=local.compute_access, key=local.builder_key)
    torch.manual_seed(0)
    return network.train(
        nn.Linear(COLUMNS, 1),
        network.datasets(),
        aggregator=local.aggregator,
        loss="binary_cross_entropy_with_logits",
        optimizer=uf.SGD(lr=0.01, local_steps=LOCAL_STEPS),
        privacy=uf.Privacy(epsilon=6.0, noise="local"),
        rounds=rounds,
        spare_attempts=spare_attempts,
    )


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Returns as soon as ``condition`` holds; fails when it does not in :data:`HANG_SECONDS`."""
    deadline, turn = time.monotonic() + HANG_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        turn.wait(LOOK_EVERY_SECONDS)


# -- killing ----------------------------------------------------------------------------------------------------------


class AtCharge:
    """Acts once in the middle of a round: when the ledgers of *all* holders show the attempt, and one is still drawing.

    That one is the victim: its trainer is held still from its charge until the action is over, so the middle of the
    round lasts as long as it has to. Works in a thread of its own.

    Attributes:
        time: when it acted, on the monotonic clock; 0 before.
    """

    def __init__(
        self, local: LocalNetwork, job_id: bytes, attempt: int, action: Callable[[], object]
    ) -> None:
        self._local, self._job_id, self._attempt, self._action = local, job_id, attempt, action
        self._thread = threading.Thread(target=self._watch, name="at charge")
        self.time = 0.0

    def _watch(self) -> None:
        wait_until(f"the victim charges attempt {self._attempt}", lambda: self._charged([VICTIM]))
        trainer = trainer_pid(self._local, VICTIM, self._job_id)
        os.kill(trainer, signal.SIGSTOP)
        try:
            wait_until(f"all charge attempt {self._attempt}", lambda: self._charged(self._local.places))
            self.time = time.monotonic()
            self._action()
        finally:
            with suppress(ProcessLookupError):  # it may be what was killed
                os.kill(trainer, signal.SIGCONT)

    def _charged(self, names: Iterable[str]) -> bool:
        entries = (read_ledger(self._local, name, self._job_id) for name in names)
        return all(self._attempt in {attempt for _, attempt in entry.charged} for entry in entries)

    def __enter__(self) -> AtCharge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        assert self.time, "the attempt was never charged"


def trainer_pid(local: LocalNetwork, name: str, job_id: bytes) -> int:
    """Process id of the child that trains a job at a holder; the holder's log names it."""
    log = (local.logs / f"{name}.log").read_text(encoding="utf-8")
    pids = re.findall(rf"event=trainer_ready job={job_id.hex()} dataset=\d+ pid=(\d+)", log)
    return int(pids[-1])


# -- what is left afterwards ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LedgerEntry:
    """What one holder's ledger and usage log say about a job.

    Attributes:
        charged: every charge, in order.
        records: the job's usage records, in order.
    """

    charged: Sequence[tuple[int, int]]
    records: Sequence[UsageRecord]

    def attempts(self, kind: UsageKind) -> list[tuple[int, int]]:
        """(round, attempt) of the records of one kind."""
        return [(record.round, record.attempt) for record in self.records if record.kind is kind]


def ledger_path(local: LocalNetwork, name: str) -> Path:
    """The ledger's file at a holder."""
    return read_config(local.places[name].config).ledger_path


def read_ledger(local: LocalNetwork, name: str, job_id: bytes) -> LedgerEntry:
    """One holder's; read from the file, past every process."""
    (dataset_id,) = local.places[name].dataset_ids
    with LedgerReader(ledger_path(local, name)) as ledger:
        records = map(record_from_bytes, ledger.usage_records(0, 10_000))
        return LedgerEntry(
            ledger.charged_attempts(dataset_id, job_id),
            [record for record in records if record.job_id == job_id],
        )


def read_ledgers(local: LocalNetwork, job_id: bytes) -> Mapping[int, LedgerEntry]:
    """All holders', by dataset number."""
    return {place.dataset_ids[0]: read_ledger(local, name, job_id) for name, place in local.places.items()}


def receipts(local: LocalNetwork, job_id: bytes) -> dict[int, LegReceipt]:
    """The receipts on chain of a job whose legs have all been paid."""
    network: Network = uf.connect(local.rpc_url, contract=local.compute_access)
    legs = network.chain.job_legs(job_id)
    assert [leg.state for leg in legs] == [LegState.ACKNOWLEDGED] * len(local.places)
    return {leg.dataset_id: receipt_on_chain(network.chain, leg) for leg in legs}


def assert_every_draw_is_counted(local: LocalNetwork, job: JobHandle, *, attempts_started: int) -> None:
    """A finished job: delivered and paid; every attempt that was started is in every ledger, log and receipt.

    Args:
        attempts_started: by the builder, and charged by every holder.
    """
    assert job.finished
    assert job.paid == PRICE_UNITS * len(local.places)
    assert all(leg.acknowledged and not leg.findings for leg in job.receipts)
    on_chain = receipts(local, job.spec.job_id)
    for dataset_id, entry in read_ledgers(local, job.spec.job_id).items():
        where = f"dataset {dataset_id}"
        assert [attempt for _, attempt in entry.charged] == list(range(1, attempts_started + 1)), where
        assert entry.attempts(UsageKind.CHARGED) == list(entry.charged), where
        submitted, lost = (set(entry.attempts(kind)) for kind in (UsageKind.SUBMITTED, UsageKind.LOST))
        assert submitted | lost == set(entry.charged), where
        assert not submitted & lost, where
        assert {(result.index, result.attempt) for result in job.history} <= submitted, where
        assert on_chain[dataset_id].attempts_charged == attempts_started, where
        drawn = attempts_started * job.spec.leg(dataset_id).loss_per_attempt_micro
        assert on_chain[dataset_id].loss_micro == drawn <= job.spec.reservation_micro(dataset_id), where
