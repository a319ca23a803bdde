"""Every change of one place in the contracts that a test ought to notice, made from solc's syntax tree.

The operators are those of the literature (Jia and Harman, "An Analysis and Survey of the Development of Mutation
Testing", 2011: relational, arithmetic and logical replacement, conditions, constants, deleted statements) and of
slither-mutate, with some that fit these contracts: arguments and fields of one type taken for each other, the next
member of an enum, a storage pointer turned into a copy, the transaction's origin taken for the sender.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]
"""A node of solc's syntax tree; ``src`` is ``start:length:file`` in bytes."""

_RELATIONAL = {
    "<": ("<=", ">=", "!="),
    "<=": ("<", ">", "=="),
    ">": (">=", "<=", "!="),
    ">=": (">", "<", "=="),
}
_EQUALITY = {"==": ("!=", "<=", ">="), "!=": ("==", "<", ">")}
_ARITHMETIC = {
    "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "%": ("/",), "**": ("*",),
    "<<": (">>",), ">>": ("<<",), "&": ("|",), "|": ("&",), "^": ("&",),
}  # fmt: skip
_ASSIGNMENT = {
    "+=": ("-=", "="),
    "-=": ("+=", "="),
    "*=": ("/=", "="),
    "/=": ("*=", "="),
    "|=": ("&=", "="),
    "&=": ("|=", "="),
}
_DELETED = (
    "ExpressionStatement", "EmitStatement", "RevertStatement", "Return", "TryStatement", "Break", "Continue",
    "YulAssignment", "YulExpressionStatement",
)  # fmt: skip
_UNTOUCHED = (
    "ImportDirective",
    "PragmaDirective",
    "StructuredDocumentation",
    "ArrayTypeName",
)


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from ``start`` to ``end`` of a file become ``after``.

    Attributes:
        path: of the source, from forge's root.
        operator: kind of the change.
        line: number, from 1, of the line where it starts; ``line_text`` is that line without its indentation.
    """

    path: str
    start: int
    end: int
    operator: str
    before: str
    after: str
    line: int
    line_text: str

    @property
    def mutation(self) -> str:
        """``before -> after`` on one line: with file and line text, the mutant's name in mutants.toml."""
        return " ".join(f"{self.before} -> {self.after or '(nothing)'}".split())

    def applied(self, source: str) -> str:
        """The whole file, changed."""
        data = source.encode()
        return (data[: self.start] + self.after.encode() + data[self.end :]).decode()


def mutants_of(path: str, source: str, trees: dict[str, Node]) -> list[Mutant]:
    """Every mutant of one file, by place; some may not compile, and some may mean the same as the original.

    Args:
        trees: syntax trees of all files from one compilation; structs and enums may be declared in another file.
    """
    found: dict[tuple[int, int, str], Mutant] = {}
    data = source.encode()
    lines = source.splitlines()
    for start, end, operator, after in _File(data, _siblings(trees), _written(trees[path])).changes(
        trees[path]
    ):
        before = data[start:end].decode()
        line = data[:start].count(b"\n") + 1
        if before != after:
            mutant = Mutant(path, start, end, operator, before, after, line, lines[line - 1].strip())
            found.setdefault((start, end, after), mutant)
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.operator, m.after))


Change = tuple[int, int, str, str]
"""First byte, end, operator, new text."""


