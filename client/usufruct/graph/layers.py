"""The allow-list of layers: the class, the settings it takes with their bounds, and its isolation rule.

To admit a layer, add an entry here and, if it has parameters, its book-keeping rule at the holder
(``usufruct_server.holder.training.layer_rules``); without one, graphs that use it are trained row by row. BatchNorm is
not here and never will be: it mixes records by design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from usufruct.graph import isolation, own_layers
from usufruct.graph.isolation import IsolationRule
from usufruct.graph.model_graph import Argument, not_allowed
from usufruct.graph.settings import Flag, Optional, Real, SettingRule, Sizes, Whole, Wholes, Word

WIDTH = Whole(1, 1 << 20)
DIMENSION = Whole(-6, 5)
KERNEL = 1 << 12


FIXED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "MaxPool1d": {"return_indices": False},
        "MaxPool2d": {"return_indices": False},
        **{name: {"padding_mode": "zeros"} for name in ("Conv1d", "Conv2d", "Conv3d")},
        **{name: {"track_running_stats": False} for name in ("InstanceNorm1d", "InstanceNorm2d")},
        "Embedding": {"max_norm": None, "scale_grad_by_freq": False, "sparse": False},
    }
)
"""Constructor arguments with one allowed value, which a graph does not name."""

_RECURRENT_FIXED: Mapping[str, Any] = MappingProxyType({"batch_first": True, "proj_size": 0})


def _has_bias(layer: nn.Module) -> bool:
    bias = getattr(layer, "bias", None)
    return bias if isinstance(bias, bool) else bias is not None


@dataclass(frozen=True, slots=True)
class ModuleOperation:
    """An allow-listed layer.

    Attributes:
        module_class: the class, exactly; subclasses are other code and are refused.
        settings: constructor arguments. A graph names all of them, and no others.
        isolation: the proof rule.
        takes: the type of the numbers it is applied to: ``real``, ``whole``, or ``any``.
        own_class: what stands in for it at the holder; the class itself if None.
        torch_name: the name in the class of a parameter of what stands in.
    """

    module_class: type[nn.Module]
    settings: Mapping[str, SettingRule]
    isolation: IsolationRule
    takes: Literal["real", "whole", "any"] = "real"
    own_class: type[nn.Module] | None = None
    torch_name: Callable[[str], str] = str

    @property
    def name(self) -> str:
        """The name a graph uses: the class's own."""
        return self.module_class.__name__

    def admits(self, dtype: torch.dtype) -> bool:
        """Whether it may be applied to a value of this type."""
        return self.takes == "any" or (
            dtype == torch.int64 if self.takes == "whole" else dtype.is_floating_point
        )

    def parameter_name(self, name: str) -> str:
        """What the builder's layer calls the parameter ``name`` of the layer that ``build`` makes."""
        return self.torch_name(name)

    def read(self, layer: nn.Module) -> tuple[tuple[str, Argument], ...]:
        """The constructor arguments that would make this layer again.

        Raises:
            InvalidInput: GRAPH_NOT_ALLOWED, for an argument that has one allowed value and another here.
        """
        fixed = _RECURRENT_FIXED if isinstance(layer, nn.RNNBase) else FIXED.get(self.name, {})
        for name, value in fixed.items():
            if getattr(layer, name, value) != value:
                raise not_allowed(f"{self.name} is allowed with {name}={value} only.", class_name=self.name)
        return tuple(
            (name, _has_bias(layer) if name == "bias" else rule.read(getattr(layer, name)))
            for name, rule in self.settings.items()
        )

    def build(self, settings: Mapping[str, Argument]) -> nn.Module:
        """The layer, from settings that have been checked. Its weights are whatever the device context gives."""
        arguments: dict[str, Any] = {**FIXED.get(self.name, {}), **settings}
        return (self.own_class or self.module_class)(**arguments)


