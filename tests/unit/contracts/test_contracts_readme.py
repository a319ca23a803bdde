"""What the contracts' README says of the tests is so: every test that it names is there, for all seventeen invariants."""

from __future__ import annotations

import re
from pathlib import Path

CONTRACTS = Path(__file__).parents[3] / "contracts"


def test_every_invariant_has_its_tests_and_they_exist() -> None:
    text = (CONTRACTS / "README.md").read_text()
    section = text.split("## Invariants\n")[1].split("\n## ")[0]
    sources = "\n".join(path.read_text() for path in (CONTRACTS / "test").rglob("*.sol"))
    there = set(re.findall(r"function (\w+)\(", sources))
    for number in range(1, 18):
        (line,) = [line for line in section.splitlines() if line.startswith(f"{number}. ")]
        named = re.findall(r"`((?:test_Invariant|invariant_)\w+)`", line)
        assert {name.split("_")[0] for name in named} == {"test", "invariant"}, line
        assert set(named) <= there, line
    unnamed = {name for name in there if name.startswith(("test_Invariant", "invariant_"))} - set(
        re.findall(r"`(\w+)`", section)
    )
    assert unnamed == set()


def test_the_forbidden_transitions_that_it_points_to_are_tests() -> None:
    source = (CONTRACTS / "test" / "Transitions.t.sol").read_text()
    states = set(re.findall(r"function test_Forbidden_([A-Za-z]+)_\w+\(", source))
    steps = set(re.findall(r"function test_(?:Allowed|Forbidden)_[A-Za-z]+_(\w+)\(", source))
    pairs = set(re.findall(r"function test_(?:Allowed|Forbidden)_([A-Za-z]+_\w+)\(", source))
    assert {f"{state}_{step}" for state in states for step in steps} == pairs
    assert len(states) == 14, "none, and the thirteen states of a leg"
