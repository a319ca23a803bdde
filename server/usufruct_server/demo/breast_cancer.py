"""The default study: the Wisconsin breast cancer set that ships inside scikit-learn, over three hospitals.

The builder's test and validation rows are taken out first, stratified and with a fixed seed; the rest is dealt out
unevenly. Hospital names are invented.
"""

from __future__ import annotations

from typing import Final

from usufruct.domain.preprocessing import prepare_rows
from usufruct_server.demo.cards import breast_cancer as cards
from usufruct_server.demo.study import Hospital, Study, TrainingChoice, rows_as_text

TEST_ROWS: Final = 114
VALIDATION_ROWS: Final = 57
SPLIT_SEED: Final = 2024
HOSPITALS: Final = (("Alder", 219, 220), ("Birch", 119, 120), ("Cedar", 60, 60))
"""(name, rows dealt out, declared nominal size)."""

CHOICE: Final = TrainingChoice(
    hidden=0, rounds=30, sample_rate=1.0, learning_rate=4.0, max_grad_norm=0.5, momentum=0.9
)


def load() -> Study:
    """Splits and deals out the data; the same every time."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    header = [*(name for name, _, _ in cards.BOUNDS), cards.LABEL]
    order = [list(data.feature_names).index(name) for name in header[:-1]]
    names = ["malignant" if target == 0 else "benign" for target in data.target]
    table = [
        [*(repr(float(row[i])) for i in order), name] for row, name in zip(data.data, names, strict=True)
    ]
    everything = rows_as_text(header, table)

    rest, test = train_test_split(
        range(len(table)), test_size=TEST_ROWS, stratify=names, random_state=SPLIT_SEED
    )
    training, validation = train_test_split(
        rest, test_size=VALIDATION_ROWS, stratify=[names[i] for i in rest], random_state=SPLIT_SEED
    )  # train_test_split shuffles, so dealing out in order is dealing out at random
    hospitals, start = [], 0
    for name, count, nominal_size in HOSPITALS:
        rows = tuple(everything[i] for i in training[start : start + count])
        hospitals.append(Hospital(name, cards.card(name, nominal_size), rows))
        start += count
    card = hospitals[0].card
    return Study(
        title="Breast masses: benign or malignant (Wisconsin diagnostic set)",
        task=cards.TASK,
        hospitals=tuple(hospitals),
        validation=prepare_rows(card, [everything[i] for i in validation]),
        test=prepare_rows(card, [everything[i] for i in test]),
        watched="the builder's validation rows",
        choice=CHOICE,
    )
