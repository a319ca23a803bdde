"""The losses a job may name, on the builder's own validation data. Rows as the holders' trainers read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from usufruct.errors import InvalidInput
from usufruct.graph.model_graph import FLOAT32

_EVALUATION_ROWS = 8192


@dataclass(frozen=True)
class _Loss:
    """``total``: (outputs [n, k], classes [n]) -> summed loss. ``classes``: outputs -> predicted classes, if any."""

    total: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    classes: Callable[[torch.Tensor], torch.Tensor] | None
    outputs: Callable[[int], int]


LOSSES: Mapping[str, _Loss] = MappingProxyType(
    {
        "binary_cross_entropy_with_logits": _Loss(
            lambda out, y: functional.binary_cross_entropy_with_logits(
                out[:, 0], y.to(out.dtype), reduction="sum"
            ),
            lambda out: (out[:, 0] > 0).long(),
            lambda classes: 1,
        ),
        "cross_entropy": _Loss(
            lambda out, y: functional.cross_entropy(out, y.long(), reduction="sum"),
            lambda out: out.argmax(dim=1),
            lambda classes: classes,
        ),
        "mse_loss": _Loss(
            lambda out, y: functional.mse_loss(out[:, 0], y.to(out.dtype), reduction="sum"),
            None,
            lambda classes: 1,
        ),
    }
)


@dataclass(frozen=True)
class Validation:
    """The builder's own data; never leave this process.

    Attributes:
        features: float32, shape (rows, features).
        labels: shape (rows,): class indices, or numbers for a regression.
    """

    features: torch.Tensor
    labels: torch.Tensor


def checked_loss(name: str, outputs: int, classes: int) -> None:
    """Refuses a loss that does not exist or does not fit model and label.

    Raises:
        InvalidInput: SPEC_INVALID.
    """
    if name not in LOSSES:
        raise InvalidInput(
            f"loss must be one of {', '.join(LOSSES)}, not {name!r}.", reason="SPEC_INVALID", field="loss"
        )
    wanted = LOSSES[name].outputs(classes)
    if outputs != wanted or (name == "binary_cross_entropy_with_logits" and classes != 2):
        raise InvalidInput(
            f"The loss {name} with a label of {classes} classes needs a model of {wanted} outputs; this one has "
            f"{outputs}."
            if outputs != wanted
            else f"The loss {name} needs a label of two classes, not {classes}.",
            reason="SPEC_INVALID",
            field="loss",
        )


def read_validation(data: Any, shape: tuple[int, ...], kind: str = FLOAT32) -> Validation | None:
    """Tensors or arrays ``(X, y)`` as validation data; None stays None.

    Args:
        shape: of a row.
        kind: ``float32``, or ``int64`` for token ids.
    Raises:
        InvalidInput: SPEC_INVALID, when shapes do not fit or X is not finite.
    """
    if data is None or isinstance(data, Validation):
        return data
    try:
        raw_features, raw_labels = data
        features = torch.as_tensor(np.asarray(raw_features), dtype=getattr(torch, kind)).detach()
        labels = torch.as_tensor(np.asarray(raw_labels)).detach().reshape(-1)
    except (TypeError, ValueError) as error:
        raise _wrong("it must be a pair (X, y) of arrays or tensors") from error
    if features.ndim == 0 or tuple(features.shape[1:]) != shape:
        raise _wrong(f"X must have rows of the shape {shape}, not {tuple(features.shape[1:])}")
    if len(labels) != len(features) or len(labels) == 0:
        raise _wrong("X and y must have the same number of rows, at least one")
    if not bool(torch.isfinite(features).all()):
        raise _wrong("X has values that are not finite; prepare it as the dataset card says")
    return Validation(features, labels)


def evaluate(model: nn.Module, loss: str, data: Validation) -> tuple[float, float | None]:
    """Mean loss and accuracy (None for a regression) of ``model`` on the builder's own data; the mode is restored."""
    kind = LOSSES[loss]
    total, correct = 0.0, 0
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(data.labels), _EVALUATION_ROWS):
                outputs = model(data.features[start : start + _EVALUATION_ROWS])
                labels = data.labels[start : start + _EVALUATION_ROWS]
                total += float(kind.total(outputs, labels))
                if kind.classes is not None:
                    correct += int((kind.classes(outputs) == labels.long()).sum())
    finally:
        model.train(was_training)
    rows = len(data.labels)
    return total / rows, correct / rows if kind.classes is not None else None


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(f"validation: {what}.", reason="SPEC_INVALID", field="validation")
