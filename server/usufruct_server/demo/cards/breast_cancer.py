"""Card of a hospital's breast-mass table (Wisconsin diagnostic set; Wolberg, Street, Mangasarian 1995).

Every bound is a constant written down from what is published about such measurements: the data set's documentation
lists least and greatest value of each, and the bounds below are round numbers around them. Nothing here is computed
from rows, and nothing may be: a bound read off the data would be a release.
"""

from __future__ import annotations

from usufruct.domain.dataset_card import Column, DatasetCard, Label

TASK = "breast-cancer"
LABEL = "diagnosis"

BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("mean radius", 5, 30),
    ("mean texture", 5, 40),
    ("mean perimeter", 40, 200),
    ("mean area", 100, 2600),
    ("mean smoothness", 0.05, 0.2),
    ("mean compactness", 0, 0.4),
    ("mean concavity", 0, 0.5),
    ("mean concave points", 0, 0.25),
    ("mean symmetry", 0.1, 0.35),
    ("mean fractal dimension", 0.04, 0.1),
    ("radius error", 0.1, 3),
    ("texture error", 0.3, 5),
    ("perimeter error", 0.5, 25),
    ("area error", 5, 600),
    ("smoothness error", 0.001, 0.04),
    ("compactness error", 0, 0.15),
    ("concavity error", 0, 0.4),
    ("concave points error", 0, 0.06),
    ("symmetry error", 0.005, 0.08),
    ("fractal dimension error", 0, 0.03),
    ("worst radius", 5, 40),
    ("worst texture", 10, 50),
    ("worst perimeter", 50, 260),
    ("worst area", 150, 4500),
    ("worst smoothness", 0.05, 0.25),
    ("worst compactness", 0, 1.1),
    ("worst concavity", 0, 1.3),
    ("worst concave points", 0, 0.3),
    ("worst symmetry", 0.1, 0.7),
    ("worst fractal dimension", 0.05, 0.22),
)
"""(column, declared minimum, declared maximum), in the units of the published table."""

MOCK_SHARES = (("benign", 0.2), ("malignant", 0.6))
"""Invented rows: every value at this share of its declared range."""


def card(hospital: str, nominal_size: int) -> DatasetCard:
    """The card of one hospital.

    Args:
        hospital: its name, for people.
        nominal_size: the size it declares, a round constant.
    """
    return DatasetCard(
        name=f"Breast masses, {hospital}",
        task=TASK,
        description=(
            "Shape of cell nuclei in digitised images of fine-needle aspirates of breast masses: ten measures, each as "
            "mean, standard error and worst value. One row is one patient. Bounds are declared from the published "
            "documentation of the Wisconsin diagnostic data set."
        ),
        columns=tuple(
            Column(name, "number", minimum=low, maximum=high, missing="midpoint")
            for name, low, high in BOUNDS
        ),
        label=Label(LABEL, (("benign",), ("malignant",))),
        person_column=None,
        nominal_size=nominal_size,
        mock_rows=tuple(_mock_row(diagnosis, share) for diagnosis, share in MOCK_SHARES),
    )


def _mock_row(diagnosis: str, share: float) -> dict[str, str]:
    row = {name: f"{low + share * (high - low):.4g}" for name, low, high in BOUNDS}
    return {**row, LABEL: diagnosis}
