"""A job as a TOML file, for ``usufruct builder submit``: an MLP by its layer sizes, no Python needed.

[network]
rpc = "http://127.0.0.1:8545"     # several that must agree: with spaces between; optional: confirmations
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
lr = 0.5                          # optional: momentum, local_steps, sample_rate, spare_attempts, min_cohort, purpose

[evaluation]                      # in place of [training]: how well does a model do on the holders' rows?
loss = "binary_cross_entropy_with_logits"
weights = "model.safetensors"     # of the model, as submit writes them; optional: score_bins, loss_bound, sample_rate

[statistics]                      # in place of [training]; no [model]
columns = ["age", "sex"]          # optional, as is all in it: columns, bins, sample_rate

[privacy]
epsilon = 3.0                     # optional: delta, max_grad_norm, clipping, noise, max_colluding, min_honest

[encryption]                      # optional, as is all in it
value_bits = 16                   # 8, 12 or 16; without it, as few as keep rounding small beside the noise
security_bits = 128               # or 192

[escrow]                          # optional, as is all in it
accept_within_seconds = 3600      # holders accept until then, or their legs come back
challenge_seconds = 86400         # how long a delivered leg may be disputed
arbiter = "0x…"                   # who decides disputes; without one there are none
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usufruct.builder.questions import ROUNDS, SPARE_ATTEMPTS, optimizer_of
from usufruct.builder.settings import SGD, Encryption, Evaluation, Privacy, Question, Statistics
from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import feature_width, prepare_rows
from usufruct.errors import ConfigError
from usufruct.toml_file import Table, TomlFile

if TYPE_CHECKING:
    from torch import nn

KINDS = ("training", "evaluation", "statistics")
"""Tables of which a file has one."""


@dataclass(frozen=True)
class JobFile:
    """What the file says; paths are relative to it. ``question`` is asked in place of training, of the model with these
    ``weights``."""

    rpc: str
    confirmations: int | None
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
    question: Question | None
    weights: Path | None


def read_job_file(path: Path) -> JobFile:
    """Reads and checks a job file.

    Raises:
        ConfigError: naming file, line and key.
        InvalidInput: a figure is out of its range.
    """
    file = TomlFile(path, "docs/model_builder.md has an example")
    file.only(["network", "data", "model", *KINDS, "privacy", "encryption", "escrow"])
    kinds = [kind for kind in KINDS if kind in file.raw] or ["training"]
    if len(kinds) > 1:
        raise file.error(kinds[1], None, 0, f"stands beside [{kinds[0]}]; a job is one of them")
    network, data, model = file.table("network"), file.table("data"), file.table("model", required=False)
    work, privacy = file.table(kinds[0]), file.table("privacy")
    encryption, escrow = file.table("encryption", required=False), file.table("escrow", required=False)
    if data.has("task") == data.has("datasets"):
        raise data.error("task", "or datasets is needed, and not both")
    hidden = model.value("hidden", [])
    if not isinstance(hidden, list) or not all(
        type(width) is int and 0 < width <= 1 << 16 for width in hidden
    ):
        raise model.error("hidden", "must be a list of whole numbers above 0")
    datasets = data.value("datasets", None)
    if datasets is not None and not (
        isinstance(datasets, list)
        and datasets
        and all(type(number) is int and number > 0 for number in datasets)
    ):
        raise data.error("datasets", "must be a list of dataset numbers")
    question = _question(kinds[0], work)
    options: dict[str, Any] = {
        name: work.whole(name)
        for name in ("spare_attempts", "round_timeout_seconds", "min_cohort")
        if work.has(name)
    }
    if question is not None:
        options.setdefault("spare_attempts", SPARE_ATTEMPTS)
    if work.has("purpose"):
        options["purpose"] = work.text("purpose")
    chosen = {
        name: encryption.whole(name) for name in ("value_bits", "security_bits") if encryption.has(name)
    }
    if chosen:
        options["encryption"] = Encryption(**chosen)
    for name in ("accept_within_seconds", "challenge_seconds"):
        if escrow.has(name):
            options[name] = escrow.whole(name)
    if escrow.has("arbiter"):
        options["arbiter"] = escrow.text("arbiter")
    asked = {
        name: privacy.value(name)
        for name in ("delta", "max_grad_norm", "clipping", "noise", "max_colluding", "min_honest")
        if privacy.has(name)
    }
    job = JobFile(
        rpc=network.text("rpc"),
        confirmations=network.whole("confirmations", None, most=10_000),
        contract=network.text("contract"),
        key=network.location("key"),
        passphrase_file=network.location("passphrase_file", None),
        aggregator=network.text("aggregator"),
        task=data.text("task", None),
        datasets=tuple(datasets) if datasets is not None else None,
        validation=data.location("validation", None),
        hidden=tuple(hidden),
        seed=model.whole("seed", 0),
        loss="" if isinstance(question, Statistics) else work.text("loss"),
        rounds=work.whole("rounds", least=1) if question is None else ROUNDS,
        optimizer=_optimizer(work) if question is None else optimizer_of(question),
        privacy=Privacy(privacy.real("epsilon", above=0.0, most=1e6), **asked),
        options=options,
        question=question,
        weights=work.location("weights") if isinstance(question, Evaluation) else None,
    )
    for table in (network, data, model, work, privacy, encryption, escrow):
        table.only_known()
    return job


def _optimizer(training: Table) -> SGD:
    names = ("momentum", "local_steps", "sample_rate")
    figures = {name: training.value(name) for name in names if training.has(name)}
    return SGD(lr=training.real("lr", above=0.0, most=1e6), **figures)


def _question(kind: str, work: Table) -> Question | None:
    """What is asked in place of training."""
    if kind == "training":
        return None
    names = ("score_bins", "loss_bound", "sample_rate") if kind == "evaluation" else ("bins", "sample_rate")
    figures = {name: work.value(name) for name in names if work.has(name)}
    if kind == "evaluation":
        return Evaluation(**figures)
    return Statistics(tuple(work.texts("columns")) if work.has("columns") else None, **figures)


def build_model(job: JobFile, card: DatasetCard) -> nn.Module | None:
    """The MLP: linear layers with ReLU between them, from the card's features to the outputs that the loss needs; with the
    file's weights, where it names some. None for statistics.

    Raises:
        ConfigError: the weights cannot be read, or are not this model's; or the card's rows are texts or images.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    if isinstance(job.question, Statistics):
        return None

    if card.tokens is not None or card.pixels is not None:
        raise ConfigError(
            "The model of a job file takes columns of numbers, and these rows are none: use Python."
        )
    outputs = len(card.label.classes) if job.loss == "cross_entropy" else 1
    widths = [feature_width(card), *job.hidden, outputs]
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        for index, (inputs, width) in enumerate(pairwise(widths)):
            if index:
                layers.append(nn.ReLU())
            layers.append(nn.Linear(inputs, width))
    model = nn.Sequential(*layers)
    if job.weights is not None:
        try:
            model.load_state_dict(load_file(job.weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ConfigError(
                f"{job.weights} does not have the weights of this model ({type(error).__name__})."
            ) from error
    return model


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
