"""Datasets as a builder would list them, and a state directory of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from listed_datasets import make_dataset

from usufruct.builder.datasets import Dataset


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    return make_dataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The builder's state directory of this test."""
    monkeypatch.setenv("USUFRUCT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
