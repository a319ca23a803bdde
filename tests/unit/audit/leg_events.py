"""One leg, and the event that brings it into each state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from usufruct.chain import LegEntry, LegState
from usufruct.chain import events as on_chain
from usufruct.domain.ids import ZERO_ADDRESS, ZERO_HASH
from usufruct.domain.leg_receipt import LegReceipt

TOKEN, PAYER = "0x" + "11" * 20, "0x" + "22" * 20
PRICE_UNITS, LOSS_MICRO, BOND_UNITS, FEE_BPS = 1000, 600, 100, 100
PAID = {LegState.ACKNOWLEDGED, LegState.SETTLED, LegState.RESOLVED}
AT = (5, bytes([9]) * 32, 0)
JOB_ID, DATASET_ID = bytes([1]) * 32, 4


def entry(state: LegState) -> LegEntry:
    return LegEntry(
        JOB_ID, DATASET_ID, 3, PAYER, PAYER, ZERO_ADDRESS, bytes([2]) * 32, bytes([3]) * 32, TOKEN, PRICE_UNITS, FEE_BPS,
        LOSS_MICRO, 2000, 3600, 0, ZERO_HASH, state,
    )  # fmt: skip


def receipt(**given: Any) -> LegReceipt:
    fields = {name: b"" if kind == "bytes" else 0 for name, kind in LegReceipt.__annotations__.items()}
    return LegReceipt(**{**fields, "loss_micro": LOSS_MICRO, **given})


def to(state: LegState, **given: Any) -> on_chain.LegEvent:
    """The event that brings a leg into a state."""
    match state:
        case LegState.LOCKED:
            return on_chain.LegLocked(*AT, JOB_ID, DATASET_ID, entry(state))
        case LegState.ACCEPTED:
            return on_chain.LegAccepted(*AT, JOB_ID, DATASET_ID, 1, 1)
        case LegState.DELIVERED:
            return on_chain.LegDelivered(*AT, JOB_ID, DATASET_ID, bytes([7]) * 32, 3000, receipt())
        case LegState.DISPUTED:
            return on_chain.LegDisputed(*AT, JOB_ID, DATASET_ID, TOKEN, BOND_UNITS, 3000, bytes(32))
    whole = PRICE_UNITS if state in PAID else 0
    fee = whole * FEE_BPS // 10_000
    lost = 0 if state in (LegState.CANCELLED, LegState.DECLINED, LegState.RELEASED) else LOSS_MICRO
    closed = on_chain.LegClosed(
        *AT, JOB_ID, DATASET_ID, 3, state, TOKEN, whole - fee, fee, PRICE_UNITS - whole, lost
    )
    return replace(closed, **given)
