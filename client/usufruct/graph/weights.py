"""Weights as bytes and as vectors: safetensors and nothing else. No pickle, no ``torch.load``.

The *layout order* is that of the graph's layers, and within a layer that of ``torch`` (weight, then bias). A vector in
layout order is what is trained, encrypted and summed. Frozen parameters have no place in it: they are of the base model
(:mod:`.base_model`).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as write_safetensors
from torch import nn

from usufruct.errors import InvalidInput
from usufruct.graph.base_model import LARGEST_WEIGHT, BaseModel
from usufruct.graph.interpreter import InterpreterModule, trained
from usufruct.graph.low_rank import base_parameters
from usufruct.graph.model_graph import ModelGraph, not_allowed
from usufruct.graph.tracer import TracedModel

_LENGTH_BYTES = 8
_HEADER_BYTES = 1 << 12
_HEADER_BYTES_PER_TENSOR = 1 << 9

Vector = NDArray[np.float32]
Buffer = bytes | bytearray | memoryview | mmap


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """Where one parameter tensor lies in a vector: ``vector[offset : offset + size]``, row-major."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def parameter_layout(graph: ModelGraph) -> tuple[ParameterSlot, ...]:
    """The slots of a checked graph, in layout order. Allocates nothing."""
    with torch.device("meta"):
        module = InterpreterModule(graph)
    return _layout(module)


def parameter_count(graph: ModelGraph) -> int:
    """Length of the vector of a checked graph."""
    return sum(slot.size for slot in parameter_layout(graph))


# -- bytes ----------------------------------------------------------------------------------------------------------


def pack_weights(weights: nn.Module | Mapping[str, torch.Tensor]) -> bytes:
    """Safetensors bytes of what is trained of a module, or of named tensors. The same weights give the same bytes."""
    named = dict(trained(weights)) if isinstance(weights, nn.Module) else dict(weights)
    arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in named.items()}
    return bytes(write_safetensors(arrays))


def pack_vector(graph: ModelGraph, vector: Vector) -> bytes:
    """Safetensors bytes of a vector in layout order.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED.
    """
    slots = parameter_layout(graph)
    _check_vector(vector, sum(slot.size for slot in slots))
    return bytes(write_safetensors({slot.name: np.ascontiguousarray(_slice(vector, slot)) for slot in slots}))


