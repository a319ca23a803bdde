"""The holder's one configuration file, ``holder.toml``, as frozen dataclasses.

Relative paths are relative to the file. A mistake raises :class:`ConfigError` naming file, line and key.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from usufruct.domain.ids import address
from usufruct.domain.query import JobKind
from usufruct.domain.training_job import MICRO, NoiseMode
from usufruct.errors import InvalidInput
from usufruct.graph.base_model import LARGEST_BYTES
from usufruct.privacy import epsilon_floor, loss_for_epsilon_micro
from usufruct.toml_file import Table, TomlFile

NOISE_MODES = {"local": NoiseMode.LOCAL, "distributed": NoiseMode.DISTRIBUTED}
UnknownBuilders = Literal["inbox", "refuse", "grant"]


@dataclass(frozen=True)
class ChainConfig:
    """Where the chain is.

    Attributes:
        rpc_url: one endpoint, or several that must agree, with spaces between.
        confirmations: for chains without a ``finalized`` tag; None asks the node.
    """

    rpc_url: str
    compute_access: str
    chain_id: int
    confirmations: int | None


@dataclass(frozen=True)
class KeysConfig:
    """Keystore files. A passphrase file that is None means: ask at the terminal."""

    operator: Path
    operator_passphrase_file: Path | None
    admin: Path | None
    admin_passphrase_file: Path | None


@dataclass(frozen=True)
class Policy:
    """What the holder grants without asking a person, and what it never grants.

    Attributes:
        auto_grant: whether a proposal inside all limits is granted at once; otherwise it waits in the inbox.
        job_kinds: what a job may do with rows: train on them, evaluate a model, take statistics.
        noise_modes: those that are accepted.
        co_holders: numbers on chain of holders that this one knows to be separate institutions. Only they, and this holder,
            count towards a dataset's ``min_cohort``, and towards the holders that a sum with distributed noise must have.
        max_epsilon_per_job, max_loss_per_job_micro: at most one is set; limits what one job may reserve.
        builders_allow, builders_deny: addresses, checksummed.
        unknown_builders: what happens to builders on neither list, where ``auto_grant`` is on.
        min_price_units: besides each dataset's own price.
        max_rounds: attempts a job may reserve, spare ones included.
        grant_term_seconds: how long a grant is valid.
        arbiters: addresses that may decide disputes; a leg with another one is not accepted. One without is.
        longest_challenge_seconds: a leg that may be disputed for longer after its delivery is not accepted.
    """

    auto_grant: bool = False
    job_kinds: tuple[JobKind, ...] = tuple(JobKind)
    noise_modes: tuple[NoiseMode, ...] = (NoiseMode.LOCAL, NoiseMode.DISTRIBUTED)
    co_holders: tuple[int, ...] = ()
    max_epsilon_per_job: float | None = None
    max_loss_per_job_micro: int | None = None
    builders_allow: tuple[str, ...] = ()
    builders_deny: tuple[str, ...] = ()
    unknown_builders: UnknownBuilders = "inbox"
    min_price_units: int = 0
    max_rounds: int = 1000
    grant_term_seconds: int = 7 * 86_400
    arbiters: tuple[str, ...] = ()
    longest_challenge_seconds: int = 7 * 86_400

    @property
    def offered_modes(self) -> tuple[NoiseMode, ...]:
        """Those that builders are told of: a holder that knows no other takes no part in distributed noise."""
        return tuple(
            mode for mode in self.noise_modes if mode is not NoiseMode.DISTRIBUTED or self.co_holders
        )

    def loss_limit_micro(self, order: int, delta: float, cap_micro: int) -> int:
        """The most one job may reserve, 10^-6 nat at ``order``.

        Raises:
            UsufructError: ``max_epsilon_per_job`` is below what the order can state.
        """
        if self.max_loss_per_job_micro is not None:
            return min(self.max_loss_per_job_micro, cap_micro)
        if self.max_epsilon_per_job is not None:
            return min(loss_for_epsilon_micro(self.max_epsilon_per_job, order, delta), cap_micro)
        return cap_micro


@dataclass(frozen=True)
class BaseModelsConfig:
    """Where base models are kept, and how large the file of one may be."""

    folder: Path
    largest_bytes: int = LARGEST_BYTES


@dataclass(frozen=True)
class DatasetConfig:
    """One dataset of the holder.

    Attributes:
        card: file of the dataset card (JSON).
        data: CSV or Parquet file.
        dataset_id: number on chain, when the file names it; otherwise ``holder register`` remembers it.
        price_units, token: asked for one job.
        min_cohort: least holders in a sum, this one and those that the policy names; above 1 it needs ``co_holders``.
        order: Rényi order of the dataset's lifetime budget.
        cap_micro: that budget, 10^-6 nat.
        delta: for translating epsilons at this dataset.
        max_loss_per_grant_micro: the most one grant may allow over all its jobs; None: as much as one job.
        previous_id: number of the dataset that this is a new version of; None: of none. The loss of the earlier version
            counts for this one, unless ``disjoint`` declares, on the record, that no unit is in both.
    """

    card: Path
    data: Path
    dataset_id: int | None
    price_units: int
    token: str
    min_cohort: int
    order: int
    cap_micro: int
    delta: float
    max_loss_per_grant_micro: int | None = None
    previous_id: int | None = None
    disjoint: bool = False


@dataclass(frozen=True)
class HolderConfig:
    """Everything ``usufruct holder`` needs to know; see README.md for an example.

    Attributes:
        path: of the file itself.
        listen: host and port that the server binds.
        endpoint: host:port where builders reach it; registered on chain.
        state_dir: ledger, proposals, outbox.
        tls_dir: TLS key and certificate; inside ``state_dir`` unless named.
        witness_dir: outside ``state_dir``, kept while the machine runs, and never backed up with it.
    """

    path: Path
    name: str
    listen: str
    endpoint: str
    state_dir: Path
    tls_dir: Path
    witness_dir: Path
    chain: ChainConfig
    keys: KeysConfig
    policy: Policy
    base_models: BaseModelsConfig
    datasets: tuple[DatasetConfig, ...] = field(default=())

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger."""
        return self.state_dir / "ledger.sqlite"

    @property
    def jobs_path(self) -> Path:
        """Proposals, legs and batches."""
        return self.state_dir / "jobs.sqlite"

    @property
    def outbox_path(self) -> Path:
        """What the server's operator key has sent, or is about to."""
        return self.state_dir / "outbox.sqlite"

    @property
    def admin_outbox_path(self) -> Path:
        """What the admin key has sent, or is about to; apart, for a server may be running."""
        return self.state_dir / "admin-outbox.sqlite"

    @property
    def calls_path(self) -> Path:
        """How far the chain was read for calls for usage records."""
        return self.state_dir / "record-calls.json"

    @property
    def tokenizers_dir(self) -> Path:
        """The tokenisers that dataset cards name, each under its digest."""
        return self.state_dir / "tokenizers"

    @property
    def registration_path(self) -> Path:
        """The numbers that the chain gave this holder and its datasets."""
        return self.state_dir / "registration.json"


