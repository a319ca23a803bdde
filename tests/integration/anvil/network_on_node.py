"""A network that has worked (three holders with ledgers and usage logs, a builder) on a real node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from anvil_node import AnvilNode

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
import finished_job
from finished_job import ROUNDS, Network


class _NodeAsDevChain:
    """What :class:`Network` asks of a development chain, of a node whose newest block is final."""

    def __init__(self, node: AnvilNode) -> None:
        self.url, self.evm, self._node = node.url, self, node

    def start(self) -> _NodeAsDevChain:
        return self

    def stop(self) -> None:
        """The node is its owner's to stop."""

    def fund(self, address: bytes, wei: int) -> None:
        self._node.fund("0x" + address.hex(), wei)

    def now_seconds(self) -> int:
        return self._node.rpc.newest().time_seconds

    @property
    def head(self) -> Any:
        return self

    @property
    def timestamp(self) -> int:
        return self.now_seconds()


class WorkedNetwork(Network):
    """A job with three legs, of which one was paid at delivery, one later, and one not yet; refusals; money taken out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        one, two, three = self.holders
        self.first = self.open_job(self.holders, 7200)
        self.refuse(two)
        self.run_rounds(self.first, lost_by=two)
        self.finish(self.first, one)
        self.finish(self.first, two, acknowledged=True)
        self.finish(self.first, three, by_signature=True)
        self.builder.acknowledge(self.leg(self.first, one))
        self.builder.withdraw_earnings(self.token, two.holder_id)

    def work_on(self) -> None:
        """A second job of one leg, delivered."""
        holder = self.holders[0]
        job = self.open_job([holder], 7200)
        for round_ in range(1, ROUNDS + 1):
            self.charge(job, holder, round_, round_)
        self.finish(job, holder)


@contextmanager
def network_on(node: AnvilNode, folder: Path) -> Iterator[WorkedNetwork]:
    """On a node of ``finality`` 0: whatever is mined is final."""
    with patch.object(finished_job, "DevChain", lambda: _NodeAsDevChain(node)):
        network = WorkedNetwork(folder)
    try:
        yield network
    finally:
        network.close()
