"""SUPPORTED.md says what the code allows, and the check that says so can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from usufruct.graph.functions import FUNCTIONS
from usufruct.graph.layers import MODULES
from usufruct_server.holder.training import supported

COMMITTED = Path(__file__).parents[3] / "SUPPORTED.md"


def test_the_committed_file_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == supported.supported()


def test_every_layer_and_function_has_its_line_and_a_reason() -> None:
    lines = [line for line in supported.supported().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [*sorted(MODULES), *sorted(FUNCTIONS)]
    assert all(len(line.split("|")[4].strip()) > 10 for line in lines)


def test_only_what_has_no_rule_is_trained_by_rows() -> None:
    lines = [line for line in supported.supported().splitlines() if "by rows |" in line]
    assert [line.split("`")[1] for line in lines] == ["Conv3d", "einsum"]


def test_a_file_that_differs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "SUPPORTED.md"
    monkeypatch.setattr(sys, "argv", ["supported", "--check", str(file)])
    with pytest.raises(SystemExit, match="make supported"):
        supported.main()
    monkeypatch.setattr(sys, "argv", ["supported", str(file)])
    supported.main()
    monkeypatch.setattr(sys, "argv", ["supported", "--check", str(file)])
    supported.main()
    file.write_text(file.read_text(encoding="utf-8").replace("Conv2d", "Conv9d"), encoding="utf-8")
    with pytest.raises(SystemExit):
        supported.main()
