"""What a constructor argument or a keyword may be: one rule for each form, with its bounds.

A rule ``admits`` a value of a graph (the exact type, no ``bool`` for an ``int``), and ``read``s the value from a layer or
a call of the builder, giving back what cannot be read as a text, which no rule of numbers admits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from usufruct.graph.model_graph import Argument


@dataclass(frozen=True, slots=True)
class Whole:
    """An ``int`` (no ``bool``) from ``low`` to ``high``, both allowed."""

    low: int
    high: int

    def admits(self, value: Argument) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def read(self, value: Any) -> Argument:
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Real:
    """A finite ``float`` from ``low`` to ``high``, both allowed."""

    low: float
    high: float

    def admits(self, value: Argument) -> bool:
        return type(value) is float and math.isfinite(value) and self.low <= value <= self.high

    def read(self, value: Any) -> Argument:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """A ``bool``."""

    def admits(self, value: Argument) -> bool:
        return type(value) is bool

    def read(self, value: Any) -> Argument:
        return bool(value)


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words."""

    choices: tuple[str, ...]

    def admits(self, value: Argument) -> bool:
        return type(value) is str and value in self.choices

    def read(self, value: Any) -> Argument:
        return str(value)


@dataclass(frozen=True, slots=True)
class Wholes:
    """One to ``length`` positive ``int``, whose product is at most ``product``; one of them may be -1 if ``infer``."""

    length: int
    product: int
    infer: bool = False

    def admits(self, value: Argument) -> bool:
        if type(value) is not tuple or not 1 <= len(value) <= self.length:
            return False
        if not all(type(part) is int for part in value):
            return False
        sizes = [part for part in value if part != -1]
        if len(value) - len(sizes) > (1 if self.infer else 0):
            return False
        return all(part >= 1 for part in sizes) and math.prod(sizes) <= self.product

    def read(self, value: Any) -> Argument:
        return tuple(int(part) for part in value)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Exactly ``count`` ``int`` from ``low`` to ``high``; a single number is read as that number ``count`` times."""

    count: int
    low: int
    high: int

    def admits(self, value: Argument) -> bool:
        return (
            type(value) is tuple
            and len(value) == self.count
            and all(type(part) is int and self.low <= part <= self.high for part in value)
        )

    def read(self, value: Any) -> Argument:
        if isinstance(value, int) and not isinstance(value, bool):
            return (int(value),) * self.count
        if isinstance(value, Sequence) and not isinstance(value, str):
            parts = tuple(value) * (self.count if len(value) == 1 else 1)
            return tuple(int(part) if isinstance(part, int) else str(part) for part in parts)
        return str(value)


@dataclass(frozen=True, slots=True)
class Dimensions:
    """One to six different ``int`` that name dimensions, each from -6 to 5."""

    def admits(self, value: Argument) -> bool:
        return (
            type(value) is tuple
            and 1 <= len(value) <= 6
            and all(type(part) is int and -6 <= part <= 5 for part in value)
            and len(set(value)) == len(value)
        )

    def read(self, value: Any) -> Argument:
        if isinstance(value, int) and not isinstance(value, bool):
            return (int(value),)
        return tuple(int(part) for part in value) if isinstance(value, Sequence) else str(value)


@dataclass(frozen=True, slots=True)
class Equation:
    """An ``einsum`` equation: one or two groups of different lower-case letters, an arrow, and a group."""

    def admits(self, value: Argument) -> bool:
        if type(value) is not str or re.fullmatch(r"[a-z]{2,6}(,[a-z]{2,6})?->[a-z]{2,6}", value) is None:
            return False
        return all(len(set(group)) == len(group) for group in re.split(",|->", value))

    def read(self, value: Any) -> Argument:
        return str(value).replace(" ", "")


@dataclass(frozen=True, slots=True)
class Optional:
    """None, or what another rule admits."""

    rule: Whole | Real

    def admits(self, value: Argument) -> bool:
        return value is None or self.rule.admits(value)

    def read(self, value: Any) -> Argument:
        return None if value is None else self.rule.read(value)


SettingRule: TypeAlias = Whole | Real | Flag | Word | Wholes | Sizes | Dimensions | Equation | Optional
