"""What this builder's transactions take, so that it can be said before anything is signed.

The figures are of the transactions that the SDK sends, measured as ``make gas`` does and rounded up by 2 to 4 %;
``tests/integration/builder`` holds them within 15 % above the truth. What a word of storage costs that was empty before is
counted where it can be seen beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

APPROVE = 47_500
DEPOSIT = 49_000
EMPTY_WORD = 17_100
"""More for a word that was zero: a deposit of nothing, a holder that has never earned (EIP-2200)."""
OPEN_JOB = 148_000
"""With one leg."""
FURTHER_LEG = 82_500
SPONSORED = 6_000
ACCEPT = 57_500
DELIVER_AND_ACKNOWLEDGE = 92_500
"""With a Lower."""
FEE = 5_600
"""More for paying a leg where the protocol takes a fee."""


@dataclass(frozen=True)
class TransactionQuote:
    """One kind of transaction of a job.

    Attributes:
        function: of the contracts.
        count: how many are sent.
        gas: of all of them together, estimated.
    """

    function: str
    count: int
    gas: int


@dataclass(frozen=True)
class Circumstances:
    """What a job's gas depends on.

    Attributes:
        legs: how many.
        deposits: how many tokens have to be deposited first; ``empty_deposits`` of them from nothing.
        first_earnings: holders that have earned nothing in the token yet.
        fee: whether the protocol takes one.
    """

    legs: int
    deposits: int = 0
    empty_deposits: int = 0
    first_earnings: int = 0
    fee: bool = False
    sponsored: bool = False


def job_transactions(at: Circumstances) -> tuple[TransactionQuote, ...]:
    """What the builder of a job sends when all goes well."""
    opening = OPEN_JOB + (at.legs - 1) * FURTHER_LEG + at.sponsored * SPONSORED
    paying = at.legs * (DELIVER_AND_ACKNOWLEDGE + at.fee * FEE) + at.first_earnings * EMPTY_WORD
    found = [
        TransactionQuote("approve", at.deposits, at.deposits * APPROVE),
        TransactionQuote("deposit", at.deposits, at.deposits * DEPOSIT + at.empty_deposits * EMPTY_WORD),
        TransactionQuote("openJob", 1, opening),
        TransactionQuote("accept", at.legs, at.legs * ACCEPT),
        TransactionQuote("deliverAndAcknowledge", at.legs, paying),
    ]
    return tuple(quoted for quoted in found if quoted.count)


def total(transactions: Sequence[TransactionQuote]) -> int:
    """Gas of all of them."""
    return sum(quoted.gas for quoted in transactions)
