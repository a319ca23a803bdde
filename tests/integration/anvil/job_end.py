"""What must hold when a job is over: everything has happened exactly once."""

from __future__ import annotations

from collections import Counter

from job_life import RECORDS, Life
from job_world import EPOCH, FINAL_BLOCKS, LOSS_MICRO

from usufruct.chain import LegState, grant_hash
from usufruct.domain.usage_record import merkle_proof

LAST_STATE = {
    "acknowledged": LegState.ACKNOWLEDGED, "settled": LegState.SETTLED, "resolved": LegState.RESOLVED,
}  # fmt: skip
"""Of the second leg, for each way in which it may end."""


def check_end(life: Life, *, in_order: bool = True) -> None:
    """Everything has happened exactly once, at final blocks too.

    Args:
        in_order: else withdrawals may have been mined before the last leg was paid, and earnings withdrawn in parts.
    """
    world, chain = life.world, life.world.chain
    _everything_final(life)
    counted = Counter(type(event).__name__ for event in _events(life))
    if not in_order:
        counted["EarningsWithdrawn"] = min(1, counted["EarningsWithdrawn"])
    expected = _expected_events(life)
    assert counted == expected, f"too many: {counted - expected}, missing: {expected - counted}"
    assert world.token_balance(life.payout) == life.owed_units
    assert chain.earnings_of(world.token, life.holder_id) == 0
    assert chain.deposit_of(world.token, life.keys.builder.address) == 0
    assert world.token_balance(life.keys.builder.address) == life.left_units
    assert [leg.state for leg in chain.job_legs(life.job_id)] == [
        LegState.ACKNOWLEDGED,
        LAST_STATE[life.ending],
    ]
    for dataset, signed in zip(life.datasets, life.grants, strict=True):
        entry = chain.dataset(dataset)
        assert (entry.holder_id, entry.reserved_micro, entry.spent_micro) == (life.holder_id, 0, LOSS_MICRO)
        use = chain.grant_use(grant_hash(signed.grant, chain.chain_id, chain.registry))
        assert (use.uses, use.loss_micro) == (1, LOSS_MICRO)
    assert chain.holder(life.holder_id).fencing_epoch == EPOCH
    _check_usage(life)


def _everything_final(life: Life) -> None:
    """What vanished and was asked for in another form has not been sent again yet: it is, and has no effect."""
    for _ in range(5):
        life.world.node.mine(FINAL_BLOCKS)
        if not sum(sender.account.settle() for sender in life.parties.values()):
            return
    raise AssertionError("something never becomes final")


def _check_usage(life: Life) -> None:
    """The log has both batches and every record of theirs."""
    chain, first = life.world.chain, 0
    for batch, records in enumerate(RECORDS):
        leaves = life.leaves(batch)
        for index, leaf in enumerate(leaves):
            assert chain.verify_usage(life.holder_id, first, leaf, merkle_proof(leaves, index))
        first += len(records)
    assert chain.usage_head(life.holder_id) == (first, int.from_bytes(life.roots[-1][-4:], "big"))


def _events(life: Life) -> list[object]:
    """Of this job and whoever takes part in it, as the final chain has them."""
    mine: dict[str, object] = {
        "holder_id": life.holder_id, "job_id": life.job_id, "owner": life.keys.builder.address,
    }  # fmt: skip
    return [
        event
        for event in life.world.chain.events(from_block=life.first_block)
        if any(getattr(event, field, None) == value for field, value in mine.items())
    ]


def _expected_events(life: Life) -> Counter[str]:
    ended = {"LegDisputed": 1, "BondPaid": 1} if life.ending == "resolved" else {}
    return Counter({
        "HolderRegistered": 1, "DatasetRegistered": 2, "FencingEpochTaken": 1, "Deposited": 1, "JobOpened": 1,
        "LegLocked": 2, "LegAccepted": 2, "UsageBatch": 2, "LegDelivered": 2, "LegClosed": 2, "EarningsWithdrawn": 1,
        "Withdrawn": 1, **ended,
    })  # fmt: skip
