"""Layers whose weights stay float32 where they arrived, and become float64 a few rows at a time.

Everything runs in float64 (soundness rule 9), yet no model is there in float64: its matrices may be nearly all of the
memory that a trainer needs, and each of their rows is needed for a moment only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from usufruct.graph import own_layers

PIECE_ELEMENTS = 1 << 18
"""Numbers of a matrix that are there in float64 at once (2 MiB), if a row has no more."""


def row_pieces(rows: int, columns: int) -> Iterator[slice]:
    """A matrix' rows, in order, a piece at a time."""
    size = max(1, PIECE_ELEMENTS // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


class SharedWeights:
    """The forward pass of one layer, in float64, on weights that are not.

    Attributes:
        moved: by parameter, what is added to the weights, float64, of their shapes; None for nothing.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.moved: dict[str, torch.Tensor | None] = {}

    def take(self, name: str, rows: Any) -> torch.Tensor:
        """Some rows of a parameter, float64."""
        part: torch.Tensor = self.layer.get_parameter(name).detach()[rows].double()
        moved = self.moved.get(name)
        return part if moved is None else part + moved[rows]


class SharedLinear(SharedWeights):
    """``nn.Linear``."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Product.apply(values, self)  # type: ignore[no-untyped-call]
        return result

    def pieces(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """The matrix, a few rows at a time."""
        for rows in row_pieces(*self.layer.weight.shape):
            yield rows, self.take("weight", rows)


class SharedEmbedding(SharedWeights):
    """``own_layers.Embedding``."""

    def __call__(self, indices: torch.Tensor) -> torch.Tensor:
        return self.take("weight", indices.clamp(0, self.layer.num_embeddings - 1))


class _Product(torch.autograd.Function):
    """x Wᵀ + b. The gradient by x alone: by the weights book-keeping takes it, row by row of the batch."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, linear: SharedLinear) -> torch.Tensor:
        ctx.linear, layer = linear, linear.layer
        flat = values.reshape(-1, layer.in_features)
        result = flat.new_empty(len(flat), layer.out_features)
        for rows, part in linear.pieces():
            torch.mm(flat, part.t(), out=result[:, rows])
        if layer.bias is not None:
            result += linear.take("bias", ...)
        return result.reshape(*values.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        layer = ctx.linear.layer
        (gradient,) = gradients
        flat = gradient.reshape(-1, layer.out_features)
        result = flat.new_zeros(len(flat), layer.in_features)
        for rows, part in ctx.linear.pieces():
            result.addmm_(flat[:, rows], part)
        return result.reshape(*gradient.shape[:-1], layer.in_features), None


SHARED: Mapping[type[nn.Module], Callable[[Any], SharedWeights]] = MappingProxyType(
    {nn.Linear: SharedLinear, own_layers.Embedding: SharedEmbedding}
)
"""By class. What is not in it has few weights beside its values."""
