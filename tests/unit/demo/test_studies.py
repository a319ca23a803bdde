"""The demo's two studies: what is dealt out to whom, and that cards declare rather than measure."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from usufruct.domain.dataset_card import read_card
from usufruct.domain.preprocessing import prepare_rows
from usufruct.errors import ConfigError
from usufruct.privacy import epsilon, noise_multiplier_for
from usufruct_server.demo import breast_cancer, heart_disease
from usufruct_server.demo.baselines import alone_plan, score
from usufruct_server.demo.cards import breast_cancer as breast_cards
from usufruct_server.demo.cards import heart_disease as heart_cards
from usufruct_server.demo.network import write_rows
from usufruct_server.demo.study import Hospital
from usufruct_server.holder.training.card_data import load_card_data

HEART = Path(__file__).parents[4] / "shared" / "data" / "heart_disease"
needs_heart = pytest.mark.skipif(
    not HEART.is_dir(),
    reason="the heart disease files are not beside this checkout (shared/data/heart_disease)",
)


def test_no_row_of_the_breast_cancer_set_is_in_two_places() -> None:
    from sklearn.datasets import load_breast_cancer

    study = breast_cancer.load()
    dealt = [tuple(row.values()) for hospital in study.hospitals for row in hospital.rows]
    everything = {tuple(repr(float(v)) for v in row) for row in load_breast_cancer().data}
    assert len(dealt) + len(study.test.labels) + len(study.validation.labels) == 569
    assert len(set(dealt)) == len(dealt) == 398
    assert {row[:-1] for row in dealt} <= everything
    held_back = np.concatenate([study.test.features, study.validation.features])
    trained = np.concatenate([hospital.prepared().features for hospital in study.hospitals])
    assert not {row.tobytes() for row in held_back} & {row.tobytes() for row in trained}


def test_the_split_is_the_same_every_time_and_stratified() -> None:
    first, second = breast_cancer.load(), breast_cancer.load()
    assert [h.rows for h in first.hospitals] == [h.rows for h in second.hospitals]
    assert np.array_equal(first.test.features, second.test.features)
    assert int(first.test.labels.sum()) == 42  # 212 of 569 are malignant
    assert [len(h.rows) for h in first.hospitals] == [219, 119, 60]


@pytest.mark.parametrize("module", [breast_cards, heart_cards], ids=["breast", "heart"])
def test_cards_are_valid_and_do_not_depend_on_the_rows(module: object) -> None:
    card = module.card("Somewhere", 120)  # type: ignore[attr-defined]
    assert read_card(card.to_bytes()) == card
    mock = prepare_rows(card, card.mock_rows)
    assert set(mock.labels.tolist()) == {0, 1}, "one invented row of each class"


def test_declared_bounds_cover_the_documented_ranges() -> None:
    """So few values are clamped: the published minima and maxima lie inside the declared bounds."""
    from sklearn.datasets import load_breast_cancer

    documented = {}
    for line in load_breast_cancer().DESCR.splitlines():
        name, _, figures = line.partition(":")
        parts = figures.split()
        if len(parts) == 2 and name.endswith((" (mean)", " (standard error)", " (worst)")):
            what, kind = name.rsplit(" (", 1)
            column = {"mean)": f"mean {what}", "standard error)": f"{what} error", "worst)": f"worst {what}"}[
                kind
            ]
            documented[column] = (float(parts[0]), float(parts[1]))
    assert len(documented) == 30
    for name, low, high in breast_cards.BOUNDS:
        assert low <= documented[name][0] < documented[name][1] <= high, name


def test_a_hospital_writes_what_its_server_reads(tmp_path: Path) -> None:
    hospital = breast_cancer.load().hospitals[2]
    write_rows(tmp_path / "data.csv", hospital.card, hospital.rows)
    read = load_card_data(tmp_path / "data.csv", read_card(hospital.card.to_bytes()))
    assert np.array_equal(read.features, hospital.prepared().features)
    assert np.array_equal(read.labels, hospital.prepared().labels)


@pytest.mark.shared_data
@needs_heart
def test_the_four_hospitals_are_split_as_in_the_literature() -> None:
    study = heart_disease.load(HEART)
    assert [len(h.rows) for h in study.hospitals] == [199, 172, 30, 85]
    assert [int(h.prepared().labels.sum()) for h in study.hospitals] == [91, 65, 30, 66]
    assert len(study.test.labels) == 254
    assert int(study.test.labels.sum()) == 48 + 33 + 15 + 35


def heart_file(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def heart_row(age: int, num: int, chol: str = "200") -> list[str]:
    return [str(age), "1", "4", "130", chol, "0", "0", "150", "0", "1.5", "?", "?", "?", str(num)]


def test_heart_rows_with_a_missing_value_are_left_out_and_slope_ca_thal_do_not_count(tmp_path: Path) -> None:
    heart_file(tmp_path / "centre.data", [heart_row(50, 0), heart_row(51, 2, chol="?"), heart_row(52, 3)])
    rows = heart_disease.complete_rows(tmp_path / "centre.data")
    assert [row["age"] for row in rows] == ["50", "52"]
    assert not {"slope", "ca", "thal"} & set(rows[0])


def test_a_centre_of_one_class_is_split_without_stratifying(tmp_path: Path) -> None:
    heart_file(tmp_path / "centre.data", [heart_row(30 + i, 1) for i in range(46)])
    training, test = heart_disease.split(heart_disease.complete_rows(tmp_path / "centre.data"))
    assert (len(training), len(test)) == (30, 16)


@pytest.mark.parametrize("content", [None, "", "1,2,3\n"])
def test_a_folder_without_the_four_files_is_refused_in_words(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "processed.cleveland.data").write_text(content)
    with pytest.raises(ConfigError, match=r"processed\.cleveland\.data"):
        heart_disease.load(tmp_path)


@pytest.mark.parametrize("choice", [breast_cancer.CHOICE, heart_disease.CHOICE], ids=["breast", "heart"])
def test_a_lone_hospital_is_compared_under_the_same_epsilon(choice: object) -> None:
    plan = alone_plan(choice, nominal_size=60, order=6)  # type: ignore[arg-type]
    assert plan.epsilon <= 3.0
    assert epsilon(plan.reservation_micro, 6, plan.delta) == plan.epsilon > 2.99
    least = noise_multiplier_for(plan.reservation_micro, 6, plan.sample_rate, 1, plan.rounds)
    assert plan.noise_multiplier == least, "no more noise than the epsilon needs"


def test_the_first_weights_are_the_same_for_network_and_baselines() -> None:
    import torch

    model, again = breast_cancer.CHOICE.model(30), breast_cancer.CHOICE.model(30)
    assert sum(p.numel() for p in model.parameters()) == 31
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_score_counts_the_side_of_zero() -> None:
    import torch

    study_rows = heart_cards.card("x", 1)
    data = Hospital("x", study_rows, study_rows.mock_rows).prepared()
    model = torch.nn.Linear(data.features.shape[1], 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(1.0)  # says 1 for every row; one of the two is
    assert score(model, data).accuracy == 0.5
    with torch.no_grad():
        model.weight[0, 0] = 10.0  # the first feature is age, low in the healthy row
    result = score(model, data)
    assert (result.accuracy, result.auc) == (1.0, 1.0)
