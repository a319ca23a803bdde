"""One rule for every kind of layer: per-sample gradients, or their norms and weighted sum without them.

A *use* of a layer is a pair (a, d): what it was applied to, and the gradient of the summed losses by what came out of
it, both [batch, ...]. A layer that is used several times (tied weights, the steps of a recurrent layer) has several;
a row's gradient is the sum over all of them, and its norm is that of the sum.

Book-keeping gives every row, besides its norm, its *mass*: the norm that its gradient would have if nothing in the sum over places and
uses cancelled. Rounding errors are proportional to the mass, not to the norm, so a hostile model whose terms cancel
could hide a gradient behind them; ``per_sample`` clips both. Gradients that are there as numbers hide nothing.

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

Use: TypeAlias = tuple[torch.Tensor, torch.Tensor]

CHUNK_ELEMENTS = 1 << 22
"""Numbers that a rule holds at once for rows one by one (32 MiB)."""

PIECE_ELEMENTS = 1 << 17
"""Numbers of a matrix' sum that are made at once, if a row has no more (1 MiB)."""

_EPSILON = 2.0**-52


def row_pieces(rows: int, columns: int) -> Iterator[slice]:
    """A matrix' rows, in order, a piece at a time."""
    size = max(1, PIECE_ELEMENTS // columns)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


@dataclass(frozen=True, slots=True)
class BookKeeping:
    """Norms and sums without gradients, from float64 values.

    Attributes:
        squares: (layer, uses) -> two tensors [batch]: the squared norm of each row's gradient over the layer's
            parameters, never below the true one by more than float64's error, and its squared mass.
        weighted_sums: (layer, uses, factors [batch]) -> Σ factors[i]·gradient[i], flat, in the order of the layer's
            parameters, in pieces whose lengths follow from the layer alone; a large matrix in many. A piece is the caller's.
        outputs: layer -> numbers that come out of one place of a row.
    """

    squares: Callable[[Any, Sequence[Use]], tuple[torch.Tensor, torch.Tensor]]
    weighted_sums: Callable[[Any, Sequence[Use], torch.Tensor], Iterator[torch.Tensor]]
    outputs: Callable[[Any], int]


@dataclass(frozen=True, slots=True)
class LayerRule:
    """What is known of a class of layers: one of the two, or both.

    Attributes:
        gradients: (layer, uses) -> each row's gradient, for each parameter a tensor [batch, size], in an order of the
            rule's own.
        ordered: (layer, such gradients' sums) -> the same in the order of the layer's parameters, flat.
        book_keeping: for where those are many; None where they never take more than the layer's values do.
    """

    gradients: Callable[[Any, Sequence[Use]], list[torch.Tensor]] | None
    book_keeping: BookKeeping | None
    ordered: Callable[[Any, list[torch.Tensor]], list[torch.Tensor]] = lambda layer, sums: sums


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


def _linear_places(layer: nn.Linear, uses: Sequence[Use]) -> Use:
    """(a, d) as [batch, places, inputs] and [batch, places, outputs]."""
    rows = uses[0][0].shape[0]
    a = _joined([use[0].reshape(rows, -1, layer.in_features) for use in uses], 1)
    return a, _joined([use[1].reshape(rows, -1, layer.out_features) for use in uses], 1)


def _linear_gradients(layer: nn.Linear, uses: Sequence[Use]) -> list[torch.Tensor]:
    a, d = _linear_places(layer, uses)
    of_weight = torch.bmm(d.transpose(1, 2), a).flatten(1)
    return [of_weight, d.sum(1)] if layer.bias is not None else [of_weight]


def _linear_squares(layer: nn.Linear, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
    a, d = _linear_places(layer, uses)
    squares, masses = _in_chunks(
        len(a), layer.in_features * layer.out_features, lambda part: _product_squares(a[part], d[part])
    )
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


def _conv_places(layer: nn.Conv1d | nn.Conv2d, uses: Sequence[Use]) -> Use:
    """A convolution is the same linear map at every place, applied to the patch around it, group by group: patches
    [batch·groups, places, patch] and gradients [batch·groups, places, outputs of a group]. A patch has its channels
    last, which is several times faster to make than ``functional.unfold``, and as good for norms."""
    known = [_patches(layer, a, d) for a, d in uses]
    return _joined([patches for patches, _ in known], 1), _joined([d for _, d in known], 1)


def _patches(layer: nn.Conv1d | nn.Conv2d, a: torch.Tensor, d: torch.Tensor) -> Use:
    one = (1,) * (4 - a.dim())  # a line is an image of one row
    (ky, kx), (sy, sx), (ey, ex) = (
        (*one, *sizes) for sizes in (layer.kernel_size, layer.stride, layer.dilation)
    )
    py, px = (*(0 for _ in one), *layer.padding)  # type: ignore[misc]
    a, d = (values.unsqueeze(2) if one else values for values in (a, d))
    a = functional.pad(a.permute(0, 2, 3, 1), (0, 0, px, px, py, py)).contiguous()
    rows, height, width, channels = d.shape[0], d.shape[2], d.shape[3], a.shape[3]
    whole, line, place, _ = a.stride()
    patches = a.as_strided(
        (rows, height, width, ky, kx, channels),
        (whole, sy * line, sx * place, ey * line, ex * place, 1),
    ).reshape(rows, height * width, ky * kx * channels)
    d = d.permute(0, 2, 3, 1).reshape(rows, height * width, -1)
    if layer.groups == 1:
        return patches, d

    def by_group(values: torch.Tensor, inner: int) -> torch.Tensor:
        apart = values.reshape(rows, height * width, inner, layer.groups, -1).permute(0, 3, 1, 2, 4)
        return apart.reshape(rows * layer.groups, height * width, -1)

    return by_group(patches, ky * kx), by_group(d, 1)


def _conv_gradients(layer: nn.Conv1d | nn.Conv2d, uses: Sequence[Use]) -> list[torch.Tensor]:
    patches, d = _conv_places(layer, uses)
    rows = uses[0][0].shape[0]
    of_weight = torch.bmm(d.transpose(1, 2), patches).reshape(rows, -1)
    return [of_weight, d.sum(1).reshape(rows, -1)] if layer.bias is not None else [of_weight]


def _conv_ordered(layer: nn.Conv1d | nn.Conv2d, sums: list[torch.Tensor]) -> list[torch.Tensor]:
    """Channels first again."""
    outputs, channels = layer.weight.shape[:2]
    return [sums[0].view(outputs, -1, channels).transpose(1, 2).reshape(-1), *sums[1:]]


def _conv_squares(layer: nn.Conv1d | nn.Conv2d, uses: Sequence[Use]) -> tuple[torch.Tensor, torch.Tensor]:
    def squares(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        patches, d = _conv_places(layer, [(a[part], d[part]) for a, d in uses])
        of_weight, masses = (of.reshape(-1, layer.groups).sum(1) for of in _product_squares(patches, d))
        if layer.bias is not None:
            of_bias, mass_of_bias = _bias_squares(
                _joined([d[part].flatten(2) for _, d in uses], 2).transpose(1, 2)
            )
            of_weight, masses = of_weight + of_bias, masses + mass_of_bias
        return of_weight, masses

    places, narrow = sum(d[0, 0].numel() for _, d in uses), layer.weight[0].numel()
    return _in_chunks(len(uses[0][0]), max(layer.groups * narrow * places, layer.weight.numel()), squares)


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
    def gradients(layer: Any, uses: Sequence[Use]) -> list[torch.Tensor]:
        of_uses = zip(*(pieces(layer, a, d) for a, d in uses), strict=True)
        return [_joined(list(parts), 1).sum(1) for parts in of_uses]

    return LayerRule(gradients, None)


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


_CONVOLUTION = LayerRule(
    _conv_gradients, BookKeeping(_conv_squares, _conv_sums, lambda layer: layer.out_channels), _conv_ordered
)

LAYER_RULES: Mapping[type[nn.Module], LayerRule] = MappingProxyType(
    {
        nn.Linear: LayerRule(
            _linear_gradients, BookKeeping(_linear_squares, _linear_sums, lambda layer: layer.out_features)
        ),
        nn.Conv1d: _CONVOLUTION,
        nn.Conv2d: _CONVOLUTION,
        own_layers.Embedding: LayerRule(
            None, BookKeeping(_embedding_squares, _embedding_sums, lambda layer: layer.embedding_dim)
        ),
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
