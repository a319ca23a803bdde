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
are added up, which may be another for every number. Every addition errs by at most u = 2⁻²⁴ of its result, so a sum of n
numbers by at most u·Σ dᵢ|xᵢ|, where dᵢ additions stand above the i-th in the tree, and Σ dᵢ² ≤ n³/3 + n²/2. By Cauchy and
Schwarz for every parameter, and over all of them with rows at most C long, that is u·C·(n²/√3 + n/2) at most in L2 norm. With
one rounding each for factor, weighted row and product it is u·C·(n²/√3 + 7n/2). Of b blocks that are folded, those with
the row in them are sums of at most 2n, 4n, ... bn rows and err by u·C·2bn at most. Both with the row and without it; all else is
the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

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
"""Rows whose products are added up in the precision of the model, in whatever order."""

FOLDED_BLOCKS: Final = 8
"""Blocks whose sums are added up in the precision of the model, by halves."""

_TERMS: Final = 1024
"""Numbers whose squares are added up in the precision of the model."""

_SHORT: Final = (_TERMS + 4) * 2.0**-24
"""6.1e-5."""

ADDED_BY_ROUNDING: Final = (
    2 / math.sqrt(3) * BLOCK_ROWS**2 + 7 * BLOCK_ROWS + 4 * FOLDED_BLOCKS * BLOCK_ROWS
) * 2.0**-24 + _SHORT
"""4.9e-4: less than what ``CLIP_SLACK`` leaves beside ``GRID_SLACK``."""

_ROWS_TIMES_TERMS: Final = 1 << 21
"""m·n of :class:`BookKept`."""

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
        """Σ factors[i]·gradient[i], flat, in the order of the layer's parameters, in pieces whose lengths follow from the
        layer alone; a piece is float64, or of the precision of the model if nothing more was to be added to it. A row of
        factor zero adds nothing, whatever it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Features:
    """The rows' features; preprocessing leaves nothing in them that is not finite.

    Attributes:
        values: [batch, ...].
        squares: float64 [batch], each row's squared length; None where it is not known.
    """

    values: torch.Tensor
    squares: torch.Tensor | None = None

    def are(self, values: torch.Tensor) -> bool:
        """Whether these are the features, in whatever shape."""
        same = self.values.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
        return same and self.values.numel() == values.numel()


def keep(layer: nn.Module, uses: Sequence[Use], numbers_left: int, features: Features) -> KeptLayer:
    """The form that suits a layer, if ``numbers_left`` numbers more may be kept."""
    rule = LAYER_RULES[type(layer)]
    if isinstance(layer, nn.Linear) and len(uses) == 1 and uses[0][0].dim() == 2:
        return OuterProducts(layer, *uses[0], features)
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
    """``nn.Linear`` applied once, to values ``a`` [batch, inputs]. Where these are the ``features``, their lengths may be
    known, and to put zero in the place of what is not finite, which takes as long as to read them, is for the case that some is."""

    def __init__(self, layer: nn.Linear, a: torch.Tensor, d: torch.Tensor, features: Features) -> None:
        self._bias = layer.bias is not None
        given = features.are(a)
        of_a = features.squares if given and features.squares is not None else _squares(a)
        self.squares = self.masses = _squares(d) * (of_a + 1.0 if self._bias else of_a)
        self._a = a if given and bool(torch.isfinite(of_a).all()) else _finite(a)
        self._d = _finite(d)
        self.size_bytes = self._a.nbytes + self._d.nbytes

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        scaled, (rows, inputs) = weighted(self._d, factors.to(self._d.dtype)), self._a.shape
        whole = rows - rows % BLOCK_ROWS
        a_blocks = self._a[:whole].view(-1, BLOCK_ROWS, inputs)
        d_blocks = scaled[:whole].view(-1, BLOCK_ROWS, scaled.shape[1]).transpose(1, 2)
        for piece in row_pieces(scaled.shape[1], inputs):
            parts = [
                _folded(
                    torch.bmm(d_blocks[at : at + FOLDED_BLOCKS, piece], a_blocks[at : at + FOLDED_BLOCKS])
                )
                for at in range(0, len(a_blocks), FOLDED_BLOCKS)
            ]
            if whole < rows:
                parts.append(scaled[whole:, piece].t() @ self._a[whole:])
            total = parts[0] if len(parts) == 1 else parts[0].double()
            for part in parts[1:]:
                total += part
            yield total.view(-1)
        if self._bias:
            yield scaled.sum(0, dtype=torch.float64)


def _folded(products: torch.Tensor) -> torch.Tensor:
    """The sum of all [blocks, ...], by halves; overwrites them."""
    values, count = products.numpy(), len(products)
    while count > 1:
        half = count // 2
        values[:half] += values[count - half : count]
        count -= half
    return products[0]


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
    """By a rule, in float64, some rows at a time. Terms of a row may be ``largest_mass`` times as large as what they add
    up to, and so may what rounding adds: n·2⁻⁵²·m·largest_mass·C at most for m rows and n terms, which is 2⁻¹⁹·C."""

    def __init__(self, layer: nn.Module, rule: BookKeeping, uses: Sequence[Use]) -> None:
        self._layer, self._rule = layer, rule
        self.squares, self.masses = rule.squares(layer, _double(uses))
        self._uses = [(_finite(a), _finite(d)) for a, d in uses]
        self.size_bytes = sum(a.nbytes + d.nbytes for a, d in self._uses)
        places = sum(d[0].numel() for _, d in uses) // rule.outputs(layer)
        if places > _ROWS_TIMES_TERMS:
            raise ValueError("a row has more places than the bound on rounding covers")
        self._rows = min(BLOCK_ROWS, max(1, math.isqrt(_ROWS_TIMES_TERMS // places)))

    def sums(self, factors: torch.Tensor) -> Iterator[torch.Tensor]:
        of_blocks = [
            self._rule.weighted_sums(
                self._layer, _double([(a[rows], d[rows]) for a, d in self._uses]), factors[rows]
            )
            for rows in _blocks(len(factors), self._rows)
        ]
        for first, *others in zip(*of_blocks, strict=True):
            for other in others:
                first += other
            yield first


def _blocks(rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    for at in range(0, rows, size):
        yield slice(at, min(at + size, rows))


def _double(uses: Sequence[Use]) -> list[Any]:
    return [(a.double() if a.is_floating_point() else a, d.double()) for a, d in uses]


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Squared lengths of rows, float64: too small by ``_SHORT`` of them at most, since squares are added up over
    ``_TERMS`` numbers at most, and what those below the least normal number leave out is added again. Rows longer than
    1.8e19 in float32 have none: they are not finite."""
    columns = values.shape[1]
    parts = torch.split(values, _TERMS, dim=1) if columns > _TERMS else (values,)
    squares = added([torch.linalg.vector_norm(part, dim=1).double().square_() for part in parts])
    return squares.add_(columns * torch.finfo(values.dtype).tiny)


def added(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum."""
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)  # type: ignore[arg-type]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """Zero in place of what is not finite: a factor of zero does not remove a NaN."""
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if values.is_floating_point() else values
