"""How an aggregator is set up: one flat TOML file, or two options on the command line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from usufruct.domain import ids
from usufruct.errors import ConfigError, InvalidInput
from usufruct.wire.channel import split_endpoint
from usufruct.wire.tls import parse_listen


@dataclass(frozen=True)
class Limits:
    """What one aggregator takes on. Every bound is on what callers could otherwise make grow.

    Attributes:
        max_open_rounds, max_open_rounds_per_builder: attempts open at once.
        max_parameters: of one model.
        max_memory_bytes: for sums, results and uploads under way, over all open rounds.
        max_round_seconds: longest wait for a roster.
        max_uploads_at_once: uploads of one round received side by side; others wait.
    """

    max_open_rounds: int = 16
    max_open_rounds_per_builder: int = 4
    max_parameters: int = 50_000_000
    max_memory_bytes: int = 4 << 30
    max_round_seconds: int = 6 * 3600
    max_uploads_at_once: int = 4


@dataclass(frozen=True)
class AggregatorConfig:
    """A checked configuration.

    Attributes:
        listen: ``host:port`` to bind.
        state_dir: holds the TLS key and nothing else.
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


_LIMITS = tuple(item.name for item in fields(Limits))
_KEYS = ("listen", "state_dir", "advertise", "allowed_builders", *_LIMITS)


def load_config(path: Path) -> AggregatorConfig:
    """Read a configuration file.

    Raises:
        ConfigError: ``CONFIG_INVALID``, naming file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: {error}", field="toml") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}).", field="config") from error

    def wrong(key: str, problem: str) -> ConfigError:
        lines = text.splitlines()
        here = re.compile(rf"\s*\[?\s*{re.escape(key)}\b")
        at = next((number for number, line in enumerate(lines, 1) if here.match(line)), 1)
        return ConfigError(f"{path}:{at}: {key} {problem}.", field=key)

    for key in values:
        if key not in _KEYS:
            raise wrong(key, f"is not known here; known are: {', '.join(_KEYS)}")
    for key in ("listen", "state_dir"):
        if not isinstance(values.get(key), str):
            raise wrong(key, "is missing or no text; it is needed")
    try:
        parse_listen(values["listen"])
    except ConfigError as error:
        raise wrong("listen", "must be an address such as 127.0.0.1:7100") from error
    advertise = values.get("advertise")
    try:
        if advertise is not None:
            split_endpoint(str(advertise))
    except InvalidInput as error:
        raise wrong("advertise", "must be an endpoint such as aggregator.example.org:7100") from error
    builders = values.get("allowed_builders", [])
    try:
        allowed = frozenset(ids.address(item, "allowed_builders") for item in builders)
    except (InvalidInput, TypeError) as error:
        raise wrong("allowed_builders", 'must be a list of addresses such as ["0x5aAe…"]') from error
    return AggregatorConfig(
        listen=values["listen"],
        state_dir=(path.parent / values["state_dir"]).absolute(),
        advertise=advertise,
        allowed_builders=allowed,
        limits=replace(
            Limits(), **{name: _whole(values[name], name, wrong) for name in _LIMITS if name in values}
        ),
    )


def _whole(value: Any, name: str, wrong: Any) -> int:
    if type(value) is not int or not 1 <= value < 1 << 50:
        raise wrong(name, "must be a whole number of at least 1")
    return value
