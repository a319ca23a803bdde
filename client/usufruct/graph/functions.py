"""The allow-list of functions: the computation, the settings it takes with their bounds, and its isolation rule.

To admit a function, add an entry here and a way to recognise it in ``recognised``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch.nn import functional

from usufruct.graph import isolation
from usufruct.graph.isolation import IsolationRule
from usufruct.graph.layers import DIMENSION, KERNEL
from usufruct.graph.settings import (
    Dimensions,
    Equation,
    Flag,
    Optional,
    Real,
    SettingRule,
    Sizes,
    Whole,
    Wholes,
    Word,
)

SIZES = 1 << 24
MASKED = -1e6
"""Stands for minus infinity in an attention score: its exponential is zero, and a row of nothing else is no NaN."""

Types: TypeAlias = Literal["real", "number", "mask", "fill", "any"]
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
        types: of the numbers it takes: ``real``; ``number``, real or whole; ``mask``, true or false; ``fill``, a real
            value and a mask; ``any``, all of one type. PyTorch's meta device lets through what the processor refuses.
    """

    name: str
    takes: Literal["one", "pair", "several"]
    compute: Compute
    isolation: IsolationRule
    settings: Mapping[str, SettingRule]
    types: Types = "real"

    def admits(self, operands: Sequence[Any]) -> bool:
        """Whether the values, some of which may be numbers, are of its types."""
        types = [operand.dtype for operand in operands if isinstance(operand, torch.Tensor)]
        if self.types == "fill":
            return len(types) == 2 and types[0].is_floating_point and types[1] is torch.bool
        if self.types == "any":
            return len(set(types)) == 1
        if self.types == "mask":
            return len(types) == len(operands) and set(types) == {torch.bool}
        if self.types == "number":
            return torch.bool not in types
        return all(kind.is_floating_point for kind in types)


def _reshape(values: Sequence[Any], settings: Mapping[str, Any], training: bool) -> torch.Tensor:
    value: torch.Tensor = values[0]
    return value.reshape(value.shape[0], *settings["shape"])


def _slice(values: Sequence[Any], settings: Mapping[str, Any], training: bool) -> torch.Tensor:
    value = values[0]
    places = [slice(None)] * value.dim()
    places[settings["dim"]] = slice(settings["start"], settings["stop"], settings["step"])
    part: torch.Tensor = value[tuple(places)]
    return part


def _indices(values: Sequence[Any], settings: Mapping[str, Any], training: bool) -> torch.Tensor:
    places = torch.arange(settings["length"], device=values[0].device)
    row: torch.Tensor = places * settings["step"] + settings["start"]
    return row.expand(values[0].shape[0], -1)


def _hide_future(values: Sequence[Any], settings: Mapping[str, Any], training: bool) -> torch.Tensor:
    scores: torch.Tensor = values[0]
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, MASKED)


def _hide_future_rule(application: isolation.Application) -> None:
    """Fills the last two dimensions of three or more, of which none is the batch."""
    if len(application.shapes[0]) < 3:
        raise isolation.mixes(application, "needs three dimensions: the batch, and the two of the scores")


def _plain(name: str, compute: Callable[[Any], torch.Tensor], types: Types = "real") -> FunctionOperation:
    return FunctionOperation(name, "one", lambda v, s, t: compute(v[0]), isolation.elementwise, {}, types)


def _pair(
    name: str, compute: Callable[[Any, Any], torch.Tensor], types: Types = "number"
) -> FunctionOperation:
    return FunctionOperation(
        name, "pair", lambda v, s, t: compute(v[0], v[1]), isolation.elementwise_pair, {}, types
    )


