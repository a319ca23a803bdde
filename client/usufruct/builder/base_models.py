"""Base models at the builder: saving one for the holders, and saying which one a job's frozen parameters are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph import TracedModel


def save_base_model(model: nn.Module, path: str | Path) -> str:
    """Writes a model's parameters, but those of adapters, as a base model: what holders add with ``usufruct holder base-model
    add FILE``, and jobs name. The same before and after :func:`usufruct.graph.lora`.

    Returns:
        Its digest, ``sha256:…``, which is also the file's SHA-256.
    Raises:
        ConfigError: BASE_MODEL_INVALID: a value that no holder would take.
    """
    base = graph.base_of(model)
    base.check_values()
    base.write(Path(path))
    return graph.digest_text(base.digest)


def digest_for(model: nn.Module, traced: TracedModel, base: str | Path | None) -> bytes:
    """The digest that a job names: 32 bytes, none where nothing of the model is frozen.

    Args:
        base: ``sha256:…``, which is believed; or the file of a base model, whose tensors are compared with the model's.
    Raises:
        InvalidInput: SPEC_INVALID: a base model is needed and not named, or named and not needed, or another one.
        ConfigError: BASE_MODEL_INVALID.
    """
    names = {frozen.base_name for spec in traced.graph.modules for frozen in spec.frozen}
    if bool(names) != (base is not None):
        raise _wrong(
            "the model has frozen parameters; name the base model that holders have: its digest or its file"
            if names
            else "nothing of the model is frozen, so it has no base model"
        )
    if base is None:
        return b""
    frozen = graph.frozen_of(model)
    frozen.check_values()
    if isinstance(base, str) and base.startswith("sha256:"):
        return graph.read_digest(base)
    found = graph.open_base_model(Path(base))
    for name in sorted(names):
        there = found.tensors.get(name)
        if there is None or not np.array_equal(there, frozen.tensors[name]):
            raise _wrong(f"the file does not have {name!r} as the model has it")
    return found.digest


def frozen_digest(model: nn.Module) -> str:
    """What a model's frozen parameters are known by when its job is resumed; empty where it has none."""
    frozen = graph.frozen_of(model)
    return graph.digest_text(frozen.digest) if frozen.tensors else ""


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(f"base: {what}.", reason="SPEC_INVALID", field="base")
