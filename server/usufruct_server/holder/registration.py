"""The numbers that the chain gave this holder and its datasets, kept in ``registration.json`` in the state directory."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from usufruct.errors import ConfigError


@dataclass(frozen=True)
class Registration:
    """What ``usufruct holder register`` got back.

    Attributes:
        chain_id, compute_access: where.
        holder_id: this holder.
        datasets: dataset number by card hash (``0x…``).
    """

    chain_id: int
    compute_access: str
    holder_id: int
    datasets: dict[str, int]

    def with_dataset(self, card_hash: bytes, dataset_id: int) -> Registration:
        """The same and one dataset more."""
        return replace(self, datasets={**self.datasets, "0x" + card_hash.hex(): dataset_id})

    def dataset_id(self, card_hash: bytes) -> int | None:
        """Number of the dataset with this card, or None."""
        return self.datasets.get("0x" + card_hash.hex())


def read_registration(path: Path, chain_id: int, compute_access: str) -> Registration | None:
    """The registration for this chain, or None when there is none yet.

    Raises:
        ConfigError: the file is damaged, or is about another chain.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Registration(
            int(raw["chain_id"]), str(raw["compute_access"]), int(raw["holder_id"]),
            {str(key): int(value) for key, value in raw["datasets"].items()},
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged; put it back, or delete it and run `usufruct holder register`."
        ) from error
    if (found.chain_id, found.compute_access) != (chain_id, compute_access):
        raise ConfigError(
            f"{path} is about chain {found.chain_id}, contract {found.compute_access}; holder.toml names chain {chain_id}, "
            f"contract {compute_access}. Use another state_dir for another chain."
        )
    return found


def write_registration(path: Path, registration: Registration) -> None:
    """Writes the file atomically, durably."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(asdict(registration), file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
