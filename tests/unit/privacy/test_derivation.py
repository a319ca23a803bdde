"""The derivation names the tests that check it: each must exist."""

from __future__ import annotations

import re
from pathlib import Path

from usufruct import privacy

PAGE = Path(privacy.__file__).with_name("DERIVATION.md")
TESTS = Path(__file__).parents[2]


def test_every_test_that_the_derivation_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    folders = ("unit/privacy", "unit/holder", "unit/training", "statistical")
    files = [file for folder in folders for file in (TESTS / folder).glob("*.py")]
    defined = {
        name
        for file in files
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert len(named) >= 30
    assert named <= defined, sorted(named - defined)
