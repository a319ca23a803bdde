"""Hostile rounds, one after the other, until so many manipulations have been tried."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from unittest import mock

from hostile_round import HostileRound
from round_here import PARAMETERS, JobHere
from tampered import SPOILS, Past, Tally

from usufruct.encryption import chunks

COUNT = 2 * PARAMETERS.values_per_block + 5
"""Values of an update: three blocks, which are three chunks here."""
TRIES = 2
"""Manipulations of every message."""
WARM_UP = 2
"""Attempts of each job that nobody tampers with: they give what is replayed later."""
ATTEMPTS = 10_000
"""As many as a job may have, nearly: some 300,000 manipulations."""


@contextmanager
def a_chunk_a_block() -> Iterator[None]:
    """Chunks are as small as they can be, so that small updates have several."""
    with mock.patch.object(chunks, "MAX_CHUNK_BYTES", 1):
        yield


class Campaign:
    """A job under attack, and an earlier one of the same parties to replay from.

    Args:
        seed: of every choice that is made here; keys are fresh.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng, self.tally = random.Random(seed), Tally()
        self._pasts: list[Past] = []
        self._number = 0
        sizes = {"count": COUNT, "rounds": ATTEMPTS - 1_000, "spare": 1_000}
        self._earlier = JobHere(folder / "earlier", **sizes)
        self._job = JobHere(folder / "job", **sizes, people=self._earlier)

    def run(self, manipulations: int) -> Tally:
        """At least so many. Every fourth attempt or so is given one that its first reader cannot find."""
        for job in (self._earlier, self._job):
            for _ in range(WARM_UP):
                self._attempt(job, tries=0, spoil="")
        spoils = list(SPOILS)
        while sum(self.tally.found.values()) < manipulations or spoils:
            spoil = ""
            if self._rng.random() < 0.4:
                spoil = spoils.pop() if spoils else self._rng.choice(SPOILS)
            self._attempt(self._job, TRIES, spoil)
        return self.tally

    def _attempt(self, job: JobHere, tries: int, spoil: str) -> None:
        self._number += 1
        round_ = 1 + self._number // 2
        past = HostileRound(job, round_, self._number, self._pasts, self.tally, self._rng, tries, spoil).run()
        self._pasts.append(past)
        del self._pasts[2 * WARM_UP : -4]  # those of the other job stay, and the last ones of this

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._earlier.stop()
        self._job.stop()
