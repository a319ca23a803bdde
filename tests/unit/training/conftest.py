"""One zygote for all tests of this folder that run in one process: each would load PyTorch anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from usufruct_server.holder.training.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()
