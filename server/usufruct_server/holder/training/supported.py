"""Writes SUPPORTED.md from the allow-list and the book-keeping rules, or compares them (``--check``).

It lives at the holder because what a layer costs there, its rule or its absence, is part of the answer.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from usufruct.graph.functions import FUNCTIONS, FunctionOperation
from usufruct.graph.isolation import IsolationRule, not_proven
from usufruct.graph.layers import MODULES, ModuleOperation
from usufruct.graph.limits import GraphLimits
from usufruct.graph.model_graph import Argument
from usufruct.graph.settings import (
    Dimensions,
    Flag,
    Optional,
    Real,
    SettingRule,
    Sizes,
    Whole,
    Wholes,
    Word,
)
from usufruct_server.holder.training.layer_rules import LAYER_RULES

_HEAD = """\
# What can be trained

Generated from the allow-list by `make supported`; do not edit. What is not here is refused, by the builder's SDK and by
every holder, with a message that says what to use instead.

A layer or function keeps records apart by the rule in its last column (`client/usufruct/graph/isolation.py`). Per-sample
gradients come from book-keeping where a layer has a rule for it; a model with any layer that has none, or any function
whose isolation is not proven, is trained *by rows* (`torch.func.vmap`): slower, and just as private.

Model families that the tests hold to a loop over single records: MLPs, convolutional nets with GroupNorm, ResNet-18,
text CNN, LSTM and GRU, transformers by `nn.TransformerEncoder`, by hand and in the structure of BERT with a padding mask
made from the tokens; and encoders of Hugging Face's `transformers` 5 by their own classes (BERT, DistilBERT, RoBERTa; `eager` and
`sdpa` attention), in a module of the builder's that takes the tokens, makes the padding mask of them and returns the logits.

Written out by the SDK, so not in the lists: `nn.MultiheadAttention` (self-attention, `batch_first=True`),
`nn.TransformerEncoderLayer`, `nn.TransformerEncoder`, `scaled_dot_product_attention`, `chunk`, `split`, `unbind`, `max`
and `min` with a dimension, `where` with a number, indexing by slices and numbers, `to`, and parameters that are no layer's
(`RowParameter`). A layer may be used several times.

Parameters may be frozen (`requires_grad_(False)`, or `uf.lora`, whose adapters are linear layers): they are of a base model that
the holder has on disk, and cost neither clipping nor noise. Layers may share a parameter. A model in which layers share one that is
trained, or a layer is frozen in part, is trained by rows.

Not there: BatchNorm (it mixes records), several inputs, position codes that are computed and not learned (rotary, relative buckets: ModernBERT, MPNet, DeBERTa).
"""


def supported() -> str:
    """The text of SUPPORTED.md."""
    layers = [
        _layer(operation) for operation in sorted(MODULES.values(), key=lambda operation: operation.name)
    ]
    functions = [_function(function) for function in sorted(FUNCTIONS.values(), key=lambda f: f.name)]
    limits = [
        f"| {name.replace('_', ' ')} | {getattr(GraphLimits(), name):,.4g} |"
        for name in GraphLimits.__dataclass_fields__
    ]
    return "\n".join(
        [
            _HEAD,
            "## Layers\n\n| layer | settings | per-sample gradients | records are kept apart because |\n|---|---|---|---|",
            *layers,
            "\n## Functions\n\n| function | takes | settings | records are kept apart because |\n|---|---|---|---|",
            *functions,
            "\n## Limits\n\nDefaults; an operator may lower them (`client/usufruct/graph/limits.py` says what each means).\n",
            "| limit | value |\n|---|---|",
            *limits,
            "",
        ]
    )


def _layer(operation: ModuleOperation) -> str:
    rules = {type(part) for part in _parts(operation)}
    gradients = "none needed" if not rules else "book-keeping" if rules <= set(LAYER_RULES) else "by rows"
    return f"| `{operation.name}` | {_settings(operation.settings)} | {gradients} | {_because(operation.isolation)} |"


def _parts(operation: ModuleOperation) -> list[nn.Module]:
    """Those parts of a small layer of this class that have parameters of their own."""
    layer = operation.build({name: _smallest(rule, name) for name, rule in operation.settings.items()})
    return [part for part in layer.modules() if list(part.parameters(recurse=False))]


def _smallest(rule: SettingRule, name: str) -> Argument:
    if isinstance(rule, Flag):
        return name != "bidirectional"
    if isinstance(rule, Whole):
        return max(1, rule.low) if name != "dim" else 1
    if isinstance(rule, Sizes):
        return (max(1, rule.low),) * rule.count if name != "padding" else (0,) * rule.count
    if isinstance(rule, Real):
        return max(rule.low, min(0.5, rule.high))
    if isinstance(rule, Word):
        return rule.choices[0]
    return None if isinstance(rule, Optional) else (1,)


def _function(function: FunctionOperation) -> str:
    values = {"one": "one value", "pair": "two values, or one and a number", "several": "several values"}
    kinds = {
        "real": "",
        "number": ", real or whole",
        "mask": ", true or false",
        "fill": ": a value and a mask",
    }
    takes = (
        "a value and a mask"
        if function.types == "fill"
        else values[function.takes] + kinds.get(function.types, "")
    )
    return (
        f"| `{function.name}` | {takes} | {_settings(function.settings)} | {_because(function.isolation)} |"
    )


def _settings(settings: Mapping[str, SettingRule]) -> str:
    return ", ".join(f"`{name}` {_bounds(rule)}" for name, rule in settings.items()) or "–"


def _bounds(rule: SettingRule) -> str:
    if isinstance(rule, Optional):
        return f"none, or {_bounds(rule.rule)}"
    if isinstance(rule, Whole):
        return f"{rule.low:,} to {rule.high:,}"
    if isinstance(rule, Real):
        return f"{rule.low:g} to {rule.high:g}"
    if isinstance(rule, Flag):
        return "true or false"
    if isinstance(rule, Word):
        return " or ".join(rule.choices)
    if isinstance(rule, Sizes):
        return f"{rule.count} × {rule.low} to {rule.high}"
    if isinstance(rule, Wholes):
        return f"up to {rule.length} sizes"
    return "dimensions" if isinstance(rule, Dimensions) else "one or two groups of letters, `->`, a group"


def _because(rule: IsolationRule) -> str:
    if rule is not_proven:
        return "not proven: the model is trained by rows"
    text = " ".join((inspect.getdoc(rule) or "").split()).replace("``", "`")
    return text.split(". ")[0].rstrip(".")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("SUPPORTED.md"))
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    given = parser.parse_args()
    if not given.check:
        given.file.write_text(supported(), encoding="utf-8")
    elif not given.file.is_file() or given.file.read_text(encoding="utf-8") != supported():
        sys.exit(f"{given.file} differs from the allow-list. Run `make supported` and commit the result.")
    else:
        print(f"{len(MODULES)} layers and {len(FUNCTIONS)} functions are up to date")


if __name__ == "__main__":
    main()
