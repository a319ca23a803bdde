"""When an attempt's update leaves the trainer: at the end of a slot whose length is known before any row is.

*Guarantee*: what is done with rows (sampling, gathering, forward and backward pass, clipping, the sum) is counted
by a stopwatch. An attempt of n steps is answered when the stopwatch, by waiting, has come to exactly n slots, whatever
rows there are; so as long as they suffice, the time of an answer is the same function of public figures and of the
noise for every set of rows. A slot is rehearsed on made-up rows before the data are read. An attempt that takes longer
is answered after the next whole number of slots: never earlier, never with an error. Then its time tells that number, and
nothing finer.

Noise, rounding and momentum come after the sum, look at no row, and take what they take. A draw takes nanoseconds more or
less by the value drawn, all of them together some microseconds; an answer leaves a whole number of milliseconds after
its attempt began, so that next to nothing of that is to be seen. That is no proof.

Not covered: what else runs on the machine may see how much processor and memory is left to it. Reading the data, when a
leg starts, tells about how many rows there are. Micro-batches beyond those that follow from public figures
(``dpsgd.micro_batches``: a sample larger than nearly all) and rows that PyTorch stops at take more slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

Item = TypeVar("Item")

MARGIN: Final = 1.25
"""A slot is so many times as long as the worst rehearsal that counts (``dpsgd.rehearse``)."""
LEAST_SECONDS: Final = 2e-3
"""No attempt is answered before the stopwatch shows this: a moment without the processor should not make a short one late."""
TICK_SECONDS: Final = 1e-3
"""An answer leaves a whole number of these after its attempt began."""
_GRID: Final = 8


class Clock:
    """The monotonic clock; tests have another."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Returns after so many seconds, or a little later."""
        time.sleep(seconds)


@dataclass
class RowTime:
    """A stopwatch for one attempt, which runs while something is done with rows: ``with row_time: …`` counts what is done
    inside."""

    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.began = self._entered = self.clock.now()

    def __enter__(self) -> None:
        self._entered = self.clock.now()

    def __exit__(self, *raised: object) -> None:
        self.seconds += self.clock.now() - self._entered

    def counting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items; counts how long they take to make, and not what is done with them."""
        while True:
            with self:
                item = next(items, None)
            if item is None:
                return
            yield item


@dataclass(frozen=True)
class TimeSlots:
    """The slots of an attempt.

    Attributes:
        step_seconds: of one step.
        steps: how many steps an attempt has.
    """

    step_seconds: float
    steps: int

    def wait(self, spent: RowTime) -> int:
        """Waits until an answer may leave.

        Returns:
            How many slots too late it is; 0 for one in time.
        """
        late = 0
        if spent.seconds > LEAST_SECONDS:
            late = max(0, math.ceil(spent.seconds / self.step_seconds) - self.steps)
        with spent:
            end = spent.clock.now() + self._seconds(late) - spent.seconds
            end = spent.began + math.ceil((end - spent.began) / TICK_SECONDS) * TICK_SECONDS
            while (left := end - spent.clock.now()) > 0:
                spent.clock.sleep(left)
        return late

    def _seconds(self, late: int) -> float:
        return max(LEAST_SECONDS, (self.steps + late) * self.step_seconds)


def slot_seconds(rehearsed_seconds: float) -> float:
    """The slot for steps of which the worst rehearsal took so long: with :data:`MARGIN`, rounded up to three significant bits."""
    wanted = max(rehearsed_seconds, 1e-9) * MARGIN
    grid = 2.0 ** math.floor(math.log2(wanted)) / _GRID
    return math.ceil(wanted / grid) * grid
