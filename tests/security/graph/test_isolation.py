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
    functions,
    interpreter,
    isolation,
    layers,
)
from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.layers import MODULES
from usufruct.graph.model_graph import references
from usufruct.graph.settings import (
    Dimensions,
    Equation,
    Flag,
    Optional,
    Real,
    SettingRule,
    Sizes,
    Whole,
    Wholes,
    Word,
)
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum

BATCH = 6
LIMITS = GraphLimits(physical_batch=BATCH)
SIZES = (1, 2, 3, BATCH, BATCH * 2)
SEED = int(os.environ.get("USUFRUCT_FUZZ_SEED", "20"))
COUNT = int(os.environ.get("USUFRUCT_FUZZ_GRAPHS", "400"))


Value = tuple[int, ...]
"""Shape of a value for a batch of BATCH."""


def _setting(name: str, rule: SettingRule, shape: Value, chance: random.Random) -> Any:
    """A setting that fits a value of this shape more often than not; dimensions may well be the batch's."""
    inner = shape[1] if len(shape) > 1 else 1
    if name in ("in_features", "input_size"):
        return shape[-1]
    if name in ("in_channels", "num_channels", "num_features"):
        return inner
    if name in ("groups", "num_groups"):
        return chance.choice([1, 1, inner])
    if name == "out_channels":
        return inner * chance.choice((1, 2))
    if name == "num_parameters":
        return chance.choice([1, inner])
    if name == "normalized_shape":
        return shape[chance.randrange(len(shape)) :]
    if name == "shape":
        sizes = [*shape[1:], 1]
        chance.shuffle(sizes)
        return chance.choice([tuple(sizes), (-1,), (shape[0], -1), (-1, chance.choice(SIZES))])
    if name == "dims" and isinstance(rule, Dimensions):
        order = list(range(len(shape)))
        inside = order[1:]
        chance.shuffle(order)
        chance.shuffle(inside)
        return tuple(chance.choice([order, [0, *inside], [0, *inside]]))
    if isinstance(rule, Dimensions):
        return tuple(chance.sample(range(-len(shape), len(shape)), chance.choice((1, 1, 2))))
    if isinstance(rule, Sizes):
        low = max(rule.low, -3)
        return tuple(chance.choice([low, low, low + 1, low + 2]) for _ in range(rule.count))
    if isinstance(rule, Equation):
        letters = "abcde"[: len(shape)]
        return chance.choice([f"{letters},{letters}->{letters}", "ab,cb->ac", "ab,ac->abc", "abc,acd->abd"])
    if isinstance(rule, Optional):
        return None if chance.random() < 0.4 else _setting("", rule.rule, shape, chance)
    if isinstance(rule, Wholes):
        return tuple(chance.choice(SIZES) for _ in range(chance.randint(1, 2)))
    if isinstance(rule, Whole):
        return chance.choice([size for size in (*SIZES, -3, -2, -1, 0) if rule.low <= size <= rule.high])
    if isinstance(rule, Real):
        return chance.choice([number for number in (1e-5, 0.5, 2.0) if rule.low <= number <= rule.high])
    if isinstance(rule, Flag):
        return chance.random() < 0.5
    assert isinstance(rule, Word), name
    return chance.choice(rule.choices)


def _settings(rules: Any, shape: Value, chance: random.Random) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _setting(name, rule, shape, chance)) for name, rule in rules.items())


