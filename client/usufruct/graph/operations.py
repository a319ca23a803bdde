"""The allow-list: every layer and every function that a model graph may use, one entry each.

An entry has four parts: the ``torch`` class or the computation, the settings it takes with their bounds, and the rule
that proves it keeps records apart (``isolation``). To admit an operation, add an entry here, a way to recognise it in
``tracer``, and, if it has parameters, its per-sample gradient rule at the holder
(``usufruct_server.holder.training.per_sample``). Convolutions, embeddings and recurrent layers will come that way.

BatchNorm is not here and never will be: it mixes records by design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from usufruct.graph import isolation
from usufruct.graph.isolation import IsolationRule
from usufruct.graph.model_graph import Argument

# -- settings: what a constructor argument or a keyword may be ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """An ``int`` (no ``bool``) from ``low`` to ``high``, both allowed."""

    low: int
    high: int

    def admits(self, value: Argument) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def read(self, value: Any) -> Argument:
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Real:
    """A finite ``float`` from ``low`` to ``high``, both allowed."""

    low: float
    high: float

    def admits(self, value: Argument) -> bool:
        return type(value) is float and math.isfinite(value) and self.low <= value <= self.high

    def read(self, value: Any) -> Argument:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """A ``bool``."""

    def admits(self, value: Argument) -> bool:
        return type(value) is bool

    def read(self, value: Any) -> Argument:
        return bool(value)


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words."""

    choices: tuple[str, ...]

    def admits(self, value: Argument) -> bool:
        return type(value) is str and value in self.choices

    def read(self, value: Any) -> Argument:
        return str(value)


@dataclass(frozen=True, slots=True)
class Wholes:
    """One to ``length`` positive ``int``, whose product is at most ``product``; one of them may be -1 if ``infer``."""

    length: int
    product: int
    infer: bool = False

    def admits(self, value: Argument) -> bool:
        if type(value) is not tuple or not 1 <= len(value) <= self.length:
            return False
        if not all(type(part) is int for part in value):
            return False
        sizes = [part for part in value if part != -1]
        if len(value) - len(sizes) > (1 if self.infer else 0):
            return False
        return all(part >= 1 for part in sizes) and math.prod(sizes) <= self.product

    def read(self, value: Any) -> Argument:
        return tuple(int(part) for part in value)


SettingRule: TypeAlias = Whole | Real | Flag | Word | Wholes

_WIDTH = Whole(1, 1 << 20)
_DIMENSION = Whole(-6, 5)
_SIZES = 1 << 24


# -- layers ---------------------------------------------------------------------------------------------------------


def _has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


@dataclass(frozen=True, slots=True)
class ModuleOperation:
    """An allow-listed layer.

    Attributes:
        module_class: the class, exactly; subclasses are other code and are refused.
        settings: constructor arguments. A graph names all of them, and no others.
        isolation: the proof rule.
    """

    module_class: type[nn.Module]
    settings: Mapping[str, SettingRule]
    isolation: IsolationRule

    @property
    def name(self) -> str:
        """The name a graph uses: the class's own."""
        return self.module_class.__name__

    def read(self, layer: nn.Module) -> tuple[tuple[str, Argument], ...]:
        """The constructor arguments that would make this layer again."""
        return tuple(
            (name, _has_bias(layer) if name == "bias" else rule.read(getattr(layer, name)))
            for name, rule in self.settings.items()
        )

    def build(self, settings: Mapping[str, Argument]) -> nn.Module:
        """The layer, from settings that have been checked. Its weights are whatever the device context gives."""
        return self.module_class(**settings)


_MODULES: tuple[ModuleOperation, ...] = (
    ModuleOperation(
        nn.Linear, {"in_features": _WIDTH, "out_features": _WIDTH, "bias": Flag()}, isolation.last_dimension
    ),
    ModuleOperation(
        nn.LayerNorm,
        {
            "normalized_shape": Wholes(4, 1 << 20),
            "eps": Real(1e-12, 1.0),
            "elementwise_affine": Flag(),
            "bias": Flag(),
        },
        isolation.normalise_trailing,
    ),
    ModuleOperation(nn.ReLU, {}, isolation.elementwise),
    ModuleOperation(nn.GELU, {"approximate": Word(("none", "tanh"))}, isolation.elementwise),
    ModuleOperation(nn.SiLU, {}, isolation.elementwise),
    ModuleOperation(nn.ELU, {"alpha": Real(0.0, 100.0)}, isolation.elementwise),
    ModuleOperation(nn.LeakyReLU, {"negative_slope": Real(0.0, 1.0)}, isolation.elementwise),
    ModuleOperation(nn.Tanh, {}, isolation.elementwise),
    ModuleOperation(nn.Sigmoid, {}, isolation.elementwise),
    ModuleOperation(nn.Dropout, {"p": Real(0.0, 0.99)}, isolation.elementwise),
    ModuleOperation(nn.Flatten, {"start_dim": _DIMENSION, "end_dim": _DIMENSION}, isolation.flatten_inner),
    ModuleOperation(nn.Identity, {}, isolation.elementwise),
)

