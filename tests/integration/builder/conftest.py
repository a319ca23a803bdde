"""A development chain with scripted holders, fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from escrow_world import Deployed, EscrowWorld

from usufruct.chain.dev_chain import DevChain


@pytest.fixture(scope="session")
def deployed() -> Deployed:
    return Deployed.make()


@pytest.fixture
def world(deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EscrowWorld]:
    monkeypatch.setenv("USUFRUCT_HOME", str(tmp_path / "home"))
    with DevChain(evm=deployed.evm.copy()) as node:
        running = EscrowWorld.start(tmp_path, node, deployed.addresses)
        yield running
        running.stop()
