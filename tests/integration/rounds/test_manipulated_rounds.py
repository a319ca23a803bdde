"""A thousand random manipulations of a round, by anyone but a member of the roster about its own update, and a thousand found
before anything is decrypted.

The parties are real and in one process (``hostile_round`` says how): builder, aggregator, three holders with ledgers on
disk, real keys, masks and signatures. `make fuzz-rounds` runs the same for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_campaign import Campaign, a_chunk_a_block
from round_here import JobHere, opens_rightly
from tampered import SPOILS
from tampered_uploads import one_more

from usufruct.encryption import linear_check
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.linear_check import CheckedSum
from usufruct.errors import RoundFailed
from usufruct.v1 import aggregation_pb2

MANIPULATIONS = 1_000
REASONS = {
    "BAD_SIGNATURE", "COHORT_TOO_SMALL", "GRANT_MISSING", "MALFORMED", "PUBLIC_KEY_INVALID", "ROSTER_MISMATCH",
    "ROUND_OUT_OF_ORDER", "ROUND_UNKNOWN", "ROUND_VIEW_CHANGED", "SUM_INVALID", "TOO_LARGE", "UPLOAD_INVALID",
}  # fmt: skip
"""What a manipulation may be refused with; any other would say that something else went wrong."""


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with a_chunk_a_block():
        yield


def test_a_thousand_manipulations_are_found_before_anything_is_decrypted(tmp_path: Path) -> None:
    with Campaign(tmp_path, seed=4) as campaign:
        tally = campaign.run(MANIPULATIONS)
    assert sum(tally.found.values()) >= MANIPULATIONS
    assert set(tally.reasons) <= REASONS
    assert tally.opened >= 5, "attempts go on to the right sum in spite of what was refused"
    assert {f"spoilt: {kind}" for kind in SPOILS} <= set(tally.found)
    assert len(tally.found) >= 120, "every kind there is has its turn"


def test_without_anybody_in_the_way_the_sum_opens_and_the_key_opens_nothing_more(tmp_path: Path) -> None:
    job = JobHere(tmp_path / "job", count=5, rounds=1, spare=0)
    try:
        here = job.fresh(1, 1)
        opened = here.run()
        assert opens_rightly(job, 1, opened, job.holders)
        assert not opens_rightly(job, 1, opened + np.eye(1, 5, dtype=np.int64)[0], job.holders)
        assert here.attempt.key.used
    finally:
        job.stop()


def test_it_is_the_check_that_finds_a_substituted_sum(tmp_path: Path) -> None:
    """The sum of a lying aggregator passes everything else and opens, to what it chose: with the check left out in this
    test. With it nothing opens."""
    job = JobHere(tmp_path / "job", count=5, rounds=1, spare=1)
    try:
        for attempt, checks in ((1, False), (2, True)):
            here = job.fresh(1, attempt)
            here.make_ready()
            here.collect(here.submit())
            kept: list[list[bytes]] = []

            def keep(method: str, messages: list[bytes], kept: list[list[bytes]] = kept) -> list[bytes]:
                kept.append(messages)
                return messages

            job.wire.on_the_way = keep
            here.fetch().close()
            ((first, *chunks, _),) = kept
            chunks[0] = one_more(job.parameters, chunks[0])
            root = Commitment.over(here.to_sum().sums, chunks).root
            lie = [first, *chunks, aggregation_pb2.SumTrailer(sum_root=root).SerializeToString()]
            job.wire.on_the_way = lambda method, messages, lie=lie: lie
            with here.fetch() as fetched:
                if checks:
                    with pytest.raises(RoundFailed) as refused:
                        here.checked(fetched)
                    assert refused.value.reason == "SUM_INVALID" and not here.attempt.key.used
                else:
                    unchecked = CheckedSum(fetched.commitment, 3, linear_check._PASSED)
                    opened = np.concatenate(list(here.attempt.key.open_sum(unchecked, fetched.chunks())))
                    assert np.count_nonzero(opened - job.expected(attempt, *job.holders)) == 1
            job.wire.on_the_way = lambda method, messages: messages
            job.aggregation.close_round(here.to_sum())
            here.hang_up()
    finally:
        job.stop()
