"""A query through the trainer's own release and the builder's own opening, for both kinds of noise: the figures are those of
the rows, and the noise in them is what the standard errors say."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from listed_datasets import OPERATOR, make_dataset

from usufruct.builder.datasets import Dataset
from usufruct.builder.estimates import Totals, described
from usufruct.builder.noise import average_deviation
from usufruct.builder.planning import make_plan
from usufruct.builder.querying import rows_in_average
from usufruct.builder.questions import ROUNDS, SPARE_ATTEMPTS, optimizer_of, query_of
from usufruct.builder.settings import Privacy, Statistics
from usufruct.builder.summing import read_average
from usufruct.domain.preprocessing import PreparedData
from usufruct.domain.query import JobKind, StatisticsQuery, layout_of
from usufruct.domain.training_job import QUERY_OPTIMIZER, AggregatorRef, TrainingJobSpec, check_spec
from usufruct.privacy import plan_of
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.query_sum import statistics_sum
from usufruct_server.holder.training.released import Release

RUNS = 150
SIZES = (90, 100, 110, 200)
DATASETS = [make_dataset(at + 1, rows) for at, rows in enumerate(SIZES)]
CARD = DATASETS[0].card


def job(noise: str, sample_rate: float = 1.0) -> TrainingJobSpec:
    """Statistics as the SDK would ask them."""
    question = Statistics(("a", "b"), bins=4, sample_rate=sample_rate)
    query = query_of(question, DATASETS, 0)
    values = layout_of(query, "", CARD).values
    plan = make_plan(
        DATASETS,
        Privacy(3.0, max_grad_norm=0.5, noise=noise, min_honest=2 if noise == "distributed" else None),
        optimizer_of(question),
        rounds=ROUNDS,
        spare_attempts=SPARE_ATTEMPTS,
        parameter_count=values,
    )
    assert plan.optimizer == QUERY_OPTIMIZER
    assert max(plan.epsilons) <= 3.0
    return check_spec(
        TrainingJobSpec(
            1, OPERATOR, OPERATOR, bytes(32), b"", "", plan.optimizer, plan.plan, plan.legs, plan.encryption,
            AggregatorRef("a:1", bytes(32)), plan.min_cohort, "", 2_000_000_000, 60, query=query,
        )
    )  # fmt: skip


def rows_of(dataset: Dataset) -> PreparedData:
    random = np.random.default_rng(dataset.id)
    features = random.uniform(-1, 1, (dataset.nominal_size, 2)).astype(np.float32)
    features[::5, 1] = np.nan
    return PreparedData(features, random.integers(0, 2, dataset.nominal_size))


def averages(spec: TrainingJobSpec, roster: tuple[int, ...], runs: int) -> np.ndarray:
    """Opened averages of so many attempts over these holders, shape (runs, values)."""
    assert isinstance(spec.query, StatisticsQuery)
    releases, holders = [], [dataset for dataset in DATASETS if dataset.id in roster]
    for dataset in holders:
        terms, encryption = spec.leg(dataset.id), spec.encryption
        task = TrainerTask(
            CARD, None, None, plan_of(spec, dataset.id), "", spec.optimizer, terms.weight_nano / 1e9,  # type: ignore[arg-type]
            encryption.update_range_nano / 1e9, encryption.value_bits, spec.query,
        )  # fmt: skip
        releases.append((Release(task, encryption.parameter_count), rows_of(dataset)))
    query, found = statistics_sum(spec.query, CARD), []
    for _ in range(runs):
        seed = secrets.token_bytes(32)
        sums = sum(
            np.concatenate([*release.integers(query, rows, seed)]).astype(np.int64)
            for release, rows in releases
        )
        found.append(read_average([np.asarray(sums)], spec, roster, seed))
    return np.array(found)


@pytest.mark.parametrize(
    ("noise", "roster"),
    [
        ("local", (1, 2, 3, 4)),
        ("local", (1, 4)),
        ("distributed", (1, 2, 3, 4)),
        ("distributed", (1, 2, 4)),
    ],
)
def test_the_noise_in_every_figure_is_what_its_standard_error_says(
    noise: str, roster: tuple[int, ...]
) -> None:
    """150 runs of 13 numbers: their deviation is estimated to 1.6 %, the mean of each to a twelfth of it. The bounds are six
    times that: a false alarm once in 10^7 runs. A share of noise that is not counted, or counted and not there, is found."""
    spec = job(noise)
    found = averages(spec, roster, RUNS)
    said = average_deviation(spec, roster)
    assert (found - found.mean(axis=0)).std(ddof=1) == pytest.approx(said, rel=0.1)
    assert isinstance(spec.query, StatisticsQuery)
    layout = layout_of(spec.query, "", CARD)
    per_row = rows_in_average(spec, roster, layout)
    result = described(
        spec.query, CARD, Totals(layout, found.mean(axis=0) * per_row, abs(said * per_row), "0x", 1.0)
    )
    rows = [rows_of(dataset) for dataset in DATASETS if dataset.id in roster]
    b = np.concatenate([holder.features[:, 1] for holder in rows])
    known = b[np.isfinite(b)]
    figures = result.columns["b"]
    assert figures.mean is not None
    low_to_high = (known + 1) / 2  # the card's bounds are 0 and 1
    for estimate, truth in (
        (result.rows, b.size),
        (figures.count, known.size),
        (figures.mean, low_to_high.mean()),
        *zip(figures.histogram.values(), np.histogram(low_to_high, bins=4, range=(0, 1))[0], strict=True),
    ):
        assert estimate.value == pytest.approx(truth, abs=6 * estimate.standard_error / RUNS**0.5), estimate


def test_a_sample_stands_for_all_rows() -> None:
    """Half of 500 rows, drawn 150 times: a mean is off by a thousandth of the rows and the noise; bound: six times that."""
    spec = job("local", 0.5)
    assert isinstance(spec.query, StatisticsQuery)
    layout = layout_of(spec.query, "", CARD)
    roster = (1, 2, 3, 4)
    per_row = rows_in_average(spec, roster, layout)
    mean = averages(spec, roster, RUNS).mean(axis=0) * per_row
    deviation = (sum(SIZES) + (average_deviation(spec, roster) * per_row) ** 2) ** 0.5
    assert mean[0] == pytest.approx(sum(SIZES), abs=6 * deviation / RUNS**0.5)


def test_a_query_costs_what_its_one_attempt_costs() -> None:
    spec = job("distributed")
    assert (spec.plan.rounds, spec.plan.attempts, spec.plan.sample_rate_nano) == (1, 1, 10**9)
    for leg in spec.legs:
        assert leg.loss_per_attempt_micro == plan_of(spec, leg.dataset_id).loss_per_attempt_micro
        assert spec.reservation_micro(leg.dataset_id) == leg.loss_per_attempt_micro
    assert spec.kind is JobKind.STATISTICS
