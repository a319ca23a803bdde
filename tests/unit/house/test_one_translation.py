"""An epsilon that anyone is shown as binding is the one translation of a loss; another figure is nowhere, or says what it is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = (ROOT / "client" / "usufruct", ROOT / "server" / "usufruct_server")
PRIVACY = "client/usufruct/privacy/"

BINDING = {
    "client/usufruct/audit/report.py": {"_epsilon"},
    "client/usufruct/builder/book.py": {"epsilon_of"},
    "client/usufruct/builder/datasets.py": {"epsilon_left"},
    "client/usufruct/builder/job.py": {"_epsilon"},
    "client/usufruct/builder/proposal.py": {"epsilon_asked"},
    "server/usufruct_server/holder/commands.py": {"inbox"},
}
"""Who translates a loss for somebody to see, by file. ``tests/integration/network`` compares what they show."""

OTHER = ("pld_epsilon", "epsilon_at_best_order")
"""Figures that are not binding. Nothing shows them; what comes to show one has to label it, and be tested for it."""

AGAINST_EVERYONE = {
    "client/usufruct/builder/quote.py": "against everyone else together",
    "client/usufruct/privacy/distributed_plan.py": "against everyone else together",
    "server/usufruct_server/demo/summary.py": "Against everyone else together",
}
"""Where the figure that holds against all others together is put into words, and the label it has there."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Our own source, but for generated stubs."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if "/v1/" not in name:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the last part of its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield function.attr, node
            elif isinstance(function, ast.Name):
                yield function.id, node


def names_in(tree: ast.AST) -> set[str]:
    """Names and attributes that are read anywhere in an expression."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_nobody_but_the_conversion_takes_the_logarithm_of_a_delta() -> None:
    places = {
        name
        for name, tree in modules()
        for function, call in calls(tree)
        if function in ("log", "log1p", "log2", "log10")
        and any("delta" in read for argument in call.args for read in names_in(argument))
    }
    assert places == {PRIVACY + "conversion.py"}


def test_who_translates_a_loss_is_known() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules():
        if name.startswith(PRIVACY):
            continue
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and any(n == "epsilon" for n, _ in calls(function)):
                found[name].add(function.name)
    assert dict(found) == BINDING


def test_figures_that_are_not_binding_are_shown_by_nobody() -> None:
    users = {
        (name, function)
        for name, tree in modules()
        if not name.startswith(PRIVACY)
        for function, _ in calls(tree)
        if function in OTHER
    }
    assert users == set()


def test_what_holds_against_everyone_is_put_into_words_with_its_label() -> None:
    """An f-string that has the figure has the label, and the table names every file that has such an f-string."""
    found = {}
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) and _shows_alone(node):
                words = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                found[name] = AGAINST_EVERYONE.get(name, "no label is known") in words
    assert found == dict.fromkeys(AGAINST_EVERYONE, True)


def _shows_alone(text: ast.JoinedStr) -> bool:
    """Whether the whole guarantee is shown: ``{leg.alone}``, not a baseline of one hospital ``{leg.alone.test}``."""
    shown = [part.value for part in text.values if isinstance(part, ast.FormattedValue)]
    return any(
        isinstance(each, ast.Attribute) and each.attr in ("alone", "against_everyone") for each in shown
    )
