"""A development chain with the contracts, a holder and money, for every test a copy of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_world import Beginning, World

from usufruct.chain.dev_chain import DevChain


@pytest.fixture(scope="session")
def beginning() -> Beginning:
    return Beginning.make()


@pytest.fixture
def world(beginning: Beginning) -> Iterator[World]:
    with DevChain(evm=beginning.evm.copy()) as node:
        yield beginning.on(node)
