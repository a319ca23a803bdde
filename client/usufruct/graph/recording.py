"""Runs a builder's ``forward`` once with stand-in values, and records which layers and functions it passes.

``torch.fx`` does the recording. Its stand-ins get shapes here, so that ``batch, steps, width = x.shape`` are numbers;
and the layers whose own ``forward`` cannot be followed (``nn.MultiheadAttention``, ``nn.TransformerEncoderLayer``) are
replaced by the same arithmetic written with plain layers over the same parameters. This runs at the builder only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from usufruct.graph.functions import MASKED
from usufruct.graph.layers import MODULES
from usufruct.graph.model_graph import not_allowed
from usufruct.graph.validation import class_not_allowed

EXAMPLE_BATCHES = (60_060, 120_120)
"""Batches of the stand-in values, which take no memory; a graph that differs between the two depends on the batch.
They have many divisors, so that a wrong ``view`` is met by its own message."""

_WIDE = {torch.int32: torch.int64}
"""Whole numbers are of one size in a graph."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Value(fx.Proxy):
    """A stand-in that knows its shape and type."""

    @property
    def _example(self) -> Any:
        return self.node.meta["example"]

    @property
    def shape(self) -> torch.Size:
        found: torch.Size = self._example.shape
        return found

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self._example.dtype
        return found

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and any(isinstance(part, torch.Tensor) for part in index):
            return _columns(self, index)
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __invert__(self) -> Any:
        return torch.logical_not(self)  # type: ignore[arg-type]

    def __and__(self, other: Any) -> Any:
        return torch.logical_and(self, other)  # type: ignore[arg-type]

    def __or__(self, other: Any) -> Any:
        return torch.logical_or(self, other)  # type: ignore[arg-type]

    def to(self, *given: Any, **named: Any) -> Any:
        """Of another type; where a value lies is not the model's business."""
        parts = [part.dtype if isinstance(part, Value) else part for part in (*given, *named.values())]
        kind = next((part for part in parts if isinstance(part, torch.dtype)), self.dtype)
        if kind is self.dtype:
            return self
        if kind is torch.bool:
            return torch.ne(self, 0)  # type: ignore[call-overload]
        return self.tracer.create_proxy("call_method", "to", (self, _WIDE.get(kind, kind)), {})

    def chunk(self, chunks: int, dim: int = 0) -> Any:
        return torch.chunk(self, chunks, dim)  # type: ignore[arg-type]

    def split(self, size: Any, dim: int = 0) -> Any:
        return torch.split(self, size, dim)  # type: ignore[arg-type]

    def unbind(self, dim: int = 0) -> Any:
        return torch.unbind(self, dim)  # type: ignore[arg-type]


