"""Asking several parties at the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from usufruct.errors import UsufructError

T = TypeVar("T")

log = logging.getLogger("usufruct.builder")


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What parties answered that were asked at the same time; by dataset number, ascending."""

    answers: dict[int, T]
    failures: dict[int, UsufructError]

    def check(self, needed: int, say: Callable[[str], object]) -> None:
        """Raises the first failure, in order of dataset number, where fewer have answered than are needed; else says all."""
        for dataset_id in sorted(self.failures):
            if len(self.answers) < needed:
                raise self.failures[dataset_id]
            say(f"the job goes on without dataset {dataset_id} for now: {self.failures[dataset_id].message}")


def at_each(parties: Mapping[int, Any], ask: Callable[[Any], T]) -> Answers[T]:
    """Asks all parties at once; waits for every answer."""
    pool = ThreadPoolExecutor(max(1, len(parties)), thread_name_prefix="ask")
    futures = {dataset_id: pool.submit(ask, party) for dataset_id, party in sorted(parties.items())}
    try:
        wait(futures.values())
    finally:  # after Ctrl-C the caller hangs up, which ends the calls
        pool.shutdown(wait=False, cancel_futures=True)
    found: Answers[T] = Answers({}, {})
    for dataset_id, future in futures.items():
        try:
            found.answers[dataset_id] = future.result()
        except UsufructError as error:
            found.failures[dataset_id] = error
    return found


def at_all(parties: Mapping[int, Any], ask: Callable[[Any], T]) -> dict[int, T]:
    """Asks all parties at once.

    Raises:
        UsufructError: of the first party, in order of dataset number, that failed.
    """
    found = at_each(parties, ask)
    found.check(len(parties), log.info)
    return found.answers
