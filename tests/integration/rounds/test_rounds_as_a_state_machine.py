"""Whatever builder, holders and aggregator do, one holder's update is never in two sums that differ by too few.

`make fuzz-rounds` runs the same machine for longer.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from openable import Sent, openable, too_close
from round_machine import HOLDERS, LIAR, MIN_COHORT, RoundMachine

from usufruct.domain.round_view import RoundOffer, RoundView

EXAMPLES, STEPS = 50, 30
SEEN = {"ATTEMPT_LOST", "CHECK_CHANGED", "COHORT_TOO_SMALL", "ROUND_VIEW_CHANGED", "killed"}
"""What has to have happened in the meantime, lest the machine be idle."""


class Watched(RoundMachine):
    """With a count of its own."""

    refusals: ClassVar[Counter[str]] = Counter()


def test_rounds_hold_against_crashes_lies_and_repetitions() -> None:
    run_state_machine_as_test(
        Watched,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        ),
    )  # fmt: skip
    assert set(Watched.refusals) >= SEEN, Watched.refusals


def test_two_rosters_of_one_update_would_be_noticed() -> None:
    """What the machine looks for is there to be found: a holder that sent its update for two rosters is."""
    offer = RoundOffer(bytes(32), bytes(32), 1, 1, bytes(32), bytes(32))

    def view(*numbers: int) -> RoundView:
        return RoundView(offer, tuple((number, bytes([number]) * 32) for number in sorted(numbers)))

    def sums(*uploads: tuple[int, RoundView]) -> list[object]:
        sent = [Sent(number, of) for number, of in uploads]
        return list(too_close(openable(sent, {*HOLDERS, 4}), MIN_COHORT))

    three, four, two, with_liar = view(*HOLDERS), view(*HOLDERS, 4), view(3, 5), view(3, 5, LIAR)
    whole = [(number, three) for number in HOLDERS]
    assert not sums(*whole)
    assert not sums(*whole[:2]), "masks of those that are there do not cancel"
    assert sums((3, two), (5, two)), "a roster that is too small"
    assert sums(*whole, *((number, four) for number in (*HOLDERS, 4))), "one holder more"
    assert not sums((3, with_liar), (5, with_liar)), "the liar counts as one of the cohort"
    assert sums((3, with_liar), (5, with_liar), *whole), "but not twice"
