"""``make bench-utility``: how good models become with `distributed` noise, beside pooled rows without privacy, central
differential privacy, `local` noise, and each holder alone.

Heart disease over its four hospitals, Adult over ten holders of 300 rows, Fashion-MNIST over ten holders; at each epsilon ten
runs of every arm, by the same accountant at the same order. What is done is kept in ``.cache/bench-utility``: an interrupted
benchmark goes on where it was.

    python tests/benchmarks/utility.py [--quick] [--json] [--tasks heart adult fashion] [--runs 10] [--picture PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import utility_picture
from utility_data import CACHE, DATA, FOLDERS, TASKS
from utility_recipes import MAX_COLLUDING, ORDERS
from utility_runs import ARMS, Results, Run, runs_of

RUNS: Final = 10
BINDING: Final = ("fashion", 3.0, 88.7)
"""Every run of `distributed` is to be at least so good."""

TITLES: Final = {
    "pooled": "pooled, no privacy",
    "central": "central DP",
    "distributed": "distributed noise",
    "local": "local noise",
    "alone": "each holder alone",
}


@dataclass(frozen=True)
class Figures:
    """Of one arm at one epsilon, in hundredths, over its runs.

    Attributes:
        metric: ``"auc"`` or ``"accuracy"``.
        values: one a run.
    """

    metric: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the runs."""
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """Of a run, from the others; 0 of a single one."""
        return stdev(self.values) if len(self.values) > 1 else 0.0


Table = dict[str, dict[float, dict[str, dict[str, Figures]]]]
"""By task, epsilon, arm and metric."""


def table_of(results: Results, tasks: Sequence[str], epsilons: Sequence[float], count: int) -> Table:
    """What has been measured."""
    table: Table = {}
    for task in tasks:
        for epsilon in epsilons:
            row = {}
            for arm in ("pooled", *ARMS):
                single = arm == "pooled"
                scores = results.of(
                    [Run(task, 0.0, arm)] if single else [Run(task, epsilon, arm, i) for i in range(count)]
                )
                if scores:
                    row[arm] = {"accuracy": Figures("accuracy", tuple(score.accuracy for score in scores))}
                if scores and scores[0].auc is not None:
                    row[arm]["auc"] = Figures("auc", tuple(score.auc or 0.0 for score in scores))
            table.setdefault(task, {})[epsilon] = row
    return table


def metric_of(task: str) -> str:
    """What a task is judged by."""
    return "accuracy" if task == "fashion" else "auc"


def words(table: Table) -> str:
    """The table for people: means and standard deviations, in hundredths."""
    lines = []
    for task, cells in table.items():
        metric = metric_of(task)
        both = metric == "auc"
        lines.append(f"\n{task}: {'AUC (accuracy)' if both else 'accuracy'}, %, mean ± deviation of a run")
        lines.append(f"{'':20}" + "".join(f"{f'epsilon {epsilon:g}':>28}" for epsilon in cells))
        for arm, title in TITLES.items():
            texts = [_cell(row.get(arm), metric) for row in cells.values()]
            lines.append(f"{title:20}" + "".join(f"{text:>28}" for text in texts))
    return "\n".join(lines)


def _cell(figures: dict[str, Figures] | None, metric: str) -> str:
    if figures is None:
        return "–"
    main = f"{figures[metric].mean:.2f} ± {figures[metric].deviation:.2f}"
    if metric == "accuracy":
        return main
    return f"{main} ({figures['accuracy'].mean:.1f} ± {figures['accuracy'].deviation:.1f})"