def read_config(path: Path) -> HolderConfig:
    """Reads and checks ``holder.toml``.

    Raises:
        ConfigError: naming file, line and key.
    """
    file = TomlFile(path.absolute())
    file.only(("holder", "chain", "keys", "policy", "base_models", "datasets"))
    holder = file.table("holder")
    state_dir = holder.location("state_dir", file.path.parent / "state")
    listen = _endpoint(holder, "listen")
    config = HolderConfig(
        path=file.path,
        name=holder.text("name", longest=200),
        listen=listen,
        endpoint=_endpoint(holder, "endpoint") if holder.has("endpoint") else listen,
        state_dir=state_dir,
        tls_dir=holder.location("tls_dir", state_dir / "tls"),
        witness_dir=_witness_dir(holder, state_dir),
        chain=_chain(file.table("chain")),
        keys=_keys(file.table("keys")),
        policy=_policy(file.table("policy", required=False)),
        base_models=_base_models(file.table("base_models", required=False), state_dir / "base_models"),
        datasets=tuple(_dataset(table) for table in file.tables("datasets")),
    )
    holder.only_known()
    return config


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 host stands in brackets."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def _endpoint(table: Table, key: str) -> str:
    value: str = table.text(key, longest=255)
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.\-]+):([0-9]{1,5})", value)
    if not found or int(found.group(2)) > 65_535:
        raise table.error(key, 'must be "host:port", such as "127.0.0.1:7001"')
    return value


def _witness_dir(table: Table, state_dir: Path) -> Path:
    standard = Path(f"/var/tmp/usufruct-{os.getuid()}")  # noqa: S108 - whose it is is looked at
    folder: Path = table.location("witness_dir", standard)
    if folder.resolve().is_relative_to(state_dir.resolve()):
        raise table.error("witness_dir", "must be outside state_dir: a backup must not have both")
    return folder


def _address(table: Table, key: str, value: str) -> str:
    try:
        return address(value, key)
    except InvalidInput:
        raise table.error(key, "must be an Ethereum address: 0x and 40 hexadecimal digits") from None


def _chain(table: Table) -> ChainConfig:
    rpc_url = table.text("rpc_url")
    if not all(url.startswith(("http://", "https://")) for url in rpc_url.split()):
        raise table.error("rpc_url", "must start with http:// or https://; several have spaces between them")
    chain = ChainConfig(
        rpc_url=rpc_url,
        compute_access=_address(table, "compute_access", table.text("compute_access")),
        chain_id=table.whole("chain_id", least=1, most=2**53),
        confirmations=table.whole("confirmations", None, least=0, most=10_000),
    )
    table.only_known()
    return chain


