"""The parts of ``make bench-utility`` on made-up rows: every arm learns, at one price, and what is done is done once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import utility
import utility_picture
import utility_runs
from utility import BINDING, Figures, as_json, table_of, verdict, words
from utility_arms import Job, Recipe, Score, listed_dataset, pooled
from utility_data import FASHION, Task, fashion_card, scaled
from utility_recipes import ORDERS, RECIPES
from utility_runs import Results, Run, runs_of

import usufruct as uf
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.preprocessing import PreparedData, prepare_rows
from usufruct.domain.training_job import NANO, NoiseMode
from usufruct.errors import InvalidInput
from usufruct.privacy import DistributedPlan, LocalPlan, plan_of

ROWS, EPSILON, ORDER = 150, 8.0, 4
RECIPE = Recipe(rounds=5, sample_rate=0.8, max_grad_norm=0.5, lr=2.0)


def rows(count: int, seed: int) -> PreparedData:
    """Two classes on either side of a plane, some of each on the wrong one."""
    drawn = np.random.default_rng(seed)
    features = drawn.uniform(-1, 1, (count, 4)).astype(np.float32)
    labels = (features @ [1.0, -1.0, 0.5, 0.0] + drawn.normal(0, 0.3, count) > 0).astype(np.int64)
    return PreparedData(features, labels)


@pytest.fixture(scope="module")
def task() -> Task:
    card = DatasetCard(
        name="made up",
        task="t",
        description="",
        columns=tuple(Column(f"x{i}", "number", -1.0, 1.0, missing="midpoint") for i in range(4)),
        label=Label("y", (("0",), ("1",))),
        person_column=None,
        nominal_size=ROWS,
    )
    return Task("made up", (card,) * 3, tuple(rows(ROWS, seed) for seed in range(3)), rows(1000, 9))


def test_every_arm_learns_and_costs_what_was_asked(task: Task) -> None:
    """At this noise single runs gave areas of 0.90 and more; weights that learn nothing give 0.5."""
    arms = {
        "distributed": Job(task, RECIPE, EPSILON, ORDER, "distributed"),
        "local": Job(task, RECIPE, EPSILON, ORDER, "local"),
        "central": Job(task.pooled(), RECIPE, EPSILON, ORDER, "local"),
        "alone": Job(task.alone(1), RECIPE, EPSILON, ORDER, "local"),
    }
    for name, job in arms.items():
        for leg in job.spec.legs:
            plan = plan_of(job.spec, leg.dataset_id)
            assert 0.999 * EPSILON < plan.epsilon <= EPSILON, name
            assert (plan.attempts, plan.order, plan.sample_rate) == (RECIPE.rounds, ORDER, RECIPE.sample_rate)
            assert plan.max_grad_norm == RECIPE.max_grad_norm
        assert job.spec.optimizer.learning_rate_nano == RECIPE.lr * NANO and job.spec.plan.local_steps == 1
        auc = job.run().auc
        assert auc is not None and auc > 80, name
    best = pooled(task, 1e-3).auc
    assert best is not None and best > 90


def test_the_noise_of_a_distributed_sum_is_that_of_the_centre_for_all_but_the_colluding(task: Task) -> None:
    job = Job(task, RECIPE, EPSILON, ORDER, "distributed", max_colluding=1)
    centre = Job(task.pooled(), RECIPE, EPSILON, ORDER, "local")
    shared, central = plan_of(job.spec, 1), plan_of(centre.spec, 1)
    assert isinstance(shared, DistributedPlan) and isinstance(central, LocalPlan)
    assert (job.spec.plan.noise_mode, shared.holders, shared.min_honest) == (NoiseMode.DISTRIBUTED, 3, 2)
    assert shared.noise_multiplier == pytest.approx(central.noise_multiplier, rel=0.01)
    assert central.nominal_size == 3 * shared.nominal_size


def test_what_is_measured_is_kept_and_measured_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = tmp_path / "kept" / "runs.jsonl", [Run("heart", 1.0, "central", i) for i in range(3)]
    taken: list[Run] = []

    def take(run: Run) -> Score:
        taken.append(run)
        return Score(70.0 + run.number, 80.0)

    monkeypatch.setattr(utility_runs, "measure", take)
    first = Results(path).measure(runs, workers=1)
    next(first)
    next(first)
    first.close()  # interrupted: two are kept
    path.write_text(path.read_text() + '{"key": "heart 1 cen')
    again = Results(path)
    assert again.of(runs) == [Score(70.0, 80.0), Score(71.0, 80.0)]
    assert again.missing(runs) == runs[2:]
    assert [run for run, _ in again.measure(runs, workers=1)] == runs[2:]
    assert taken == runs
    changed = {**utility_runs.RECIPES["heart"][1.0], "central": RECIPE}
    monkeypatch.setitem(utility_runs.RECIPES["heart"], 1.0, changed)
    assert Results(path).of(runs) == [], "another recipe is another figure"


def test_every_run_is_planned_once_and_the_binding_ones_first_of_images() -> None:
    runs = runs_of(["heart", "fashion"], [1.0, 3.0], 10)
    assert len(set(runs)) == len(runs) == 2 + 2 * 2 * 10 * 4
    images = [run for run in runs if run.task == "fashion" and run.epsilon]
    assert {run.epsilon for run in images[:40]} == {3.0}


def test_table_and_verdict_say_what_was_measured(tmp_path: Path) -> None:
    results = Results(None)
    for run in runs_of(["heart", "fashion"], [1.0, 3.0], 3):
        behind = 1.2 if (run.task, run.epsilon, run.arm) == ("heart", 1.0, "distributed") else 0.0
        results._keep(
            run, Score(89.0 + run.number / 10 - behind, None if run.task == "fashion" else 88.0 - behind)
        )
    table = table_of(results, ["heart", "fashion"], [1.0, 3.0], 3)
    assert as_json(table)["heart"]["1"]["distributed_auc"] == pytest.approx(0.868)
    assert as_json(table)["heart"]["3"]["pooled_auc"] == pytest.approx(0.88)
    assert as_json(table)["fashion"]["3"]["distributed_accuracy_least"] == pytest.approx(0.89)
    assert json.loads(json.dumps(as_json(table)))["fashion"]["1"]["runs"] == 3
    assert "86.80 ± 0.00 (87.9 ± 0.1)" in words(table)
    far, least = verdict(table)
    assert "NO" in far and "1.20: heart at epsilon 1" in far
    assert "least 89.00, mean 89.10" in least and least.endswith("yes")
    table["fashion"][3.0]["distributed"]["accuracy"] = Figures("accuracy", (90.0, BINDING[2] - 0.01))
    assert verdict(table)[1].endswith("NO")
    utility_picture.draw(utility._curves(table), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_an_empty_table_has_no_verdict() -> None:
    assert verdict(table_of(Results(None), ["heart"], [1.0], 3)) == []


def test_images_are_prepared_as_their_card_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 784), dtype=np.uint8)
    listed = [{**{f"pixel {i}": str(v) for i, v in enumerate(image)}, "article": "3"} for image in pixels]
    prepared = prepare_rows(fashion_card(), listed)
    assert np.array_equal(prepared.features, FASHION(scaled(pixels)))
    assert prepared.labels.tolist() == [3, 3]
    assert replace(fashion_card(), nominal_size=1).extractor == FASHION


@pytest.mark.parametrize("epsilon", ORDERS)
def test_what_is_suggested_to_builders_is_what_is_measured(task: Task, epsilon: float) -> None:
    for name, card in (("heart", task.cards[0]), ("fashion", fashion_card())):
        recipe = RECIPES[name][epsilon]["distributed"]
        said = uf.suggest([listed_dataset(card, 1, ORDERS[epsilon])] * 3, epsilon)
        assert said["optimizer"] == uf.SGD(recipe.lr, local_steps=1, sample_rate=recipe.sample_rate)
        assert said["privacy"] == uf.Privacy(epsilon, 1e-5, recipe.max_grad_norm)
        assert (said["rounds"], said["server_optimizer"]) == (recipe.rounds, recipe.server)


def test_nothing_is_suggested_for_images_and_tables_together(task: Task) -> None:
    mixed = [listed_dataset(task.cards[0], 1, ORDER), listed_dataset(fashion_card(), 2, ORDER)]
    for datasets in (mixed, []):
        with pytest.raises(InvalidInput):
            uf.suggest(datasets, 3.0)