def weights_in(module: nn.Module, data: Buffer) -> dict[str, Vector]:
    """Another party's weights where they lie, after checking all of them: nothing is copied.

    Args:
        module: of the graph; its names and shapes count, its values do not.
        data: safetensors with exactly the parameters that are trained, float32.
    Returns:
        For every parameter a view of ``data``, of its shape.
    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED.
    """
    slots = _layout(module)
    with memoryview(data).cast("B") as view:
        size = len(view)
        length = sum(slot.size for slot in slots) * 4
        most = _HEADER_BYTES + _HEADER_BYTES_PER_TENSOR * len(slots)
        if not length <= size <= length + most:
            raise _refused(f"The weights have {size} bytes where the graph needs about {length}.")
        begin = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
        if begin != size - length or begin % 4:
            raise _refused("The weights are not safetensors, or not aligned to four bytes.")
        header = _header(bytes(view[_LENGTH_BYTES:begin]))
    if set(header) != {slot.name for slot in slots}:
        raise _refused("The weights' names are not those of the graph.")
    arrays, free = {}, 0
    for name, shape, start, end in sorted(
        ((slot.name, slot.shape, *_place(header[slot.name], slot)) for slot in slots), key=lambda one: one[2:]
    ):
        if start != free:
            raise _refused("The weights overlap, or leave a gap.")
        free = end
        arrays[name] = np.frombuffer(data, "<f4", (end - start) // 4, begin + start).reshape(shape)
        _check_values(arrays[name], name)
    return arrays


def load_weights(module: InterpreterModule, data: Buffer) -> None:
    """Copies weights of another party into ``module``, after checking all of them; see :func:`weights_in`.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED; the module is then unchanged.
    """
    arrays = weights_in(module, data)
    with torch.no_grad():
        for name, parameter in trained(module):
            parameter.copy_(torch.from_numpy(np.array(arrays[name])))


def _header(data: bytes) -> dict[str, Any]:
    """The JSON in front of safetensors."""
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused("The weights are not safetensors.") from error
    if not isinstance(header, dict):
        raise _refused("The weights are not safetensors.")
    header.pop("__metadata__", None)
    return header


def _place(entry: Any, slot: ParameterSlot) -> tuple[int, int]:
    """Where the bytes of a parameter begin and end after the header."""
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _refused("The weights are not safetensors.") from error
    if kind != "F32" or shape != list(slot.shape):
        raise _refused("The weights' types or shapes are not those of the graph.")
    if not (type(start) is int and type(end) is int and start >= 0 and end - start == 4 * slot.size):
        raise _refused("The weights are not safetensors.")
    return start, end


# -- base models ----------------------------------------------------------------------------------------------------


def frozen_values(graph: ModelGraph, base: BaseModel) -> dict[str, Vector]:
    """What a base model has for the frozen parameters of a checked graph, by their names in the module; nothing is copied.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED: it lacks one, or has it in another shape.
    """
    with torch.device("meta"):
        module = InterpreterModule(graph)
    values = {}
    for index, spec in enumerate(graph.modules):
        for frozen in spec.frozen:
            name = f"m{index}.{frozen.name}"
            shape, found = tuple(module.get_parameter(name).shape), base.tensors.get(frozen.base_name)
            if found is None or _inner(found.shape) != _inner(shape):
                raise not_allowed(
                    "The base model lacks a frozen parameter of the graph, or has it in another shape.",
                    operation=frozen.base_name,
                )
            values[name] = found.reshape(shape)
    return values


def load_frozen(module: InterpreterModule, base: BaseModel) -> None:
    """Makes a base model's tensors the module's frozen parameters, where they are: nothing is copied, and a write to one
    that is mapped ends the process.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED, as :func:`frozen_values`.
    """
    for name, values in frozen_values(module.graph, base).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that they cannot be written to is the point
            module.get_parameter(name).data = torch.from_numpy(values)


def base_of(model: nn.Module) -> BaseModel:
    """A builder's model as a base model: all but adapters, under the names without them."""
    return BaseModel({name: _array(parameter) for name, parameter in base_parameters(model)})


def frozen_of(model: nn.Module) -> BaseModel:
    """What is frozen of a builder's model, as a base model has it."""
    return BaseModel(
        {name: _array(value) for name, value in base_parameters(model) if not value.requires_grad}
    )


def _array(parameter: nn.Parameter) -> Vector:
    return parameter.detach().cpu().numpy()


def _inner(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones in front, which parameters that are no layer's lose in a graph."""
    return shape[next((at for at, size in enumerate(shape) if size != 1), len(shape)) :]


# -- vectors --------------------------------------------------------------------------------------------------------


def flatten(module: InterpreterModule) -> Vector:
    """The module's weights, float32, in layout order."""
    parts = [parameter.detach().numpy().ravel() for _, parameter in trained(module)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def load_flat(module: InterpreterModule, vector: Vector) -> None:
    """Puts a vector in layout order into ``module``.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED, for a wrong length or type, or a value that is not finite or too large.
    """
    slots = _layout(module)
    _check_vector(vector, sum(slot.size for slot in slots))
    with torch.no_grad():
        for slot, (_, parameter) in zip(slots, trained(module), strict=True):
            parameter.copy_(torch.from_numpy(np.array(_slice(vector, slot))))


def vector_from_model(model: nn.Module, traced: TracedModel) -> Vector:
    """The builder's own weights, float32, in layout order."""
    parts = [model.get_parameter(own).detach().cpu().numpy().ravel() for _, own in traced.parameter_names]
    return np.concatenate(parts).astype(np.float32, copy=False)


def load_into_model(model: nn.Module, traced: TracedModel, vector: Vector) -> None:
    """Puts a vector in layout order into the builder's own model, so that ``model.state_dict()`` has its names.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED.
    """
    slots = parameter_layout(traced.graph)
    _check_vector(vector, sum(slot.size for slot in slots))
    with torch.no_grad():
        for slot, (_, own) in zip(slots, traced.parameter_names, strict=True):
            model.get_parameter(own).copy_(torch.from_numpy(np.array(_slice(vector, slot))))


def _layout(module: nn.Module) -> tuple[ParameterSlot, ...]:
    slots: list[ParameterSlot] = []
    offset = 0
    for name, parameter in trained(module):
        slots.append(ParameterSlot(name, tuple(parameter.shape), offset))
        offset += parameter.numel()
    return tuple(slots)


def _slice(vector: Vector, slot: ParameterSlot) -> Vector:
    return vector[slot.offset : slot.offset + slot.size].reshape(slot.shape)


def _check_vector(vector: Vector, length: int) -> None:
    if not isinstance(vector, np.ndarray) or vector.shape != (length,):
        raise _refused(f"The vector of weights must have the length {length}.")
    _check_values(vector, "the vector")


def _check_values(array: NDArray[np.float32], name: str) -> None:
    if array.dtype != np.float32:
        raise _refused(f"{name} must be float32.")
    if (
        array.size and not -LARGEST_WEIGHT <= float(array.min()) <= float(array.max()) <= LARGEST_WEIGHT
    ):  # nor NaN
        raise _refused(f"{name} has a value that is not finite or above {LARGEST_WEIGHT:g}.")


def _refused(message: str) -> InvalidInput:
    return InvalidInput(message, reason="WEIGHTS_NOT_ALLOWED")
