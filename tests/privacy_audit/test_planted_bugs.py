"""The planted bugs: the cheapest are caught here, and none of the others has lost its place in the sources or its tests.

All fifteen are planted by ``make audit-privacy``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_bugs import BUGS, ROOT, PlantedBug, catch, changed, copied_tree

CHEAP = ("a wrong delta", "a seed that forks share")


def test_there_is_one_bug_for_each_line_of_the_threats() -> None:
    assert len({bug.name for bug in BUGS}) == 15


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_fits_the_sources_and_its_tests_exist(bug: PlantedBug) -> None:
    texts = {edit.path: (ROOT / edit.path).read_text() for edit in bug.edits}
    for edit in bug.edits:
        texts[edit.path] = changed(texts[edit.path], edit)
        compile(texts[edit.path], edit.path, "exec")
    for test in bug.tests:
        path, name = test.partition("[")[0].split("::")
        assert f"def {name}(" in (ROOT / path).read_text()


def test_the_cheapest_bugs_are_caught(tmp_path: Path) -> None:
    """That their tests pass without them is seen in this very run of the suite."""
    with copied_tree(tmp_path) as tree:
        caught = [bug.name for bug in BUGS if bug.name in CHEAP and catch(tree, bug, None).caught]
    assert sorted(caught) == sorted(CHEAP)
