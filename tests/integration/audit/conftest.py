"""One finished network for all tests here; its records are served over gRPC by the holders' own service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from finished_job import FinishedNetwork


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedNetwork]:
    network = FinishedNetwork(tmp_path_factory.mktemp("ledgers"))
    yield network
    network.close()
