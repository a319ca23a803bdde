"""Clipped sums of per-sample gradients by book-keeping: one backward pass, no per-sample gradient in memory.

For every layer with parameters the forward pass keeps its input a, the backward pass gives the gradient d by its
output. Row i's gradient of a Linear is the outer product of d[i] and a[i], whose norm is |d[i]|·|a[i]|; so norms, clip
factors k[i] and the weighted sum Σ k[i]·d[i]·a[i]ᵀ need no matrix per row (Bu et al. 2023, "Differentially Private
Optimization on Large Model at Small Cost"; Goodfellow 2015 for the norm).

Everything runs in float64: norms in float32 err by up to 1e-4 and sums by more (soundness rule 9).

*Guarantee*: adding or removing one row changes the result by at most ``clip_norm``·(1 + 1e-9) in L2 norm, whatever the
weights, rows and model, provided that the model keeps rows apart (``usufruct.graph.isolation``). Rows whose gradient is
not finite count as zero, before the sum: a NaN passes through clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from usufruct.graph.interpreter import InterpreterModule
from usufruct_server.holder.training.losses import Loss

_CHUNK_ELEMENTS = 1 << 23
"""Per-sample gradients held at once where a layer needs them (64 MiB)."""


@dataclass(frozen=True, slots=True)
class LayerRule:
    """What book-keeping needs to know of a class of layers. ``a`` and ``d`` are [batch, ...].

    Attributes:
        squared_norms: (layer, a, d) -> [batch]: squared norm of each row's gradient over the layer's parameters.
        weighted_sums: (layer, a, d, factors) -> Σ factors[i]·gradient[i], one tensor per parameter, in their order.
    """

    squared_norms: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
    weighted_sums: Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], list[torch.Tensor]]


def _linear_norms(layer: nn.Linear, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    if a.dim() == 2:
        extra = 1.0 if layer.bias is not None else 0.0
        return d.square().sum(1) * (a.square().sum(1) + extra)
    rows, wide, narrow = a.shape[0], layer.out_features, layer.in_features
    a, d = a.reshape(rows, -1, narrow), d.reshape(rows, -1, wide)
    chunk = max(1, _CHUNK_ELEMENTS // (wide * narrow))
    squares = torch.cat(
        [
            torch.bmm(d[at : at + chunk].transpose(1, 2), a[at : at + chunk]).square().sum((1, 2))
            for at in range(0, rows, chunk)
        ]
    )
    return squares + d.sum(1).square().sum(1) if layer.bias is not None else squares


def _linear_sums(
    layer: nn.Linear, a: torch.Tensor, d: torch.Tensor, factors: torch.Tensor
) -> list[torch.Tensor]:
    weighted = d * factors.reshape(-1, *(1 for _ in d.shape[1:]))
    weighted = weighted.reshape(-1, layer.out_features)
    sums = [weighted.t() @ a.reshape(-1, layer.in_features)]
    return [*sums, weighted.sum(0)] if layer.bias is not None else sums


def _norm_gradients(layer: nn.LayerNorm, a: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    """Per-sample gradients of a LayerNorm, [batch, width] each: they are as small as a row of the layer's values."""
    shape = layer.normalized_shape
    normalised = functional.layer_norm(a, shape, eps=layer.eps)
    gradients = []
    if layer.weight is not None:
        gradients.append((d * normalised).reshape(a.shape[0], -1, layer.weight.numel()).sum(1))
    if layer.bias is not None:
        gradients.append(d.reshape(a.shape[0], -1, layer.bias.numel()).sum(1))
    return gradients


def _layer_norm_norms(layer: nn.LayerNorm, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return sum((g.square().sum(1) for g in _norm_gradients(layer, a, d)), a.new_zeros(a.shape[0]))


def _layer_norm_sums(
    layer: nn.LayerNorm, a: torch.Tensor, d: torch.Tensor, factors: torch.Tensor
) -> list[torch.Tensor]:
    return [(factors @ g).reshape(layer.normalized_shape) for g in _norm_gradients(layer, a, d)]


LAYER_RULES: Mapping[type[nn.Module], LayerRule] = MappingProxyType(
    {
        nn.Linear: LayerRule(_linear_norms, _linear_sums),
        nn.LayerNorm: LayerRule(_layer_norm_norms, _layer_norm_sums),
    }
)
"""One rule for every allow-listed layer that can have parameters."""


class ClippedSum:
    """Computes clipped sums for one model and one loss.

    Args:
        module: from ``usufruct.graph.rebuild``; it is turned to float64 and gets hooks, so use it for nothing else.
        loss: of the job.
    """

    def __init__(self, module: InterpreterModule, loss: Loss) -> None:
        self.module = module.double().train()
        self.loss = loss
        self._layers = [
            layer for layer in module.children() if any(True for _ in layer.parameters(recurse=False))
        ]
        unknown = [type(layer).__name__ for layer in self._layers if type(layer) not in LAYER_RULES]
        if unknown:
            raise TypeError(f"no per-sample gradient rule for {', '.join(unknown)}")
        self._kept: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        for layer in self._layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._kept[layer] = (inputs[0].detach(), output)

    def __call__(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> torch.Tensor:
        """Sum of the clipped per-sample gradients of one micro-batch.

        Args:
            features: float64 [batch, ...].
            labels: int64 [batch].
            present: float64 [batch]: 1 for a row, 0 for padding.
            clip_norm: L2 bound of one row's gradient over all parameters.
        Returns:
            float64, flat, in layout order.
        """
        self._kept.clear()
        losses = self.loss.per_row(self.module(features), labels)
        inputs = [self._kept[layer][0] for layer in self._layers]
        outputs = [self._kept[layer][1] for layer in self._layers]
        backward = torch.autograd.grad(losses.sum(), outputs, allow_unused=True, materialize_grads=True)
        self._kept.clear()
        with torch.no_grad():
            squares = torch.zeros_like(present)
            for layer, a, d in zip(self._layers, inputs, backward, strict=True):
                squares += LAYER_RULES[type(layer)].squared_norms(layer, a, d)
            finite = torch.isfinite(squares)
            norms = torch.where(finite, squares, torch.ones_like(squares)).sqrt()
            factors = present * finite * (clip_norm / norms.clamp(min=clip_norm))
            sums = [
                part.reshape(-1)
                for layer, a, d in zip(self._layers, inputs, backward, strict=True)
                for part in LAYER_RULES[type(layer)].weighted_sums(
                    layer, _zeroed(a, finite), _zeroed(d, finite), factors
                )
            ]
        return torch.cat(sums)


def _zeroed(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Rows outside ``keep`` as zeros: a factor of zero does not remove a NaN."""
    return torch.where(keep.reshape(-1, *(1 for _ in values.shape[1:])), values, torch.zeros_like(values))