MODULES: Mapping[str, ModuleOperation] = MappingProxyType(
    {operation.name: operation for operation in _MODULES}
)
"""Allow-listed layers by class name."""


# -- functions ------------------------------------------------------------------------------------------------------

Compute: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any], bool], torch.Tensor]
"""(values, settings, training) -> value. Never works in place."""


@dataclass(frozen=True, slots=True)
class FunctionOperation:
    """An allow-listed function.

    Attributes:
        name: the name a graph uses.
        takes: ``one`` value; a ``pair`` of values, one of which may be a number; ``several`` values in one tuple.
        compute: the computation. Results have dimension 0 of the inputs.
        isolation: the proof rule.
        settings: keywords. A graph names all of them, and no others.
    """

    name: str
    takes: Literal["one", "pair", "several"]
    compute: Compute
    isolation: IsolationRule
    settings: Mapping[str, SettingRule]


def _reshape(values: Sequence[Any], settings: Mapping[str, Any], training: bool) -> torch.Tensor:
    value: torch.Tensor = values[0]
    return value.reshape(value.shape[0], *settings["shape"])


_FUNCTIONS: tuple[FunctionOperation, ...] = (
    FunctionOperation("relu", "one", lambda v, s, t: functional.relu(v[0]), isolation.elementwise, {}),
    FunctionOperation("silu", "one", lambda v, s, t: functional.silu(v[0]), isolation.elementwise, {}),
    FunctionOperation("tanh", "one", lambda v, s, t: torch.tanh(v[0]), isolation.elementwise, {}),
    FunctionOperation("sigmoid", "one", lambda v, s, t: torch.sigmoid(v[0]), isolation.elementwise, {}),
    FunctionOperation(
        "gelu",
        "one",
        lambda v, s, t: functional.gelu(v[0], approximate=s["approximate"]),
        isolation.elementwise,
        {"approximate": Word(("none", "tanh"))},
    ),
    FunctionOperation(
        "elu",
        "one",
        lambda v, s, t: functional.elu(v[0], s["alpha"]),
        isolation.elementwise,
        {"alpha": Real(0.0, 100.0)},
    ),
    FunctionOperation(
        "leaky_relu",
        "one",
        lambda v, s, t: functional.leaky_relu(v[0], s["negative_slope"]),
        isolation.elementwise,
        {"negative_slope": Real(0.0, 1.0)},
    ),
    FunctionOperation(
        "dropout",
        "one",
        lambda v, s, t: functional.dropout(v[0], s["p"], training=t),
        isolation.elementwise,
        {"p": Real(0.0, 0.99)},
    ),
    FunctionOperation("add", "pair", lambda v, s, t: torch.add(v[0], v[1]), isolation.elementwise_pair, {}),
    FunctionOperation("sub", "pair", lambda v, s, t: v[0] - v[1], isolation.elementwise_pair, {}),
    FunctionOperation("mul", "pair", lambda v, s, t: torch.mul(v[0], v[1]), isolation.elementwise_pair, {}),
    FunctionOperation(
        "flatten",
        "one",
        lambda v, s, t: torch.flatten(v[0], s["start_dim"], s["end_dim"]),
        isolation.flatten_inner,
        {"start_dim": _DIMENSION, "end_dim": _DIMENSION},
    ),
    FunctionOperation(
        "cat",
        "several",
        lambda v, s, t: torch.cat(list(v), dim=s["dim"]),
        isolation.concatenate_inner,
        {"dim": _DIMENSION},
    ),
    FunctionOperation(
        "reshape", "one", _reshape, isolation.reshape_row, {"shape": Wholes(5, _SIZES, infer=True)}
    ),
)

FUNCTIONS: Mapping[str, FunctionOperation] = MappingProxyType(
    {operation.name: operation for operation in _FUNCTIONS}
)
"""Allow-listed functions by name. ``reshape`` names the shape of one row; the batch is implied and cannot be moved."""

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        **{f"BatchNorm{n}d": "it mixes records; use LayerNorm" for n in (1, 2, 3)},
        "SyncBatchNorm": "it mixes records; use LayerNorm",
        "Softmax": "return logits; the loss applies the softmax itself",
        "LogSoftmax": "return logits; the loss applies the softmax itself",
        "softmax": "return logits; the loss applies the softmax itself",
        "log_softmax": "return logits; the loss applies the softmax itself",
        "squeeze": "keep the output [batch, outputs], also for one output; the loss and the SDK handle it",
        "mean": "a mean could run over the batch",
        "sum": "a sum could run over the batch",
    }
)
"""What to do instead, for what people try most."""


def allowed_names() -> str:
    """The whole allow-list, for an error message."""
    return f"layers {', '.join(sorted(MODULES))}; functions {', '.join(sorted(FUNCTIONS))}"
