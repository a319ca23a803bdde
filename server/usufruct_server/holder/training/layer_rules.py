"""One book-keeping rule for every kind of layer: norms of per-sample gradients, and their weighted sum.

A *use* of a layer is a pair (a, d): what it was applied to, and the gradient of the summed losses by what came out of
it, both [batch, ...]. A layer that is used several times (tied weights, the steps of a recurrent layer) has several;
a row's gradient is the sum over all of them, and its norm is that of the sum.

Besides its norm every row gets its *mass*: the norm that its gradient would have if nothing in the sum over places and
uses cancelled. Rounding errors are proportional to the mass, not to the norm, so a hostile model whose terms cancel
could hide a gradient behind them; ``per_sample`` clips both.

Sources: Goodfellow 2015 (linear layers); Li et al. 2022, "Large Language Models Can Be Strong Differentially Private
Learners" (norms from Gram matrices, embeddings); Bu et al. 2023, "Differentially Private Optimization on Large Model at
Small Cost" (book-keeping, convolutions as products of patches); Opacus for the normalising layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight

from usufruct.graph import own_layers
from usufruct_server.holder.training.shared_weights import row_pieces

Use: TypeAlias = tuple[torch.Tensor, torch.Tensor]

CHUNK_ELEMENTS = 1 << 22
"""Numbers that a rule holds at once for rows one by one (32 MiB)."""

_EPSILON = 2.0**-52


@dataclass(frozen=True, slots=True)
class LayerRule:
    """What book-keeping needs to know of a class of layers.

    Attributes:
        squares: (layer, uses) -> two tensors [batch]: the squared norm of each row's gradient over the layer's
            parameters, never below the true one by more than float64's error, and its squared mass.
        weighted_sums: (layer, uses, factors [batch]) -> Σ factors[i]·gradient[i], flat, in the order of the layer's
            parameters, in pieces whose lengths follow from the layer alone; a large matrix in many.
    """

    squares: Callable[[Any, Sequence[Use]], tuple[torch.Tensor, torch.Tensor]]
    weighted_sums: Callable[[Any, Sequence[Use], torch.Tensor], Iterator[torch.Tensor]]


def weighted(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Row i of ``values`` times ``factors[i]``."""
    return values * factors.reshape(-1, *(1 for _ in values.shape[1:]))


# -- products: Linear and convolutions ------------------------------------------------------------------------------


def _joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _lengths(values: torch.Tensor) -> torch.Tensor:
    """Norms along dimension 2; ``Tensor.norm`` is several times slower where that dimension is not the inner one."""
    return values.square().sum(2).sqrt()


