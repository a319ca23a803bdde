"""No accepted graph lets one record reach another: random graphs, one row changed, every other row must stay.

By the rule of three, no leak among n accepted graphs bounds the rate of leaks by 3/n with 95 % confidence; the short
run here has some hundreds, and USUFRUCT_FUZZ_GRAPHS asks for more.
"""

from __future__ import annotations

import dataclasses
import os
import random
from typing import Any

import pytest
import torch

from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph import (
    GraphLimits,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    interpreter,
    isolation,
    operations,
)
from usufruct.graph.model_graph import references
from usufruct.graph.operations import FUNCTIONS, MODULES, Flag, Real, SettingRule, Whole, Word

BATCH = 6
LIMITS = GraphLimits(physical_batch=BATCH)
SIZES = (1, 2, 3, BATCH, BATCH * 2)
COUNT = int(os.environ.get("USUFRUCT_FUZZ_GRAPHS", "1000"))


Value = tuple[int, ...]
"""Shape of a value for a batch of BATCH."""


def _setting(name: str, rule: SettingRule, shape: Value, chance: random.Random) -> Any:
    """A setting that fits a value of this shape more often than not; dimensions may well be the batch's."""
    if name == "in_features":
        return shape[-1]
    if name == "normalized_shape":
        return shape[chance.randrange(len(shape)) :]
    if name == "shape":
        sizes = [*shape[1:], 1]
        chance.shuffle(sizes)
        return chance.choice([tuple(sizes), (-1,), (shape[0], -1), (-1, chance.choice(SIZES))])
    if isinstance(rule, Whole):
        return chance.choice([size for size in (*SIZES, -3, -2, -1, 0) if rule.low <= size <= rule.high])
    if isinstance(rule, Real):
        return chance.choice([1e-5, 0.5])
    if isinstance(rule, Flag):
        return chance.random() < 0.5
    assert isinstance(rule, Word), name
    return chance.choice(rule.choices)


def _settings(rules: Any, shape: Value, chance: random.Random) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _setting(name, rule, shape, chance)) for name, rule in rules.items())


def _random_graph(chance: random.Random) -> ModelGraph:
    """Operations in any order that PyTorch can run, whatever they do to the batch; widths often equal the batch."""
    shapes: list[Value] = [(BATCH, *(chance.choice(SIZES) for _ in range(chance.randint(1, 3))))]
    modules: list[ModuleSpec] = []
    nodes = [Node(NodeKind.INPUT)]
    for _ in range(chance.randint(2, 8)):
        at = chance.choice([len(nodes) - 1, chance.randrange(len(nodes))])
        other = chance.randrange(len(nodes))
        if chance.random() < 0.5:
            module = MODULES[chance.choice([*MODULES, "Linear", "Linear", "LayerNorm", "Flatten"])]
            spec = ModuleSpec(module.name, _settings(module.settings, shapes[at], chance))
            node = Node(NodeKind.MODULE, module_index=len(modules), arguments=(NodeRef(at),))
            shape = _shape(
                lambda x, y, m=module, s=spec: m.build(dict(s.arguments))(x), shapes[at], shapes[other]
            )  # type: ignore[misc]
            if shape is not None:
                modules.append(spec)
        else:
            function = FUNCTIONS[chance.choice([*FUNCTIONS, "add", "cat", "reshape", "flatten"])]
            number = function.takes == "pair" and chance.random() < 0.2
            second: Any = 2.0 if number else NodeRef(other)
            pair = (NodeRef(at), second)
            arguments: Any = {
                "one": (NodeRef(at),),
                "pair": pair,
                "several": ((NodeRef(at), NodeRef(other)),),
            }
            keywords = _settings(function.settings, shapes[at], chance)
            node = Node(NodeKind.FUNCTION, 0, function.name, arguments[function.takes], keywords)
            shape = _shape(
                lambda x, y, f=function, k=keywords, n=number: f.compute([x, 2.0 if n else y], dict(k), True),  # type: ignore[misc]
                shapes[at],
                shapes[other],
            )
        if shape is not None:
            nodes.append(node)
            shapes.append(shape)
    used = {index for node in nodes for argument in node.arguments for index in references(argument)}
    loose = [index for index in range(len(nodes)) if index not in used]
    for index in loose:
        flat = (("start_dim", 1), ("end_dim", -1))
        nodes.append(Node(NodeKind.FUNCTION, 0, "flatten", (NodeRef(index),), flat))
    ends = tuple(NodeRef(len(nodes) - 1 - index) for index in range(len(loose)))
    nodes.append(Node(NodeKind.FUNCTION, 0, "cat", (ends,), (("dim", 1),)))
    nodes.append(Node(NodeKind.OUTPUT, arguments=(NodeRef(len(nodes) - 1),)))
    return ModelGraph(1, shapes[0][1:], "float32", tuple(modules), tuple(nodes))


