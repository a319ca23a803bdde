"""The losses a job may name: one number per row, so that each row's gradient is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.nn import functional

from usufruct.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss.

    Attributes:
        name: what a job spec calls it, as in ``torch.nn.functional``.
        per_row: (outputs [batch, outputs], class indices [batch]) -> losses [batch]; row i of row i only.
        outputs: width of the model's output for a number of classes; None where it does not fit the label.
    """

    name: str
    per_row: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    outputs: Callable[[int], int | None]


def _binary(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(
        output[:, 0], labels.to(output.dtype), reduction="none"
    )


def _classes(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, labels, reduction="none")


def _squared(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(output[:, 0], labels.to(output.dtype), reduction="none")


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            Loss("binary_cross_entropy_with_logits", _binary, lambda classes: 1 if classes == 2 else None),
            Loss("cross_entropy", _classes, lambda classes: classes),
            Loss("mse_loss", _squared, lambda classes: 1),
        )
    }
)


def checked_loss(name: str, outputs: int, classes: int) -> Loss:
    """The loss of this name, if it fits a model of ``outputs`` outputs and a label of ``classes`` classes.

    Raises:
        InvalidInput: SPEC_INVALID, for an unknown loss or one that does not fit.
    """
    loss = LOSSES.get(name)
    if loss is None:
        raise InvalidInput(
            f"The loss {name[:64]!r} is not one of {', '.join(LOSSES)}.", reason="SPEC_INVALID", field="loss"
        )
    wanted = loss.outputs(classes)
    if wanted != outputs:
        what = "does not fit" if wanted is None else f"needs a model of {wanted} outputs for"
        raise InvalidInput(
            f"The loss {name} {what} a label of {classes} classes; the model has {outputs}.",
            reason="SPEC_INVALID",
            field="loss",
        )
    return loss