def _pools(spatial: int) -> tuple[FunctionOperation, ...]:
    """The pooling functions over 1 or 2 dimensions."""
    window: dict[str, SettingRule] = {
        "kernel_size": Sizes(spatial, 1, KERNEL),
        "stride": Sizes(spatial, 1, KERNEL),
        "padding": Sizes(spatial, 0, KERNEL),
    }
    rule = isolation.channels_first(spatial)
    maximum = functional.max_pool1d if spatial == 1 else functional.max_pool2d
    mean = functional.avg_pool1d if spatial == 1 else functional.avg_pool2d
    fit = functional.adaptive_avg_pool1d if spatial == 1 else functional.adaptive_avg_pool2d
    return (
        FunctionOperation(f"max_pool{spatial}d", "one", lambda v, s, t: maximum(v[0], **s), rule, window),
        FunctionOperation(f"avg_pool{spatial}d", "one", lambda v, s, t: mean(v[0], **s), rule, window),
        FunctionOperation(
            f"adaptive_avg_pool{spatial}d",
            "one",
            lambda v, s, t: fit(v[0], s["output_size"]),
            rule,
            {"output_size": Sizes(spatial, 1, KERNEL)},
        ),
    )


_REDUCED: Mapping[str, SettingRule] = {"dim": Dimensions(), "keepdim": Flag()}

