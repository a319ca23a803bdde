"""A whole network on this machine: development chain, contracts, data holders and an aggregator, all real processes.

Nothing here is a stand-in: holders and aggregator are started by the same command lines a person would type, from the
configuration files that stand in their folders. The demo uses it with three or four hospitals; tests use it with their
own data, policies and faults.
"""

from __future__ import annotations

import csv
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from eth_account.signers.local import LocalAccount

from usufruct.chain import Addresses, Chain, Sender, create_key, deploy
from usufruct.chain.rpc import Rpc
from usufruct.domain.dataset_card import DatasetCard
from usufruct.errors import ConfigError
from usufruct.wire.tls import create_identity
from usufruct_server.demo.processes import Command, Process, stop_all
from usufruct_server.demo.toml_text import to_toml
from usufruct_server.holder.config import read_config
from usufruct_server.holder.register import register

MONEY: Final = "test-USD"
TOKEN_DECIMALS: Final = 6
GAS_MONEY_WEI: Final = 10**19
READY_SECONDS: Final = 90.0
CHAIN, AGGREGATOR = "chain", "aggregator"


@dataclass(frozen=True)
class DatasetSetup:
    """A dataset that a holder registers and serves.

    Attributes:
        card: its dataset card.
        rows: its records as text, written to a CSV file in the holder's folder.
        price_units: asked for one job, in the test token's smallest unit.
        min_cohort: least holders in a sum.
        order: Rényi order of the lifetime budget.
        budget_epsilon: that budget, as epsilon at delta 1e-5.
    """

    card: DatasetCard
    rows: Sequence[Mapping[str, str]]
    price_units: int = 250 * 10**TOKEN_DECIMALS
    min_cohort: int = 3
    order: int = 6
    budget_epsilon: float = 4.0


@dataclass(frozen=True)
class HolderSetup:
    """A data holder.

    Attributes:
        name: of its folder, its process and its log.
        datasets: at least one.
        policy: the table ``[policy]`` of its ``holder.toml``; every holder of the network counts as a co-holder.
        settings: keys that replace or add to others of that file, by table.
    """

    name: str
    datasets: Sequence[DatasetSetup]
    policy: Mapping[str, Any] = field(
        default_factory=lambda: {"auto_grant": True, "unknown_builders": "grant"}
    )
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class HolderPlace:
    """Where a holder of the network lives.

    Attributes:
        directory: its folder; nothing in it is shared with anyone.
        config: its ``holder.toml``.
        endpoint: host:port.
        holder_id, dataset_ids: numbers on chain.
    """

    directory: Path
    config: Path
    endpoint: str
    holder_id: int
    dataset_ids: tuple[int, ...]


