"""Reserve, charge, commit, release: what each refuses, and what is still true after the ledger was closed
and opened."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from usufruct.errors import InvalidInput, LedgerError
from usufruct.privacy import Budget, BudgetShort
from usufruct_server.holder.ledger import (
    AttemptAlreadyCharged,
    AttemptsExhausted,
    DatasetConflict,
    DatasetNotRegistered,
    Kind,
    Ledger,
    LedgerReader,
    LegClosed,
    LegState,
    LegUnknown,
    ReservationConflict,
)

DATASET, ORDER, CAP = 7, 6, 1_000
JOB, OTHER_JOB, SPEC = b"j" * 32, b"k" * 32, b"s" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        opened.register_dataset(DATASET, CAP, ORDER)
        yield opened


def test_the_life_of_a_leg(ledger: Ledger, path: Path) -> None:
    leg = ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    assert (leg.reservation_micro, leg.remaining_micro, leg.state) == (400, 400, LegState.RESERVED)
    assert ledger.budget(DATASET) == Budget(CAP, 400, 0)
    charge = ledger.charge(DATASET, JOB, 0, 0)
    assert (charge.loss_micro, charge.attempts_charged, charge.attempts_left) == (100, 1, 3)
    ledger.charge(DATASET, JOB, 1, 0)
    assert ledger.budget(DATASET) == Budget(CAP, 200, 200)
    assert ledger.charged_attempts(DATASET, JOB) == ((0, 0), (1, 0))
    assert ledger.commit(DATASET, JOB) == 400, "unless less was agreed on, the whole reservation is spent"
    assert ledger.budget(DATASET) == Budget(CAP, 0, 400)
    ledger.close()
    with Ledger(path) as again:
        assert again.budget(DATASET) == Budget(CAP, 0, 400)
        assert again.order(DATASET) == ORDER
        assert [leg.state for leg in again.jobs()] == [LegState.COMMITTED]


@pytest.mark.parametrize("agreed", [200, 300, 400])
def test_a_leg_ends_at_the_loss_that_was_agreed_on(ledger: Ledger, path: Path, agreed: int) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    for attempt in range(2):
        ledger.charge(DATASET, JOB, 0, attempt)
    assert ledger.commit(DATASET, JOB, agreed) == agreed
    assert ledger.budget(DATASET) == Budget(CAP, 0, agreed), "what is above it is free again"
    assert ledger.commit(DATASET, JOB) == agreed, "a leg ends once"
    ledger.close()
    with Ledger(path) as again:  # verified, row by row
        assert again.committed_micro(DATASET, JOB) == agreed


@pytest.mark.parametrize("agreed", [0, 199, 401])
def test_a_leg_cannot_end_below_its_charges_or_above_its_reservation(ledger: Ledger, agreed: int) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    for attempt in range(2):
        ledger.charge(DATASET, JOB, 0, attempt)
    with pytest.raises(InvalidInput):
        ledger.commit(DATASET, JOB, agreed)
    assert ledger.leg(DATASET, JOB).state is LegState.RESERVED
    assert ledger.budget(DATASET) == Budget(CAP, 200, 200)


def test_a_dataset_starts_with_the_loss_of_its_earlier_version(ledger: Ledger, path: Path) -> None:
    assert ledger.register_dataset(DATASET + 1, CAP, ORDER, inherited_micro=70) == Budget(CAP, 0, 70)
    assert ledger.register_dataset(DATASET + 1, CAP, ORDER, inherited_micro=90) == Budget(CAP, 0, 70), "once"
    with pytest.raises(BudgetShort):
        ledger.register_dataset(DATASET + 2, CAP, ORDER, inherited_micro=CAP + 1)
    ledger.close()
    with Ledger(path) as again:
        assert set(again.datasets()) == {DATASET, DATASET + 1}
        assert again.budget(DATASET + 1) == Budget(CAP, 0, 70)


def test_every_start_is_a_row_that_no_earlier_copy_has(ledger: Ledger, path: Path) -> None:
    first, second = ledger.note_start(), ledger.note_start()
    assert first != second
    assert ledger.head()[1] == second
    ledger.close()
    with Ledger(path) as again:
        assert again.has_row(first)
        assert again.has_row(second)
        assert not again.has_row(bytes(32))


def test_a_charge_is_readable_by_others_before_it_returns_to_the_caller(ledger: Ledger, path: Path) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    for attempt in range(4):
        ledger.charge(DATASET, JOB, 0, attempt)
        with LedgerReader(path) as reader:
            assert reader.budget(DATASET).spent_micro == 100 * (attempt + 1)


def test_the_same_attempt_is_never_charged_twice(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    ledger.charge(DATASET, JOB, 3, 1)
    with pytest.raises(AttemptAlreadyCharged) as refused:
        ledger.charge(DATASET, JOB, 3, 1)
    assert refused.value.reason == "ATTEMPT_ALREADY_CHARGED"
    assert ledger.budget(DATASET).spent_micro == 100
    assert ledger.charge(DATASET, JOB, 3, 2).attempts_left == 2


def test_attempts_beyond_the_reservation_are_refused_even_where_the_cap_has_room(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 2, SPEC)
    ledger.charge(DATASET, JOB, 0, 0)
    ledger.charge(DATASET, JOB, 1, 0)
    with pytest.raises(AttemptsExhausted):
        ledger.charge(DATASET, JOB, 2, 0)
    assert ledger.budget(DATASET) == Budget(CAP, 0, 200)


def test_the_filter_refuses_what_does_not_fit_and_leaves_no_trace(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 6, SPEC)
    rows = ledger.rows()
    with pytest.raises(BudgetShort) as refused:
        ledger.reserve(DATASET, OTHER_JOB, 401, 1, SPEC)
    assert refused.value.reason == "BUDGET_SHORT"
    assert ledger.rows() == rows
    assert ledger.reserve(DATASET, OTHER_JOB, 400, 1, SPEC).reservation_micro == 400


def test_one_dataset_never_pays_for_another(ledger: Ledger) -> None:
    ledger.register_dataset(8, 50, 16)
    ledger.reserve(DATASET, JOB, 100, 2, SPEC)
    with pytest.raises(LegUnknown):
        ledger.charge(8, JOB, 0, 0)
    ledger.reserve(8, JOB, 25, 2, SPEC)
    ledger.charge(8, JOB, 0, 0)
    assert ledger.datasets() == {DATASET: Budget(CAP, 200, 0), 8: Budget(50, 25, 25)}


def test_reserving_again_is_harmless_and_with_other_figures_refused(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    ledger.charge(DATASET, JOB, 0, 0)
    assert ledger.reserve(DATASET, JOB, 100, 4, SPEC).charged == 1
    assert ledger.budget(DATASET) == Budget(CAP, 300, 100)
    for loss, attempts, spec in ((99, 4, SPEC), (100, 5, SPEC), (100, 4, b"t" * 32)):
        with pytest.raises(ReservationConflict):
            ledger.reserve(DATASET, JOB, loss, attempts, spec)


def test_release_is_only_for_a_leg_that_never_charged(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    ledger.release(DATASET, JOB)
    ledger.release(DATASET, JOB)
    assert ledger.budget(DATASET) == Budget(CAP, 0, 0)
    with pytest.raises(LegClosed):
        ledger.charge(DATASET, JOB, 0, 0)
    with pytest.raises(LegClosed):
        ledger.commit(DATASET, JOB)
    ledger.reserve(DATASET, JOB, 50, 2, SPEC)
    ledger.charge(DATASET, JOB, 0, 0)
    with pytest.raises(LegClosed):
        ledger.release(DATASET, JOB)
    assert ledger.budget(DATASET) == Budget(CAP, 50, 50)


def test_after_the_commit_nothing_moves(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    ledger.charge(DATASET, JOB, 0, 0)
    ledger.commit(DATASET, JOB)
    rows = ledger.rows()
    assert ledger.commit(DATASET, JOB) == 400
    for verb in (
        lambda: ledger.charge(DATASET, JOB, 1, 0),
        lambda: ledger.release(DATASET, JOB),
        lambda: ledger.reserve(DATASET, JOB, 100, 4, SPEC),
    ):
        with pytest.raises(LegClosed):
            verb()
    with pytest.raises(AttemptAlreadyCharged):
        ledger.charge(DATASET, JOB, 0, 0)
    assert ledger.rows() == rows


def test_a_dataset_keeps_its_order_and_its_cap_only_falls(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 4, SPEC)
    assert ledger.register_dataset(DATASET, CAP, ORDER) == Budget(CAP, 400, 0)
    for cap, order in ((CAP, 16), (CAP + 1, ORDER), (399, ORDER)):
        with pytest.raises(DatasetConflict):
            ledger.register_dataset(DATASET, cap, order)
    assert ledger.register_dataset(DATASET, 400, ORDER).available_micro == 0
    with pytest.raises(BudgetShort):
        ledger.reserve(DATASET, OTHER_JOB, 1, 1, SPEC)


def test_what_is_not_known_is_refused(ledger: Ledger) -> None:
    with pytest.raises(DatasetNotRegistered):
        ledger.reserve(99, JOB, 1, 1, SPEC)
    with pytest.raises(DatasetNotRegistered):
        ledger.budget(99)
    for verb in (ledger.commit, ledger.release, ledger.leg):
        with pytest.raises(LegUnknown):
            verb(DATASET, OTHER_JOB)


@pytest.mark.parametrize(
    ("loss", "attempts", "job_id", "spec_hash"),
    [
        (0, 1, JOB, SPEC),
        (-5, 1, JOB, SPEC),
        (1.5, 1, JOB, SPEC),
        (1, 0, JOB, SPEC),
        (1, True, JOB, SPEC),
        (1, 1, b"short", SPEC),
        (1, 1, JOB, "0x" + "00" * 32),
    ],
)
def test_malformed_figures_never_reach_the_file(
    ledger: Ledger, loss: object, attempts: object, job_id: object, spec_hash: object
) -> None:
    with pytest.raises(InvalidInput):
        ledger.reserve(DATASET, job_id, loss, attempts, spec_hash)  # type: ignore[arg-type]
    assert len(ledger.rows()) == 1


@pytest.mark.parametrize(("round_", "attempt"), [(-1, 0), (0, -1), (2**31, 0), (0.0, 0), (0, None)])
def test_malformed_attempts_are_refused(ledger: Ledger, round_: object, attempt: object) -> None:
    ledger.reserve(DATASET, JOB, 1, 1, SPEC)
    with pytest.raises(InvalidInput):
        ledger.charge(DATASET, JOB, round_, attempt)  # type: ignore[arg-type]


def test_the_rows_tell_the_whole_story_and_export_with_their_hashes(ledger: Ledger) -> None:
    ledger.reserve(DATASET, JOB, 100, 2, SPEC)
    ledger.charge(DATASET, JOB, 5, 1)
    ledger.commit(DATASET, JOB)
    rows = ledger.rows()
    assert [row.kind for row in rows] == [Kind.REGISTER, Kind.RESERVE, Kind.CHARGE, Kind.COMMIT]
    assert [row.amount_micro for row in rows] == [CAP, 200, 100, 100]
    assert (rows[2].round, rows[2].attempt) == (5, 1)
    assert all(row.hash == row.computed_hash() for row in rows)
    assert all(row.previous_hash == before.hash for before, row in itertools.pairwise(rows))
    assert ledger.head() == (4, rows[-1].hash)
    stream = io.StringIO()
    assert ledger.export_json_lines(stream) == 4
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[2]["kind"] == "charge"
    assert lines[2]["job_id"] == "0x" + JOB.hex()
    assert lines[3]["hash"] == "0x" + rows[-1].hash.hex()


def test_every_refusal_of_the_ledger_is_one_family() -> None:
    for error in (AttemptAlreadyCharged, AttemptsExhausted, LegClosed, ReservationConflict, DatasetConflict):
        assert issubclass(error, LedgerError)
