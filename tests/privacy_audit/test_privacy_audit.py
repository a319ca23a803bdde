"""The short form of ``make audit-privacy``: the shipped trainer is audited, and so are trainers with less noise than claimed.

Every finding alarms at a correct trainer with a probability of at most 10^-9, but for those of one run. Theirs is 10^-3 by the
theorem, which holds for the worst mechanism of that epsilon; for Gaussian noise of the plan's deviation it is below 10^-9
(``test_one_run_has_a_margin``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from audited_cohort import Plan
from audits import DELTA, GUESSED_SHARE, MODES, ROUNDS, Auditor, Finding, plan_for
from canaries import Canaries
from lower_bounds import one_run_probability
from scipy import stats

from usufruct.privacy import LocalPlan
from usufruct_server.holder.training.zygote import Zygote

LEVEL, ONE_RUN_LEVEL, CANARIES = 1e-9, 1e-3, Canaries.of(512)


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditor]:
    zygote = Zygote()
    yield Auditor(zygote, tmp_path_factory.mktemp("holders"), LEVEL, CANARIES)
    zygote.close()


@pytest.fixture(scope="module")
def one_run_auditor(auditor: Auditor) -> Auditor:
    """The theorem adds some delta a canary, so that it proves nothing at a level of 10^-9."""
    return replace(auditor, level=ONE_RUN_LEVEL)


def alarms(*findings: Finding) -> list[str]:
    return [f"{finding.audit}: {finding.seen}" for finding in findings if finding.alarm]


def faint(plan: Plan) -> Plan:
    """The plan with a sixteenth of its noise."""
    assert isinstance(plan, LocalPlan)
    return replace(plan, noise_multiplier=plan.noise_multiplier / 16)


@pytest.mark.parametrize("mode", MODES)
def test_two_runs_prove_no_more_than_the_plan_claims(auditor: Auditor, mode: str) -> None:
    assert not alarms(auditor.two_run(mode, 2.0))


def test_one_run_proves_no_more_than_the_plan_claims(one_run_auditor: Auditor) -> None:
    assert not alarms(one_run_auditor.one_run("local", 2.0))


def test_the_audits_see_too_little_noise(auditor: Auditor, one_run_auditor: Auditor) -> None:
    """A sixteenth of the noise that the claim is for, by a plan of its own: both audits must refute the claim."""
    model, count = CANARIES.model, CANARIES.count
    two = auditor.two_run("local", 2.0, faint(plan_for("local", 2.0, 0.5, model, count)))
    one = one_run_auditor.one_run("local", 2.0, faint(plan_for("local", 2.0, 1.0, model, count)))
    assert len(alarms(two, one)) == 2


def test_rows_are_read_off_a_sum_without_privacy_and_not_with_it(auditor: Auditor) -> None:
    """Fixed rows and starts. At epsilon 1 nothing is read off; without privacy all that the same attacks look for."""
    assert not alarms(*auditor.reconstruction("local", 1, np.random.default_rng(1)))


def test_one_run_has_a_margin() -> None:
    """Guesses by the score under the noise that the plan adds, simulated 100,000 times for the surest fifths: the share that is
    right, and the binomial chance of as many right guesses as would refute the claim."""
    plan = plan_for("local", 2.0, 1.0, CANARIES.model, CANARIES.count)
    assert isinstance(plan, LocalPlan)
    generator, count = np.random.default_rng(0), 10**5
    coins = generator.integers(0, 2, count).astype(bool)
    scores = coins * ROUNDS + generator.normal(0, plan.noise_multiplier * math.sqrt(ROUNDS), count)
    surest = np.argsort(scores)[-int(GUESSED_SHARE * count) // 2 :]
    guesses = int(GUESSED_SHARE * CANARIES.count)
    refuting = next(
        n
        for n in range(guesses // 2, guesses)
        if one_run_probability(CANARIES.count, guesses, n, plan.epsilon, DELTA) <= ONE_RUN_LEVEL
    )
    assert stats.binom.sf(refuting - 1, guesses, coins[surest].mean()) < LEVEL


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_is_the_law_and_never_the_same(auditor: Auditor, mode: str) -> None:
    assert not alarms(*auditor.noise(mode, 50_000), auditor.repeats(mode))


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_poisson_and_every_row_counts_as_one_clip(auditor: Auditor, mode: str) -> None:
    assert not alarms(*auditor.sampling(mode, 20))
