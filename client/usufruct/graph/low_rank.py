"""LoRA: small trained matrices beside the frozen linear layers of a base model (Hu et al. 2021, arXiv 2106.09685).

A linear layer W becomes W + (α/r)·B·A with A [r, in] and B [out, r]; only A and B are trained, and a holder is sent
nothing else. All of it is plain layers, so a graph needs no new operation and isolation no new argument. This runs at the
builder only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from usufruct.errors import InvalidInput


class LoraLinear(nn.Module):
    """An ``nn.Linear`` with an adapter: x ↦ W·x + b + (α/r)·B·A·x.

    A starts as ``nn.Linear`` starts (Kaiming uniform), B at zero, so that the layer begins as it was. ``weight`` and
    ``bias`` are those of the one linear layer that it amounts to.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        adapted: torch.Tensor = self.base(values) + self.up(self.down(values)) * self.scale
        return adapted

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight + self.scale * (self.up.weight @ self.down.weight)

    @property
    def bias(self) -> nn.Parameter | None:
        return self.base.bias

    def merged(self) -> nn.Linear:
        """The linear layer that this one amounts to."""
        layer = copy.deepcopy(self.base)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
        return layer


def lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    train: Sequence[str] = (),
) -> nn.Module:
    """Freezes a model and puts adapters beside its linear layers. The model is changed; use what is returned.

    Args:
        rank: r, the width of an adapter.
        alpha: α; None for ``rank``, so that the adapter counts once.
        targets: names of linear layers, whole (``encoder.0.query``) or their ends (``query``); None for every
            ``nn.Linear`` that is not trained whole.
        train: names, in the same way, of modules or parameters that are trained whole beside the adapters, such as a
            classifier that the base model does not have.
    Raises:
        InvalidInput: a name fits nothing, there is no layer to adapt, or the model has adapters already.
    """
    if not 1 <= rank <= 1 << 12:
        raise InvalidInput("rank must be between 1 and 4096.", field="rank", reason="SPEC_INVALID")
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise InvalidInput("The model has adapters already.", field="model", reason="SPEC_INVALID")
    everything = [
        name for name, _ in (*model.named_modules(remove_duplicate=False), *model.named_parameters())
    ]
    for wanted in (*(targets or ()), *train):
        if not any(_fits(name, (wanted,)) for name in everything):
            raise InvalidInput(
                f"The model has nothing named {wanted!r}.", field="targets", reason="SPEC_INVALID"
            )
    whole = [name for name in everything if _fits(name, train)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name == top or name.startswith(f"{top}.") for top in whole))
    made: dict[nn.Module, LoraLinear] = {}
    for path, module in [*model.named_modules(remove_duplicate=False)]:
        if type(module) is not nn.Linear or module.weight.requires_grad:
            continue
        if targets is None or _fits(path, targets):
            if module not in made:
                made[module] = LoraLinear(module, rank, rank if alpha is None else alpha)
            model = _replaced(model, path, made[module])
    if not made:
        raise InvalidInput("No linear layer is left to adapt.", field="targets", reason="SPEC_INVALID")
    return model


def merged(model: nn.Module) -> nn.Module:
    """A copy of a model in which every adapter is part of its linear layer: the same function, the names of the base."""
    result = copy.deepcopy(model)
    for path, module in [*result.named_modules(remove_duplicate=False)]:
        if isinstance(module, LoraLinear):
            result = _replaced(result, path, module.merged())
    return result


def adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of what is trained of a model, by name: adapters, and what is trained whole. ``model.load_state_dict(…,
    strict=False)`` puts them back."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters but those of adapters, frozen or not, under the names they have in the model without adapters."""
    of_adapters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, LoraLinear)
        for side in (module.down, module.up)
        for parameter in side.parameters()
    }
    wrapped = [path for path, module in model.named_modules() if isinstance(module, LoraLinear)]
    inside = {f"{path}.base." if path else "base.": f"{path}." if path else "" for path in wrapped}
    for name, parameter in model.named_parameters():
        if id(parameter) not in of_adapters:
            path, _, leaf = name.rpartition(".")
            yield inside.get(f"{path}.", f"{path}." if path else "") + leaf, parameter


def _fits(name: str, wanted: Sequence[str]) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def _replaced(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """The model with ``module`` at ``path``; the module itself where that is the whole."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model
