"""The budget's arithmetic: the filter refuses, nothing is ever undercounted, integers only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usufruct.privacy import Budget, BudgetShort, MechanismInvalid

VERBS = ("reserve", "charge", "commit", "release")


def test_the_four_verbs() -> None:
    budget = Budget(100).reserve(60)
    assert (budget.reserved_micro, budget.spent_micro, budget.available_micro) == (60, 0, 40)
    budget = budget.charge(20)
    assert (budget.reserved_micro, budget.spent_micro, budget.available_micro) == (40, 20, 40)
    budget = budget.commit(40)
    assert (budget.reserved_micro, budget.spent_micro, budget.available_micro) == (0, 60, 40)
    assert budget.commit(0) == budget
    assert budget.reserve(40).release(40) == budget


def test_the_filter_refuses_one_unit_too_much_and_nothing_changes() -> None:
    budget = Budget(100).reserve(60).charge(60)
    with pytest.raises(BudgetShort) as refused:
        budget.reserve(41)
    assert refused.value.reason == "BUDGET_SHORT"
    assert refused.value.details["limit"] == 40
    assert budget.reserve(40).available_micro == 0


def test_what_was_charged_cannot_be_released() -> None:
    with pytest.raises(BudgetShort):
        Budget(100).reserve(60).charge(60).release(1)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("amount", [-1, 1.0, True, "1", 2**63])
def test_only_positive_integers_move(verb: str, amount: object) -> None:
    with pytest.raises(MechanismInvalid):
        getattr(Budget(100, 50, 0), verb)(amount)


@pytest.mark.parametrize("figures", [(10, 6, 5), (-1, 0, 0), (10, -1, 0), (10, 0, 0.5), (2**63, 0, 0)])
def test_an_impossible_budget_cannot_be_built(figures: tuple[int, int, int]) -> None:
    with pytest.raises(MechanismInvalid):
        Budget(*figures)


def test_a_cap_only_falls_and_not_below_what_is_used() -> None:
    budget = Budget(100, 10, 20)
    assert budget.lower_cap(30).available_micro == 0
    for cap in (29, 101):
        with pytest.raises(MechanismInvalid):
            budget.lower_cap(cap)


@given(st.integers(0, 1000), st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 400)), max_size=30))
def test_no_sequence_of_verbs_undercounts(cap: int, sequence: list[tuple[str, int]]) -> None:
    budget = Budget(cap)
    for verb, amount in sequence:
        before = budget
        try:
            budget = getattr(budget, verb)(amount)
        except (BudgetShort, MechanismInvalid):
            continue
        assert budget.cap_micro == cap
        assert budget.spent_micro >= before.spent_micro
        assert 0 <= budget.reserved_micro <= cap - budget.spent_micro
        moved = (
            budget.reserved_micro - before.reserved_micro,
            budget.spent_micro - before.spent_micro,
        )
        expected = {
            "reserve": (amount, 0),
            "charge": (-amount, amount),
            "commit": (-amount, amount),
            "release": (-amount, 0),
        }
        assert moved == expected[verb]
