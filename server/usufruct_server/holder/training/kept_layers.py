"""What a micro-batch leaves of a layer: enough for each row's norm, and then for the weighted sum.

Three forms, by what the layer and the numbers of rows and places are, which is public:

* ``OuterProducts``: a linear map at one place of each row. Its gradients are products d·aᵀ and are never there.
* ``RowGradients``: the gradient of every row as numbers, where these are few. Whatever rounding they came about with,
  they are what is measured and what is added, and nothing can hide in them.
* ``BookKept``: all else; its rule takes norm, mass and sum from inputs and gradients, in float64 (soundness rule 9).

The model may run in float32: inputs and gradients of a row are functions of that row all the same, and float32 is used
on them where no more than a few hundred numbers are added up at a time; those sums are added up in float64.

*Guarantee*, for factors that make every row at most C long by ``squares``: a row that is added or removed changes what comes
out by at most C·(1 + ``ADDED_BY_ROUNDING``), besides what :class:`BookKept` adds, in whatever order the numbers of a block
are added up. Every addition errs by at most u = 2⁻²⁴ of its result, so a sum of n terms by u times the sum of its partial
sums; a term is part of all those above it in the tree of additions, and over all terms these are at most n(n + 1)/2 - 1 + n.
With one rounding each for factor, weighted row and product, the sum over a block of n rows errs by u·C·(n² + 9n)/2 at most,
in L2 norm over all parameters by Minkowski's inequality, with the row and without it; other blocks are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import nn

from usufruct_server.holder.training.layer_rules import (
    LAYER_RULES,
    BookKeeping,
    Use,
    row_pieces,
    weighted,
)

BLOCK_ROWS: Final = 64
"""Rows whose products are added up in the precision of the model."""

_TERMS: Final = 1024
"""Numbers whose squares are added up in the precision of the model."""

_SHORT: Final = (_TERMS + 4) * 2.0**-24
"""6.1e-5."""

ADDED_BY_ROUNDING: Final = (BLOCK_ROWS**2 + 9 * BLOCK_ROWS) * 2.0**-24 + _SHORT
"""3.4e-4: less than what ``CLIP_SLACK`` leaves beside ``GRID_SLACK``."""

KEPT_NUMBERS: Final = 1 << 23
"""Numbers of ``RowGradients`` that a micro-batch may leave, over all layers (32 MiB)."""


class KeptLayer(Protocol):
    """A layer's part of a micro-batch.

    Attributes:
        squares: float64 [batch], of the norm of each row's gradient over the layer's parameters; not finite where the gradient is not.
        masses: float64 [batch]: see :mod:`.layer_rules`.
        size_bytes: of what is kept.
    """

    squares: torch.Tensor
    masses: torch.Tensor
    size_bytes: int

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        """Σ factors[i]·gradient[i], float64, flat, in the order of the layer's parameters, in pieces whose lengths
        follow from the layer alone. A row of factor zero adds nothing, whatever it holds."""
        ...


def keep(layer: nn.Module, uses: Sequence[Use], numbers_left: int) -> KeptLayer:
    """The form that suits a layer, if ``numbers_left`` numbers more may be kept."""
    rule = LAYER_RULES[type(layer)]
    if isinstance(layer, nn.Linear) and len(uses) == 1 and uses[0][0].dim() == 2:
        return OuterProducts(layer, *uses[0])
    if rule.book_keeping is None or row_numbers(layer, uses) <= numbers_left:
        assert rule.gradients is not None
        blocks = (
            rule.gradients(layer, [(a[rows], d[rows]) for a, d in uses]) for rows in _blocks(len(uses[0][1]))
        )
        return RowGradients(blocks, lambda sums: rule.ordered(layer, sums))
    return BookKept(layer, rule.book_keeping, uses)


def row_numbers(layer: nn.Module, uses: Sequence[Use]) -> int:
    """How many numbers the layer's gradients of all rows are; more than any limit where there is no rule for them."""
    if LAYER_RULES[type(layer)].gradients is None:
        return KEPT_NUMBERS + 1
    return len(uses[0][1]) * sum(parameter.numel() for parameter in layer.parameters())