def _product_squares(a: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For gradients Σ_t d[i,t]·a[i,t]ᵀ, with a [batch, places, narrow] and d [batch, places, wide]: by Gram matrices over
    places or by the matrices themselves, whichever is smaller. A Gram matrix loses what cancels; what it may have lost
    is added again."""
    places, narrow, wide = a.shape[1], a.shape[2], d.shape[2]
    masses = (_lengths(a) * _lengths(d)).sum(1).square()
    if places == 1:
        return masses, masses
    if 2 * places < min(narrow, wide):
        grams = torch.bmm(a, a.transpose(1, 2)) * torch.bmm(d, d.transpose(1, 2))
        lost = (narrow + wide + places * places) * _EPSILON
        return grams.sum((1, 2)).clamp(min=0) + lost * masses, masses
    return torch.bmm(d.transpose(1, 2), a).square().sum((1, 2)), masses


def _in_chunks(
    rows: int, numbers_per_row: int, squares: Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    size = max(1, CHUNK_ELEMENTS // max(1, numbers_per_row))
    parts = [squares(slice(at, at + size)) for at in range(0, rows, size)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _bias_squares(d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For gradients Σ_t d[i,t], with d [batch, places, wide]."""
    return d.sum(1).square().sum(1), _lengths(d).sum(1).square()


def _linear_squares(layer: nn.Linear, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
    rows, narrow, wide = uses[0][0].shape[0], layer.in_features, layer.out_features
    if len(uses) == 1 and uses[0][0].dim() == 2:
        a, d = uses[0]
        squares = d.square().sum(1) * (a.square().sum(1) + (1.0 if layer.bias is not None else 0.0))
        return squares, squares
    a = _joined([use[0].reshape(rows, -1, narrow) for use in uses], 1)
    d = _joined([use[1].reshape(rows, -1, wide) for use in uses], 1)
    squares, masses = _in_chunks(rows, narrow * wide, lambda part: _product_squares(a[part], d[part]))
    if layer.bias is not None:
        of_bias, mass_of_bias = _bias_squares(d)
        squares, masses = squares + of_bias, masses + mass_of_bias
    return squares, masses


def _linear_sums(layer: nn.Linear, uses: Sequence[Use], factors: torch.Tensor) -> Iterator[torch.Tensor]:
    flat = [
        (a.reshape(-1, layer.in_features), weighted(d, factors).reshape(-1, layer.out_features))
        for a, d in uses
    ]
    for rows in row_pieces(layer.out_features, layer.in_features):
        yield _added([scaled[:, rows].t() @ a for a, scaled in flat])
    if layer.bias is not None:
        yield _added([scaled.sum(0) for _, scaled in flat])


def _added(parts: list[torch.Tensor]) -> torch.Tensor:
    """Their sum, flat; the first is overwritten."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0].reshape(-1)


def _planar(values: torch.Tensor) -> torch.Tensor:
    """[batch, channels, length] as [batch, channels, 1, length]."""
    return values.unsqueeze(2) if values.dim() == 3 else values


def _conv_squares(layer: nn.Conv1d | nn.Conv2d, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution is the same linear map at every place, applied to the patch around it, group by group."""
    flat = isinstance(layer, nn.Conv1d)
    groups, rows = layer.groups, uses[0][0].shape[0]
    kernel: Any = (1, *layer.kernel_size) if flat else layer.kernel_size
    options: Any = {
        "dilation": (1, *layer.dilation) if flat else layer.dilation,
        "padding": (0, *layer.padding) if flat else layer.padding,
        "stride": (1, *layer.stride) if flat else layer.stride,
    }
    narrow = layer.in_channels // groups * layer.weight[0, 0].numel()
    wide = layer.out_channels // groups

    def squares(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        patches = _joined([functional.unfold(_planar(a[part]), kernel, **options) for a, _ in uses], 2)
        d = _joined([d[part].flatten(2) for _, d in uses], 2)
        here, places = d.shape[0], d.shape[2]
        a_places = patches.reshape(here * groups, narrow, places).transpose(1, 2)
        d_places = d.reshape(here * groups, wide, places).transpose(1, 2)
        of_weight, masses = _product_squares(a_places, d_places)
        of_weight, masses = of_weight.reshape(here, groups).sum(1), masses.reshape(here, groups).sum(1)
        if layer.bias is not None:
            of_bias, mass_of_bias = _bias_squares(d.transpose(1, 2))
            of_weight, masses = of_weight + of_bias, masses + mass_of_bias
        return of_weight, masses

    places = sum(d[0, 0].numel() for _, d in uses)
    return _in_chunks(rows, groups * max(narrow * places, narrow * wide), squares)


def _conv_sums(
    layer: nn.Conv1d | nn.Conv2d, uses: Sequence[Use], factors: torch.Tensor
) -> Iterator[torch.Tensor]:
    gradient: Any = conv1d_weight if isinstance(layer, nn.Conv1d) else conv2d_weight
    flat = [(a, weighted(d, factors)) for a, d in uses]
    options = layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups
    yield _added([gradient(a, options[0], scaled, *options[1:]) for a, scaled in flat])
    if layer.bias is not None:
        yield _added([scaled.flatten(2).sum((0, 2)) for _, scaled in flat])


# -- look-up --------------------------------------------------------------------------------------------------------


def _known(layer: own_layers.Embedding, use: Use) -> Use:
    """Indices as the layer reads them, [batch, places], and gradients [batch, places, width], zero for padding."""
    a = use[0].clamp(0, layer.num_embeddings - 1).flatten(1)
    d = use[1].reshape(*a.shape, layer.embedding_dim)
    if layer.padding_idx is not None:
        d = d * (a != layer.padding_idx).unsqueeze(2)
    return a, d


def _embedding_squares(layer: own_layers.Embedding, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients are added up where a row has the same index several times; the shapes follow the batch alone."""
    known = [_known(layer, use) for use in uses]
    indices, d = torch.cat([a for a, _ in known], dim=1), torch.cat([d for _, d in known], dim=1)

    def squares(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        same = indices[part].unsqueeze(2) == indices[part].unsqueeze(1)
        first = same.to(torch.int8).argmax(dim=2)  # the first place with the same index stands for all
        sums = torch.zeros_like(d[part]).scatter_add(1, first.unsqueeze(2).expand_as(d[part]), d[part])
        return sums.square().sum((1, 2)), _lengths(d[part]).sum(1).square()

    return _in_chunks(d.shape[0], d.shape[1] * max(d.shape[1], d.shape[2]), squares)


def _embedding_sums(
    layer: own_layers.Embedding, uses: Sequence[Use], factors: torch.Tensor
) -> Iterator[torch.Tensor]:
    known = [_known(layer, use) for use in uses]
    indices = torch.cat([a.flatten() for a, _ in known])
    gradients = torch.cat([weighted(d, factors).flatten(0, 1) for _, d in known])
    for rows in row_pieces(layer.num_embeddings, layer.embedding_dim):
        here = (rows.start <= indices) & (indices < rows.stop)
        weight = torch.zeros((rows.stop - rows.start, layer.embedding_dim), dtype=factors.dtype)
        weight.index_add_(0, indices[here] - rows.start, gradients[here])
        yield weight.reshape(-1)


# -- small: layers whose per-sample gradients are no larger than a row of their values --------------------------------

Pieces: TypeAlias = Callable[[Any, torch.Tensor, torch.Tensor], list[torch.Tensor]]
"""(layer, a, d) -> for each parameter a tensor [batch, places, size], whose sum over places is the gradient."""


def _small(pieces: Pieces) -> LayerRule:
    def per_parameter(layer: Any, uses: Sequence[Use]) -> list[torch.Tensor]:
        return [
            torch.cat(parts, dim=1) for parts in zip(*(pieces(layer, a, d) for a, d in uses), strict=True)
        ]

    def squares(layer: Any, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
        parts = per_parameter(layer, uses)
        zero = torch.zeros(uses[0][1].shape[0], dtype=uses[0][1].dtype)
        return (
            sum((part.sum(1).square().sum(1) for part in parts), zero),
            sum((part.abs().sum(1).square().sum(1) for part in parts), zero),
        )

    def sums(layer: Any, uses: Sequence[Use], factors: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in per_parameter(layer, uses):
            yield factors @ part.sum(1)

    return LayerRule(squares, sums)


def _trailing(layer: nn.LayerNorm | nn.RMSNorm, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    shape = list(layer.normalized_shape)
    if isinstance(layer, nn.LayerNorm):
        normalised = functional.layer_norm(a, shape, eps=layer.eps)
    else:
        normalised = functional.rms_norm(a, shape, eps=layer.eps)
    size = layer.weight.numel()
    pieces = [(d * normalised).reshape(a.shape[0], -1, size)]
    return [*pieces, d.reshape(a.shape[0], -1, size)] if getattr(layer, "bias", None) is not None else pieces


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    """[batch, channels, ...] as [batch, places, channels]."""
    return values.reshape(values.shape[0], values.shape[1], -1).transpose(1, 2)


def _group_norm(layer: nn.GroupNorm, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    normalised = functional.group_norm(a, layer.num_groups, eps=layer.eps)
    return [_by_channel(d * normalised), _by_channel(d)]


def _instance_norm(layer: nn.InstanceNorm1d, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    return [_by_channel(d * functional.instance_norm(a, eps=layer.eps)), _by_channel(d)]


def _prelu(layer: nn.PReLU, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    slopes = d * a.clamp(max=0)
    return [_by_channel(slopes) if layer.num_parameters > 1 else slopes.reshape(a.shape[0], -1, 1)]


def _row_parameter(layer: own_layers.RowParameter, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    return [d.reshape(d.shape[0], 1, -1)]


_CONVOLUTION = LayerRule(_conv_squares, _conv_sums)

LAYER_RULES: Mapping[type[nn.Module], LayerRule] = MappingProxyType(
    {
        nn.Linear: LayerRule(_linear_squares, _linear_sums),
        nn.Conv1d: _CONVOLUTION,
        nn.Conv2d: _CONVOLUTION,
        own_layers.Embedding: LayerRule(_embedding_squares, _embedding_sums),
        nn.LayerNorm: _small(_trailing),
        nn.RMSNorm: _small(_trailing),
        nn.GroupNorm: _small(_group_norm),
        nn.InstanceNorm1d: _small(_instance_norm),
        nn.InstanceNorm2d: _small(_instance_norm),
        nn.PReLU: _small(_prelu),
        own_layers.RowParameter: _small(_row_parameter),
    }
)
"""Rules by class. A layer with parameters and without a rule makes the trainer go row by row."""
