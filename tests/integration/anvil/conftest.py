"""Tests against a real node; skipped where anvil is not packaged for this machine and not in the path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anvil_node import AnvilNode, binary
from token_world import TokenWorld


@pytest.fixture(scope="session", autouse=True)
def _anvil_is_there() -> None:
    if binary() is None:
        pytest.skip(
            "there is no anvil: run `python contracts/toolchain.py install`; where it is not packaged, install Foundry and "
            "put anvil in the path"
        )


@pytest.fixture
def node() -> Iterator[AnvilNode]:
    """A node whose final block is 64 below its newest, as Ethereum's at best."""
    with AnvilNode() as started:
        yield started


@pytest.fixture
def world(node: AnvilNode) -> TokenWorld:
    return TokenWorld.on(node)


@pytest.fixture
def swift() -> Iterator[TokenWorld]:
    """A world whose blocks are final two blocks later."""
    with AnvilNode(finality=2) as started:
        yield TokenWorld.on(started)
