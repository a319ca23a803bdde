"""The ledger against a model: whatever is called in whatever order, and however often it is reopened."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from usufruct.errors import InvalidInput, UsufructError
from usufruct.privacy import Budget, BudgetShort
from usufruct_server.holder.ledger import (
    AttemptAlreadyCharged,
    AttemptsExhausted,
    Ledger,
    LegClosed,
    LegUnknown,
    ReservationConflict,
)

DATASETS = {1: 60, 2: 25}
JOBS = [bytes([letter]) * 32 for letter in b"ab"]
SPEC = b"s" * 32
LEGS = st.tuples(st.sampled_from(sorted(DATASETS)), st.sampled_from(JOBS))


@dataclass
class ModelLeg:
    loss: int
    attempts: int
    state: str = "reserved"
    charged: set[tuple[int, int]] = field(default_factory=set)
    committed: int = 0

    @property
    def drawn(self) -> int:
        return self.loss * len(self.charged)

    @property
    def reserved(self) -> int:
        return self.loss * (self.attempts - len(self.charged)) if self.state == "reserved" else 0

    @property
    def spent(self) -> int:
        return self.committed if self.state == "committed" else self.drawn


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.legs: dict[tuple[int, bytes], ModelLeg] = {}
        self.lost: dict[int, int] = dict.fromkeys(DATASETS, 0)
        self.charges_ever: set[tuple[int, bytes, int, int]] = set()

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.path)
        for dataset, cap in DATASETS.items():
            self.ledger.register_dataset(dataset, cap, 6)

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    def available(self, dataset: int) -> int:
        used = sum(leg.reserved + leg.spent for key, leg in self.legs.items() if key[0] == dataset)
        return DATASETS[dataset] - used

    def outcome(self, call: object, *arguments: object) -> type[UsufructError] | None:
        try:
            call(*arguments)  # type: ignore[operator]
        except UsufructError as error:
            return type(error)
        return None

    @rule(leg=LEGS, loss=st.integers(1, 8), attempts=st.integers(1, 5))
    def reserve(self, leg: tuple[int, bytes], loss: int, attempts: int) -> None:
        known = self.legs.get(leg)
        expected: type[UsufructError] | None = None
        if known is not None and known.state != "released":
            if (known.loss, known.attempts) != (loss, attempts):
                expected = ReservationConflict
            elif known.state == "committed":
                expected = LegClosed
        elif loss * attempts > self.available(leg[0]):
            expected = BudgetShort
        else:
            self.legs[leg] = ModelLeg(loss, attempts)
        assert self.outcome(self.ledger.reserve, *leg, loss, attempts, SPEC) is expected

    @rule(leg=LEGS, round_=st.integers(0, 3), attempt=st.integers(0, 1))
    def charge(self, leg: tuple[int, bytes], round_: int, attempt: int) -> None:
        known = self.legs.get(leg)
        expected: type[UsufructError] | None = None
        if known is None:
            expected = LegUnknown
        elif (round_, attempt) in known.charged:
            expected = AttemptAlreadyCharged
        elif known.state != "reserved":
            expected = LegClosed
        elif len(known.charged) == known.attempts:
            expected = AttemptsExhausted
        else:
            known.charged.add((round_, attempt))
        assert self.outcome(self.ledger.charge, *leg, round_, attempt) is expected

    @rule(leg=LEGS, agreed=st.one_of(st.none(), st.integers(0, 40)))
    def commit(self, leg: tuple[int, bytes], agreed: int | None) -> None:
        known = self.legs.get(leg)
        expected: type[UsufructError] | None = None
        if known is None:
            expected = LegUnknown
        elif known.state == "released":
            expected = LegClosed
        elif known.state == "reserved":
            whole = known.loss * known.attempts
            if agreed is not None and not known.drawn <= agreed <= whole:
                expected = InvalidInput
            else:
                known.state, known.committed = "committed", whole if agreed is None else agreed
        assert self.outcome(self.ledger.commit, *leg, agreed) is expected
        if expected is None and known is not None:
            assert self.ledger.commit(*leg) == known.committed

    @rule(leg=LEGS)
    def release(self, leg: tuple[int, bytes]) -> None:
        known = self.legs.get(leg)
        expected: type[UsufructError] | None = None
        if known is None:
            expected = LegUnknown
        elif known.state == "committed" or known.charged:
            expected = LegClosed
        else:
            known.state = "released"
        assert self.outcome(self.ledger.release, *leg) is expected

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)

    @invariant()
    def every_book_holds_the_same_integers(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for dataset, cap in DATASETS.items():
            legs = [leg for key, leg in self.legs.items() if key[0] == dataset]
            expected = Budget(cap, sum(leg.reserved for leg in legs), sum(leg.spent for leg in legs))
            budget = self.ledger.budget(dataset)
            assert budget == expected
            assert budget.spent_micro >= self.lost[dataset], "spent loss came back"
            self.lost[dataset] = budget.spent_micro


LedgerMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLedgerMachine = LedgerMachine.TestCase
