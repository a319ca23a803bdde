"""The datasets of this holder: card, data file, number on chain, and whether the data can be used now."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from usufruct.chain import DatasetTerms
from usufruct.domain.dataset_card import DatasetCard, card_hash, read_card
from usufruct.errors import ConfigError, InvalidInput
from usufruct_server.holder.card_draft import unfinished
from usufruct_server.holder.config import DatasetConfig, HolderConfig
from usufruct_server.holder.published_policy import dataset_terms, published_policy
from usufruct_server.holder.registration import Registration


@dataclass(frozen=True)
class CardFile:
    """A finished card as it stands in its file.

    Attributes:
        canonical: the bytes that are hashed, served and registered.
        hash: Keccak-256 of them.
    """

    path: Path
    card: DatasetCard
    canonical: bytes
    hash: bytes


@dataclass(frozen=True)
class ServedDataset:
    """One dataset with its number on chain.

    Attributes:
        policy: what the holder publishes about it, in the exact bytes whose hash is in the terms.
        terms: what must stand on chain.
    """

    dataset_id: int
    config: DatasetConfig
    card: CardFile
    policy: bytes
    terms: DatasetTerms


class Catalogue:
    """The datasets that this server serves, by number; and what is wrong with the data of some, if anything."""

    def __init__(self, datasets: list[ServedDataset]) -> None:
        self._datasets = {dataset.dataset_id: dataset for dataset in datasets}
        self._unfit: dict[int, str] = {}
        self._guard = threading.Lock()

    def all(self) -> list[ServedDataset]:
        """In order of their number."""
        return [self._datasets[number] for number in sorted(self._datasets)]

    def find(self, dataset_id: int) -> ServedDataset | None:
        """One, or None."""
        return self._datasets.get(dataset_id)

    def unfit(self, dataset_id: int) -> str:
        """Reason of the catalogue why the data cannot be used, as last found; "" if they can."""
        with self._guard:
            return self._unfit.get(dataset_id, "")

    def mark(self, dataset_id: int, reason: str) -> None:
        """Notes the outcome of a look at the data; "" for fit."""
        with self._guard:
            self._unfit[dataset_id] = reason


def load_card(path: Path) -> CardFile:
    """Reads a card file and checks that a person has finished it.

    Raises:
        ConfigError: it is not there, is a draft with open places, or is wrong; says where and what to do.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the dataset card cannot be read ({type(error).__name__}).", file=str(path)
        ) from error
    try:
        places = unfinished(json.loads(raw))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: the dataset card is not valid JSON.", file=str(path)) from error
    if places:
        shown = ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
        raise ConfigError(
            f"{path}: the card is a draft. Fill in {shown}, from what is known about the columns, never from the rows.",
            file=str(path), field=places[0],
        )  # fmt: skip
    try:
        card = read_card(raw)
    except InvalidInput as error:
        raise ConfigError(f"{path}: {error.message}.", file=str(path)) from error
    canonical = card.to_bytes()
    return CardFile(path, card, canonical, card_hash(canonical))


def load_catalogue(config: HolderConfig, registration: Registration | None) -> Catalogue:
    """All datasets of the configuration with their numbers.

    Raises:
        ConfigError: a card is not finished, or a dataset is not registered.
    """
    served: list[ServedDataset] = []
    for entry in config.datasets:
        card = load_card(entry.card)
        dataset_id = entry.dataset_id or (registration.dataset_id(card.hash) if registration else None)
        if dataset_id is None:
            raise ConfigError(
                f"{entry.card}: the dataset with this card is not registered; run `usufruct holder register`.",
                file=str(entry.card),
            )
        served.append(
            ServedDataset(
                dataset_id, entry, card, published_policy(config.policy, entry, card.hash),
                dataset_terms(config.policy, entry, card.hash),
            )
        )  # fmt: skip
    if len({dataset.dataset_id for dataset in served}) != len(served):
        raise ConfigError(
            f"{config.path}: two [[datasets]] have the same number or the same card.", file=str(config.path)
        )
    if not served:
        raise ConfigError(
            f"{config.path}: there is no [[datasets]] table; a holder serves at least one.",
            file=str(config.path),
        )
    return Catalogue(served)