class Recorder(fx.Tracer):
    """Stops at allow-listed layers, looks inside the builder's own modules, refuses other layers of PyTorch.

    Attributes:
        stand_ins: layers that are not in the model, by the path they are called under.
    """

    def __init__(self, input_shape: tuple[int, ...], dtype: torch.dtype, batch: int) -> None:
        super().__init__()
        self._input = (batch, *input_shape)
        self._dtype = dtype
        self._inputs = 0
        self._measuring = False
        self.stand_ins: dict[str, nn.Module] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kind = type(m)
        if kind.__name__ in MODULES and MODULES[kind.__name__].module_class is kind:
            return True
        if kind.__module__.startswith("torch.nn") and kind not in _CONTAINERS and kind not in _WRITTEN_OUT:
            raise class_not_allowed(kind.__name__)
        if any(isinstance(m, entry.module_class) for entry in MODULES.values()):
            raise not_allowed(
                f"{kind.__name__} is a subclass of a PyTorch layer; use the layer itself.",
                class_name=kind.__name__,
            )
        return False

    def layer(self, path: str) -> nn.Module:
        """The layer that was called under ``path``."""
        return self.stand_ins[path] if path in self.stand_ins else self.root.get_submodule(path)

    def tensor(self, step: fx.Node) -> torch.Tensor:
        """The parameter, buffer or constant that a step takes from the model."""
        *path, name = str(step.target).split(".")
        owner = self.root.get_submodule(".".join(path))
        found: torch.Tensor = {**owner._parameters, **owner._buffers, **vars(owner)}[name]
        return found

    # -- what fx calls --

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._measuring else super().getattr(attr, attr_val, parameter_proxy_cache)

    def path_of_module(self, mod: nn.Module) -> str:
        for path, stand_in in self.stand_ins.items():
            if stand_in is mod:
                return path
        try:
            return super().path_of_module(mod)
        except NameError:
            if next(mod.parameters(), None) is not None:
                raise
        made = f"made in forward.{len(self.stand_ins)}"  # such as ``nn.ReLU()(x)``
        self.stand_ins[made] = mod
        return made

    def proxy(self, node: fx.Node) -> Value:
        return Value(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._measuring:
            return forward(*args, **kwargs)
        if type(m) in _WRITTEN_OUT:
            return _WRITTEN_OUT[type(m)](self, m, *args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(m, nn.RNNBase) and isinstance(result, Value):
            states = _LastStates(result, m)
            return result, (states, _NoState()) if isinstance(m, nn.LSTM) else states
        return result

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind in ("call_function", "call_method") and target in _REWRITTEN:
            return _REWRITTEN[target](*args, **kwargs)
        made = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        made.node.meta["example"] = self._example(made.node)
        return made

    def _of(self, step: fx.Node) -> Any:
        if "example" not in step.meta:  # a constant that ``fx`` has met as an argument
            step.meta["example"] = self.tensor(step).to("meta")
        return step.meta["example"]

    def _example(self, node: fx.Node) -> Any:
        def of(part: Any) -> Any:
            return fx.map_arg(part, self._of)

        if node.op == "placeholder":
            self._inputs += 1
            if self._inputs > 1:
                raise not_allowed("The model's forward() must take exactly one tensor.")
            return torch.empty(self._input, dtype=self._dtype, device="meta")
        if node.op == "get_attr":
            return self.tensor(node).to("meta")
        if node.op == "output":
            return None
        self._measuring = True  # fx takes every call of a layer for one of the model
        try:
            with torch.device("meta"):
                args, kwargs = of(node.args), of(node.kwargs)
                if node.op == "call_module":
                    layer = self.layer(str(node.target))
                    operation = MODULES[type(layer).__name__]
                    return operation.build(dict(operation.read(layer)))(*args, **kwargs)
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                return node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise not_allowed(
                f"The model does not run on rows of the shape {self._input[1:]}, at {node.target!s:.64} "
                f"({type(error).__name__}: {error})."
            ) from error
        finally:
            self._measuring = False


# -- results of several parts ---------------------------------------------------------------------------------------


def _pieces(value: Value, sizes: list[int], dim: int) -> tuple[Any, ...]:
    before: tuple[Any, ...] = (slice(None),) * (dim % value.dim())
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return tuple(value[(*before, slice(end - size, end))] for end, size in zip(ends, sizes, strict=True))


def _chunk(value: Value, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    whole = value.shape[dim]
    return _split(value, -(-whole // chunks), dim)


def _split(value: Value, size: int | list[int], dim: int = 0) -> tuple[Any, ...]:
    whole = value.shape[dim]
    sizes = [min(size, whole - at) for at in range(0, whole, size)] if isinstance(size, int) else list(size)
    return _pieces(value, sizes, dim)


def _unbind(value: Value, dim: int = 0) -> tuple[Any, ...]:
    before: tuple[Any, ...] = (slice(None),) * (dim % value.dim())
    return tuple(value[(*before, index)] for index in range(value.shape[dim]))


class _Extreme(NamedTuple):
    """What ``max`` with a dimension returns; the places cannot be used."""

    values: Any
    indices: None


def _extreme(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def rewritten(value: Value, dim: Any = None, keepdim: bool = False) -> _Extreme:
        if not isinstance(dim, int):
            raise not_allowed("max and min need a dimension, other than the first: x.max(dim=1).values.")
        return _Extreme(reduce(value, dim, keepdim), None)

    return rewritten


# -- constants of a model that meet its values ------------------------------------------------------------------------


def _columns(value: Value, index: tuple[Any, ...]) -> Any:
    """``mask[batch_indices, places]``, by which a padding mask is laid along the keys: every row of the batch in its
    order, and places one after the other, each of them alone in a dimension of its own."""
    rows, places = index if len(index) == 2 else (None, None)
    if isinstance(rows, torch.Tensor) and isinstance(places, torch.Tensor) and rows.dim() == places.dim() > 1:
        whole, first = torch.arange(value.shape[0]), int(places.flatten()[0])
        count = places.shape[-1]
        if (
            torch.equal(rows.flatten(), whole)
            and rows.shape[0] == len(whole)
            and torch.equal(places.flatten(), torch.arange(first, first + count))
        ):
            taken = value[:, first : first + count]
            return taken.reshape(value.shape[0], *places.shape[1:-1], count, *value.shape[2:])
    raise not_allowed("A value may be indexed by tensors only for its rows in order and places that follow.")


def _and(first: Any, second: Any) -> Any:
    """``first & second`` where one may be a constant: of nothing but true, it only has a shape."""
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    if isinstance(constant, Value):
        return torch.logical_and(value, constant)  # type: ignore[arg-type]
    if not isinstance(constant, torch.Tensor) or constant.dtype is not torch.bool or not constant.all():
        raise not_allowed("A mask that does not follow from the input must be true everywhere.")
    shape = torch.broadcast_shapes(value.shape, constant.shape)  # type: ignore[no-untyped-call]
    return value.expand(*shape)


def _gather(table: Any, dim: int, index: Value) -> Any:
    """``gather`` from a table of one constant, such as the kinds of token of a text in one part."""
    if isinstance(table, Value) or not torch.equal(table, table.flatten()[:1].expand(table.shape)):
        raise not_allowed("gather is allowed from a constant tensor of one number only.", operation="gather")
    return table.flatten()[:1].expand(index.shape)


class _NoState:
    """The cell state of an LSTM, which a graph does not give out."""

    def __getattr__(self, name: str) -> Any:
        raise not_allowed(
            "The cell state of an LSTM cannot be used; use its output or its last hidden state."
        )


class _LastStates:
    """The hidden states after the last step: those of the last layer, as parts of the layer's output."""

    def __init__(self, output: Value, layer: nn.RNNBase) -> None:
        self._output, self._width = output, layer.hidden_size
        self._count = layer.num_layers * (2 if layer.bidirectional else 1)
        self._both = layer.bidirectional

    def __getitem__(self, index: Any) -> Any:
        place = index - self._count if isinstance(index, int) and index >= 0 else index
        if place == -1 and self._both:
            return self._output[:, 0, self._width :]
        if place == -1 or (place == -2 and self._both):
            return self._output[:, -1, : self._width]
        raise not_allowed(
            "Of a recurrent layer's states only those of the last layer can be used: state[-1]."
        )

    def __getattr__(self, name: str) -> Any:
        raise not_allowed(
            "Of a recurrent layer's states only those of the last layer can be used: state[-1]."
        )


# -- layers written out ---------------------------------------------------------------------------------------------


def hide_future(scores: torch.Tensor) -> torch.Tensor:
    """Stands in a recording for the function ``hide_future``."""
    return scores.clone()


def attend(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
) -> Any:
    """Attention of [batch, heads, steps, width], written out. ``mask``: true where a key takes part, or a real number
    that is added to the score."""
    scores: Any = torch.matmul(query, key.transpose(-2, -1)) * (
        query.shape[-1] ** -0.5 if scale is None else scale
    )
    if causal:
        scores = scores.tracer.create_proxy("call_function", hide_future, (scores,), {})
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(torch.logical_not(mask), MASKED)
    elif mask is not None:
        scores = scores + mask
    weights = functional.softmax(scores, dim=-1)
    return torch.matmul(functional.dropout(weights, dropout) if dropout else weights, value)


def _scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa or (attn_mask is not None and not isinstance(attn_mask, Value)):
        raise not_allowed(
            "scaled_dot_product_attention takes a mask that follows from the input, and no enable_gqa."
        )
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale)


def _stand_in(recorder: Recorder, path: str, weight: Any, bias: Any) -> nn.Linear:
    """A Linear over parameters of the builder's; the same one for every call."""
    if path not in recorder.stand_ins:
        with torch.device("meta"):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        linear.weight = weight
        if bias is not None:
            linear.bias = bias
        recorder.stand_ins[path] = linear
    made = recorder.stand_ins[path]
    assert isinstance(made, nn.Linear)
    return made


def _multihead(
    recorder: Recorder,
    layer: nn.MultiheadAttention,
    query: Value,
    key: Value,
    value: Value,
    key_padding_mask: Value | None = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    own, out = layer._parameters, layer.out_proj._parameters
    if query is not key or key is not value or own.get("in_proj_weight") is None:
        raise not_allowed(
            "MultiheadAttention is allowed for self-attention only: query, key and value the same value."
        )
    if not layer.batch_first or own.get("bias_k") is not None or layer.add_zero_attn:
        raise not_allowed(
            "MultiheadAttention must have batch_first=True, without add_bias_kv and add_zero_attn."
        )
    steps, heads, width = query.shape[1], layer.num_heads, layer.head_dim
    if attn_mask is not None:
        future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        blocked = attn_mask if isinstance(attn_mask, torch.Tensor) else None
        if blocked is not None and blocked.dtype != torch.bool:
            blocked = blocked == -torch.inf
        if blocked is None or not torch.equal(blocked, future):
            raise not_allowed("The only attention mask besides the padding mask is the causal one.")
    path = recorder.path_of_module(layer)
    together = _stand_in(recorder, f"{path}.in_proj", own["in_proj_weight"], own.get("in_proj_bias"))(query)
    parts = together.reshape(query.shape[0], steps, 3, heads, width).permute(0, 2, 3, 1, 4)
    mask: Any = None
    if key_padding_mask is not None:
        if key_padding_mask.dtype is not torch.bool:
            raise not_allowed("The padding mask must be true or false.")
        mask = torch.logical_not(key_padding_mask)[:, None, None, :]  # type: ignore[arg-type]
    mixed = attend(parts[:, 0], parts[:, 1], parts[:, 2], mask, layer.dropout, attn_mask is not None)
    joined = mixed.transpose(1, 2).reshape(query.shape[0], steps, heads * width)
    return _stand_in(recorder, f"{path}.out_proj", out["weight"], out["bias"])(joined), None


def _encoder_layer(
    recorder: Recorder,
    layer: nn.TransformerEncoderLayer,
    src: Value,
    src_mask: Any = None,
    src_key_padding_mask: Value | None = None,
    is_causal: bool = False,
) -> Any:
    def attention(value: Any) -> Any:
        mixed = layer.self_attn(
            value, value, value, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, need_weights=False
        )
        return layer.dropout1(mixed[0])

    def feed_forward(value: Any) -> Any:
        hidden: Any = layer.activation
        return layer.dropout2(layer.linear2(layer.dropout(hidden(layer.linear1(value)))))

    if layer.norm_first:
        value = src + attention(layer.norm1(src))
        return value + feed_forward(layer.norm2(value))
    value = layer.norm1(src + attention(src))
    return layer.norm2(value + feed_forward(value))


def _encoder(
    recorder: Recorder,
    layer: nn.TransformerEncoder,
    src: Value,
    mask: Any = None,
    src_key_padding_mask: Value | None = None,
    is_causal: bool | None = None,
) -> Any:
    value: Any = src
    for inner in layer.layers:
        value = inner(value, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return value if layer.norm is None else layer.norm(value)


_WRITTEN_OUT: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MultiheadAttention: _multihead,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
}

_REWRITTEN: dict[Any, Callable[..., Any]] = {
    "bool": lambda value: value.to(torch.bool),
    "int": lambda value: value.to(torch.int32),
    "type": lambda value, kind: value.to(kind),
    "type_as": lambda value, other: value.to(other.dtype),
    "__and__": _and,
    torch.gather: _gather,
    torch.chunk: _chunk,
    torch.split: _split,
    torch.unbind: _unbind,
    torch.max: _extreme(torch.amax),
    "max": _extreme(torch.amax),
    torch.min: _extreme(torch.amin),
    "min": _extreme(torch.amin),
    functional.scaled_dot_product_attention: _scaled_dot_product_attention,
}
