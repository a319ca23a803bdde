"""One finished network and its evidence for all tests here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usufruct.audit.collection import collect
from usufruct.audit.evidence import Evidence

sys.path.insert(0, str(Path(__file__).parents[2] / "integration" / "audit"))
from finished_job import FinishedNetwork


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedNetwork]:
    network = FinishedNetwork(tmp_path_factory.mktemp("ledgers"))
    yield network
    network.close()


@pytest.fixture(scope="session")
def evidence(network: FinishedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = network.keep_records(tmp_path_factory.mktemp("records"))
    return collect(network.rpc, network.compute_access, folder)
