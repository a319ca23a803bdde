"""Clipped sums of per-sample gradients by book-keeping: one backward pass, few or no per-sample gradients in memory.

For every layer with parameters the forward pass keeps its input, the backward pass gives the gradient by its output.
From the two, ``kept_layers`` takes each row's norm, and then the weighted sum (Bu et al. 2023). Where a layer has no
rule, or a function no proof of isolation, ``torch.func.vmap`` runs every row as a batch of its own: no row can then
reach another, whatever the graph does with its batch of one.

The model runs in float32, and so do products over few rows; norms and sums over more are float64 (soundness rule 9).

*Guarantee*: adding or removing one row, the others staying in their places, changes the result by at most
``clip_norm``·(1 + ``kept_layers.ADDED_BY_ROUNDING``) in L2 norm, besides the rounding of float64 sums, whatever the
weights, rows and model, provided that the model keeps rows apart (``usufruct.graph.isolation``). That rounding is at most
2⁻¹⁹·``clip_norm`` within a block of rows (``kept_layers.BookKept``), and k·2⁻⁵² of the sum over k blocks. Rows whose
gradient is not finite count as zero, before the sum: a NaN passes through clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from usufruct.domain.training_job import Clipping
from usufruct.graph.interpreter import InterpreterModule, trained
from usufruct_server.holder.training.kept_layers import (
    BLOCK_ROWS,
    KEPT_NUMBERS,
    Features,
    KeptLayer,
    RowGradients,
    added,
    keep,
    row_numbers,
)
from usufruct_server.holder.training.layer_rules import CHUNK_ELEMENTS, LAYER_RULES
from usufruct_server.holder.training.losses import Loss

LARGEST_MASS = 2.0**12
"""A row's mass after clipping, in units of ``clip_norm``. Honest models stay below: their mass is at most about the
number of places times their norm, and far less where gradients do not point against each other."""

NARROW = 32
"""Outputs up to which a linear layer is faster transposed: twice as fast at ten."""

STABILITY = 0.01
"""γ of automatic clipping, as in Bu et al. 2022, "Automatic Clipping" (their experiments use this value throughout)."""


def clip_factors(norms: torch.Tensor, clip_norm: float, clipping: Clipping) -> torch.Tensor:
    """By what each row's gradient is multiplied, given its norm; both tensors float64 [batch].

    *Guarantee*: factor times norm is at most ``clip_norm``, for every norm that is finite and not negative; a norm of 0 has
    a finite factor, so that a gradient of zero stays zero. So both kinds of clipping have the same sensitivity and the same
    price.
    """
    if clipping is Clipping.AUTOMATIC:
        return clip_norm / (norms + STABILITY)
    return (clip_norm / norms).clamp_(max=1.0)


class _WithoutSubnormals:
    """Numbers below the least normal one are zero: they would be slow, and the time would tell of them."""

    def __enter__(self) -> None:
        torch.set_flush_denormal(True)

    def __exit__(self, *raised: object) -> None:
        torch.set_flush_denormal(False)


without_subnormals = _WithoutSubnormals()


@dataclass(frozen=True)
class Part:
    """The clipped sum of one micro-batch, not multiplied out.

    Attributes:
        make: makes it: flat, in layout order, in pieces whose lengths follow from the model alone, float64 or float32.
        size_bytes: what is kept to make them of.
    """

    make: Callable[[], Iterator[torch.Tensor]]
    size_bytes: int

    def pieces(self) -> Iterator[torch.Tensor]:
        """The pieces, each made when it is asked for."""
        pieces = self.make()
        while True:
            with without_subnormals:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


class ClippedSum:
    """Computes clipped sums for one model and one loss.

    Args:
        module: from ``usufruct.graph.rebuild``; it computes in ``real`` from now on and gets hooks, so use it for nothing
            else.
        loss: of the job.
        clipping: flat, or automatic.
        real: float32, or float64 for whom the last bits are worth twice the time.
    Attributes:
        parameters: how many numbers are trained. Frozen ones stay as they are in the module, enter no norm and no sum.
        input_shape: of a row's features.
    """

    def __init__(
        self,
        module: InterpreterModule,
        loss: Loss,
        clipping: Clipping = Clipping.FLAT,
        real: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.train()
        self.input_shape = module.graph.input_shape
        self.loss = loss
        self.clipping = clipping
        self.real = module.real = real
        own = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
        self._layers = [
            layer for layer in own if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        # the gradient by a parameter that layers share is more than what their rules give one by one
        sharing = sum(1 for layer in own for _ in layer.parameters(recurse=False)) > len(
            [*module.parameters()]
        )
        self.by_rows = module.by_rows or sharing or not all(map(_by_rule, self._layers))
        self._uses: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._weights = {name: parameter.detach() for name, parameter in trained(module)}
        self.parameters = sum(weights.numel() for weights in self._weights.values())
        if not self.by_rows:
            for layer in self._layers:
                layer.register_forward_hook(self._note)
                if isinstance(layer, nn.Linear) and layer.out_features <= NARROW:
                    layer.forward = partial(_narrow_forward, layer)  # type: ignore[method-assign]
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(real)
        self.move(None)

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Puts weights in, by parameter, of writable memory; they are not copied where the model runs in float32."""
        self._weights = {name: torch.from_numpy(values) for name, values in weights.items()}
        self.move(None)

    def move(self, update: NDArray[np.float64] | None) -> None:
        """Makes the weights those that were put in plus ``update``, float64 in layout order."""
        moved, at = None if update is None else torch.from_numpy(update), 0
        for name, parameter in trained(self.module):
            weights = self._weights[name]
            if moved is None:
                parameter.data = weights.to(self.real)
            else:
                part = moved[at : at + weights.numel()].view(weights.shape)
                parameter.data = (weights + part).to(self.real)
            at += weights.numel()

    def _note(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if isinstance(layer, nn.Conv2d):
            output = output.contiguous(
                memory_format=torch.channels_last
            )  # pooling is nine times as fast on it
        if not output.requires_grad:
            output.requires_grad_()  # nothing before it is asked for a gradient
        self._uses.setdefault(layer, []).append((inputs[0].detach(), output))
        return output

    def __call__(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> torch.Tensor:
        """The whole :meth:`part`: float64, flat, in layout order."""
        pieces = self.part(features, labels, present, clip_norm).pieces()
        return torch.cat([piece.double() for piece in pieces])

    def part(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        present: torch.Tensor,
        clip_norm: float,
        squares: torch.Tensor | None = None,
    ) -> Part:
        """Sum of the clipped per-sample gradients of one micro-batch.

        Args:
            features: [batch, ...], float or int64 as the graph's input is.
            labels: int64 [batch].
            present: float64 [batch]: 1 for a row, 0 for padding.
            clip_norm: L2 bound of one row's gradient over all parameters.
            squares: float64 [batch], each row's squared length, if it is known.
        """
        with without_subnormals:
            if features.is_floating_point():
                features = features.to(self.real)
            if self.by_rows:
                return self._part_by_rows(features, labels, present, clip_norm)
            return self._part_by_book_keeping(Features(features, squares), labels, present, clip_norm)

    def _part_by_book_keeping(
        self, features: Features, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> Part:
        self._uses.clear()
        losses = self.loss.per_row(self.module.forward(features.values), labels)
        noted = [self._uses[layer] for layer in self._layers]
        self._uses.clear()
        outputs = [output for uses in noted for _, output in uses]
        of_sum = torch.ones_like(losses)
        backward = iter(
            torch.autograd.grad(losses, outputs, of_sum, allow_unused=True, materialize_grads=True)
        )
        kept, numbers_left = list[KeptLayer](), KEPT_NUMBERS
        with torch.no_grad():
            for layer, uses in zip(self._layers, noted, strict=True):
                with_gradients = [(a, next(backward)) for a, _ in uses]
                kept.append(keep(layer, with_gradients, numbers_left, features))
                if isinstance(kept[-1], RowGradients):
                    numbers_left -= row_numbers(layer, with_gradients)
            squares = masses = added([part.squares for part in kept])
            if any(part.masses is not part.squares for part in kept):
                masses = added([part.masses for part in kept])
            factors = self._factors(squares, masses, present, clip_norm)

        def make() -> Iterator[torch.Tensor]:
            for part in kept:
                yield from part.sums(factors)

        return Part(make, sum(part.size_bytes for part in kept))

    def _factors(
        self, squares: torch.Tensor, masses: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> torch.Tensor:
        """Each row's factor; zero for those that are not finite."""
        factors = clip_factors(squares.sqrt(), clip_norm, self.clipping)
        if masses is not squares:
            factors = torch.minimum(factors, LARGEST_MASS * clip_norm / masses.sqrt())
        return torch.nan_to_num_(factors, nan=0.0).mul_(present)

    def _part_by_rows(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> Part:
        """The same with every row a batch of one. A gradient is there as numbers, so its mass is its norm."""
        parameters = {name: value.detach() for name, value in trained(self.module)}

        def of_row(values: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> Any:
            output = functional_call(self.module, values, (row.unsqueeze(0),))
            return self.loss.per_row(output, label.unsqueeze(0)).sum()

        gradients = vmap(grad(of_row), in_dims=(None, 0, 0), randomness="different")
        total = torch.zeros(self.parameters, dtype=torch.float64)
        size = max(1, min(BLOCK_ROWS, CHUNK_ELEMENTS // self.parameters))
        for at in range(0, len(features), size):
            part = slice(at, at + size)
            found = gradients(parameters, features[part], labels[part])
            rows = torch.cat([found[name].flatten(1) for name in parameters], dim=1)
            kept = RowGradients([[rows]])
            (added,) = kept.sums(self._factors(kept.squares, kept.masses, present[part], clip_norm))
            total += added
        return Part(lambda: iter([total]), total.nbytes)


def _narrow_forward(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    """What ``nn.Linear`` gives, as the transpose of W·xᵀ, which is a product of long rows."""
    if values.dim() != 2 or layer.bias is None:
        return functional.linear(values, layer.weight, layer.bias)
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, values.t()).t()


def _by_rule(layer: nn.Module) -> bool:
    """Whether a rule gives what is asked of the layer: the gradient by all of its parameters."""
    return type(layer) in LAYER_RULES and all(p.requires_grad for p in layer.parameters(recurse=False))
