"""The study of four real hospitals: Cleveland, Budapest, Zurich and Basel, Long Beach.

Prepared and split as the literature does (FLamby, du Terrail et al., NeurIPS 2022): the columns slope, ca and thal are
left out, then rows with a missing value; the label is num > 0; each centre is split 66/34 with scikit-learn's
``train_test_split`` and seed 43, stratified where every class has more than two rows. That leaves 486 rows for training
and 254 for the pooled test set. What differs: numbers are scaled by declared bounds, not by means read off the rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from usufruct.domain.preprocessing import prepare_rows
from usufruct.errors import ConfigError
from usufruct_server.demo.cards import heart_disease as cards
from usufruct_server.demo.study import Hospital, Row, Study, TrainingChoice

FILE_COLUMNS: Final = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num",
)  # fmt: skip
LEFT_OUT: Final = ("slope", "ca", "thal")
TRAINING_SHARE: Final = 0.66
SPLIT_SEED: Final = 43
HOSPITALS: Final = (
    ("Cleveland", "processed.cleveland.data", 200),
    ("Budapest", "processed.hungarian.data", 175),
    ("Switzerland", "processed.switzerland.data", 30),
    ("Long-Beach", "processed.va.data", 85),
)
"""(name, file, declared nominal size)."""

CHOICE: Final = TrainingChoice(hidden=0, rounds=25, sample_rate=1.0, learning_rate=3.2, max_grad_norm=0.25)


def load(directory: Path) -> Study:
    """Reads and splits the four files; the same every time.

    There are no rows left for the builder to validate on, so the learning curve is drawn on the test set. Nothing is
    chosen by it: rounds and rates are fixed beforehand and the last weights are the model.

    Raises:
        ConfigError: a file is missing or has another form; names it.
    """
    hospitals, test_rows = [], []
    for name, file, nominal_size in HOSPITALS:
        training, test = split(complete_rows(directory / file))
        hospitals.append(Hospital(name, cards.card(name, nominal_size), tuple(training)))
        test_rows += test
    test_data = prepare_rows(hospitals[0].card, test_rows)
    return Study(
        title="Heart disease: a narrowed vessel or none (four real hospitals)",
        task=cards.TASK,
        hospitals=tuple(hospitals),
        validation=test_data,
        test=test_data,
        watched="the pooled test rows (watched only: nothing is chosen by them)",
        choice=CHOICE,
    )


def complete_rows(path: Path) -> list[Row]:
    """Rows of one file without a missing value, by column name.

    Raises:
        ConfigError: the file is missing or has another form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read. --data needs a folder with the four files "
            f"{', '.join(file for _, file, _ in HOSPITALS)} of the UCI heart disease data."
        ) from error
    if not lines or any(len(line) != len(FILE_COLUMNS) for line in lines):
        raise ConfigError(
            f"{path} is not one of the processed UCI files: every line must have {len(FILE_COLUMNS)} values."
        )
    rows = [
        {name: value.strip() for name, value in zip(FILE_COLUMNS, line, strict=True) if name not in LEFT_OUT}
        for line in lines
    ]
    return [row for row in rows if "?" not in row.values()]


def split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training and test rows of one centre."""
    from sklearn.model_selection import train_test_split

    sick = [float(row[cards.LABEL]) > 0 for row in rows]
    stratify = sick if min(sum(sick), len(sick) - sum(sick)) > 2 else None
    training, test = train_test_split(
        rows,
        test_size=1 - TRAINING_SHARE,
        train_size=TRAINING_SHARE,
        random_state=SPLIT_SEED,
        shuffle=True,
        stratify=stratify,
    )
    return training, test