class _File:
    """Walks one file's tree."""

    def __init__(self, data: bytes, siblings: dict[int, str], written: set[int]) -> None:
        self._data = data
        self._siblings = siblings
        self._written = written

    def changes(self, node: Node, parent: Node | None = None) -> Iterator[Change]:
        kind = node["nodeType"]
        if kind in _UNTOUCHED:
            return
        if kind in _DELETED:
            yield self._without(node, parent)
        own = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower(), None)
        if own is not None:
            yield from own(node, parent)
        for child in _children(node):
            yield from self.changes(child, node)

    # -- places --------------------------------------------------------------------------------------------------

    def _range(self, node: Node) -> tuple[int, int]:
        start, length, _ = map(int, node["src"].split(":"))
        return start, start + length

    def _text(self, node: Node) -> str:
        start, end = self._range(node)
        return self._data[start:end].decode()

    def _instead(self, node: Node, operator: str, after: str) -> Change:
        return (*self._range(node), operator, after)

    def _without(self, node: Node, parent: Node | None) -> Change:
        """A statement becomes an empty block; a loop's step becomes nothing."""
        start, end = self._range(node)
        if (
            parent is not None
            and parent["nodeType"] == "ForStatement"
            and parent.get("loopExpression") is node
        ):
            return start, end, "deleted statement", ""
        semicolon = re.compile(rb"\s*;").match(self._data, end)
        return start, semicolon.end() if semicolon else end, "deleted statement", "{}"

    def _between(self, node: Node, first: Node, second: Node, old: str, new: str) -> str:
        """The node's text with the operator between its two parts replaced."""
        start, end = self._range(node)
        gap_start, gap_end = self._range(first)[1], self._range(second)[0]
        gap = self._data[gap_start:gap_end].decode().replace(old, new, 1)
        return self._data[start:gap_start].decode() + gap + self._data[gap_end:end].decode()

    def _swapped(self, node: Node, first: Node, second: Node) -> str:
        """The node's text with two of its parts exchanged."""
        start, end = self._range(node)
        (a, b), (c, d) = sorted((self._range(first), self._range(second)))
        data = self._data
        return (data[start:a] + data[c:d] + data[b:c] + data[a:b] + data[d:end]).decode()

    # -- expressions ---------------------------------------------------------------------------------------------

    def _binary_operation(self, node: Node, parent: Node | None) -> Iterator[Change]:
        old, left, right = node["operator"], node["leftExpression"], node["rightExpression"]
        if old in ("&&", "||"):
            yield self._instead(
                node, "logical", self._between(node, left, right, old, "||" if old == "&&" else "&&")
            )
            yield self._instead(node, "operand dropped", self._text(left))
            yield self._instead(node, "operand dropped", self._text(right))
            return
        # whether a hash or an address is below another one means nothing
        equality = _EQUALITY.get(old, ())[: 3 if _is_number(left) else 1]
        for new in (*_RELATIONAL.get(old, ()), *equality):
            yield self._instead(node, "relational", self._between(node, left, right, old, new))
        for new in _ARITHMETIC.get(old, ()):
            yield self._instead(node, "arithmetic", self._between(node, left, right, old, new))

    def _unary_operation(self, node: Node, parent: Node | None) -> Iterator[Change]:
        old, part = node["operator"], node["subExpression"]
        if old in ("!", "~", "-"):
            yield self._instead(node, "operator dropped", self._text(part))
        if old in ("++", "--"):
            new = "--" if old == "++" else "++"
            yield self._instead(node, "arithmetic", self._text(node).replace(old, new))
            if parent is not None and parent["nodeType"] != "ExpressionStatement":
                x = self._text(part)
                yield self._instead(node, "before or after", x + old if node["prefix"] else old + x)

    def _assignment(self, node: Node, parent: Node | None) -> Iterator[Change]:
        left, right = node["leftHandSide"], node["rightHandSide"]
        for new in _ASSIGNMENT.get(node["operator"], ()):
            yield self._instead(node, "assignment", self._between(node, left, right, node["operator"], new))

    def _conditional(self, node: Node, parent: Node | None) -> Iterator[Change]:
        yield self._instead(node["condition"], "condition", "true")
        yield self._instead(node["condition"], "condition", "false")

    def _literal(self, node: Node, parent: Node | None) -> Iterator[Change]:
        text = self._text(node)
        if node["kind"] == "bool":
            yield self._instead(node, "constant", "false" if text == "true" else "true")
        if node["kind"] == "string":
            yield self._instead(node, "constant", text[:-1] + "!" + text[-1])
        if node["kind"] == "number" and not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
            plain = re.fullmatch(r"(\d[\d_]*)(\s+\w+)?", text)
            if plain is None:
                yield self._instead(node, "constant", f"({text} + 1)")
                yield self._instead(node, "constant", f"({text} - 1)")
                return
            value, unit = int(plain[1]), plain[2] or ""
            yield self._instead(node, "constant", f"{value + 1}{unit}")
            if value > 0:
                yield self._instead(node, "constant", f"{value - 1}{unit}")

    def _yul_literal(self, node: Node, parent: Node | None) -> Iterator[Change]:
        if node["kind"] == "number":
            yield self._instead(node, "constant", str(int(node["value"], 0) + 1))

    def _member_access(self, node: Node, parent: Node | None) -> Iterator[Change]:
        whole = self._text(node)
        base = self._text(node["expression"])
        if whole == "msg.sender":
            yield self._instead(node, "sender", "tx.origin")
        if base == "abi" and node["memberName"] == "encode":
            yield self._instead(node, "encoding", "abi.encodePacked")
        other = self._siblings.get(node.get("referencedDeclaration") or -1)
        if other is not None:
            # the member's name is the end of the node
            yield self._instead(node, "member", whole[: -len(node["memberName"])] + other)

    def _function_call(self, node: Node, parent: Node | None) -> Iterator[Change]:
        yield from self._swaps(node, node["arguments"])

    def _tuple_expression(self, node: Node, parent: Node | None) -> Iterator[Change]:
        yield from self._swaps(node, [part for part in node["components"] if part])

    def _swaps(self, node: Node, parts: list[Node]) -> Iterator[Change]:
        """Each part exchanged with the next one of its type."""
        for i, first in enumerate(parts):
            for second in parts[i + 1 :]:
                if _type(first) == _type(second):
                    yield self._instead(node, "swapped arguments", self._swapped(node, first, second))
                    break

    # -- statements and declarations -----------------------------------------------------------------------------

    def _if_statement(self, node: Node, parent: Node | None) -> Iterator[Change]:
        yield self._instead(node["condition"], "condition", "true")
        yield self._instead(node["condition"], "condition", "false")
        if node["condition"]["nodeType"] not in ("BinaryOperation", "UnaryOperation"):
            yield self._instead(node["condition"], "condition", f"!({self._text(node['condition'])})")

    def _while_statement(self, node: Node, parent: Node | None) -> Iterator[Change]:
        yield self._instead(node["condition"], "condition", "false")

    def _for_statement(self, node: Node, parent: Node | None) -> Iterator[Change]:
        if node.get("condition"):
            yield self._instead(node["condition"], "condition", "false")

    def _return(self, node: Node, parent: Node | None) -> Iterator[Change]:
        value = node.get("expression")
        if value is None:
            return
        parts = value["components"] if value["nodeType"] == "TupleExpression" else [value]
        for part in parts:
            kind = _type(part)
            if kind == "bool" and part["nodeType"] != "Literal":
                yield self._instead(part, "returned value", f"!({self._text(part)})")
            elif kind == "address" or (kind.startswith("bytes") and kind != "bytes"):
                yield self._instead(part, "returned value", f"{kind}(0)")
            elif re.fullmatch(r"u?int\d+", kind):
                yield self._instead(part, "returned value", "0")

    def _variable_declaration_statement(self, node: Node, parent: Node | None) -> Iterator[Change]:
        declared = [d for d in node["declarations"] if d]
        if len(declared) == 1 and len(node["declarations"]) == 1 and node.get("initialValue"):
            yield self._range(node)[0], self._range(node)[1], "initial value", self._text(declared[0])
        for one in declared:
            if one["storageLocation"] == "storage" and one["id"] in self._written:
                yield self._instead(
                    one, "storage to memory", self._text(one).replace(" storage ", " memory ", 1)
                )

    def _function_definition(self, node: Node, parent: Node | None) -> Iterator[Change]:
        for modifier in node["modifiers"]:
            if modifier.get("kind") == "modifierInvocation":
                yield self._instead(modifier, "modifier", "")