def _keys(table: Table) -> KeysConfig:
    keys = KeysConfig(
        operator=table.location("operator"),
        operator_passphrase_file=table.location("operator_passphrase_file", None),
        admin=table.location("admin", None),
        admin_passphrase_file=table.location("admin_passphrase_file", None),
    )
    table.only_known()
    return keys


def _policy(table: Table) -> Policy:
    modes = table.texts("noise_modes", tuple(NOISE_MODES))
    if not modes or any(mode not in NOISE_MODES for mode in modes):
        raise table.error("noise_modes", 'must be a list with one or both of "local" and "distributed"')
    kinds = table.texts("job_kinds", tuple(JobKind))
    if not kinds or any(kind not in tuple(JobKind) for kind in kinds):
        raise table.error("job_kinds", f"must be a list of one or more of {', '.join(JobKind)}")
    if "max_epsilon_per_job" in table.raw and "max_loss_per_job_micro" in table.raw:
        raise table.error("max_loss_per_job_micro", "and max_epsilon_per_job say the same thing; keep one")
    standard = Policy()
    policy = Policy(
        auto_grant=table.flag("auto_grant", standard.auto_grant),
        job_kinds=tuple(map(JobKind, kinds)),
        noise_modes=tuple(NOISE_MODES[mode] for mode in modes),
        co_holders=_co_holders(table),
        max_epsilon_per_job=table.real("max_epsilon_per_job", None, above=0.0, most=1000.0),
        max_loss_per_job_micro=table.whole("max_loss_per_job_micro", None, least=1, most=2**48),
        builders_allow=tuple(_address(table, "builders_allow", a) for a in table.texts("builders_allow")),
        builders_deny=tuple(_address(table, "builders_deny", a) for a in table.texts("builders_deny")),
        unknown_builders=table.choice(
            "unknown_builders", ("inbox", "refuse", "grant"), standard.unknown_builders
        ),
        min_price_units=table.whole("min_price_units", 0, most=2**128 - 1),
        max_rounds=table.whole("max_rounds", standard.max_rounds, least=1, most=11_000),
        grant_term_seconds=table.whole(
            "grant_term_seconds", standard.grant_term_seconds, least=60, most=366 * 86_400
        ),
        arbiters=tuple(_address(table, "arbiters", a) for a in table.texts("arbiters")),
        longest_challenge_seconds=table.whole(
            "longest_challenge_seconds", standard.longest_challenge_seconds, least=3600, most=30 * 86_400
        ),
    )
    table.only_known()
    return policy


def _base_models(table: Table, folder: Path) -> BaseModelsConfig:
    base_models = BaseModelsConfig(
        folder=table.location("folder", folder),
        largest_bytes=table.whole("largest_bytes", LARGEST_BYTES, least=1, most=LARGEST_BYTES),
    )
    table.only_known()
    return base_models


def _co_holders(table: Table) -> tuple[int, ...]:
    numbers = table.value("co_holders", [])
    if not isinstance(numbers, list) or any(
        type(number) is not int or not 0 < number < 2**32 for number in numbers
    ):
        raise table.error("co_holders", "must be a list of holder numbers on chain, such as [2, 5]")
    return tuple(numbers)


def _dataset(table: Table) -> DatasetConfig:
    order = table.whole("order", least=2, most=256)
    delta = table.real("budget_delta", 1e-5, above=0.0, most=0.01)
    if table.has("budget_epsilon") == table.has("cap_micro"):
        raise table.error("budget_epsilon", "or cap_micro must be there, and not both")
    if "cap_micro" in table.raw:
        cap = table.whole("cap_micro", least=1, most=10**9 * MICRO)
    else:
        budget = table.real("budget_epsilon", above=0.0, most=1000.0)
        floor = epsilon_floor(order, delta)
        if budget <= floor:
            raise table.error(
                "budget_epsilon",
                f"must be above {floor:.2f}, which order {order} states for no loss at all; choose a higher order",
            )
        cap = loss_for_epsilon_micro(budget, order, delta)
    dataset = DatasetConfig(
        card=table.location("card"),
        data=table.location("data"),
        dataset_id=table.whole("dataset_id", None, least=1),
        price_units=table.whole("price_units", least=0, most=2**128 - 1),
        token=_address(table, "token", table.text("token")),
        min_cohort=table.whole("min_cohort", least=1, most=64),
        order=order,
        cap_micro=cap,
        delta=delta,
        max_loss_per_grant_micro=table.whole("max_loss_per_grant_micro", None, least=1, most=cap),
        previous_id=table.whole("previous_id", None, least=1),
        disjoint=table.flag("disjoint", False),
    )
    if dataset.disjoint and dataset.previous_id is None:
        raise table.error("disjoint", "says something about previous_id, which is missing")
    if dataset.data.suffix.lower() not in (".csv", ".parquet"):
        raise table.error("data", "must end in .csv or .parquet")
    table.only_known()
    return dataset
