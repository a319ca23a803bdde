"""Clipped sums of per-sample gradients by book-keeping: one backward pass, no per-sample gradient in memory.

For every layer with parameters the forward pass keeps its input, the backward pass gives the gradient by its output.
From the two, ``layer_rules`` takes each row's norm, and then the weighted sum, without a gradient per row (Bu et al.
2023). Where a layer has no rule, or a function no proof of isolation, ``torch.func.vmap`` runs every row as a batch
of its own: no row can then reach another, whatever the graph does with its batch of one.

Everything runs in float64: norms in float32 err by up to 1e-4 and sums by more (soundness rule 9).

*Guarantee*: adding or removing one row changes the result by at most ``clip_norm``·(1 + 1e-9) in L2 norm, besides the
rounding of the sum, whatever the weights, rows and model, provided that the model keeps rows apart
(``usufruct.graph.isolation``). The rounding is at most n·2⁻⁵²·m·``LARGEST_MASS``·``clip_norm`` for m rows and n terms of
a sum: under 1e-5·``clip_norm`` for a micro-batch of 64 rows of 512 places. Rows whose gradient is not finite count as
zero, before the sum: a NaN passes through clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, vmap

from usufruct.domain.training_job import Clipping
from usufruct.graph.interpreter import InterpreterModule, trained
from usufruct_server.holder.training.layer_rules import CHUNK_ELEMENTS, LAYER_RULES, Use
from usufruct_server.holder.training.losses import Loss
from usufruct_server.holder.training.shared_weights import SHARED, SharedWeights

LARGEST_MASS = 2.0**12
"""A row's mass after clipping, in units of ``clip_norm``. Honest models stay below: their mass is at most about the
number of places times their norm, and far less where gradients do not point against each other."""

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
    return clip_norm / norms.clamp(min=clip_norm)


@dataclass(frozen=True)
class Part:
    """The clipped sum of one micro-batch, not multiplied out: as pieces, float64, flat, in layout order.

    Attributes:
        make: makes the pieces; their lengths follow from the model alone.
        size_bytes: what is kept to make them of.
    """

    make: Callable[[], Iterator[torch.Tensor]]
    size_bytes: int

    def pieces(self) -> Iterator[torch.Tensor]:
        """The pieces, each made when it is asked for."""
        pieces = self.make()
        while True:
            with _without_subnormals():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


class ClippedSum:
    """Computes clipped sums for one model and one loss.

    Args:
        module: from ``usufruct.graph.rebuild``; it computes in float64 from now on and gets hooks, so use it for nothing
            else. Its large matrices stay where and what they are (:mod:`.shared_weights`).
        loss: of the job.
        clipping: flat, or automatic.
    Attributes:
        parameters: how many numbers are trained. Frozen ones stay as they are in the module, enter no norm and no sum.
        input_shape: of a row's features.
    """

    def __init__(self, module: InterpreterModule, loss: Loss, clipping: Clipping = Clipping.FLAT) -> None:
        self.module = module.train()
        self.input_shape = module.graph.input_shape
        self.loss = loss
        self.clipping = clipping
        own = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
        self._layers = [
            layer for layer in own if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        # the gradient by a parameter that layers share is more than what their rules give one by one
        sharing = sum(1 for layer in own for _ in layer.parameters(recurse=False)) > len(
            [*module.parameters()]
        )
        self.by_rows = module.by_rows or sharing or not all(map(_by_rule, self._layers))
        self._kept: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._shared: dict[nn.Module, SharedWeights] = {}
        self._weights = {name: parameter.detach() for name, parameter in trained(module)}
        self.parameters = sum(weights.numel() for weights in self._weights.values())
        module.real = torch.float64
        if not self.by_rows:
            for layer in self._layers:
                layer.register_forward_hook(self._keep)
            for layer in own:
                if type(layer) in SHARED:
                    self._shared[layer] = layer.forward = SHARED[type(layer)](layer)  # type: ignore[assignment]
        for layer in own:
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad and layer not in self._shared:
                    parameter.data = parameter.data.double()
        self.move(None)

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Puts weights in, by parameter, of writable memory; large matrices are not copied."""
        self._weights = {name: torch.from_numpy(values) for name, values in weights.items()}
        self.move(None)

    def move(self, update: NDArray[np.float64] | None) -> None:
        """Makes the weights those that were put in plus ``update``, float64 in layout order, which is kept and not copied."""
        moved, at = None if update is None else torch.from_numpy(update), 0
        for path, parameter in trained(self.module):
            owner, _, name = path.rpartition(".")
            shared, weights = self._shared.get(self.module.get_submodule(owner)), self._weights[path]
            part = None if moved is None else moved[at : at + weights.numel()].view(weights.shape)
            at += weights.numel()
            if shared is not None:
                parameter.data, shared.moved[name] = weights, part
            else:
                parameter.data = weights.double() if part is None else weights.double() + part

    def _keep(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_()  # nothing before it is asked for a gradient
        self._kept.setdefault(layer, []).append((inputs[0].detach(), output))

    def __call__(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> torch.Tensor:
        """The whole :meth:`part`: float64, flat, in layout order."""
        return torch.cat([*self.part(features, labels, present, clip_norm).pieces()])

    def part(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> Part:
        """Sum of the clipped per-sample gradients of one micro-batch.

        Args:
            features: [batch, ...], float64 or int64 as the graph's input is.
            labels: int64 [batch].
            present: float64 [batch]: 1 for a row, 0 for padding.
            clip_norm: L2 bound of one row's gradient over all parameters.
        """
        with _without_subnormals():
            by = self._part_by_rows if self.by_rows else self._part_by_book_keeping
            return by(features, labels, present, clip_norm)

    def _part_by_book_keeping(
        self, features: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> Part:
        self._kept.clear()
        losses = self.loss.per_row(self.module(features), labels)
        kept = [self._kept[layer] for layer in self._layers]
        self._kept.clear()
        outputs = [output for uses in kept for _, output in uses]
        backward = iter(torch.autograd.grad(losses.sum(), outputs, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            uses = [[(a, next(backward)) for a, _ in of_layer] for of_layer in kept]
            squares, masses = torch.zeros_like(present), torch.zeros_like(present)
            for layer, of_layer in zip(self._layers, uses, strict=True):
                of_gradient, of_mass = LAYER_RULES[type(layer)].squares(layer, of_layer)
                squares += of_gradient
                masses += of_mass
            factors, finite = self._factors(squares, masses, present, clip_norm)
            cleaned = [_cleaned(of_layer, finite) for of_layer in uses]

        def make() -> Iterator[torch.Tensor]:
            for layer, of_layer in zip(self._layers, cleaned, strict=True):
                yield from LAYER_RULES[type(layer)].weighted_sums(layer, of_layer, factors)

        return Part(make, sum(a.nbytes + d.nbytes for of_layer in cleaned for a, d in of_layer))

    def _factors(
        self, squares: torch.Tensor, masses: torch.Tensor, present: torch.Tensor, clip_norm: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row's factor, and which rows are finite; the factor of the others is zero."""
        finite = torch.isfinite(squares) & torch.isfinite(masses)
        norms = torch.where(finite, squares, torch.ones_like(squares)).sqrt()
        masses = torch.where(finite, masses, torch.ones_like(masses)).sqrt()
        factors = clip_factors(norms, clip_norm, self.clipping)
        heaviest = LARGEST_MASS * clip_norm
        return present * finite * torch.minimum(factors, heaviest / masses.clamp(min=heaviest * 1e-9)), finite

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
        size = max(1, CHUNK_ELEMENTS // self.parameters)
        for at in range(0, len(features), size):
            part = slice(at, at + size)
            found = gradients(parameters, features[part], labels[part])
            rows = torch.cat([found[name].flatten(1) for name in parameters], dim=1)
            squares = rows.square().sum(1)
            factors, finite = self._factors(squares, squares, present[part], clip_norm)
            total += factors @ _zeroed(rows, finite)
        return Part(lambda: iter([total]), total.nbytes)


def _by_rule(layer: nn.Module) -> bool:
    """Whether a rule gives what is asked of the layer: the gradient by all of its parameters."""
    return type(layer) in LAYER_RULES and all(p.requires_grad for p in layer.parameters(recurse=False))


@contextmanager
def _without_subnormals() -> Iterator[None]:
    """Numbers below 1e-308 are zero: they would be slow, and the time would tell of them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _cleaned(uses: list[Use], keep: torch.Tensor) -> list[Use]:
    return [(_zeroed(a, keep), _zeroed(d, keep)) for a, d in uses]


def _zeroed(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Rows outside ``keep`` as zeros: a factor of zero does not remove a NaN."""
    return torch.where(keep.reshape(-1, *(1 for _ in values.shape[1:])), values, 0)