class OuterProducts:
    """``nn.Linear`` applied once, to values [batch, inputs]."""

    def __init__(self, layer: nn.Linear, a: torch.Tensor, d: torch.Tensor) -> None:
        self._bias = layer.bias is not None
        self.squares = self.masses = _squares(d) * (_squares(a) + (1.0 if self._bias else 0.0))
        self._a, self._d = _finite(a), _finite(d)
        self.size_bytes = self._a.nbytes + self._d.nbytes

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        scaled, (rows, inputs) = _finite(weighted(self._d, factors.to(self._d.dtype))), self._a.shape
        whole = rows - rows % BLOCK_ROWS
        a_blocks = self._a[:whole].view(-1, BLOCK_ROWS, inputs)
        d_blocks = scaled[:whole].view(-1, BLOCK_ROWS, scaled.shape[1])
        for piece in row_pieces(scaled.shape[1], inputs):
            products = torch.bmm(d_blocks[:, :, piece].transpose(1, 2), a_blocks)
            total = torch.from_numpy(np.add.reduce(products.numpy(), axis=0, dtype=np.float64))
            if whole < rows:
                total += scaled[whole:, piece].t() @ self._a[whole:]
            yield total.view(-1)
        if self._bias:
            yield scaled.sum(0, dtype=torch.float64)


class RowGradients:
    """Gradients as numbers.

    Args:
        blocks: of at most ``BLOCK_ROWS`` rows, in order; for each parameter a tensor [rows, size].
        ordered: see :class:`.layer_rules.LayerRule`.
    """

    def __init__(
        self,
        blocks: Iterable[list[torch.Tensor]],
        ordered: Callable[[list[torch.Tensor]], list[torch.Tensor]] = lambda sums: sums,
    ) -> None:
        squares: list[torch.Tensor] = []
        self._ordered, self._blocks = ordered, list[list[torch.Tensor]]()
        for block in blocks:  # measured and cleaned while it is in the cache
            squares.append(added([_squares(part) for part in block]))
            self._blocks.append([_finite(part) for part in block])
        self.squares = self.masses = torch.cat(squares)
        self.size_bytes = sum(part.nbytes for block in self._blocks for part in block)

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        totals = [torch.zeros(part.shape[1], dtype=torch.float64) for part in self._blocks[0]]
        for rows, block in zip(_blocks(len(factors)), self._blocks, strict=True):
            for total, part in zip(totals, block, strict=True):
                total += factors[rows].to(part.dtype) @ part
        yield from self._ordered(totals)


class BookKept:
    """By a rule, in float64."""

    def __init__(self, layer: nn.Module, rule: BookKeeping, uses: Sequence[Use]) -> None:
        self._layer, self._rule = layer, rule
        self.squares, self.masses = rule.squares(layer, _double(uses))
        self._uses = [(_finite(a), _finite(d)) for a, d in uses]
        self.size_bytes = sum(a.nbytes + d.nbytes for a, d in self._uses)

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        yield from self._rule.weighted_sums(self._layer, _double(self._uses), factors)


def _blocks(rows: int) -> Iterator[slice]:
    for at in range(0, rows, BLOCK_ROWS):
        yield slice(at, min(at + BLOCK_ROWS, rows))


def _double(uses: Sequence[Use]) -> list[Any]:
    return [(a.double() if a.is_floating_point() else a, d.double()) for a, d in uses]


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Squared lengths of rows, float64: too small by ``_SHORT`` of them at most, since squares are added up over
    ``_TERMS`` numbers at most, and what those below the least normal number leave out is added again. Rows longer than
    1.8e19 in float32 have none: they are not finite."""
    columns = values.shape[1]
    parts = values.split(_TERMS, dim=1) if columns > _TERMS else (values,)
    squares = added([torch.linalg.vector_norm(part, dim=1).double().square_() for part in parts])
    return squares.add_(columns * torch.finfo(values.dtype).tiny)


def added(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)  # type: ignore[arg-type]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """Zero in place of what is not finite: a factor of zero does not remove a NaN."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if values.is_floating_point() else values
