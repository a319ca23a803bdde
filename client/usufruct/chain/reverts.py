"""What a contract says when it refuses -> the reason of the error catalogue."""

from __future__ import annotations

from usufruct.chain.interface import interface
from usufruct.errors import ChainError

GRANT_REASONS: tuple[tuple[str, str], ...] = (
    ("Ok", ""),
    ("DatasetUnknown", "DATASET_UNKNOWN"),
    ("DatasetRetired", "DATASET_RETIRED"),
    ("GrantRevoked", "GRANT_REVOKED"),
    ("GrantOtherBuilder", "GRANT_OTHER_BUILDER"),
    ("GrantNotYet", "GRANT_NOT_YET"),
    ("GrantExpired", "GRANT_EXPIRED"),
    ("WrongSpec", "WRONG_SPEC"),
    ("WrongPurpose", "GRANT_TERMS"),
    ("WrongToken", "GRANT_TERMS"),
    ("PriceTooLow", "GRANT_TERMS"),
    ("LossOutsideGrant", "GRANT_TERMS"),
    ("OutsideLimits", "GRANT_TERMS"),
    ("BudgetShort", "BUDGET_SHORT"),
    ("GrantUsedUp", "GRANT_USED_UP"),
    ("GrantBadSignature", "GRANT_BAD_SIGNATURE"),
    ("GrantCancelled", "GRANT_CANCELLED"),
    ("Paused", "PAUSED"),
)
"""Solidity's enum ``Reason``, in its order: its name there, and the catalogue's."""

_REASONS = {
    "CohortTooSmall": "COHORT_TOO_SMALL",
    "MoneyShort": "MONEY_SHORT",
    "DeadlinePassed": "LEG_EXPIRED",
    "TooFewAccepted": "TOO_FEW_ACCEPTED",
    "FencedOut": "FENCED_OUT",
    "FencingEpochTakenBefore": "FENCED_OUT",
    "GrantWithdrawn": "GRANT_WITHDRAWN",
    "IsPaused": "PAUSED",
    "NotYours": "NOT_YOURS",
    "NoArbiter": "NO_ARBITER",
    "WrongLeg": "LEG_NOT_OPEN",
    "BadSignature": "BAD_SIGNATURE",
}


def refusal(doing: str, data: bytes | None) -> ChainError:
    """The error for a transaction that reverted with ``data``.

    Args:
        doing: what was tried, for the message: "openJob".
    """
    for contract in ("ComputeAccess", "Registry", "UsageLog", "TestToken"):
        found = interface(contract).decode_error(data) if data else None
        if found is None:
            continue
        name, arguments = found
        reason, said = _REASONS.get(name, "TRANSACTION_FAILED"), f"{name}({', '.join(map(str, arguments))})"
        if name == "LegRefused" and arguments[1] < len(GRANT_REASONS):
            dataset_id, number = arguments
            said, reason = f"dataset {dataset_id}: {GRANT_REASONS[number][0]}", GRANT_REASONS[number][1]
            return ChainError(
                f"the chain refused {doing}, {said}",
                reason=reason,
                contract_reason=said,
                dataset_id=dataset_id,
            )
        return ChainError(f"the chain refused {doing}: {said}", reason=reason, contract_reason=said)
    return ChainError(f"the chain refused {doing} without a reason", reason="TRANSACTION_FAILED")
