"""A holder's server on a real node, and builders that speak the wire protocol with it by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from anvil_node import AnvilNode
from eth_account import Account as Keys

from usufruct.chain import Chain, deploy
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import UsufructError
from usufruct_server.holder.fencing import Fencing
from usufruct_server.holder.ledger import LegUnknown
from usufruct_server.holder.legs import GrantedJob, Legs
from usufruct_server.holder.opening import open_operator
from usufruct_server.holder.statements import Statements

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "holder"))
from holder_world import GRANT_ALL, Place, World, free_port, server_of


class _Dev:
    """What :class:`World` asks of a development chain, of a node."""

    def __init__(self, node: AnvilNode) -> None:
        self.url, self.evm, self._node = node.url, self, node

    def fund(self, address: bytes, wei: int) -> None:
        self._node.fund("0x" + address.hex(), wei)


@dataclass(frozen=True)
class NodePlace(Place):
    """A holder's running server, whose housekeeping only does what a test asks for, on a node."""

    node: AnvilNode

    def legs_by(self, chain: Chain) -> Legs:
        """The server's legs, seen through another connection to the chain: the same store, ledger and keys."""
        server = self.server
        statements = Statements(
            open_operator(server.config), chain, Fencing(chain, self.holder_id, server.fencing.epoch)
        )
        return Legs(
            store=server.store, ledger=server.ledger, chain=chain, catalogue=server.catalogue, trainers=server.trainers,
            policy=server.config.policy, statements=statements,
        )  # fmt: skip

    @property
    def holder_id(self) -> int:
        return self.world.chain.dataset(self.dataset_id).holder_id

    def job(self, spec: TrainingJobSpec) -> GrantedJob:
        """The granted job of a spec."""
        return self.server.legs.granted(spec.builder, spec.job_id, self.dataset_id)

    def reserved(self, spec: TrainingJobSpec) -> bool:
        """Whether the ledger knows the job's leg."""
        try:
            self.server.ledger.leg(self.dataset_id, spec.job_id)
        except LegUnknown:
            return False
        return True

    def charged(self, spec: TrainingJobSpec) -> int:
        """How many attempts of the job were charged."""
        return self.server.ledger.leg(self.dataset_id, spec.job_id).charged


@contextmanager
def holder_on(node: AnvilNode, folder: Path, finality: int) -> Iterator[NodePlace]:
    """Deploys, registers and serves."""
    deployer = Keys.create()
    node.fund(deployer.address)
    addresses = deploy(node.url, deployer, test_token=True, confirmations=0)
    assert addresses.test_token is not None
    node.mine(finality)
    chain = Chain.connect(node.url, addresses.compute_access)
    world = World(cast(Any, _Dev(node)), chain, addresses.test_token, folder)
    config = world.holder("holder", port=free_port(), policy=GRANT_ALL)
    node.mine(finality)
    server = server_of(config, tell=lambda text: node.mine(finality))
    server.start()
    server.housekeeping.close()
    try:
        yield NodePlace(world, server, node)
        world.compare_books(chain)
    finally:
        server.stop()


def reason_of(call: Callable[..., Any], *arguments: Any) -> str:
    """Why it is refused; "" where it is not."""
    try:
        call(*arguments)
    except UsufructError as error:
        return error.reason
    return ""