def verdict(table: Table) -> list[str]:
    """What was asked of the figures, and whether it holds."""
    behind = {
        (task, epsilon): row["central"][metric_of(task)].mean - row["distributed"][metric_of(task)].mean
        for task, cells in table.items()
        for epsilon, row in cells.items()
        if {"central", "distributed"} <= row.keys()
    }
    said = []
    if behind:
        (task, epsilon), most = max(behind.items(), key=lambda item: item[1])
        said.append(
            f"distributed within one point of central in every cell: {'yes' if most <= 1 else 'NO'} (furthest behind by "
            f"{most:.2f}: {task} at epsilon {epsilon:g})"
        )
    task, epsilon, least = BINDING
    binding = table.get(task, {}).get(epsilon, {}).get("distributed")
    if binding:
        values = binding["accuracy"].values
        said.append(
            f"Fashion-MNIST at epsilon {epsilon:g}, up to {MAX_COLLUDING[task]} of 10 colluding, {len(values)} runs: least "
            f"{min(values):.2f}, mean {mean(values):.2f}; at least {least} in every run: {'yes' if min(values) >= least else 'NO'}"
        )
    return said


def as_json(table: Table) -> dict[str, Any]:
    """Shares, not hundredths: ``{"heart": {"1": {"central_auc": …, …}}}``."""
    report: dict[str, Any] = {}
    for task, cells in table.items():
        for epsilon, row in cells.items():
            entry = report.setdefault(task, {}).setdefault(f"{epsilon:g}", {})
            for arm, by_metric in row.items():
                for metric, figures in by_metric.items():
                    entry[f"{arm}_{metric}"] = round(figures.mean / 100, 5)
                    if arm != "pooled":
                        entry[f"{arm}_{metric}_deviation"] = round(figures.deviation / 100, 5)
                        entry[f"{arm}_{metric}_least"] = round(min(figures.values) / 100, 5)
                        entry["runs"] = max(entry.get("runs", 0), len(figures.values))
    return report


def main() -> None:
    arguments = _arguments()
    tasks = ["heart"] if arguments.quick else arguments.tasks
    epsilons = [1.0, 3.0] if arguments.quick else [*ORDERS]
    for task in [task for task in tasks if not (DATA / FOLDERS[task]).is_dir()]:
        print(
            f"{task}: skipped, there is no folder {FOLDERS[task]} in ../shared/data beside the checkout",
            flush=True,
        )
        tasks.remove(task)
    results = Results(None if arguments.quick else CACHE / "runs.jsonl")
    runs = runs_of(tasks, epsilons, arguments.runs)
    _run(results, runs, 1 if arguments.quick else arguments.workers)
    table = table_of(results, tasks, epsilons, arguments.runs)
    print(words(table))
    for line in verdict(table):
        print(line)
    if tasks:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        utility_picture.draw(_curves(table), arguments.picture)
        print(f"drawn: {arguments.picture}")
    if arguments.json:
        print(json.dumps(as_json(table)))


def _curves(table: Table) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """By task and arm: epsilon, mean, deviation."""
    curves: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for task, cells in table.items():
        for epsilon, row in cells.items():
            for arm, by_metric in row.items():
                figures = by_metric[metric_of(task)]
                points = curves.setdefault(task, {}).setdefault(arm, [])
                points.append((epsilon, figures.mean, figures.deviation))
    return curves


def _run(results: Results, runs: list[Run], workers: int) -> None:
    missing, began = len(results.missing(runs)), time.monotonic()
    if len(runs) > missing:
        print(f"{len(runs) - missing} of {len(runs)} runs are kept in {CACHE}", file=sys.stderr)
    for done, (run, score) in enumerate(results.measure(runs, workers), 1):
        value = score.auc if score.auc is not None else score.accuracy
        print(
            f"  {done} of {missing}, {time.monotonic() - began:.0f} s: {run.task} at epsilon {run.epsilon:g}, {run.arm}, run "
            f"{run.number + 1}: {value:.2f} %",
            file=sys.stderr,
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How good models become, with and without a trusted centre.")
    parser.add_argument(
        "--quick", action="store_true", help="heart disease at epsilon 1 and 3 only, measured anew"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON last")
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes, of one thread each"
    )
    parser.add_argument(
        "--picture", type=Path, default=CACHE / "utility.png", help="where the plot goes; .png or .svg"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
