"""What must never be in a commit, and what every folder must have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def tracked() -> list[Path]:
    """Files under version control; skipped where the tree is no checkout."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_every_top_level_folder_and_package_has_a_readme() -> None:
    files = [path.relative_to(ROOT) for path in tracked()]
    folders = {path.parts[0] for path in files if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    packages = {
        str(path.parent)
        for path in files
        if path.name == "__init__.py" and path.parts[0] in {"client", "server"}
    }
    # The two import packages have theirs one folder up; the generated stubs and the demo's cards in the parent's.
    packages -= {
        "client/usufruct",
        "server/usufruct_server",
        "client/usufruct/v1",
        "server/usufruct_server/demo/cards",
    }
    missing = [name for name in sorted(folders | packages) if not (ROOT / name / "README.md").is_file()]
    assert missing == []


def test_no_lock_file_names_a_registry() -> None:
    for path in tracked():
        if path.name in {"package-lock.json", "constraints.txt", "pyproject.toml", "Makefile", ".npmrc"}:
            text = path.read_text()
            assert '"resolved"' not in text, path
            assert not re.search(r"--(extra-)?index-url|registry\s*=", text), path


def test_no_key_or_passphrase_is_tracked() -> None:
    for path in tracked():
        assert not re.search(r"\.(pem|key|passphrase)$|keystore", path.name), path
        if path.suffix in {".json", ".toml", ".txt"} and path.stat().st_size < 200_000:
            assert '"ciphertext"' not in path.read_text(errors="replace"), path


def test_python_files_stay_one_thought() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked()
        if path.suffix in {".py", ".sol"}
        and "_pb2" not in path.name
        and (count := len(path.read_text().splitlines())) > 600
    }
    assert long == {}
