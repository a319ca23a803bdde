"""The model graph: a model's architecture as data, and nothing else.

A graph is a list of nodes in the order of computation. A node takes values of earlier nodes, by index, and makes one
value. Whoever receives a graph builds the model from its own allow-list (``layers``, ``functions``); no name, code or pickle of
the sender is ever executed. This module imports no torch.

The whole language of argument values, for whoever writes them to the wire:

=================  ===========================================================================================
value              meaning
=================  ===========================================================================================
``None``           no value, where a setting allows it
``bool``           a flag; never stands for an integer, nor an integer for it
``int``            whole number, absolute value at most ``GraphLimits.integer``
``float``          finite number, absolute value at most ``GraphLimits.number``; never stands for an integer
``str``            one of the few words that a setting lists, such as ``"tanh"`` for ``approximate``
``NodeRef``        the value of an earlier node
``tuple``          of the above, nested at most ``GraphLimits.depth`` deep
=================  ===========================================================================================

Kinds of node, and which fields each one uses (the others keep their defaults):

============  ===================================================================================================
kind          fields
============  ===================================================================================================
``INPUT``     none. Exactly one, and it is the first node: the batch of feature rows
``MODULE``    ``module_index`` into ``ModelGraph.modules``; ``arguments`` = one ``NodeRef``. Several nodes may share one
``FUNCTION``  ``function_name``; ``arguments`` = the values (``NodeRef``, number, or a tuple of ``NodeRef`` for
              ``cat``); ``keywords`` = the settings, which never contain a ``NodeRef``
``OUTPUT``    ``arguments`` = one ``NodeRef``. Exactly one, and it is the last node
============  ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from usufruct.errors import InvalidInput

GRAPH_VERSION = 1
"""Version of the language. A graph of another version is refused, not interpreted."""

FLOAT32, INT64 = "float32", "int64"
INPUT_DTYPES = (FLOAT32, INT64)
"""What an ``input_dtype`` may be: real numbers, or whole ones such as a text's tokens."""


@dataclass(frozen=True, slots=True)
class NodeRef:
    """The value of node ``index``, which must come earlier than the node that refers to it."""

    index: int


Argument: TypeAlias = "bool | int | float | str | NodeRef | tuple[Any, ...] | None"
"""An argument value; the inner ``Any`` is ``Argument`` again."""


class NodeKind(StrEnum):
    """What a node does. A parameter that is no layer's is a module too: ``RowParameter``."""

    INPUT = "input"
    MODULE = "module"
    FUNCTION = "function"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class FrozenParameter:
    """A parameter of a layer that is not trained: ``name`` in the layer, ``base_name`` in the job's base model."""

    name: str
    base_name: str


@dataclass(frozen=True, slots=True)
class SharedParameter:
    """A parameter of a layer that is ``owner_name`` of the earlier layer ``owner``, and trained as one."""

    name: str
    owner: int
    owner_name: str


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """A layer: the name of an allow-listed ``torch.nn`` class and its constructor arguments by name; and which of its
    parameters stay as they are in the base model, and which are those of an earlier layer."""

    class_name: str
    arguments: tuple[tuple[str, Argument], ...] = ()
    frozen: tuple[FrozenParameter, ...] = ()
    shared: tuple[SharedParameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the computation; see the table of kinds above."""

    kind: NodeKind
    module_index: int = 0
    function_name: str = ""
    arguments: tuple[Argument, ...] = ()
    keywords: tuple[tuple[str, Argument], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """An architecture. ``input_shape`` is the shape of one row, without the batch."""

    version: int
    input_shape: tuple[int, ...]
    input_dtype: str
    modules: tuple[ModuleSpec, ...]
    nodes: tuple[Node, ...]


def references(value: Argument) -> Iterator[int]:
    """Indices of the nodes that ``value`` refers to, in order, nested ones too."""
    if isinstance(value, NodeRef):
        yield value.index
    elif isinstance(value, tuple):
        for part in value:
            yield from references(part)


def not_allowed(message: str, **details: Any) -> InvalidInput:
    """The error for a model or graph that Usufruct does not train; ``message`` says what to write instead."""
    return InvalidInput(message, reason="GRAPH_NOT_ALLOWED", **details)
