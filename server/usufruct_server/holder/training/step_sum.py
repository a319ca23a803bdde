"""The clipped sum of a step, put together from its micro-batches and given out a chunk at a time.

The sum of a large model is several times as large as the activations and gradients of a sample that it is made of. So
those are kept and multiplied out piece by piece, when a chunk of the sum is noised; the sum is never there as a whole,
unless a sample is so large that what is kept would take more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usufruct_server.holder.training.per_sample import Part

CHUNK_VALUES = 1 << 18
"""Values of a chunk but the last (2 MiB): whole blocks of whatever draws noise for them."""

_KEPT_BYTES_PER_VALUE = 4


class StepSum:
    """A sum of micro-batches.

    Memory: what is kept, if it is of more than one micro-batch, is at most half as large as the sum, which takes its place
    where it would be larger.

    Args:
        count: how many values the sum has.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[Part] = []
        self._total: NDArray[np.float64] | None = None

    def add(self, part: Part) -> None:
        """Adds a micro-batch."""
        kept = sum(part.size_bytes for part in self._parts)
        if self._parts and kept + part.size_bytes > _KEPT_BYTES_PER_VALUE * self._count:
            self._total, self._parts = self._added(), []
        self._parts.append(part)

    def whole(self) -> NDArray[np.float64]:
        """The sum, float64, finite; it is this object's own."""
        return _finite(self._added())

    def chunks(self) -> Iterator[NDArray[np.float64]]:
        """The sum, float64, finite, in order; a chunk is valid until the next one."""
        for chunk in _of_one_size(self._pieces(), min(CHUNK_VALUES, self._count)):
            yield _finite(chunk)

    def _added(self) -> NDArray[np.float64]:
        total, at = np.empty(self._count) if self._total is None else self._total, 0
        for piece in self._pieces():
            total[at : at + piece.size] = piece
            at += piece.size
        return total

    def _pieces(self) -> Iterator[NDArray[np.floating[Any]]]:
        """The sum in pieces of any lengths; the same rounding whether something was added up before or not."""
        total, at = self._total, 0
        if not self._parts:
            yield np.zeros(self._count) if total is None else total
        for first, *others in zip(*(part.pieces() for part in self._parts), strict=True):
            piece = first.numpy()
            if total is not None:
                piece = total[at : at + piece.size] + piece
            elif others:
                piece = piece.astype(np.float64)
            for other in others:
                piece += other.numpy()
            at += piece.size
            yield piece


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A value that is not finite, which no rows are known to bring about, counts as zero: what follows is an update like any
    other and not a failure that tells of the rows."""
    torch.nan_to_num_(torch.from_numpy(values), nan=0.0, posinf=0.0, neginf=0.0)
    return values


def _of_one_size(pieces: Iterable[NDArray[np.floating[Any]]], size: int) -> Iterator[NDArray[np.float64]]:
    chunk, filled = np.empty(size), 0
    for piece in pieces:
        at = 0
        while at < piece.size:
            taken = min(size - filled, piece.size - at)
            chunk[filled : filled + taken] = piece[at : at + taken]
            at, filled = at + taken, filled + taken
            if filled == size:
                yield chunk
                filled = 0
    if filled:
        yield chunk[:filled]
