"""The model's weights on their way: vector in layout order, the builder's own model, the checkpoint file.

A checkpoint is safetensors under the names of the builder's own model, so that a person can open it; the vector in
layout order is what is trained and summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors
from torch import nn

from usufruct import graph
from usufruct.builder.base_models import frozen_digest
from usufruct.errors import ConfigError, InvalidInput
from usufruct.graph import ModelGraph

Vector = NDArray[np.float32]
Names = tuple[tuple[str, str], ...]


def vector_to_checkpoint(model_graph: ModelGraph, names: Names, vector: Vector) -> bytes:
    """Safetensors bytes of a vector, under the names of the builder's model."""
    own = dict(names)
    slots = graph.parameter_layout(model_graph)
    return bytes(
        write_safetensors(
            {
                own[slot.name]: np.ascontiguousarray(
                    vector[slot.offset : slot.offset + slot.size].reshape(slot.shape)
                )
                for slot in slots
            }
        )
    )


def checkpoint_to_vector(model_graph: ModelGraph, names: Names, data: bytes) -> Vector:
    """The vector of a checkpoint.

    Raises:
        ConfigError: the file is damaged.
    """
    own = dict(names)
    try:
        arrays = read_safetensors(data)
        parts = [
            arrays[own[slot.name]].reshape(slot.shape).ravel() for slot in graph.parameter_layout(model_graph)
        ]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError("The checkpoint of the job does not fit its model; the file is damaged.") from error
    return np.concatenate(parts).astype(np.float32, copy=False)


class RestoredModel(nn.Module):
    """The model of a job resumed without its Python class: same function, same ``state_dict()`` keys.

    The graph's interpreter computes; its parameters are registered here once more, under the builder's own names. What is
    frozen is not here: such a model has its trained parameters and cannot be applied.
    """

    def __init__(self, model_graph: ModelGraph, names: Names) -> None:
        super().__init__()
        interpreter = graph.rebuild(model_graph)
        self.complete = not any(spec.frozen for spec in model_graph.modules)
        self._hidden = (interpreter,)  # in a tuple it is no child: its names are not the builder's
        for inner, own in names:
            *path, leaf = own.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, interpreter.get_parameter(inner))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if not self.complete:
            raise base_model_missing()
        result: torch.Tensor = self._hidden[0](batch)
        return result

    def train(self, mode: bool = True) -> RestoredModel:
        """Sets the mode here and in the interpreter, for dropout."""
        super().train(mode)
        self._hidden[0].train(mode)
        return self


def load_vector(model: nn.Module, model_graph: ModelGraph, names: Names, vector: Vector) -> None:
    """Puts a vector into a model that has the builder's names.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED, when the model is not the one of the job.
    """
    slots = graph.parameter_layout(model_graph)
    parameters = [_parameter(model, own) for _, own in names]
    if [tuple(p.shape) for p in parameters] != [slot.shape for slot in slots]:
        raise _another_model()
    with torch.no_grad():
        for slot, parameter in zip(slots, parameters, strict=True):
            part = vector[slot.offset : slot.offset + slot.size].reshape(slot.shape)
            if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
                parameter.detach().numpy()[...] = (
                    part  # PyTorch would have idle threads spin after every large copy
                )
            else:
                parameter.copy_(torch.from_numpy(np.array(part)))


def check_same_model(
    model: Any, model_graph: ModelGraph, names: Sequence[tuple[str, str]], frozen: str = ""
) -> None:
    """Refuses a model that is not the one the job was proposed with; ``frozen`` is its ``frozen_digest``.

    Raises:
        InvalidInput: WEIGHTS_NOT_ALLOWED or GRAPH_NOT_ALLOWED.
    """
    traced = graph.trace(model, model_graph.input_shape)
    if traced.graph != model_graph or tuple(traced.parameter_names) != tuple(names):
        raise _another_model()
    if frozen_digest(model) != frozen:
        raise _another_model()


def base_model_missing() -> InvalidInput:
    """What is said where a model would be applied whose frozen parameters are not here."""
    return InvalidInput(
        "The job trains parts of a base model, which is not kept with the job; pass model=, as it was proposed.",
        reason="BASE_MODEL_UNKNOWN",
        field="model",
    )


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    try:
        return model.get_parameter(name)
    except AttributeError as error:
        raise _another_model() from error


def _another_model() -> InvalidInput:
    return InvalidInput(
        "The model is not the one that the job was proposed with; pass the same class, or none.",
        reason="WEIGHTS_NOT_ALLOWED",
        field="model",
    )
