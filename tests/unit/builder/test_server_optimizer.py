"""The builder's own optimisers: equal to the papers' formulas step by step, the same after a resume, and strict about their input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from usufruct.builder.server_optimizer import (
    Schedule,
    ServerAdam,
    ServerOptimizer,
    ServerSGD,
    ServerYogi,
    read_server_optimizer,
    read_slots,
    step,
    write_server_optimizer,
    write_slots,
)
from usufruct.errors import ConfigError, InvalidInput

ROUNDS = 12
OPTIMIZERS = [
    ServerSGD(),
    ServerSGD(0.5, momentum=0.9, schedule=Schedule("linear", final=0.1, warmup_rounds=3)),
    ServerAdam(0.05, schedule=Schedule("cosine")),
    ServerYogi(0.05, beta1=0.8, beta2=0.9, tau=1e-2),
]


def averages(size: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(scale=10.0 ** rng.integers(-3, 1), size=size) for _ in range(ROUNDS)]


def by_the_formulas(optimizer: ServerOptimizer, start: np.ndarray) -> np.ndarray:
    """All rounds, one parameter after the other, in Python's floats."""
    result = []
    for place, x in enumerate(start.tolist()):
        momentum, m = 0.0, 0.0
        v = 0.0 if isinstance(optimizer, ServerSGD) else optimizer.tau**2
        for round_, average in enumerate(averages(len(start)), 1):
            change = float(average[place])
            lr = optimizer.lr * optimizer.schedule.factor(round_, ROUNDS)
            if isinstance(optimizer, ServerSGD):
                momentum = optimizer.momentum * momentum + change
                x += lr * momentum
                continue
            m = optimizer.beta1 * m + (1 - optimizer.beta1) * change
            if isinstance(optimizer, ServerAdam):
                v = optimizer.beta2 * v + (1 - optimizer.beta2) * change**2
            else:
                v = v - (1 - optimizer.beta2) * change**2 * math.copysign(1.0, v - change**2)
            x += lr * m / (math.sqrt(v) + optimizer.tau)
        result.append(x)
    return np.array(result)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: f"{each.name}-{each.lr}")
def test_every_step_is_the_formula_and_a_resume_in_between_changes_nothing(
    optimizer: ServerOptimizer,
) -> None:
    start = np.linspace(-1, 1, 7).astype(np.float32)
    vector, slots = start, {}
    for round_, average in enumerate(averages(), 1):
        again = read_server_optimizer(write_server_optimizer(optimizer))
        assert again == optimizer
        vector, slots = step(again, read_slots(write_slots(slots)), vector, average, round_, ROUNDS)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, by_the_formulas(optimizer, start), rtol=0, atol=2e-5)


def test_a_large_model_is_stepped_in_parts_as_a_small_one() -> None:
    rng = np.random.default_rng(1)
    size = (1 << 20) + 3
    vector, average = rng.normal(size=size).astype(np.float32), rng.normal(size=size)
    for optimizer in OPTIMIZERS:
        whole, slots = step(optimizer, {}, vector, average, 5, ROUNDS)
        tail, tail_slots = step(optimizer, {}, vector[-5:], average[-5:], 5, ROUNDS)
        np.testing.assert_array_equal(whole[-5:], tail)
        assert set(slots) == set(tail_slots) == set(optimizer.first)
        for name, slot in slots.items():
            np.testing.assert_array_equal(slot[-5:], tail_slots[name])


def test_plain_averaging_takes_the_average_as_it_is_and_remembers_nothing() -> None:
    vector, slots = step(ServerSGD(), {}, np.ones(3, np.float32), np.array([1.0, 0.0, -2.0]), 1, 1)
    assert (vector.tolist(), dict(slots), write_slots(slots)) == ([2.0, 1.0, -1.0], {}, b"")
    assert read_server_optimizer({}) == ServerSGD()


def test_a_schedule_rises_then_falls_to_its_end() -> None:
    linear = Schedule("linear", final=0.2, warmup_rounds=4)
    factors = [linear.factor(round_, 14) for round_ in range(1, 15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[-1] == pytest.approx(0.2)
    assert np.diff(factors[4:]) == pytest.approx(np.full(9, -0.8 / 9))
    cosine = [Schedule("cosine").factor(round_, 11) for round_ in range(1, 12)]
    assert (cosine[0], cosine[5], cosine[-1]) == pytest.approx((1.0, 0.5, 0.0))
    assert [Schedule().factor(round_, 3) for round_ in (1, 2, 3)] == [1.0] * 3
    assert Schedule("cosine", warmup_rounds=9).factor(3, 5) == pytest.approx(1 / 3), "still warming up"
    assert Schedule("linear").factor(1, 1) == 1.0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ServerSGD(lr=0.0), "lr"),
        (lambda: ServerSGD(lr=float("nan")), "lr"),
        (lambda: ServerSGD(momentum=1.0), "momentum"),
        (lambda: ServerAdam(beta1=-0.1), "beta1"),
        (lambda: ServerYogi(beta2=1.0), "beta2"),
        (lambda: ServerAdam(tau=0.0), "tau"),
        (lambda: Schedule("quadratic"), "decay"),
        (lambda: Schedule(final=1.5), "final"),
        (lambda: Schedule(warmup_rounds=-1), "warmup_rounds"),
        (lambda: Schedule(warmup_rounds=1.5), "warmup_rounds"),  # type: ignore[arg-type]
    ],
)
def test_what_is_out_of_its_range_is_named(make, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert (caught.value.reason, caught.value.details["field"]) == ("SPEC_INVALID", field)


def test_memory_that_does_not_fit_and_a_damaged_file_are_refused() -> None:
    vector, average = np.zeros(3, np.float32), np.zeros(3)
    for slots in ({"momentum": np.zeros(3, np.float32)}, {"average": np.zeros(3, np.float32)}):
        with pytest.raises(ConfigError):
            step(ServerAdam(), slots, vector, average, 2, 3)
    with pytest.raises(ConfigError):
        step(ServerSGD(momentum=0.5), {"momentum": np.zeros(4, np.float32)}, vector, average, 2, 3)
    with pytest.raises(ConfigError):
        read_slots(b"\x00" * 20)
    for entry in ({"name": "lion"}, {"name": "adam", "lr": -1.0}, {"name": "sgd", "speed": 1.0}):
        with pytest.raises(ConfigError):
            read_server_optimizer(entry)
