"""What this builder's transactions take, so that it can be said before anything is signed.

The figures are of the transactions that the SDK sends, on accounts that were used before, measured as ``make gas`` does
and rounded up by about 3 %; ``tests/integration/builder`` holds them within 15 % above the truth. The first job over a
dataset writes words of storage that later ones only change: about 17,000 gas more for a leg, and for a first deposit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

APPROVE = 47_500
DEPOSIT = 54_000
OPEN_JOB = 148_000
"""With one leg."""
FURTHER_LEG = 84_000
SPONSORED = 9_500
ACCEPT = 58_000
DELIVER_AND_ACKNOWLEDGE = 94_000
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


def job_transactions(
    legs: int, deposits: int, fee_bps: int, sponsored: bool = False
) -> tuple[TransactionQuote, ...]:
    """What the builder of a job sends when all goes well.

    Args:
        deposits: how many tokens have to be deposited first.
    """
    opening = OPEN_JOB + (legs - 1) * FURTHER_LEG + (SPONSORED if sponsored else 0)
    paying = DELIVER_AND_ACKNOWLEDGE + (FEE if fee_bps else 0)
    found = [
        TransactionQuote("approve", deposits, deposits * APPROVE),
        TransactionQuote("deposit", deposits, deposits * DEPOSIT),
        TransactionQuote("openJob", 1, opening),
        TransactionQuote("accept", legs, legs * ACCEPT),
        TransactionQuote("deliverAndAcknowledge", legs, legs * paying),
    ]
    return tuple(quoted for quoted in found if quoted.count)


def total(transactions: Sequence[TransactionQuote]) -> int:
    """Gas of all of them."""
    return sum(quoted.gas for quoted in transactions)
