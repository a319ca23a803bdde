"""Fingerprints of the contracts' tests: they tell whether an earlier verdict on a mutant still holds."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

_IMPORT = re.compile(r"""^\s*import\b[^;]*?["'](\.[^"']+)["']\s*;""", re.MULTILINE)


@cache
def digest_of_suite(root: Path, path: str) -> str:
    """Fingerprint of one test file, of all that it imports from ``test/``, and of what every test reads."""
    seen: set[Path] = set()
    waiting = [(root / path).resolve()]
    while waiting:
        file = waiting.pop()
        if file in seen or not file.is_file() or not file.is_relative_to((root / "test").resolve()):
            continue
        seen.add(file)
        waiting += [(file.parent / name).resolve() for name in _IMPORT.findall(file.read_text())]
    return _digest([*seen, *_read_by_all(root)])


@cache
def digest_of_tests(root: Path) -> str:
    """Fingerprint of all tests and of what they read."""
    return _digest([*(root / "test").rglob("*.sol"), *_read_by_all(root)])


def _read_by_all(root: Path) -> list[Path]:
    return [root / "foundry.toml", *(root.parent / "tests" / "vectors").glob("*.json")]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()
