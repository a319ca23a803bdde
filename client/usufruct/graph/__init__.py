"""A model's architecture as data: trace it, check it, rebuild it. See README.md.

Names below are loaded when they are first used, so that ``usufruct.graph.model_graph`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usufruct.graph.base_model import BaseModel, digest_text, open_base_model, read_digest
    from usufruct.graph.interpreter import InterpreterModule, rebuild
    from usufruct.graph.limits import GraphBounds, GraphLimits
    from usufruct.graph.low_rank import adapters, lora, merged
    from usufruct.graph.model_graph import ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
    from usufruct.graph.tracer import TracedModel, trace
    from usufruct.graph.validation import validate
    from usufruct.graph.weights import (
        ParameterSlot,
        base_of,
        flatten,
        frozen_of,
        frozen_values,
        load_flat,
        load_frozen,
        load_into_model,
        load_weights,
        pack_vector,
        pack_weights,
        parameter_count,
        parameter_layout,
        vector_from_model,
        weights_in,
    )

_HOME = {
    "BaseModel": "base_model",
    "digest_text": "base_model",
    "open_base_model": "base_model",
    "read_digest": "base_model",
    "InterpreterModule": "interpreter",
    "rebuild": "interpreter",
    "GraphBounds": "limits",
    "GraphLimits": "limits",
    "adapters": "low_rank",
    "lora": "low_rank",
    "merged": "low_rank",
    "ModelGraph": "model_graph",
    "ModuleSpec": "model_graph",
    "Node": "model_graph",
    "NodeKind": "model_graph",
    "NodeRef": "model_graph",
    "TracedModel": "tracer",
    "trace": "tracer",
    "validate": "validation",
    "ParameterSlot": "weights",
    "base_of": "weights",
    "flatten": "weights",
    "frozen_of": "weights",
    "frozen_values": "weights",
    "load_flat": "weights",
    "load_frozen": "weights",
    "load_into_model": "weights",
    "load_weights": "weights",
    "pack_vector": "weights",
    "pack_weights": "weights",
    "parameter_count": "weights",
    "parameter_layout": "weights",
    "vector_from_model": "weights",
    "weights_in": "weights",
}

__all__ = [
    "BaseModel",
    "GraphBounds",
    "GraphLimits",
    "InterpreterModule",
    "ModelGraph",
    "ModuleSpec",
    "Node",
    "NodeKind",
    "NodeRef",
    "ParameterSlot",
    "TracedModel",
    "adapters",
    "base_of",
    "digest_text",
    "flatten",
    "frozen_of",
    "frozen_values",
    "load_flat",
    "load_frozen",
    "load_into_model",
    "load_weights",
    "lora",
    "merged",
    "open_base_model",
    "pack_vector",
    "pack_weights",
    "parameter_count",
    "parameter_layout",
    "read_digest",
    "rebuild",
    "trace",
    "validate",
    "vector_from_model",
    "weights_in",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"usufruct.graph.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
