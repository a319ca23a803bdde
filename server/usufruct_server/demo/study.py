"""What a demo run trains on: hospitals with their rows, the builder's own data, the model and how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import PreparedData, feature_width, prepare_rows

if TYPE_CHECKING:
    from torch import nn

Row = dict[str, str]


@dataclass(frozen=True)
class Hospital:
    """A data holder of the demo.

    Attributes:
        name: short, used for folders and in tables.
        card: its dataset card.
        rows: its records as text, as they stand in its CSV file. Only its own process and the in-process baselines
            of the demo read them; the builder never does.
    """

    name: str
    card: DatasetCard
    rows: tuple[Row, ...]

    def prepared(self) -> PreparedData:
        """The rows as numbers, for the in-process baselines."""
        return prepare_rows(self.card, self.rows)


@dataclass(frozen=True)
class TrainingChoice:
    """Model and plan, chosen beforehand on training and validation rows; README.md says how.

    Attributes:
        hidden: width of the one hidden layer; 0 for logistic regression.
        rounds, sample_rate, learning_rate, max_grad_norm: of the job, of one step a round.
        momentum: of the builder's optimiser, which takes a round's average.
        epsilon, delta: asked of every dataset for the whole job, spare attempts included.
        spare_attempts: for rounds that have to be drawn again.
        seed: of the first weights.
    """

    hidden: int
    rounds: int
    sample_rate: float
    learning_rate: float
    max_grad_norm: float
    momentum: float = 0.0
    epsilon: float = 3.0
    delta: float = 1e-5
    spare_attempts: int = 2
    seed: int = 1

    def model(self, width: int) -> nn.Module:
        """A fresh model for rows of ``width`` features, always with the same first weights."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.hidden == 0:
                return nn.Linear(width, 1)
            return nn.Sequential(nn.Linear(width, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1))

    def describe(self, width: int) -> str:
        """The model in one line."""
        if self.hidden == 0:
            return f"Linear({width}, 1)"
        return f"Linear({width}, {self.hidden}) -> Tanh -> Linear({self.hidden}, 1)"


@dataclass(frozen=True)
class Study:
    """Everything a demo run needs.

    Attributes:
        title: for people.
        task: of all cards.
        hospitals: the data holders.
        validation: the builder's own rows, whose loss it watches while the job runs.
        test: rows that are looked at once, at the end.
        watched: what ``validation`` is, in words.
        choice: model and plan.
    """

    title: str
    task: str
    hospitals: tuple[Hospital, ...]
    validation: PreparedData
    test: PreparedData
    watched: str
    choice: TrainingChoice

    @property
    def width(self) -> int:
        """Features of a row."""
        return feature_width(self.hospitals[0].card)


def rows_as_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[Row, ...]:
    """Rows of a table as a CSV file holds them."""
    return tuple(dict(zip(header, (str(value) for value in row), strict=True)) for row in rows)
