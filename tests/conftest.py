"""For all tests: usufruct is loaded before gRPC, which it tells to speak TLS 1.3 only; and which tests run together."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

import usufruct  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The cores are shared by tests and the processes they start: a library's threads would wait for one another, spinning."""

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
"""No clock decides whether a test passes."""

ONE_NETWORK = "tests/integration/network/"
"""Its files share one network of real processes, and the last of them ends its chain."""

TOGETHER = (ONE_NETWORK, "tests/unit/holder/", "tests/security/audit/")
"""What the files of such a folder share takes seconds to make: one process makes it."""


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Where tests run on several cores, those of a file stay together, in their order: they share what is slow to start."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.split("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest and cannot be divided begins first, so that all workers end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    """The scheduler that ``--numprocesses`` uses here, whatever ``--dist`` says."""
    return FileByFile(config, log)
