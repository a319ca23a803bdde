"""A training job as a TOML file, for ``usufruct builder submit``: an MLP by its layer sizes, no Python needed.

[network]
rpc = "http://127.0.0.1:8545"
contract = "0x…"
key = "builder.json"
aggregator = "127.0.0.1:7100#sha256:…"

[data]
task = "heart-disease"            # or: datasets = [1, 2, 3]
validation = "mine.csv"           # optional; columns as in the dataset card

[model]
hidden = [16]                     # widths of the hidden layers; [] for a linear model
seed = 0

[training]
loss = "binary_cross_entropy_with_logits"
rounds = 20
lr = 0.5                          # optional: momentum, local_steps, sample_rate, spare_attempts, purpose

[privacy]
epsilon = 3.0                     # optional: delta, max_grad_norm
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usufruct.builder.settings import SGD, Privacy
from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import feature_width, prepare_rows
from usufruct.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

_KEYS: Mapping[str, tuple[set[str], set[str]]] = {
    "network": ({"rpc", "contract", "key", "aggregator"}, {"passphrase_file"}),
    "data": (set(), {"task", "datasets", "validation"}),
    "model": (set(), {"hidden", "seed"}),
    "training": (
        {"loss", "rounds", "lr"},
        {"momentum", "local_steps", "sample_rate", "spare_attempts", "purpose", "round_timeout_seconds"},
    ),
    "privacy": ({"epsilon"}, {"delta", "max_grad_norm"}),
}


@dataclass(frozen=True)
class JobFile:
    """What the file says; paths are relative to it."""

    rpc: str
    contract: str
    key: Path
    passphrase_file: Path | None
    aggregator: str
    task: str | None
    datasets: tuple[int, ...] | None
    validation: Path | None
    hidden: tuple[int, ...]
    seed: int
    loss: str
    rounds: int
    optimizer: SGD
    privacy: Privacy
    options: Mapping[str, Any]


def read_job_file(path: Path) -> JobFile:
    """Reads and checks a job file.

    Raises:
        ConfigError: naming the file, the line where TOML knows it, and the key.
        InvalidInput: a figure is out of its range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    for table in [*raw, *_KEYS]:
        _check_table(path, table, raw.get(table))
    network, data, model = raw["network"], raw.get("data", {}), raw.get("model", {})
    training, privacy = raw["training"], raw["privacy"]
    if ("task" in data) == ("datasets" in data):
        raise ConfigError(f"{path}: [data] needs either task or datasets.", field="data")
    hidden = _typed(path, "model", model, "hidden", list, [])
    if not all(type(width) is int and 0 < width <= 1 << 16 for width in hidden):
        raise ConfigError(f"{path}: [model] hidden must be a list of whole numbers above 0.", field="hidden")
    here = path.parent
    beside = {name: here / network[name] for name in ("key", "passphrase_file") if name in network}
    return JobFile(
        rpc=_typed(path, "network", network, "rpc", str),
        contract=_typed(path, "network", network, "contract", str),
        key=beside["key"],
        passphrase_file=beside.get("passphrase_file"),
        aggregator=_typed(path, "network", network, "aggregator", str),
        task=_typed(path, "data", data, "task", str, None),
        datasets=tuple(_typed(path, "data", data, "datasets", list, [])) or None,
        validation=here / data["validation"] if "validation" in data else None,
        hidden=tuple(hidden),
        seed=_typed(path, "model", model, "seed", int, 0),
        loss=_typed(path, "training", training, "loss", str),
        rounds=_typed(path, "training", training, "rounds", int),
        optimizer=SGD(
            lr=training["lr"],
            **{k: training[k] for k in ("momentum", "local_steps", "sample_rate") if k in training},
        ),
        privacy=Privacy(**privacy),
        options={
            k: training[k] for k in ("spare_attempts", "purpose", "round_timeout_seconds") if k in training
        },
    )


def build_model(job: JobFile, card: DatasetCard) -> nn.Module:
    """The MLP: linear layers with ReLU between them, from the card's features to the outputs that the loss needs."""
    import torch
    from torch import nn

    outputs = len(card.label.classes) if job.loss == "cross_entropy" else 1
    widths = [feature_width(card), *job.hidden, outputs]
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        for index, (inputs, width) in enumerate(pairwise(widths)):
            if index:
                layers.append(nn.ReLU())
            layers.append(nn.Linear(inputs, width))
    return nn.Sequential(*layers)


def read_validation_csv(path: Path, card: DatasetCard) -> tuple[Any, Any]:
    """The builder's own rows, prepared as the holders prepare theirs: (features, labels).

    Raises:
        ConfigError: the file cannot be read.
        InvalidInput: a column of the card is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            prepared = prepare_rows(card, csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}.") from error
    return prepared.features, prepared.labels


def _check_table(path: Path, name: str, table: Any) -> None:
    if name not in _KEYS:
        raise ConfigError(f"{path}: there is no table [{name}]; known are {', '.join(_KEYS)}.", field=name)
    required, optional = _KEYS[name]
    if table is None and not required:
        return
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: the table [{name}] is missing.", field=name)
    for key in sorted(required - set(table)):
        raise ConfigError(f"{path}: [{name}] needs the key {key}.", field=key)
    for key in sorted(set(table) - required - optional):
        raise ConfigError(
            f"{path}: [{name}] has no key {key}; known are {', '.join(sorted(required | optional))}.",
            field=key,
        )


def _typed(
    path: Path, table: str, values: Mapping[str, Any], key: str, kind: type, default: Any = ...
) -> Any:
    if key not in values and default is not ...:
        return default
    value = values[key]
    if type(value) is not kind:
        raise ConfigError(f"{path}: [{table}] {key} must be of type {kind.__name__}.", field=key)
    return value
