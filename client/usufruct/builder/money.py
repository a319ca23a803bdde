"""What is deposited, and what is missing."""

from __future__ import annotations

from usufruct.chain import Chain
from usufruct.errors import Refused


def missing_units(chain: Chain, token: str, owner: str, needed_units: int, what: str) -> int:
    """What ``owner`` has to deposit besides what it has deposited; 0 if that is enough.

    Args:
        what: begins the message: "The job costs".
    Raises:
        Refused: MONEY_SHORT: its wallet has less; says how much to send it.
    """
    short = needed_units - chain.deposit_of(token, owner)
    if short <= 0:
        return 0
    wallet = chain.token_balance(token, owner)
    if wallet < short:
        raise Refused(
            f"{what} {needed_units} units of {token}; {needed_units - short} are deposited and the wallet {owner} has "
            f"{wallet}. Send it {short - wallet} more.",
            reason="MONEY_SHORT",
            requested=short,
            limit=wallet,
        )
    return short
