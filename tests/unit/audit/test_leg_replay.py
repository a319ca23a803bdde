"""Legs go only the ways that the contract has for them: every pair of states is tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from leg_events import (
    AT,
    BOND_UNITS,
    DATASET_ID,
    FEE_BPS,
    JOB_ID,
    LOSS_MICRO,
    PAYER,
    PRICE_UNITS,
    TOKEN,
    entry,
    receipt,
    to,
)

from usufruct.audit.books import Books, LegBook
from usufruct.audit.findings import Finding
from usufruct.audit.leg_replay import replay_leg
from usufruct.chain import ENDED, LegState
from usufruct.chain import events as on_chain

WAYS = {
    (LegState.LOCKED, LegState.ACCEPTED),
    (LegState.LOCKED, LegState.CANCELLED),
    (LegState.LOCKED, LegState.DECLINED),
    (LegState.LOCKED, LegState.RELEASED),
    (LegState.ACCEPTED, LegState.DELIVERED),
    (LegState.ACCEPTED, LegState.RELEASED),
    (LegState.ACCEPTED, LegState.FAILED),
    (LegState.ACCEPTED, LegState.EXPIRED),
    (LegState.DELIVERED, LegState.ACKNOWLEDGED),
    (LegState.DELIVERED, LegState.SETTLED),
    (LegState.DELIVERED, LegState.DISPUTED),
    (LegState.DISPUTED, LegState.RESOLVED),
    (LegState.DISPUTED, LegState.UNRESOLVED),
}
"""As contracts/README.md draws them."""


def found(before: LegState, *events: on_chain.LegEvent) -> list[Finding]:
    """What is found when these events come after that state."""
    books = Books(deposits={(TOKEN, PAYER): BOND_UNITS})
    locked = on_chain.LegLocked(*AT, JOB_ID, DATASET_ID, entry(LegState.LOCKED))
    leg = LegBook(locked, entry(before), "")
    if before is LegState.DISPUTED:
        leg.disputed = on_chain.LegDisputed(*AT, JOB_ID, DATASET_ID, TOKEN, BOND_UNITS, 3000, bytes(32))
    books.legs[entry(before).leg_id] = leg
    return [finding for event in events for finding in replay_leg(books, event)]


def bond(to_holder: bool, units: int = BOND_UNITS) -> on_chain.BondPaid:
    return on_chain.BondPaid(*AT, JOB_ID, DATASET_ID, TOKEN, to_holder, units)


@pytest.mark.parametrize("before", list(LegState))
@pytest.mark.parametrize("after", [state for state in LegState if state is not LegState.LOCKED])
def test_only_the_contracts_ways_are_no_finding(before: LegState, after: LegState) -> None:
    events = [to(after)]
    if before is LegState.DISPUTED and after in (LegState.RESOLVED, LegState.UNRESOLVED):
        events.insert(0, bond(after is LegState.RESOLVED))
    kinds = [finding.kind for finding in found(before, *events)]
    assert kinds == ([] if (before, after) in WAYS else ["leg-state"])


def test_every_state_but_the_last_ones_has_a_way_on_and_no_last_one_has() -> None:
    assert {before for before, _ in WAYS} == set(LegState) - ENDED
    assert {after for _, after in WAYS} == set(LegState) - {LegState.LOCKED}


def test_a_leg_is_opened_once() -> None:
    assert [f.kind for f in found(LegState.LOCKED, to(LegState.LOCKED))] == ["event-impossible"]


@pytest.mark.parametrize("state", [LegState.LOCKED, LegState.ACCEPTED, LegState.DELIVERED, LegState.DISPUTED])
def test_a_leg_does_not_end_in_a_state_that_goes_on(state: LegState) -> None:
    for before in LegState:
        end = replace(to(LegState.SETTLED), state=state)  # type: ignore[call-arg]
        assert [finding.kind for finding in found(before, end)] == ["leg-state"]


@pytest.mark.parametrize(
    ("state", "change", "kind"),
    [
        (LegState.ACKNOWLEDGED, {"holder_units": 989}, "payment-differs"),
        (LegState.ACKNOWLEDGED, {"holder_units": 991, "fee_units": 9}, "fee-differs"),
        (LegState.ACKNOWLEDGED, {"holder_units": 989, "fee_units": 11}, "fee-differs"),
        (LegState.SETTLED, {"holder_units": 0, "fee_units": 0, "payer_units": 1000}, "payment-differs"),
        (LegState.SETTLED, {"payer_units": 1}, "payment-differs"),
        (LegState.SETTLED, {"holder_id": 4}, "payment-differs"),
        (LegState.SETTLED, {"token": PAYER}, "payment-differs"),
        (LegState.SETTLED, {"loss_micro": LOSS_MICRO - 1}, "leg-loss"),
        (LegState.EXPIRED, {"loss_micro": LOSS_MICRO - 1}, "leg-loss"),
        (LegState.EXPIRED, {"holder_units": 990, "fee_units": 10, "payer_units": 0}, "payment-differs"),
        (LegState.FAILED, {"loss_micro": LOSS_MICRO + 1}, "leg-loss"),
        (LegState.RELEASED, {"loss_micro": 1}, "leg-loss"),
        (LegState.CANCELLED, {"loss_micro": LOSS_MICRO}, "leg-loss"),
        (LegState.DECLINED, {"payer_units": 999}, "payment-differs"),
    ],
)
def test_an_end_that_pays_or_spends_otherwise_is_found(
    state: LegState, change: dict[str, Any], kind: str
) -> None:
    before = next(before for before, after in WAYS if after is state)
    assert kind in {f.kind for f in found(before, to(state, **change))}


def test_less_than_the_reservation_may_fail_and_more_may_not_be_delivered() -> None:
    assert found(LegState.ACCEPTED, to(LegState.FAILED, loss_micro=0)) == []
    assert found(LegState.ACCEPTED, to(LegState.FAILED, loss_micro=LOSS_MICRO - 1)) == []
    over = on_chain.LegDelivered(*AT, JOB_ID, DATASET_ID, bytes(32), 3000, receipt(loss_micro=LOSS_MICRO + 1))
    assert [f.kind for f in found(LegState.ACCEPTED, over)] == ["leg-loss"]


@pytest.mark.parametrize(
    ("share_units", "to_holder", "kinds"),
    [
        (1000, True, []), (501, True, []), (500, False, []), (0, False, []),
        (500, True, ["payment-differs"]), (501, False, ["payment-differs"]), (0, True, ["payment-differs"]),
    ],
)  # fmt: skip
def test_the_bond_goes_to_the_holder_that_gets_more_than_half(
    share_units: int, to_holder: bool, kinds: list[str]
) -> None:
    fee = share_units * FEE_BPS // 10_000
    end = to(
        LegState.RESOLVED,
        holder_units=share_units - fee,
        fee_units=fee,
        payer_units=PRICE_UNITS - share_units,
    )
    assert [f.kind for f in found(LegState.DISPUTED, bond(to_holder), end)] == kinds


def test_a_bond_is_a_tenth_and_is_paid_once_while_the_leg_is_disputed() -> None:
    end = to(LegState.UNRESOLVED)
    assert [f.kind for f in found(LegState.DISPUTED, end)] == ["payment-differs"]
    assert [f.kind for f in found(LegState.DISPUTED, bond(True), end)] == ["payment-differs"]
    assert [f.kind for f in found(LegState.DISPUTED, bond(False, BOND_UNITS + 1), end)] == ["payment-differs"]
    assert [f.kind for f in found(LegState.DELIVERED, bond(False))] == ["payment-differs"]
    other = replace(to(LegState.DISPUTED), bond_units=BOND_UNITS - 1)  # type: ignore[call-arg]
    assert [f.kind for f in found(LegState.DELIVERED, other)] == ["payment-differs"]
    assert [f.kind for f in found(LegState.DISPUTED, bond(False), bond(False), end)] == ["payment-differs"]
