"""How an aggregator is set up: one TOML file, or two options on the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from usufruct.domain import ids
from usufruct.errors import ConfigError, InvalidInput
from usufruct.toml_file import TomlFile
from usufruct.wire.channel import split_endpoint
from usufruct.wire.tls import parse_listen


@dataclass(frozen=True)
class Limits:
    """What one aggregator takes on. Every bound is on what callers could otherwise make grow.

    Attributes:
        max_open_rounds, max_open_rounds_per_builder: attempts open at once.
        max_parameters: of one model. Memory does not grow with it: uploads and sums are files on ``state_dir``'s disk, 7
            bytes a parameter or less for each holder and the sum.
        max_disk_bytes: for the spools of uploads and sums, over all open rounds.
        spool_memory_bytes: spools go into memory instead while all of those there have no more than this.
        max_round_seconds: longest wait for a roster.
        max_uploads_at_once: uploads of one round received side by side; others wait.
    """

    max_open_rounds: int = 16
    max_open_rounds_per_builder: int = 4
    max_parameters: int = 120_000_000
    max_disk_bytes: int = 64 << 30
    spool_memory_bytes: int = 64 << 20
    max_round_seconds: int = 6 * 3600
    max_uploads_at_once: int = 16


@dataclass(frozen=True)
class AggregatorConfig:
    """A checked configuration.

    Attributes:
        listen: ``host:port`` to bind.
        state_dir: holds the TLS key; spools of open rounds are files without a name on its disk.
        advertise: ``host:port`` that others reach it at, if that is not ``listen``.
        allowed_builders: addresses that may open rounds; empty means whoever proves a key.
    """

    listen: str
    state_dir: Path
    advertise: str | None = None
    allowed_builders: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parse_listen(self.listen)


def load_config(path: Path) -> AggregatorConfig:
    """Reads a configuration file: one table, ``[aggregator]``.

    Raises:
        ConfigError: ``CONFIG_INVALID``, naming file, line and key.
    """
    file = TomlFile(path, "see the aggregator's README for an example")
    file.only(["aggregator"])
    table = file.table("aggregator")
    listen = table.text("listen")
    try:
        parse_listen(listen)
    except ConfigError as error:
        raise table.error("listen", "must be an address such as 127.0.0.1:7100") from error
    advertise = table.text("advertise", None)
    try:
        if advertise is not None:
            split_endpoint(advertise)
    except InvalidInput as error:
        raise table.error("advertise", "must be an endpoint such as aggregator.example.org:7100") from error
    try:
        allowed = frozenset(ids.address(item, "allowed_builders") for item in table.texts("allowed_builders"))
    except InvalidInput as error:
        raise table.error("allowed_builders", 'must be a list of addresses such as ["0x5aAe…"]') from error
    usual = asdict(Limits())
    limits = Limits(**{name: table.whole(name, usual[name], least=1, most=(1 << 50) - 1) for name in usual})
    config = AggregatorConfig(listen, table.location("state_dir"), advertise, allowed, limits)
    table.only_known()
    return config
