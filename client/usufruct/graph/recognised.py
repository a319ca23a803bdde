"""How PyTorch calls the functions of the allow-list: which function it is, its parameters in order, and defaults."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from usufruct.graph.recording import hide_future


@dataclass(frozen=True, slots=True)
class Call:
    """A PyTorch callable, or a method of a tensor.

    Attributes:
        name: of the function in the allow-list.
        parameters: of the callable, in order; those that are no setting are the values.
        defaults: of the settings.
        fixed: parameters with one allowed value.
    """

    name: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


_ONE = ("input", "inplace")
_PAIR = ("input", "other", "alpha")
_REDUCE = ("input", "dim", "keepdim", "dtype")
_POOL = ("input", "kernel_size", "stride", "padding")
_NO_DTYPE = {"dtype": None}

_UNARY: dict[str, tuple[Any, ...]] = {
    "relu": (functional.relu, torch.relu),
    "tanh": (functional.tanh, torch.tanh),
    "sigmoid": (functional.sigmoid, torch.sigmoid),
    "silu": (functional.silu,),
    "exp": (torch.exp,),
    "log": (torch.log,),
    "sqrt": (torch.sqrt,),
    "abs": (torch.abs, abs),
    "neg": (torch.neg, operator.neg),
    "round": (torch.round,),
    "logical_not": (torch.logical_not, operator.invert),
    "long": (),
    "float": (),
}
_BINARY: dict[str, tuple[Any, ...]] = {
    "add": (operator.add, operator.iadd, torch.add),
    "sub": (operator.sub, operator.isub, torch.sub),
    "mul": (operator.mul, operator.imul, torch.mul),
    "div": (operator.truediv, operator.itruediv, torch.div),
    "eq": (operator.eq, torch.eq),
    "ne": (operator.ne, torch.ne),
    "lt": (operator.lt, torch.lt),
    "le": (operator.le, torch.le),
    "gt": (operator.gt, torch.gt),
    "ge": (operator.ge, torch.ge),
    "logical_and": (torch.logical_and, operator.and_),
    "logical_or": (torch.logical_or, operator.or_),
    "matmul": (operator.matmul, torch.matmul, torch.bmm, "bmm", "__matmul__"),
}


def _both(name: str, call: Call, *others: Any) -> dict[Any, Call]:
    """The function of ``torch`` and the method of this name."""
    return {target: call for target in (getattr(torch, name, name), name, *others)}


CALLS: Mapping[Any, Call] = {
    **{target: Call(name, _ONE) for name, targets in _UNARY.items() for target in (*targets, name)},
    **{target: Call(name, _PAIR) for name, targets in _BINARY.items() for target in (*targets, name)},
    **_both("pow", Call("pow", ("input", "exponent")), operator.pow),
    functional.gelu: Call("gelu", ("input", "approximate"), {"approximate": "none"}),
    functional.elu: Call("elu", ("input", "alpha", "inplace"), {"alpha": 1.0}),
    functional.leaky_relu: Call(
        "leaky_relu", ("input", "negative_slope", "inplace"), {"negative_slope": 0.01}
    ),
    functional.dropout: Call("dropout", ("input", "p", "training", "inplace"), {"p": 0.5}),
    **_both("clamp", Call("clamp", ("input", "min", "max"), {"min": None, "max": None})),
    **_both("flatten", Call("flatten", ("input", "start_dim", "end_dim"), {"start_dim": 0, "end_dim": -1})),
    **{
        cat: Call("cat", ("tensors", "dim"), {"dim": 0})
        for cat in (torch.cat, torch.concat, torch.concatenate)
    },
    torch.stack: Call("stack", ("tensors", "dim"), {"dim": 0}),
    **_both("unsqueeze", Call("unsqueeze", ("input", "dim"))),
    **_both("squeeze", Call("squeeze", ("input", "dim"))),
    **_both("select", Call("select", ("input", "dim", "index"))),
    **_both("masked_fill", Call("masked_fill", ("input", "mask", "value"))),
    **{
        target: call
        for name in ("mean", "sum", "amax", "amin")
        for target, call in _both(name, Call(name, _REDUCE, {"keepdim": False}, _NO_DTYPE)).items()
    },
    **_both("cumsum", Call("cumsum", ("input", "dim", "dtype"), {}, _NO_DTYPE)),
    **{
        target: Call(name, ("input", "dim", "_stacklevel", "dtype"), {}, {"dtype": None, "_stacklevel": 3})
        for name, plain in (("softmax", functional.softmax), ("log_softmax", functional.log_softmax))
        for target in (plain, name)
    },
    torch.softmax: Call("softmax", ("input", "dim", "dtype"), {}, _NO_DTYPE),
    torch.log_softmax: Call("log_softmax", ("input", "dim", "dtype"), {}, _NO_DTYPE),
    **{
        target: Call(
            f"max_pool{spatial}d",
            (*_POOL, "dilation", "ceil_mode", "return_indices"),
            {"padding": 0},
            {"dilation": 1, "ceil_mode": False, "return_indices": False},
        )
        for spatial, targets in (
            (1, (functional.max_pool1d, torch.max_pool1d)),
            (2, (functional.max_pool2d, torch.max_pool2d)),
        )
        for target in targets
    },
    **{
        target: Call(
            f"avg_pool{spatial}d",
            (*_POOL, "ceil_mode", "count_include_pad"),
            {"padding": 0},
            {"ceil_mode": False, "count_include_pad": True},
        )
        for spatial, target in ((1, functional.avg_pool1d), (2, functional.avg_pool2d))
    },
    functional.adaptive_avg_pool1d: Call("adaptive_avg_pool1d", ("input", "output_size")),
    functional.adaptive_avg_pool2d: Call("adaptive_avg_pool2d", ("input", "output_size")),
    hide_future: Call("hide_future", ("input",)),
}
"""By PyTorch callable, or by name for methods of a tensor (``x.relu()``)."""

RESHAPES: tuple[Any, ...] = (torch.reshape, "reshape", "view")
SAME: tuple[Any, ...] = ("contiguous", "clone", torch.clone)
EXPANDS: tuple[Any, ...] = ("expand", "expand_as")
PERMUTES: tuple[Any, ...] = (torch.permute, "permute")
TRANSPOSES: tuple[Any, ...] = (torch.transpose, "transpose", torch.swapaxes, "swapaxes")
CAST = "to"
