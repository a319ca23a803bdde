"""One network for all deaths; every test leaves it whole again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from charged import WatchedNetwork
from killed_network import hospital

from usufruct_server.demo.network import LocalNetwork


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """Three holders, an aggregator and a chain; the builder's home is beside them."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USUFRUCT_HOME", str(folder / "home"))
        with WatchedNetwork(folder / "net", [hospital(number) for number in (1, 2, 3)]) as running:
            yield running
