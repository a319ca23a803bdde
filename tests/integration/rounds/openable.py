"""Which sums could ever be opened, by a builder and an aggregator who have kept every upload that ever left a holder.

A sum of uploads under one key opens where its masks cancel, and only there. A mask is a sum of one term for every other
member of the view's roster; the same term stands, with the other sign, in that member's upload of that view. Terms that
are shared with a liar are known to whoever the liar talks to, and hide nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from usufruct.domain.round_view import RoundView

Cohort = frozenset[tuple[int, int]]
"""Whose updates a sum is of: (dataset, attempt)."""


@dataclass(frozen=True)
class Sent:
    """An upload that has left its holder, and the view that it was encrypted for."""

    dataset_id: int
    view: RoundView

    def terms(self, honest: Collection[int]) -> Iterator[tuple[tuple[bytes, int, int], int]]:
        """What hides it, each with its sign."""
        for other in self.view.datasets:
            if other != self.dataset_id and other in honest:
                low, high = sorted((self.dataset_id, other))
                yield (self.view.hash, low, high), 1 if other == high else -1


def openable(sent: Iterable[Sent], honest: Collection[int]) -> set[Cohort]:
    """Every sum that opens; of its liars, all that are in a roster of it."""
    by_key: dict[bytes, list[Sent]] = {}
    for upload in sent:
        by_key.setdefault(upload.view.offer.public_key_digest, []).append(upload)
    return {
        _cohort(some, honest)
        for uploads in by_key.values()
        for size in range(1, len(uploads) + 1)
        for some in combinations(uploads, size)
        if _cancels(some, honest)
    }


def too_close(cohorts: Collection[Cohort], least: int) -> list[tuple[Cohort, Cohort]]:
    """Pairs of sums whose difference is of some holders, and of fewer than ``least``; a sum alone counts as its
    difference to nothing.
    """
    return [
        (one, two)
        for one, two in combinations([*cohorts, frozenset[tuple[int, int]]()], 2)
        if 0 < len(one ^ two) < least
    ]


def _cancels(uploads: Iterable[Sent], honest: Collection[int]) -> bool:
    total: Counter[tuple[bytes, int, int]] = Counter()
    for upload in uploads:
        for term, sign in upload.terms(honest):
            total[term] += sign
    return not any(total.values())


def _cohort(uploads: Iterable[Sent], honest: Collection[int]) -> Cohort:
    members = {(upload.dataset_id, upload.view.offer.attempt) for upload in uploads}
    liars = {
        (member, upload.view.offer.attempt)
        for upload in uploads
        for member in upload.view.datasets
        if member not in honest
    }
    return frozenset(members | liars)