_MODULES: tuple[ModuleOperation, ...] = (
    ModuleOperation(
        nn.Linear, {"in_features": WIDTH, "out_features": WIDTH, "bias": Flag()}, isolation.last_dimension
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
    ModuleOperation(nn.Flatten, {"start_dim": DIMENSION, "end_dim": DIMENSION}, isolation.flatten_inner),
    ModuleOperation(nn.Identity, {}, isolation.elementwise),
    *(ModuleOperation(plain, {}, isolation.elementwise) for plain in (nn.ReLU6, nn.Hardswish, nn.Mish)),
    ModuleOperation(
        nn.Softplus, {"beta": Real(1e-3, 1e3), "threshold": Real(0.0, 1e3)}, isolation.elementwise
    ),
    ModuleOperation(nn.PReLU, {"num_parameters": WIDTH}, isolation.elementwise),
    ModuleOperation(nn.Softmax, {"dim": DIMENSION}, isolation.along("dim")),
    *(
        ModuleOperation(
            convolution,
            {
                "in_channels": WIDTH,
                "out_channels": WIDTH,
                "kernel_size": Sizes(spatial, 1, KERNEL),
                "stride": Sizes(spatial, 1, KERNEL),
                "padding": Sizes(spatial, 0, KERNEL),
                "dilation": Sizes(spatial, 1, KERNEL),
                "groups": WIDTH,
                "bias": Flag(),
            },
            isolation.channels_first(spatial),
        )
        for spatial, convolution in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d))
    ),
    ModuleOperation(
        nn.GroupNorm,
        {"num_groups": WIDTH, "num_channels": WIDTH, "eps": Real(1e-12, 1.0), "affine": Flag()},
        isolation.normalise_channels,
    ),
    *(
        ModuleOperation(
            norm,
            {"num_features": WIDTH, "eps": Real(1e-12, 1.0), "affine": Flag()},
            isolation.channels_first(spatial),
        )
        for spatial, norm in ((1, nn.InstanceNorm1d), (2, nn.InstanceNorm2d))
    ),
    ModuleOperation(
        nn.RMSNorm,
        {
            "normalized_shape": Wholes(4, 1 << 20),
            "eps": Optional(Real(1e-12, 1.0)),
            "elementwise_affine": Flag(),
        },
        isolation.normalise_trailing,
    ),
    *(
        ModuleOperation(
            pool,
            {
                "kernel_size": Sizes(spatial, 1, KERNEL),
                "stride": Sizes(spatial, 1, KERNEL),
                "padding": Sizes(spatial, 0, KERNEL),
                "dilation": Sizes(spatial, 1, KERNEL),
                "ceil_mode": Flag(),
            },
            isolation.channels_first(spatial),
        )
        for spatial, pool in ((1, nn.MaxPool1d), (2, nn.MaxPool2d))
    ),
    *(
        ModuleOperation(
            pool,
            {
                "kernel_size": Sizes(spatial, 1, KERNEL),
                "stride": Sizes(spatial, 1, KERNEL),
                "padding": Sizes(spatial, 0, KERNEL),
                "ceil_mode": Flag(),
                "count_include_pad": Flag(),
            },
            isolation.channels_first(spatial),
        )
        for spatial, pool in ((1, nn.AvgPool1d), (2, nn.AvgPool2d))
    ),
    *(
        ModuleOperation(pool, {"output_size": Sizes(spatial, 1, KERNEL)}, isolation.channels_first(spatial))
        for spatial, pool in (
            (1, nn.AdaptiveAvgPool1d),
            (2, nn.AdaptiveAvgPool2d),
            (1, nn.AdaptiveMaxPool1d),
            (2, nn.AdaptiveMaxPool2d),
        )
    ),
    ModuleOperation(
        nn.Embedding,
        {"num_embeddings": WIDTH, "embedding_dim": WIDTH, "padding_idx": Optional(Whole(0, 1 << 20))},
        isolation.look_up,
        takes="whole",
        own_class=own_layers.Embedding,
    ),
    *(
        ModuleOperation(
            torch_class,
            {
                "input_size": WIDTH,
                "hidden_size": WIDTH,
                "num_layers": Whole(1, 4),
                "bias": Flag(),
                "dropout": Real(0.0, 0.99),
                "bidirectional": Flag(),
            },
            isolation.sequence,
            own_class=own_class,
            torch_name=own_class.torch_name,
        )
        for torch_class, own_class in ((nn.LSTM, own_layers.LSTM), (nn.GRU, own_layers.GRU))
    ),
    ModuleOperation(own_layers.RowParameter, {"shape": Wholes(5, 1 << 24)}, isolation.constant, takes="any"),
)

MODULES: Mapping[str, ModuleOperation] = MappingProxyType(
    {operation.name: operation for operation in _MODULES}
)
"""Allow-listed layers by class name."""
