"""The runs of ``make bench-utility``: what each is, on which core it runs, and a file that keeps what they gave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Final

import torch
from utility_arms import Job, Recipe, Score, pooled
from utility_data import CHECKOUT, TASKS, Task
from utility_recipes import MAX_COLLUDING, ORDERS, POOLED_DECAY, RECIPES

ARMS: Final = ("central", "distributed", "local", "alone")
"""Beside ``pooled``, which has no epsilon (0) and draws nothing."""

SOURCES: Final = (
    *(f"client/usufruct/builder/{name}.py" for name in ("noise", "planning", "server_optimizer", "summing")),
    *(f"client/usufruct/domain/{name}.py" for name in ("preprocessing", "scattering", "training_job")),
    "client/usufruct/graph",
    "client/usufruct/privacy",
    "server/usufruct_server/demo/heart_disease.py",
    "server/usufruct_server/demo/cards/heart_disease.py",
    "server/usufruct_server/holder/training",
    "tests/benchmarks/utility_arms.py",
    "tests/benchmarks/utility_data.py",
)
"""What a figure depends on, beside its recipe."""


@dataclass(frozen=True)
class Run:
    """One training of one arm, or of each holder by itself.

    Attributes:
        epsilon: 0 for ``pooled``.
        number: from 0.
    """

    task: str
    epsilon: float
    arm: str
    number: int = 0

    @property
    def recipe(self) -> Recipe | float:
        """How it is trained."""
        return RECIPES[self.task][self.epsilon][self.arm] if self.epsilon else POOLED_DECAY[self.task]

    @property
    def key(self) -> str:
        """What a kept figure is found by: it is of this run, recipe and code, or it is not found."""
        facts = (self.recipe, ORDERS.get(self.epsilon), MAX_COLLUDING[self.task], _code())
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        return f"{self.task} {self.epsilon:g} {self.arm} {self.number} {digest}"


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for source in SOURCES:
        path = CHECKOUT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def measure(run: Run) -> Score:
    """Trains it here."""
    torch.set_num_threads(1)
    if not run.epsilon:
        return pooled(_task(run.task), POOLED_DECAY[run.task])
    if run.arm != "alone":
        return _job(run.task, run.epsilon, run.arm).run()
    holders = len(_task(run.task).cards)
    each = (
        [run.number % holders] if run.task == "fashion" else range(holders)
    )  # there, every holder in one run of ten
    scores = [_job(run.task, run.epsilon, run.arm, holder).run() for holder in each]
    areas = [score.auc for score in scores if score.auc is not None]
    return Score(mean(score.accuracy for score in scores), mean(areas) if areas else None)


@cache
def _task(name: str) -> Task:
    return TASKS[name]()


@cache
def _job(name: str, epsilon: float, arm: str, holder: int | None = None) -> Job:
    task = _task(name)
    if holder is not None:
        task = task.alone(holder)
    elif arm == "central":
        task = task.pooled()
    noise = "distributed" if arm == "distributed" else "local"
    recipe = RECIPES[name][epsilon][arm]
    return Job(task, recipe, epsilon, ORDERS[epsilon], noise, MAX_COLLUDING[name])


class Results:
    """Scores by run, kept in a file of lines that only grows.

    Args:
        path: None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._scores: dict[str, Score] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._scores[entry["key"]] = Score(entry["accuracy"], entry["auc"])
                except (ValueError, KeyError):
                    continue  # a line that an interruption cut off

    def of(self, runs: Iterable[Run]) -> list[Score]:
        """The scores of those runs that there are."""
        return [self._scores[run.key] for run in runs if run.key in self._scores]

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those runs that there are none of."""
        return [run for run in runs if run.key not in self._scores]

    def measure(self, runs: list[Run], workers: int) -> Iterator[tuple[Run, Score]]:
        """Runs those that are missing, on so many cores, and gives each when it is done and kept."""
        missing = self.missing(runs)
        if workers == 1 or len(missing) < 2:
            for run in missing:
                yield run, self._keep(run, measure(run))
            return
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            try:
                doing: Mapping = {pool.submit(measure, run): run for run in missing}
                for done in as_completed(doing):
                    yield doing[done], self._keep(doing[done], done.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def _keep(self, run: Run, score: Score) -> Score:
        self._scores[run.key] = score
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": run.key, **asdict(score)}) + "\n")
        return score


def runs_of(tasks: Iterable[str], epsilons: Iterable[float], count: int) -> list[Run]:
    """What there is to run: first what is soon done, and of images first the figure that binds."""
    wanted = [Run(task, 0.0, "pooled") for task in tasks]
    for task in tasks:
        first = sorted(epsilons, key=lambda epsilon: (task == "fashion" and epsilon != 3.0, epsilon))
        wanted += [
            Run(task, epsilon, arm, number) for epsilon in first for number in range(count) for arm in ARMS
        ]
    return wanted