class _Growing:
    """A graph that grows by operations in any order that PyTorch can run, whatever they do to the batch; widths often
    equal the batch."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.whole = chance.random() < 0.25
        shape = (BATCH, *(chance.choice(SIZES) for _ in range(chance.randint(1, 4))))
        self.examples = [
            torch.empty(shape, device="meta", dtype=torch.int64 if self.whole else torch.float32)
        ]
        self.modules: list[ModuleSpec] = []
        self.nodes = [Node(NodeKind.INPUT)]

    def grow(self) -> None:
        chance = self.chance
        at = chance.choice([len(self.nodes) - 1, chance.randrange(len(self.nodes))])
        if self.modules and chance.random() < 0.05:
            index = chance.randrange(len(self.modules))  # a layer once more
            self._add(self._applied(index), Node(NodeKind.MODULE, index, arguments=(NodeRef(at),)), at)
        elif chance.random() < 0.5:
            wanted = "whole" if not self.examples[at].is_floating_point() else "real"
            fitting = [name for name, module in MODULES.items() if module.takes in (wanted, "any")]
            module = MODULES[chance.choice([*fitting, *fitting, *MODULES])]
            settings = _settings(module.settings, tuple(self.examples[at].shape), chance)
            self.modules.append(ModuleSpec(module.name, settings))
            index = len(self.modules) - 1
            if not self._add(
                self._applied(index), Node(NodeKind.MODULE, index, arguments=(NodeRef(at),)), at
            ):
                self.modules.pop()
        else:
            self._function(at)

    def _applied(self, index: int) -> Any:
        spec = self.modules[index]
        return lambda x: MODULES[spec.class_name].build(dict(spec.arguments))(x)

    def _function(self, at: int) -> None:
        chance = self.chance
        here = self.examples[at]
        same = [i for i, x in enumerate(self.examples) if x.shape == here.shape and x.dtype == here.dtype]
        other = chance.choice([chance.randrange(len(self.nodes)), chance.choice(same)])
        likely = ["add", "cat", "reshape", "flatten", "matmul", "permute", "einsum"]
        if self.examples[at].dtype is torch.bool and chance.random() < 0.7:
            names = ["logical_not", "logical_and", "logical_or", "float"]
        else:
            names = [*FUNCTIONS, *likely]
        function = FUNCTIONS[chance.choice(names)]
        if function.name in ("einsum", "logical_and", "logical_or"):
            other = chance.choice(same)
        number = function.takes == "pair" and chance.random() < 0.3
        second: Any = 2.0 if number else NodeRef(other)
        pair: Any = chance.choice([(NodeRef(at), second), (second, NodeRef(at))])
        arguments: Any = {"one": (NodeRef(at),), "pair": pair, "several": ((NodeRef(at), NodeRef(other)),)}
        settings = _settings(function.settings, tuple(self.examples[at].shape), chance)
        if function.name == "expand" and chance.random() < 0.8:
            grown = (chance.choice(SIZES) if size == 1 else size for size in here.shape[1:])
            settings = (("shape", tuple(grown)),)
        if function.name == "masked_fill" and chance.random() < 0.8:
            masks = [i for i, x in enumerate(self.examples) if x.dtype is torch.bool]
            arguments["pair"] = (NodeRef(at), NodeRef(chance.choice(masks or [0])))
        taken = arguments[function.takes]
        flat = taken[0] if function.takes == "several" else taken
        places = [part.index if isinstance(part, NodeRef) else None for part in flat]
        values = [part if place is None else None for part, place in zip(flat, places, strict=True)]

        def compute(*tensors: torch.Tensor) -> torch.Tensor:
            given = iter(tensors)
            operands = [
                next(given) if place is not None else value
                for place, value in zip(places, values, strict=True)
            ]
            return function.compute(operands, dict(settings), True)

        used = [place for place in places if place is not None]
        self._add(compute, Node(NodeKind.FUNCTION, 0, function.name, taken, settings), *used)

    def _add(self, compute: Any, node: Node, *used: int) -> bool:
        """Adds the node unless PyTorch refuses it."""
        try:
            with torch.device("meta"), torch.no_grad():
                example = compute(*(self.examples[index] for index in used))
        except (
            RuntimeError,
            IndexError,
            ValueError,
            TypeError,
            ArithmeticError,
            AssertionError,
            InvalidInput,
        ):
            return False
        if example.dim() == 0 or example.numel() > 1 << 16:
            return False
        self.nodes.append(node)
        self.examples.append(example)
        return True

    def finish(self) -> ModelGraph:
        """Joins whatever nothing uses into the output."""
        used = {index for node in self.nodes for argument in node.arguments for index in references(argument)}
        loose = [index for index in range(len(self.nodes)) if index not in used]
        ends = []
        for index in loose:
            flat = (("start_dim", 1), ("end_dim", -1))
            self.nodes.append(Node(NodeKind.FUNCTION, 0, "flatten", (NodeRef(index),), flat))
            self.nodes.append(Node(NodeKind.FUNCTION, 0, "float", (NodeRef(len(self.nodes) - 1),)))
            ends.append(NodeRef(len(self.nodes) - 1))
        self.nodes.append(Node(NodeKind.FUNCTION, 0, "cat", (tuple(ends),), (("dim", 1),)))
        self.nodes.append(Node(NodeKind.OUTPUT, arguments=(NodeRef(len(self.nodes) - 1),)))
        shape = tuple(self.examples[0].shape[1:])
        dtype = "int64" if self.whole else "float32"
        return ModelGraph(1, shape, dtype, tuple(self.modules), tuple(self.nodes))


def _random_graph(chance: random.Random) -> ModelGraph:
    growing = _Growing(chance)
    for _ in range(chance.randint(3, 10)):
        growing.grow()
    return growing.finish()


def _rows(candidate: ModelGraph, batch: int, generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    shape = (batch, *candidate.input_shape)
    if candidate.input_dtype == "int64":
        return torch.randint(-3, 20, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def _filled(candidate: ModelGraph, generator: torch.Generator) -> graph.InterpreterModule:
    module = graph.rebuild(candidate, LIMITS)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double().eval()


def _leaks(module: graph.InterpreterModule, batch: int, generator: torch.Generator) -> bool:
    """Whether changing one row changes what comes out for another."""
    rows = _rows(module.graph, batch, generator)
    before = module(rows)
    for row in range(batch):
        altered = rows.clone()
        altered[row] = _rows(module.graph, 1, generator, 10.0)[0]
        others = [index for index in range(batch) if index != row]
        if not torch.allclose(module(altered)[others], before[others], rtol=1e-9, atol=1e-9, equal_nan=True):
            return True
    return False


def _reaches(clipped_sum: ClippedSum, batch: int, generator: torch.Generator) -> bool:
    """Whether a row that is not part of the sum, changed to anything, changes the sum; or the sum of all rows is
    not that of each row's own."""
    rows = _rows(clipped_sum.module.graph, batch, generator)
    labels = torch.zeros(batch, dtype=torch.int64)
    everyone = torch.ones(batch, dtype=torch.float64)
    row = batch // 2
    present = everyone.clone()
    present[row] = 0.0
    altered = rows.clone()
    altered[row] = _rows(clipped_sum.module.graph, 1, generator, 10.0)[0]
    without = clipped_sum(rows, labels, present, 1.0)
    alone = clipped_sum(rows, labels, 1.0 - present, 1.0)
    together = clipped_sum(rows, labels, everyone, 1.0)
    same = torch.allclose(without, clipped_sum(altered, labels, present, 1.0), rtol=1e-9, atol=1e-9)
    return not (same and torch.allclose(without + alone, together, rtol=1e-9, atol=1e-9))


