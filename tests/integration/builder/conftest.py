"""A development chain with scripted holders, for every test a copy of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from escrow_world import Beginning, EscrowWorld

from usufruct.chain.dev_chain import DevChain


@pytest.fixture(scope="session")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beginning]:
    made = Beginning.make(tmp_path_factory.mktemp("beginning"))
    yield made
    made.close()


@pytest.fixture
def world(beginning: Beginning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EscrowWorld]:
    monkeypatch.setenv("USUFRUCT_HOME", str(tmp_path / "home"))
    with DevChain(evm=beginning.evm.copy()) as node:
        running = EscrowWorld.start(tmp_path, node, beginning)
        yield running
        running.stop()
