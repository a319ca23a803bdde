"""Looks whether a dataset's data can be used: readable as the card says, one row a person. In a child of its own, so that
no row ever is in the server's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usufruct.domain.dataset_card import DatasetCard
from usufruct.errors import UsufructError
from usufruct_server.holder.tokenizer_folder import TokenizerFolder
from usufruct_server.holder.training.trainer import TrainerFailed
from usufruct_server.holder.training.zygote import Zygote

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class DataFinding:
    """What was found; ``reason`` is "" when the data can be used. ``message`` is for the person at the holder."""

    reason: str
    message: str


def look_at_data(zygote: Zygote, card: DatasetCard, data: Path, tokenizers: TokenizerFolder) -> DataFinding:
    """The finding. A look that crashes or takes too long finds the data unreadable."""
    with zygote.spawn() as child:
        try:
            child.look(card, data.absolute(), TIMEOUT_SECONDS, tokenizers.find(card))
        except TrainerFailed:
            return DataFinding(
                "DATA_UNREADABLE", "The data cannot be read: the look at them did not end well."
            )
        except UsufructError as error:
            return DataFinding(error.reason, error.message)
    return DataFinding("", "")