def _shape(compute: Any, first: Value, second: Value) -> Value | None:
    """Shape of the result, or None where PyTorch refuses."""
    try:
        with torch.device("meta"), torch.no_grad():
            return tuple(compute(torch.empty(first), torch.empty(second)).shape)
    except (RuntimeError, IndexError, ValueError):
        return None


def _leaks(module: torch.nn.Module, shape: tuple[int, ...], batch: int, generator: torch.Generator) -> bool:
    rows = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    before = module(rows)
    for row in range(batch):
        altered = rows.clone()
        altered[row] = torch.randn(*shape, generator=generator, dtype=torch.float64) * 10
        others = [index for index in range(batch) if index != row]
        if not torch.allclose(module(altered)[others], before[others], rtol=1e-9, atol=1e-9):
            return True
    return False


def test_no_accepted_graph_leaks_across_records() -> None:
    chance = random.Random(20)
    generator = torch.Generator().manual_seed(20)
    accepted = 0
    used: set[str] = set()
    for _ in range(COUNT):
        candidate = _random_graph(chance)
        try:
            module = graph.rebuild(candidate, LIMITS)
        except InvalidInput:
            continue
        accepted += 1
        used |= {spec.class_name for spec in candidate.modules} | {
            node.function_name for node in candidate.nodes
        }
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        module.double().eval()
        batch = chance.choice((1, 2, BATCH, BATCH + 1))
        assert not _leaks(module, candidate.input_shape, batch, generator), candidate
    assert accepted >= COUNT // 10
    if COUNT >= 1000:
        assert used - {""} == set(MODULES) | set(FUNCTIONS)  # every operation of the list was part of the run


def test_the_search_finds_leaks_where_the_rules_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the isolation rules the same search must find leaking graphs, or it proves nothing."""

    for table in ("MODULES", "FUNCTIONS"):
        blind = {
            name: dataclasses.replace(
                operation, isolation=isolation.elementwise
            )  # the rule that refuses nothing
            for name, operation in getattr(operations, table).items()
        }
        monkeypatch.setattr(interpreter, table, blind)
    chance = random.Random(20)
    generator = torch.Generator().manual_seed(20)
    leaks = 0
    for _ in range(COUNT):
        candidate = _random_graph(chance)
        try:
            module = graph.rebuild(candidate, LIMITS)
            module.double().eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
            leaks += _leaks(module, candidate.input_shape, BATCH, generator)
        except (InvalidInput, RuntimeError):
            continue
        if leaks >= 20:
            return
    raise AssertionError(f"{leaks} leaks in {COUNT} graphs: the search is blind")


def _mutated(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """The value with one place somewhere in it replaced by something odd."""
    odd = [
        None, True, -1, 0, 1, 10**30, 1e308, float("nan"), float("inf"), "", "relu", "x" * 1000, b"x", (), ((),) * 3,
        NodeRef(0), NodeRef(-1), NodeRef(10**9), NodeRef(None), [], {}, object(),  # type: ignore[arg-type]
    ]  # fmt: skip
    if depth > 6 or chance.random() < 0.2:
        return chance.choice(odd)
    if isinstance(value, tuple) and value:
        at = chance.randrange(len(value))
        kept = [*value]
        kept[at] = _mutated(value[at], chance, depth + 1)
        return tuple(kept)
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields:
        name = chance.choice(list(fields))
        changes = {field: getattr(value, field) for field in fields}
        changes[name] = _mutated(changes[name], chance, depth + 1)
        return type(value)(**changes)
    return chance.choice(odd)


def test_a_garbled_graph_is_refused_or_sound_and_nothing_else() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(COUNT):
        candidate = _mutated(_random_graph(chance), chance)
        try:
            graph.validate(candidate, LIMITS)  # any other error than the refusal fails the test
        except InvalidInput:
            refused += 1
    assert refused > COUNT // 2