def _children(node: Node) -> Iterator[Node]:
    for value in node.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict) and "nodeType" in child:
                yield child


def _type(node: Node) -> str:
    return re.sub(
        r" (storage|memory|calldata|ref|pointer|slice)\b", "", node["typeDescriptions"]["typeString"]
    )


def _is_number(node: Node) -> bool:
    return re.fullmatch(r"u?int\d+|int_const .*", _type(node)) is not None


def _written(tree: Node) -> set[int]:
    """Declarations that something is assigned to, or to a part of which."""
    found: set[int] = set()

    def visit(node: Node) -> None:
        target = node.get("leftHandSide") or (
            node["subExpression"] if node.get("operator") in ("++", "--", "delete") else None
        )
        waiting = [target] if target else []
        while waiting:
            part = waiting.pop()
            found.add(part.get("referencedDeclaration") or -1)
            waiting += [p for p in part.get("components", []) if p]
            waiting += [part[key] for key in ("expression", "baseExpression") if part.get(key)]
        for child in _children(node):
            visit(child)

    visit(tree)
    return found


def _siblings(trees: dict[str, Node]) -> dict[int, str]:
    """Declaration -> name of the next one of the same type in its struct, or of the next value in its enum."""
    found: dict[int, str] = {}

    def visit(node: Node) -> None:
        if node["nodeType"] in ("StructDefinition", "EnumDefinition"):
            members = node["members"]
            for i, member in enumerate(members):
                for other in members[i + 1 :] + members[:i]:
                    if node["nodeType"] == "EnumDefinition" or _type(other) == _type(member):
                        found[member["id"]] = other["name"]
                        break
        for child in _children(node):
            visit(child)

    for tree in trees.values():
        visit(tree)
    return found
