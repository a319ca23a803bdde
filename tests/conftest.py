"""For all tests: usufruct is loaded before gRPC, which it tells to speak TLS 1.3 only; and which tests run together."""

from __future__ import annotations

from pathlib import Path

import pytest

import usufruct  # noqa: F401

ONE_NETWORK = Path(__file__).parent / "integration" / "network"
"""Its files share one network of real processes, and the last of them ends its chain."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run on several cores, those of a file stay together, in their order."""
    for item in items:
        folder = item.path.parent
        item.add_marker(pytest.mark.xdist_group(str(folder if folder == ONE_NETWORK else item.path)))
