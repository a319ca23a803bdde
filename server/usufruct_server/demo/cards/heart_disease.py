"""Card of a hospital's heart-disease table (Janosi, Steinbrunn, Pfisterer, Detrano 1988; UCI, CC BY 4.0).

Categories are the codes that the documentation of the set lists; bounds are round numbers for adults who are sent to a
catheter laboratory, around the ranges documented for the four centres. Nothing here is computed from rows.
"""

from __future__ import annotations

from usufruct.domain.dataset_card import Column, DatasetCard, Label

TASK = "heart-disease"
LABEL = "num"

COLUMNS: tuple[Column, ...] = (
    Column("age", "number", minimum=20, maximum=80, missing="midpoint"),
    Column("sex", "category", categories=("0", "1"), missing="zeros"),
    Column("cp", "category", categories=("1", "2", "3", "4"), missing="zeros"),
    Column("trestbps", "number", minimum=80, maximum=200, missing="midpoint"),
    Column("chol", "number", minimum=100, maximum=600, missing="midpoint"),
    Column("fbs", "category", categories=("0", "1"), missing="zeros"),
    Column("restecg", "category", categories=("0", "1", "2"), missing="zeros"),
    Column("thalach", "number", minimum=60, maximum=210, missing="midpoint"),
    Column("exang", "category", categories=("0", "1"), missing="zeros"),
    Column("oldpeak", "number", minimum=0, maximum=6, missing="zero"),
)
"""Years; 1 = male; chest pain 1-4; resting blood pressure in mmHg; cholesterol in mg/dl (0 in the files means that it
was not measured; it is clamped to the minimum); fasting blood sugar > 120 mg/dl; resting ECG 0-2; greatest heart rate;
exercise angina; ST depression in mm (an elevation, written as a negative number, counts as none)."""

MOCK_ROWS: tuple[dict[str, str], ...] = (
    {"age": "40", "sex": "0", "cp": "3", "trestbps": "120", "chol": "200", "fbs": "0", "restecg": "0",
     "thalach": "170", "exang": "0", "oldpeak": "0", "num": "0"},
    {"age": "65", "sex": "1", "cp": "4", "trestbps": "150", "chol": "300", "fbs": "1", "restecg": "2",
     "thalach": "110", "exang": "1", "oldpeak": "2", "num": "3"},
)  # fmt: skip
"""Invented."""


def card(hospital: str, nominal_size: int) -> DatasetCard:
    """The card of one hospital.

    Args:
        hospital: its name, for people.
        nominal_size: the size it declares, a round constant.
    """
    return DatasetCard(
        name=f"Heart disease, {hospital}",
        task=TASK,
        description=(
            "Patients referred for coronary angiography; the label is whether a major vessel was narrowed by more than "
            "half (num > 0). One row is one patient. Columns that some centres did not record (slope, ca, thal) are "
            "left out, and rows with a missing value too."
        ),
        columns=COLUMNS,
        label=Label(LABEL, (("0",), ("1", "2", "3", "4"))),
        person_column=None,
        nominal_size=nominal_size,
        missing_markers=("?",),
        mock_rows=MOCK_ROWS,
    )
