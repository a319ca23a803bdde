"""A development chain, an aggregator and scripted holders in this process; a builder with money, through the SDK."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from scripted_holder import ScriptedHolder
from stand_in_holder import Seat
from torch import nn

import usufruct as uf
from usufruct.builder import Dataset, JobHandle, Network, Proposal
from usufruct.chain import Addresses, Chain, DatasetTerms, LegState, Sender, create_key, deploy
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.dev_evm import DevEvm
from usufruct.domain.dataset_card import card_hash
from usufruct.wire.tls import generate_identity
from usufruct_server.aggregator.config import AggregatorConfig
from usufruct_server.aggregator.server import AggregatorServer

PRICE, CAP, ORDER = 1000, 10**9, 6
HOUR, DAY = 3600, 86_400


@dataclass(frozen=True)
class Beginning:
    """A chain with the contracts, the holders' registrations and a builder's money: what every test begins with.

    Attributes:
        seats: of the holders of datasets 1, 2 and 3.
        key: the builder's keystore; its passphrase is beside it.
        ports: bound and not listening, so that nobody but a holder gets them between two tests.
    """

    evm: DevEvm
    addresses: Addresses
    token: str
    seats: Mapping[int, Seat]
    key: Path
    ports: Sequence[socket.socket]

    @classmethod
    def make(cls, directory: Path) -> Beginning:
        ports = [_bound() for _ in range(3)]
        listens = (f"127.0.0.1:{port.getsockname()[1]}" for port in ports)
        seats = {number: Seat(listen=listen) for number, listen in enumerate(listens, 1)}
        with DevChain() as node:
            deployer = Account.create()
            _fund(node, deployer.address)
            addresses = deploy(node.url, deployer, test_token=True)
            assert addresses.test_token is not None
            chain = Chain.connect(node.url, addresses.compute_access)
            for number, seat in seats.items():
                _fund(node, seat.operator.address)
                cls._register(ScriptedHolder(number, chain, seat), addresses.test_token)
            key = directory / "builder.json"
            builder = _create_key(key, node)
            Sender(chain, builder).mint_test_token(addresses.test_token, builder.address, 100 * PRICE)
            return cls(node.evm, addresses, addresses.test_token, seats, key, ports)

    @staticmethod
    def _register(holder: ScriptedHolder, token: str) -> None:
        """One key is operator and admin: these holders guard nothing. Holder and dataset have the same number."""
        admin = Sender(holder.chain, holder.operator)
        at = holder.peer
        number = admin.register_holder(admin.address, admin.address, at.endpoint, at.fingerprint)
        admin.take_fencing_epoch(number, 1, bytes(32))
        terms = DatasetTerms(PRICE, 2, CAP // 10, CAP // 5, 30 * DAY, keccak(holder.policy))
        card = card_hash(holder.card.to_bytes())
        assert admin.register_dataset(number, card, token, ORDER, CAP, terms) == number == holder.dataset_id
        holder.stop()

    def close(self) -> None:
        """Gives the ports back."""
        for port in self.ports:
            port.close()


@dataclass
class EscrowWorld:
    """Holders of datasets 1, 2 and 3; any two of them are enough for a sum.

    Attributes:
        network: the builder's.
        key: its keystore.
    """

    directory: Path
    node: DevChain
    chain: Chain
    token: str
    holders: dict[int, ScriptedHolder]
    aggregator: AggregatorServer
    network: Network
    key: Path

    @classmethod
    def start(cls, directory: Path, node: DevChain, beginning: Beginning) -> EscrowWorld:
        """At a node that serves a copy of the beginning's chain."""
        contract = beginning.addresses.compute_access
        chain = Chain.connect(node.url, contract)
        holders = {number: ScriptedHolder(number, chain, seat) for number, seat in beginning.seats.items()}
        (directory / "aggregator").mkdir()
        aggregator = AggregatorServer(
            AggregatorConfig("127.0.0.1:0", directory / "aggregator"), generate_identity()
        )
        network = uf.connect(node.url, contract=contract, key=beginning.key)
        return cls(directory, node, chain, beginning.token, holders, aggregator, network, beginning.key)

    def stop(self) -> None:
        for holder in self.holders.values():
            holder.stop()
        self.aggregator.stop()

    # -- who there is ---------------------------------------------------------------------------------------------

    def another(self, name: str, units: int = 0) -> Network:
        """Another account with its own key, gas money, and ``units`` in its wallet."""
        key = self.directory / f"{name}.json"
        _create_key(key, self.node)
        other = uf.connect(self.node.url, contract=self.chain.compute_access, key=key)
        if units:
            self.mint(other, units)
        return other

    def admin(self, number: int) -> Sender:
        """Sends with the key of a holder, which is operator and admin."""
        return Sender(self.chain, self.holders[number].operator)

    def mint(self, network: Network, units: int) -> None:
        Sender(self.chain, network.account).mint_test_token(self.token, network.address, units)

    def datasets(self) -> list[Dataset]:
        return list(self.network.datasets())

    # -- jobs -----------------------------------------------------------------------------------------------------

    def settings(self, **options: Any) -> dict[str, Any]:
        return {
            "aggregator": f"{self.aggregator.peer.endpoint}#sha256:{self.aggregator.peer.fingerprint.hex()}",
            "loss": "binary_cross_entropy_with_logits",
            "optimizer": uf.SGD(lr=0.5),
            "privacy": uf.Privacy(epsilon=3.0, noise="local"),
            "rounds": 2,
            **options,
        }

    def propose(self, **options: Any) -> Proposal:
        return self.network.propose(model(), self.datasets(), **self.settings(**options))

    def train(self, **options: Any) -> JobHandle:
        return self.network.train(model(), self.datasets(), **self.settings(**options))

    def states(self, job_id: bytes) -> dict[int, LegState]:
        """By dataset, where its leg stands."""
        return {leg.dataset_id: leg.state for leg in self.chain.job_legs(job_id)}

    def until_accepted(self, number: int) -> Callable[[bytes], None]:
        """Waits until a leg of a job is accepted: for a holder that is to answer after another one."""

        def wait(job_id: bytes) -> None:
            while self.states(job_id)[number] is LegState.LOCKED:
                threading.Event().wait(0.02)

        return wait

    def pass_time(self, seconds: int) -> None:
        self.node.evm.increase_time(seconds)
        self.node.evm.mine()

    # -- books ----------------------------------------------------------------------------------------------------

    def money(self, network: Network | None = None) -> tuple[int, int]:
        """Deposited, and in the wallet."""
        balance = (network or self.network).balance()
        return balance.deposits[self.token], balance.wallet[self.token]

    def losses(self) -> dict[int, tuple[int, int]]:
        """By dataset, what is reserved and what is spent, 10^-6 nat."""
        return {
            entry.dataset_id: (entry.reserved_micro, entry.spent_micro) for entry in self.chain.datasets()
        }

    def earnings(self) -> dict[int, int]:
        """By dataset, what its holder has earned."""
        return {
            number: self.chain.earnings_of(self.token, holder.holder_id)
            for number, holder in self.holders.items()
        }


def model() -> nn.Module:
    """The smallest classifier."""
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def _fund(node: DevChain, address: str) -> None:
    node.evm.fund(bytes.fromhex(address[2:]), 10**19)


def _create_key(path: Path, node: DevChain) -> LocalAccount:
    account = create_key(path, "secret", light=True)
    path.with_name(path.name + ".passphrase").write_text("secret\n")
    _fund(node, account.address)
    return account


def _bound() -> socket.socket:
    """A free port that the system gives to nobody, and that a server may still listen at."""
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.bind(("127.0.0.1", 0))
    return port
