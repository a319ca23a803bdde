"""One ledger's whole life, operation by operation, and what must be so wherever it was cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usufruct_server.holder.ledger import AttemptAlreadyCharged, Ledger, LegState

JOB, OTHER_JOB, SPEC, VIEW = b"j" * 32, b"k" * 32, b"s" * 32, b"v" * 32
LOSS, ATTEMPTS, CAP = 100, 4, 1_000
OPERATIONS: list[tuple[str, Callable[[Ledger], Any]]] = [
    ("register", lambda ledger: ledger.register_dataset(7, CAP, 6)),
    ("reserve", lambda ledger: ledger.reserve(7, JOB, LOSS, ATTEMPTS, SPEC)),
    ("charge 0", lambda ledger: ledger.charge(7, JOB, 0, 0)),
    (
        "upload 0",
        lambda ledger: ledger.record_upload(7, JOB, 0, 0, VIEW, lambda file: b"r" * file.write(bytes(32))),
    ),
    ("charge 1", lambda ledger: ledger.charge(7, JOB, 1, 0)),
    ("usage", lambda ledger: ledger.append_usage_record(b"round 1")),
    ("forget 0", lambda ledger: ledger.forget_upload(7, JOB, 0)),
    ("commit", lambda ledger: ledger.commit(7, JOB)),
    ("reserve other", lambda ledger: ledger.reserve(7, OTHER_JOB, LOSS, ATTEMPTS, SPEC)),
    ("release other", lambda ledger: ledger.release(7, OTHER_JOB)),
]
EXPECTED_SPENT = {"charge 0": LOSS, "charge 1": 2 * LOSS, "commit": ATTEMPTS * LOSS}


def spent_after(operations: list[str]) -> int:
    return max((EXPECTED_SPENT.get(name, 0) for name in operations), default=0)


def check(path: Path, begun: list[str], done: list[str]) -> None:
    """Everything confirmed is there; at most the one operation that had begun is there as well."""
    with Ledger(path) as ledger:
        if "register" not in done:
            ledger.register_dataset(7, CAP, 6)
        budget = ledger.budget(7)
        assert spent_after(done) <= budget.spent_micro <= spent_after(begun)
        if "reserve" in done:
            assert budget.spent_micro + budget.reserved_micro >= ATTEMPTS * LOSS
        for round_ in (0, 1):
            if f"charge {round_}" in done:
                with pytest.raises(AttemptAlreadyCharged):
                    ledger.charge(7, JOB, round_, 0)
        stored = ledger.upload(7, JOB, 0, 0) if "charge 0" in done else None
        if "upload 0" in done and "forget 0" not in begun:
            assert stored is not None
        if stored is not None:
            assert stored.path.read_bytes() == bytes(32)
        folder = path.with_name(path.name + ".outbox")
        assert len(list(folder.iterdir())) == (stored is not None), "no orphan is left"
        if "usage" in done:
            assert ledger.usage_records(0, 10) == (b"round 1",)
        finish(ledger, done)


def finish(ledger: Ledger, done: list[str]) -> None:
    """The server goes on where it was killed, and ends with the same integers as without the kill."""
    for name, operation in OPERATIONS:
        if name not in done and name != "usage":
            try:
                operation(ledger)
            except AttemptAlreadyCharged:
                assert name.startswith("charge")
    assert ledger.budget(7).spent_micro == ATTEMPTS * LOSS
    assert ledger.budget(7).reserved_micro == 0
    assert [leg.state for leg in ledger.jobs()] == [LegState.COMMITTED, LegState.RELEASED]