def test_no_accepted_graph_leaks_across_records() -> None:
    chance = random.Random(SEED)
    generator = torch.Generator().manual_seed(SEED)
    accepted = 0
    used: set[str] = set()
    for number in range(COUNT):
        candidate = _random_graph(chance)
        try:
            module = _filled(candidate, generator)
        except InvalidInput:
            continue
        accepted += 1
        used |= {spec.class_name for spec in candidate.modules}
        used |= {node.function_name for node in candidate.nodes}
        batch = chance.choice((1, 2, BATCH, BATCH + 1))
        if not module.by_rows:
            assert not _leaks(module, batch, generator), candidate
        clipped_sum = ClippedSum(module, LOSSES["cross_entropy"], real=torch.float64)
        module.eval()
        assert not _reaches(clipped_sum, batch, generator), candidate
        if number % 1000 == 999 and COUNT > 2000:
            print(f"{number + 1} graphs, {accepted} accepted, no leak", flush=True)
    assert accepted >= COUNT // 10
    if COUNT >= 10_000:
        assert used - {""} == set(MODULES) | set(FUNCTIONS)  # every operation of the list was part of the run


def test_the_search_finds_leaks_where_the_rules_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the isolation rules the same search must find leaking graphs, or it proves nothing."""

    for table, home in (("MODULES", layers), ("FUNCTIONS", functions)):
        blind = {
            name: dataclasses.replace(
                operation, isolation=isolation.elementwise
            )  # the rule that refuses nothing
            for name, operation in getattr(home, table).items()
        }
        monkeypatch.setattr(interpreter, table, blind)
    chance = random.Random(SEED)
    generator = torch.Generator().manual_seed(SEED)
    leaks = 0
    for _ in range(COUNT):
        candidate = _random_graph(chance)
        try:
            module = graph.InterpreterModule(candidate).double().eval()
            leaks += _leaks(module, BATCH, generator)
        except (InvalidInput, RuntimeError, IndexError, ValueError, StopIteration):
            continue
        if leaks >= 5:
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
