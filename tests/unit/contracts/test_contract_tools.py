"""The contracts' tools tell a missed line from a reached one, a mutant from the original, a kept verdict from a stale one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONTRACTS = Path(__file__).parents[3] / "contracts"
sys.path.insert(0, str(CONTRACTS))

from tools.coverage import explained, read_trace  # noqa: E402
from tools.forge_tests import StatefulFuzz  # noqa: E402
from tools.mutants import Mutant, mutants_of  # noqa: E402
from tools.mutation_bench import Verdict  # noqa: E402
from tools.mutation_report import name_of, read_reasons, tally  # noqa: E402
from tools.slither import without_reason  # noqa: E402
from tools.test_digests import digest_of_suite, digest_of_tests  # noqa: E402

SOURCE = """// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

enum Phase { Before, After }

struct Pot {
    uint64 units;
    uint64 spent;
    address owner;
}

contract Tiny {
    event Taken(address from, address to, uint64 units);
    error Short();

    mapping(uint256 => Pot) private _pots;
    Phase private _phase;

    modifier only() {
        require(msg.sender == _pots[0].owner);
        _;
    }

    function take(uint256 id, address to, uint64 units) external only returns (uint64 left) {
        Pot storage pot = _pots[id];
        if (pot.units < units && _phase == Phase.Before) revert Short();
        pot.units -= units;
        emit Taken(pot.owner, to, units + 10);
        return pot.units;
    }
}
"""


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> list[Mutant]:
    """Mutants of :data:`SOURCE`, through the compiler that the bench uses."""
    node = shutil.which("node")
    if node is None or not (CONTRACTS / "node_modules" / "solc").exists():
        pytest.skip("needs the contract toolchain: make setup, then make check")
    root = tmp_path_factory.mktemp("tiny")
    (root / "src").mkdir()
    (root / "src" / "Tiny.sol").write_text(SOURCE)
    run = subprocess.run(
        [node, str(CONTRACTS / "tools" / "mutant_compiler.mjs"), str(root)],
        input='{"ast": true}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    return mutants_of("src/Tiny.sol", SOURCE, json.loads(run.stdout))


@pytest.mark.parametrize(
    "mutation",
    [
        "pot.units < units -> pot.units <= units",
        "pot.units < units -> pot.units >= units",
        "pot.units < units && _phase == Phase.Before -> pot.units < units || _phase == Phase.Before",
        "pot.units < units && _phase == Phase.Before -> _phase == Phase.Before",
        "pot.units < units && _phase == Phase.Before -> false",
        "_phase == Phase.Before -> _phase != Phase.Before",
        "Phase.Before -> Phase.After",
        "revert Short(); -> {}",
        "pot.units -= units -> pot.units += units",
        "pot.units -= units; -> {}",
        "pot.units -> pot.spent",
        "emit Taken(pot.owner, to, units + 10); -> {}",
        "Taken(pot.owner, to, units + 10) -> Taken(to, pot.owner, units + 10)",
        "units + 10 -> units - 10",
        "10 -> 11",
        "10 -> 9",
        "only -> (nothing)",
        "msg.sender -> tx.origin",
        "Pot storage pot -> Pot memory pot",
        "return pot.units; -> {}",
        "pot.units -> 0",
    ],
)
def test_each_operator_finds_its_place(mutants: list[Mutant], mutation: str) -> None:
    assert mutation in {mutant.mutation for mutant in mutants}


def test_a_mutant_changes_its_place_only(mutants: list[Mutant]) -> None:
    for mutant in mutants:
        changed = mutant.applied(SOURCE)
        assert changed != SOURCE
        assert changed[: mutant.start] == SOURCE[: mutant.start]
        assert changed.endswith(SOURCE[mutant.end :])
        assert mutant.line_text in SOURCE.splitlines()[mutant.line - 1]


def test_hashes_and_addresses_are_not_ordered(mutants: list[Mutant]) -> None:
    assert not [m for m in mutants if m.mutation.startswith("msg.sender == _pots[0].owner -> msg.sender <")]


def test_equal_bytecode_counts_once_and_invalid_not_at_all() -> None:
    found = {
        Mutant("src/A.sol", place, place + 1, "condition", "a", "b", place, "line"): verdict
        for place, verdict in enumerate(
            [
                Verdict("killed", "1", "t"), Verdict("killed", "1", "t"), Verdict("survived", "2"),
                Verdict("survived", "2"), Verdict("invalid"), Verdict("equivalent", "3"),
            ]
        )
    }  # fmt: skip
    tallies, survivors = tally(found)
    assert (tallies["A.sol"].mutants, tallies["A.sol"].valid, tallies["A.sol"].killed) == (6, 2, 1)
    assert [mutant.start for mutant in survivors] == [2]


def test_a_reason_belongs_to_file_line_and_mutation(tmp_path: Path) -> None:
    mutant = Mutant("src/A.sol", 0, 1, "condition", "x  <\n y", "true", 7, "if (x <")
    entry = {"file": "A.sol", "line": "if (x <", "mutation": "x < y -> true", "reason": "cannot be"}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
    (tmp_path / "mutants.toml").write_text(f"[[survivor]]\n{lines}\n")
    assert read_reasons(tmp_path / "mutants.toml") == {name_of(mutant): "cannot be"}


def test_a_verdict_depends_on_what_its_test_imports(tmp_path: Path) -> None:
    (tmp_path / "foundry.toml").write_text("")
    test = tmp_path / "test"
    test.mkdir()
    (test / "Base.sol").write_text("contract Base {}")
    (test / "A.t.sol").write_text('import {Base} from "./Base.sol";')
    (test / "B.t.sol").write_text("contract B {}")

    def digests() -> tuple[str, str, str]:
        digest_of_suite.cache_clear()
        digest_of_tests.cache_clear()
        of = (digest_of_suite(tmp_path, f"test/{name}.t.sol") for name in "AB")
        return (*of, digest_of_tests(tmp_path))

    a, b, everything = digests()
    (test / "Base.sol").write_text("contract Base { uint256 x; }")
    assert digests()[0] != a
    assert digests()[1] == b
    assert digests()[2] != everything


def test_lines_and_branches_that_nobody_reached_are_missed() -> None:
    trace = "SF:src/A.sol\nDA:3,5\nBRDA:3,0,0,-\nDA:4,0\nDA:5,1\nBRDA:5,1,0,2\nend_of_record\n"
    assert read_trace(trace)["src/A.sol"].missed() == [3, 4]


def test_an_explanation_names_file_and_line() -> None:
    text = "* `A.sol`: `if (x || y) revert Z();` - the token cannot do that\n* `B.sol`: no line\n"
    assert explained(text) == {("A.sol", "if (x || y) revert Z();")}


def test_calls_of_all_campaigns_are_counted() -> None:
    lines = [
        "[PASS] invariant_a() (runs: 128, calls: 32768, reverts: 3)",
        "[PASS] test_b(uint256) (runs: 256, μ: 81194, ~: 83636)",
        "[PASS] invariant_c() (runs: 1, calls: 2, reverts: 0)",
    ]
    fuzzed = StatefulFuzz()
    for line in lines:
        fuzzed = fuzzed.with_line(line)
    assert (fuzzed.campaigns, fuzzed.calls, fuzzed.reverts) == (2, 32770, 3)


def test_a_suppression_without_a_reason_is_found(tmp_path: Path) -> None:
    source = tmp_path / "A.sol"
    source.write_text(
        "// the registry is ours\n// slither-disable-next-line a\nx();\n\n// slither-disable-next-line b\ny();\n"
    )
    assert without_reason(source) == ["A.sol:5"]
