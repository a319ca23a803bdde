"""The three tasks of ``make bench-utility``: who holds which rows, and the rows that a model is scored on.

Rows are prepared by what dataset cards declare, as at a holder. The data lie in ``../shared/data`` beside the checkout, each
with its source and licence (SOURCE.md).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from usufruct.domain.dataset_card import PREPROCESSING, Column, DatasetCard, Label
from usufruct.domain.preprocessing import PreparedData, prepare_columns
from usufruct.domain.scattering import Scattering
from usufruct_server.demo import heart_disease

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DATA: Final = CHECKOUT.parent / "shared" / "data"
CACHE: Final = CHECKOUT / ".cache" / "bench-utility"
SPLIT_SEED: Final = 2024
HOLDERS: Final = 10
ADULT_ROWS: Final = 300
"""Of each of the ten holders."""


@dataclass(frozen=True)
class Task:
    """Data holders, and rows that none of them has.

    Attributes:
        cards: of the holders, in the order of ``parts``; alike but for names and sizes.
        parts: each holder's rows.
        test: what models are scored on.
    """

    name: str
    cards: tuple[DatasetCard, ...]
    parts: tuple[PreparedData, ...]
    test: PreparedData

    @property
    def width(self) -> int:
        """Features of a row."""
        return self.test.features.shape[1]

    @property
    def classes(self) -> int:
        """Classes of the label."""
        return len(self.cards[0].label.classes)

    def pooled(self) -> Task:
        """All rows at one holder, whose declared size is the sum of theirs."""
        size = sum(card.nominal_size for card in self.cards)
        card = replace(self.cards[0], name="all rows", nominal_size=size)
        features = _joined([part.features for part in self.parts])
        labels = np.concatenate([part.labels for part in self.parts])
        return replace(self, cards=(card,), parts=(PreparedData(features, labels),))

    def alone(self, holder: int) -> Task:
        """One holder without the others."""
        return replace(self, cards=(self.cards[holder],), parts=(self.parts[holder],))


def heart() -> Task:
    """Heart disease over its four hospitals, prepared and split as the demo has it: 486 rows and 254 to score on."""
    study = heart_disease.load(DATA / "heart_disease")
    return Task(
        "heart",
        tuple(hospital.card for hospital in study.hospitals),
        tuple(hospital.prepared() for hospital in study.hospitals),
        study.test,
    )


def adult() -> Task:
    """Adult over ten holders of 300 rows each, dealt out at random once; scored on the official 16,281 test rows."""
    folder = DATA / "adult"
    card = adult_card(folder / "adult.names")
    training = prepare_columns(card, _adult_columns(card, folder / "adult.data"))
    test = prepare_columns(card, _adult_columns(card, folder / "adult.test"))
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(training.labels))[: HOLDERS * ADULT_ROWS]
    return Task(
        "adult", (card,) * HOLDERS, _dealt(training.features, training.labels, np.split(drawn, HOLDERS)), test
    )


ADULT_BOUNDS: Final = {
    "age": (17.0, 90.0),
    "education-num": (1.0, 16.0),
    "capital-gain": (0.0, 20_000.0),
    "capital-loss": (0.0, 3_000.0),
    "hours-per-week": (1.0, 80.0),
}
"""Round numbers for adults, written down and not read off the rows: years, years of schooling as a rank, dollars, hours."""


def adult_card(names: Path) -> DatasetCard:
    """The card of a holder; categories are those that the documentation of the set lists. A sampling weight is left out."""
    columns = []
    for line in names.read_text(encoding="utf-8").splitlines():
        name, colon, values = line.partition(":")
        if not colon or line.startswith("|"):
            continue
        if name in ADULT_BOUNDS:
            columns.append(Column(name, "number", *ADULT_BOUNDS[name], missing="midpoint"))
        elif name != "fnlwgt":
            categories = tuple(value.strip() for value in values.strip().rstrip(".").split(","))
            columns.append(Column(name, "category", categories=categories, missing="indicator"))
    return DatasetCard(
        name="Adult",
        task="income",
        description="",
        columns=tuple(columns),
        label=Label("income", (("<=50K", "<=50K."), (">50K", ">50K."))),
        person_column=None,
        nominal_size=ADULT_ROWS,
        missing_markers=("?",),
    )


def _adult_columns(card: DatasetCard, path: Path) -> dict[str, Sequence[str]]:
    """The file has no names of columns: they are the documentation's, and the label last."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if len(row) == 15]
    names = [column.name for column in card.columns]
    names.insert(2, "fnlwgt")
    return dict(zip([*names, card.label.column], zip(*rows, strict=True), strict=True))


FASHION: Final = Scattering(28, 28)


def fashion() -> Task:
    """Fashion-MNIST over ten holders of 6,000 images each, dealt out at random once, as scattering features."""
    training, labels = _fashion_rows("train")
    parts = tuple(
        PreparedData(training[place[0] : place[-1] + 1], labels[place])
        for place in np.split(np.arange(len(labels)), HOLDERS)
    )  # slices of one file, which processes share
    return Task("fashion", (fashion_card(),) * HOLDERS, parts, PreparedData(*_fashion_rows("t10k")))


def fashion_card(nominal_size: int = 6_000) -> DatasetCard:
    """The card of a holder of images: pixels, and what makes features of them, by its digest."""
    return DatasetCard(
        name="Fashion-MNIST",
        task="fashion",
        description="",
        columns=tuple(Column(f"pixel {i}", "number", 0.0, 255.0, missing="minimum") for i in range(28 * 28)),
        label=Label("article", tuple((str(i),) for i in range(10))),
        person_column=None,
        nominal_size=nominal_size,
        preprocessing=(*PREPROCESSING, FASHION.step),
    )


def _fashion_rows(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features and labels, shuffled: what ``prepare_columns`` makes of the card and the pixels (a test compares them), without
    texts in between."""
    folder = DATA / "fashion_mnist"
    labels = _bytes_of(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))

    def compute() -> NDArray[np.float32]:
        pixels = _bytes_of(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(len(labels), -1)
        return FASHION(scaled(pixels[order]))

    return _cached(CACHE / f"fashion-{FASHION.digest[:16]}-{part}.npy", compute), labels[order]


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By the bounds that the card declares."""
    return ((pixels - 127.5) / 127.5).astype(np.float32)


def _bytes_of(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)[header:]


def _cached(path: Path, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """What is computed once and then mapped from a file, which appears whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.save(file, compute())
        temporary.rename(path)
    return np.load(path, mmap_mode="r")


def _dealt(
    features: NDArray[np.float32], labels: NDArray[np.int64], places: Sequence[NDArray[np.intp]]
) -> tuple[PreparedData, ...]:
    return tuple(PreparedData(features[place], labels[place]) for place in places)


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The parts under one another; without a copy where they are one file's slices, in order."""
    base = parts[0].base
    if (
        isinstance(base, np.memmap)
        and sum(map(len, parts)) == len(base)
        and all(part.base is base for part in parts)
    ):
        return base
    return np.concatenate(parts)


TASKS: Final = {"heart": heart, "adult": adult, "fashion": fashion}
FOLDERS: Final = {"heart": "heart_disease", "adult": "adult", "fashion": "fashion_mnist"}
