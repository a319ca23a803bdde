"""Layers that are ours: where ``torch.nn`` has none, or one whose gradients cannot be taken row by row."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Embedding(nn.Embedding):
    """``nn.Embedding`` for any whole numbers: what lies outside the table is read as its nearest end.

    A row with an unknown index must end in a normal update like any other, so it may not stop the trainer.
    """

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        known = indices.clamp(0, self.num_embeddings - 1)
        return functional.embedding(known, self.weight, self.padding_idx)


class RowParameter(nn.Module):
    """A parameter that is no layer's (a position embedding, a class token), once for every row of the batch.

    Repeated first, so that every value has the batch as its first dimension and every row a gradient of its own:
    applied to a value without the batch, per-sample gradients are silently wrong (measured with Opacus).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.weight.expand(value.shape[0], *self.weight.shape)


class _Recurrent(nn.Module):
    """A recurrent layer as Opacus' DPLSTM and DPGRU have it: linear maps of the input and of the state, step by step,
    so that book-keeping sees each of them. Same arithmetic, and after renaming the same weights, as ``torch.nn``.

    Takes [batch, steps, input_size] and returns [batch, steps, hidden_size × directions]; states begin at zero.
    """

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        dropout: float,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, dropout
        self.directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            width = hidden_size * len(self.directions) if layer else input_size
            for suffix in self.directions:
                self.add_module(f"ih_l{layer}{suffix}", nn.Linear(width, self.gates * hidden_size, bias))
                self.add_module(
                    f"hh_l{layer}{suffix}", nn.Linear(hidden_size, self.gates * hidden_size, bias)
                )

    @staticmethod
    def torch_name(name: str) -> str:
        """``weight_ih_l0`` for ``ih_l0.weight``."""
        place, kind = name.split(".")
        return f"{kind}_{place}"

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        for layer in range(self.num_layers):
            if layer and self.dropout:
                value = functional.dropout(value, self.dropout, self.training)
            sides = [self._run(value, f"l{layer}{suffix}", bool(suffix)) for suffix in self.directions]
            value = torch.cat(sides, dim=2)
        return value

    def _run(self, value: torch.Tensor, place: str, backwards: bool) -> torch.Tensor:
        from_input = self.get_submodule(f"ih_{place}")(value)
        of_state = self.get_submodule(f"hh_{place}")
        state = from_input.new_zeros(value.shape[0], self.hidden_size)
        cell = state
        outputs = []
        steps = range(value.shape[1])
        for step in reversed(steps) if backwards else steps:
            state, cell = self._step(from_input[:, step], of_state(state), state, cell)
            outputs.append(state)
        return torch.stack(outputs[::-1] if backwards else outputs, dim=1)

    def _step(
        self, from_input: torch.Tensor, from_state: torch.Tensor, state: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise TypeError(f"{type(self).__name__} is no cell")


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with the gates in the order of ``nn.LSTM``."""

    gates = 4

    def _step(
        self, from_input: torch.Tensor, from_state: torch.Tensor, state: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        take, keep, new, show = (from_input + from_state).chunk(4, dim=1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(cell), cell


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al. 2014), with the gates in the order of ``nn.GRU``."""

    gates = 3

    def _step(
        self, from_input: torch.Tensor, from_state: torch.Tensor, state: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        reset_x, keep_x, new_x = from_input.chunk(3, dim=1)
        reset_h, keep_h, new_h = from_state.chunk(3, dim=1)
        keep = torch.sigmoid(keep_x + keep_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return (1 - keep) * new + keep * state, cell