class LocalNetwork:
    """Starts, kills, restarts and stops the network. Use it as a context manager, or call :meth:`stop` yourself.

    The processes are called ``"chain"``, ``"aggregator"`` and by the holders' names.

    Args:
        directory: for everything the network writes; made if missing, must be empty.
        holders: in the order in which they are registered: the first has number 1.
        builder_units: what the builder's wallet holds, in the test token's smallest unit.
        say: told in words what happens.

    Attributes (after :meth:`start`):
        rpc_url, addresses: of the chain and the contracts.
        builder_key: the builder's encrypted keystore; its passphrase file lies beside it, where ``uf.connect`` looks.
        aggregator: ``host:port#sha256:…``.
        places: by holder name.
        set_up_block: the last block before any job.
    """

    rpc_url: str
    addresses: Addresses
    builder_key: Path
    aggregator: str

    def __init__(
        self,
        directory: Path,
        holders: Sequence[HolderSetup],
        *,
        builder_units: int = 10_000 * 10**TOKEN_DECIMALS,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.directory = directory.absolute()
        self.holders = tuple(holders)
        self.places: dict[str, HolderPlace] = {}
        self.processes: dict[str, Process] = {}
        self.set_up_block = 0
        self._builder_units = builder_units
        self._say = say
        names = [holder.name for holder in self.holders]
        if len({CHAIN, AGGREGATOR, *names}) != len(names) + 2:
            raise ConfigError(
                f"Holders need distinct names other than {CHAIN!r} and {AGGREGATOR!r}.", field="name"
            )

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Starts everything and waits until all processes are ready. What was started is stopped again on an error.

        Call it from a thread that lives as long as the network.

        Raises:
            ConfigError: a process ended or was not ready in time; quotes its log.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops every process by its id; the chain last, because holders may still write to it."""
        stop_all([process for name, process in self.processes.items() if name != CHAIN])
        stop_all([process for name, process in self.processes.items() if name == CHAIN])

    def kill(self, name: str) -> None:
        """``kill -9`` of one process."""
        self.processes[name].kill()

    def restart(self, name: str) -> None:
        """Stops one process if it runs, starts it from the same files, and waits until it is ready.

        The chain cannot be restarted: it lives in memory.
        """
        if name == CHAIN:
            raise ConfigError("The development chain lives in memory; start a new network instead.")
        process = self.processes[name]
        process.stop()
        process.start()
        process.wait_ready(READY_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- what is in it ----------------------------------------------------------------------------------------

    @property
    def compute_access(self) -> str:
        """Address of the contract that ``uf.connect`` takes."""
        return self.addresses.compute_access

    @property
    def token(self) -> str:
        """Address of the test token."""
        assert self.addresses.test_token is not None
        return self.addresses.test_token

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.directory / "logs"

    def create_builder(self, name: str, units: int) -> Path:
        """Makes a model builder's key with gas money and ``units`` of the test token; returns the keystore's path."""
        path = self.directory / "builder" / f"{name}.json"
        account = self._new_key(path)
        self._fund(account)
        Sender(self._chain(), account).mint_test_token(self.token, account.address, units)
        return path

    def gas_used(self, first_block: int, last_block: int | None = None) -> int:
        """Gas of all transactions from ``first_block`` to ``last_block`` (the newest by default), both included."""
        rpc = self._rpc()
        newest = rpc.newest().number
        numbers = range(first_block, (newest if last_block is None else last_block) + 1)
        blocks = (rpc.request("eth_getBlockByNumber", hex(number), False) for number in numbers)
        return sum(int(block["gasUsed"], 16) for block in blocks)

    # -- starting ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(self.directory.iterdir()):
            raise ConfigError(f"{self.directory} is not empty. Choose another --dir, or delete it.")
        ports = _free_ports(len(self.holders) + 1)
        self._say("starting a development chain (an EVM in Python) on this machine")
        self._launch(CHAIN, ("chain", "dev", "--port", "0", "--json"), '"rpc_url": "(?P<url>http[^"]+)"')
        self._launch_aggregator(ports[0])
        keys = [self._prepare(holder) for holder in self.holders]
        self.rpc_url = self.processes[CHAIN].wait_ready(READY_SECONDS)["url"]
        self._say("deploying the contracts: Registry, UsageLog, ComputeAccess and a test token")
        deployer = self._new_key(self.directory / "chain" / "deployer.json")
        self._fund(deployer)
        self.addresses = deploy(self.rpc_url, deployer, test_token=True)
        self.addresses.write(self.directory / "chain" / "addresses.json")
        self.builder_key = self.create_builder("builder", self._builder_units)
        self._say(f"registering {len(self.holders)} data holders and their dataset cards on chain")
        for index, (holder, key) in enumerate(zip(self.holders, keys, strict=True)):
            self._register(holder, key, f"127.0.0.1:{ports[index + 1]}")
        self._say(
            f"starting {len(self.holders)} holder processes and an aggregator, each with its own TLS key"
        )
        for holder in self.holders:
            arguments = ("holder", "serve", "--config", str(self.places[holder.name].config), "--json")
            self._launch(holder.name, arguments, '"event": "serving"')
        for process in self.processes.values():
            process.wait_ready(READY_SECONDS)
        self.set_up_block = self._rpc().newest().number

    def _launch(self, name: str, arguments: tuple[str, ...], ready: str) -> None:
        process = Process(Command(name, arguments, ready), self.logs / f"{name}.log")
        self.processes[name] = process
        process.start()

    def _launch_aggregator(self, port: int) -> None:
        state = self.directory / AGGREGATOR
        identity = create_identity(state)
        self.aggregator = f"127.0.0.1:{port}#{identity.fingerprint_text}"
        arguments = (
            "aggregator",
            "serve",
            "--listen",
            f"127.0.0.1:{port}",
            "--state-dir",
            str(state),
            "--json",
        )
        self._launch(AGGREGATOR, arguments, '"event": "serving"')

    def _prepare(self, holder: HolderSetup) -> _HolderKeys:
        """Keys, TLS identity, cards and data of one holder: all that needs no chain."""
        directory = self.directory / "holders" / holder.name
        keys = _HolderKeys(
            admin=self._new_key(directory / "keys" / "admin.json"),
            operator=self._new_key(directory / "keys" / "operator.json"),
        )
        create_identity(directory / "state" / "tls")
        for number, dataset in enumerate(holder.datasets, 1):
            (directory / f"card-{number}.json").write_bytes(dataset.card.to_bytes())
            write_rows(directory / f"data-{number}.csv", dataset.card, dataset.rows)
        return keys

    def _register(self, holder: HolderSetup, keys: _HolderKeys, endpoint: str) -> None:
        """Writes one holder's configuration and registers it, as ``usufruct holder register`` does."""
        self._fund(keys.admin)
        self._fund(keys.operator)
        directory = self.directory / "holders" / holder.name
        config = directory / "holder.toml"
        config.write_text(to_toml(self._holder_settings(holder, endpoint)), encoding="utf-8")
        found = register(read_config(config), self._chain(), keys.admin, None, lambda text: None)
        numbers = tuple(found.datasets.values())
        self.places[holder.name] = HolderPlace(directory, config, endpoint, found.holder_id, numbers)

    def _holder_settings(self, holder: HolderSetup, endpoint: str) -> dict[str, Any]:
        """The tables of ``holder.toml``."""
        tables: dict[str, dict[str, Any]] = {
            "holder": {
                "name": holder.name,
                "listen": endpoint,
                "state_dir": "state",
                "witness_dir": "witness",
            },
            "chain": {
                "rpc_url": self.rpc_url,
                "compute_access": self.compute_access,
                "chain_id": self.addresses.chain_id,
            },
            "keys": {
                "operator": "keys/operator.json",
                "operator_passphrase_file": "keys/operator.json.passphrase",
                "admin": "keys/admin.json",
                "admin_passphrase_file": "keys/admin.json.passphrase",
            },
            "policy": {"co_holders": [*range(1, len(self.holders) + 1)], **holder.policy},
        }
        for name, changed in holder.settings.items():
            tables[name] = {**tables.get(name, {}), **changed}
        datasets = [
            {
                "card": f"card-{number}.json",
                "data": f"data-{number}.csv",
                "price_units": dataset.price_units,
                "token": self.token,
                "min_cohort": dataset.min_cohort,
                "order": dataset.order,
                "budget_epsilon": dataset.budget_epsilon,
            }
            for number, dataset in enumerate(holder.datasets, 1)
        ]
        return {**tables, "datasets": datasets}

    # -- keys and chain ---------------------------------------------------------------------------------------

    def _new_key(self, path: Path) -> LocalAccount:
        """A key with a random passphrase in the file beside it. The passphrase guards play money: light scrypt."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        passphrase = secrets.token_hex(16)
        passphrase_file = path.with_name(path.name + ".passphrase")
        passphrase_file.touch(mode=0o600)
        passphrase_file.write_text(passphrase + "\n", encoding="utf-8")
        return create_key(path, passphrase, light=True)

    def _fund(self, account: LocalAccount) -> None:
        self._rpc().request("dev_fund", account.address, hex(GAS_MONEY_WEI))

    def _rpc(self) -> Rpc:
        return Rpc(self.rpc_url, 10.0)

    def _chain(self) -> Chain:
        return Chain.connect(self.rpc_url, self.compute_access)


@dataclass(frozen=True)
class _HolderKeys:
    admin: LocalAccount
    operator: LocalAccount


def write_rows(path: Path, card: DatasetCard, rows: Sequence[Mapping[str, str]]) -> None:
    """Writes rows as the CSV file that a holder serves: the card's columns and the label."""
    header = [*(column.name for column in card.columns), card.label.column]
    if card.person_column is not None:
        header.append(card.person_column)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


def _free_ports(count: int) -> list[int]:
    """Free ports of the loopback interface. They are named in files and on chain before anyone binds them."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