_FUNCTIONS: tuple[FunctionOperation, ...] = (
    _plain("relu", functional.relu),
    _plain("silu", functional.silu),
    _plain("tanh", torch.tanh),
    _plain("sigmoid", torch.sigmoid),
    _plain("exp", torch.exp),
    _plain("log", torch.log),
    _plain("sqrt", torch.sqrt),
    _plain("abs", torch.abs),
    _plain("neg", torch.neg),
    _plain("round", torch.round),
    _plain("logical_not", torch.logical_not, "mask"),
    _plain("long", lambda value: value.long(), "any"),
    _plain("float", lambda value: value.float(), "any"),
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
        "clamp",
        "one",
        lambda v, s, t: torch.clamp(v[0], s["min"], s["max"]),
        isolation.elementwise,
        {"min": Optional(Real(-1e6, 1e6)), "max": Optional(Real(-1e6, 1e6))},
        "number",
    ),
    FunctionOperation(
        "pow",
        "one",
        lambda v, s, t: torch.pow(v[0], s["exponent"]),
        isolation.elementwise,
        {"exponent": Real(-8.0, 8.0)},
    ),
    FunctionOperation(
        "dropout",
        "one",
        lambda v, s, t: functional.dropout(v[0], s["p"], training=t),
        isolation.elementwise,
        {"p": Real(0.0, 0.99)},
    ),
    _pair("add", torch.add),
    _pair("sub", lambda first, second: first - second),
    _pair("mul", torch.mul),
    _pair("div", lambda first, second: first / second),
    _pair("eq", lambda first, second: first == second),
    _pair("ne", lambda first, second: first != second),
    _pair("lt", lambda first, second: first < second),
    _pair("le", lambda first, second: first <= second),
    _pair("gt", lambda first, second: first > second),
    _pair("ge", lambda first, second: first >= second),
    _pair("logical_and", torch.logical_and, "mask"),
    _pair("logical_or", torch.logical_or, "mask"),
    FunctionOperation(
        "masked_fill",
        "pair",
        lambda v, s, t: torch.masked_fill(v[0], v[1], s["value"]),
        isolation.elementwise_pair,
        {"value": Real(-3.5e38, 3.5e38)},
        "fill",
    ),
    FunctionOperation(
        "matmul", "pair", lambda v, s, t: torch.matmul(v[0], v[1]), isolation.batched_product, {}
    ),
    FunctionOperation(
        "einsum",
        "several",
        lambda v, s, t: torch.einsum(s["equation"], *v),
        isolation.not_proven,
        {"equation": Equation()},
    ),
    FunctionOperation("hide_future", "one", _hide_future, _hide_future_rule, {}),
    FunctionOperation(
        "softmax",
        "one",
        lambda v, s, t: functional.softmax(v[0], s["dim"]),
        isolation.along("dim"),
        {"dim": DIMENSION},
    ),
    FunctionOperation(
        "log_softmax",
        "one",
        lambda v, s, t: functional.log_softmax(v[0], s["dim"]),
        isolation.along("dim"),
        {"dim": DIMENSION},
    ),
    FunctionOperation(
        "cumsum",
        "one",
        lambda v, s, t: torch.cumsum(v[0], s["dim"]),
        isolation.along("dim"),
        {"dim": DIMENSION},
        "number",
    ),
    *(
        FunctionOperation(
            name,
            "one",
            lambda v, s, t, reduce=reduce: reduce(v[0], s["dim"], s["keepdim"]),  # type: ignore[misc]
            isolation.along("dim"),
            _REDUCED,
        )
        for name, reduce in (
            ("mean", torch.mean),
            ("sum", torch.sum),
            ("amax", torch.amax),
            ("amin", torch.amin),
        )
    ),
    *_pools(1),
    *_pools(2),
    FunctionOperation(
        "flatten",
        "one",
        lambda v, s, t: torch.flatten(v[0], s["start_dim"], s["end_dim"]),
        isolation.flatten_inner,
        {"start_dim": DIMENSION, "end_dim": DIMENSION},
        "any",
    ),
    FunctionOperation(
        "reshape", "one", _reshape, isolation.reshape_row, {"shape": Wholes(5, SIZES, infer=True)}, "any"
    ),
    FunctionOperation(
        "expand",
        "one",
        lambda v, s, t: v[0].expand(v[0].shape[0], *s["shape"]),
        isolation.repeat_inner,
        {"shape": Wholes(5, SIZES)},
        "any",
    ),
    FunctionOperation(
        "permute",
        "one",
        lambda v, s, t: v[0].permute(s["dims"]),
        isolation.permute_inner,
        {"dims": Dimensions()},
        "any",
    ),
    FunctionOperation(
        "transpose",
        "one",
        lambda v, s, t: v[0].transpose(*s["dims"]),
        isolation.along("dims"),
        {"dims": Sizes(2, -6, 5)},
        "any",
    ),
    FunctionOperation(
        "unsqueeze",
        "one",
        lambda v, s, t: v[0].unsqueeze(s["dim"]),
        isolation.along("dim", added=1),
        {"dim": DIMENSION},
        "any",
    ),
    FunctionOperation(
        "squeeze",
        "one",
        lambda v, s, t: v[0].squeeze(s["dim"]),
        isolation.along("dim"),
        {"dim": DIMENSION},
        "any",
    ),
    FunctionOperation(
        "select",
        "one",
        lambda v, s, t: v[0].select(s["dim"], s["index"]),
        isolation.along("dim"),
        {"dim": DIMENSION, "index": Whole(-SIZES, SIZES)},
        "any",
    ),
    FunctionOperation(
        "slice",
        "one",
        _slice,
        isolation.along("dim"),
        {
            "dim": DIMENSION,
            "start": Optional(Whole(-SIZES, SIZES)),
            "stop": Optional(Whole(-SIZES, SIZES)),
            "step": Whole(1, SIZES),
        },
        "any",
    ),
    FunctionOperation(
        "cat",
        "several",
        lambda v, s, t: torch.cat(list(v), dim=s["dim"]),
        isolation.along("dim"),
        {"dim": DIMENSION},
        "any",
    ),
    FunctionOperation(
        "stack",
        "several",
        lambda v, s, t: torch.stack(list(v), dim=s["dim"]),
        isolation.along("dim", added=1),
        {"dim": DIMENSION},
        "any",
    ),
    FunctionOperation(
        "indices",
        "one",
        _indices,
        isolation.constant,
        {"start": Whole(0, SIZES), "step": Whole(0, SIZES), "length": Whole(1, 1 << 16)},
        "any",
    ),
)

FUNCTIONS: Mapping[str, FunctionOperation] = MappingProxyType(
    {operation.name: operation for operation in _FUNCTIONS}
)
"""Allow-listed functions by name. ``reshape`` names the shape of one row; the batch is implied and cannot be moved."""
