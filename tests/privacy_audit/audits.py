"""The audits of a trainer: each gives a finding with a level, the probability with which it alarms though all is well.

Everything is seen from outside: rows in a file, a builder's weights, and the integers that come back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from audited_cohort import VALUE_BITS, AuditedCohort, Model, Plan
from canaries import Canaries
from lower_bounds import epsilon_of_noise, noise_at_most, one_run_epsilon
from reconstruction import IMPRINTED, imprint, imprint_model, inversion, inversion_model
from scipy import stats

from usufruct.privacy import (
    DistributedPlan,
    IntegerNoise,
    LocalPlan,
    integer_noise_for,
    loss_for_epsilon_micro,
    noise_multiplier_for,
)
from usufruct.privacy.rotation import block_size
from usufruct_server.holder.training.zygote import Zygote

MODES = ("local", "distributed")
DELTA = 1e-5
CLAIMS = {1.0: 16, 2.0: 8, 4.0: 5}
"""The epsilons that are audited, and the dataset's order that suits each."""
ROUNDS = 2
CLIP_MICRO = 50_000
"""A canary's gradient is some ten times as long."""
HONEST, COLLUDING = 2, 1
GUESSED_SHARE = 0.4
"""Of the canaries, in one run; fixed beforehand. The surest fifth on either side."""


ATTACKED_SIZE = 500
"""Nominal size of a dataset whose rows are to be reconstructed. Fewer rows would be too few for integers of a usual size."""


@dataclass(frozen=True)
class Finding:
    """What an audit found.

    Attributes:
        audit: what was looked at.
        seen, bound: what was measured and what it must not exceed, both in words or figures.
        alarm: whether it does.
        level: probability of an alarm at a trainer that does what its plan says, at most; 0 where nothing is random.
    """

    audit: str
    seen: str
    bound: str
    alarm: bool
    level: float


def plan_for(mode: str, epsilon: float, sample_rate: float, model: Model, count: int) -> Plan:
    """A job of two rounds that claims ``epsilon`` at 1e-5, for a dataset of ``count`` rows."""
    order = CLAIMS[epsilon]
    cap = loss_for_epsilon_micro(epsilon, order, DELTA)
    if mode == "local":
        noise = noise_multiplier_for(
            cap, order=order, sample_rate=sample_rate, steps_per_round=1, attempts=ROUNDS
        )
        return LocalPlan(sample_rate, CLIP_MICRO / 10**6, noise, 1, ROUNDS, 0, 64, count, order, DELTA)
    integers = integer_noise_for(
        {order: cap},
        sample_rate=sample_rate,
        max_grad_norm_micro=CLIP_MICRO,
        parameter_count=model.parameters,
        holders=HONEST + COLLUDING,
        min_honest=HONEST,
        attempts=ROUNDS,
        largest_batch=sample_rate * count,
        alignment=min(1.0, 250 / count),  # the canaries are orthogonal: a sum of n is sqrt(n) long
    )
    return distributed_plan(model.parameters, integers, sample_rate, count, order)


def distributed_plan(
    parameters: int, noise: IntegerNoise, sample_rate: float, nominal_size: int, order: int
) -> DistributedPlan:
    """A job of two rounds over the audited cohort."""
    return DistributedPlan(
        sample_rate, CLIP_MICRO, parameters, HONEST + COLLUDING, HONEST, COLLUDING, noise, ROUNDS, 0, 64,
        nominal_size, order, DELTA,
    )  # fmt: skip


@dataclass(frozen=True)
class Auditor:
    """Runs audits against the trainer that this process would start.

    Attributes:
        zygote: forks the audited children.
        folder: for holders' files.
        level: of each finding.
        canaries: the rows that an audit plants.
    """

    zygote: Zygote
    folder: Path
    level: float
    canaries: Canaries

    def _cohort(self, plan: Plan, model: Model, reach: float = 1.0) -> AuditedCohort:
        return AuditedCohort(self.zygote, self.folder, model, plan, reach)

    # -- epsilon ---------------------------------------------------------------------------------------------------

    def one_run(self, mode: str, epsilon: float, executed: Plan | None = None) -> Finding:
        """One job, on those canaries for which a coin came up; then the auditor guesses the coins.

        Args:
            executed: another plan than the one whose claim is audited: what a broken trainer would do.
        """
        canaries = self.canaries
        plan = plan_for(mode, epsilon, 1.0, canaries.model, canaries.count)
        coins = np.random.default_rng().integers(0, 2, canaries.count).astype(bool)
        with self._cohort(executed or plan, canaries.model) as cohort:
            cohort.start([canaries.rows(coins)])
            scores = sum(canaries.scores(opened) for opened in cohort.opened(ROUNDS))
        side = int(GUESSED_SHARE * canaries.count) // 2
        by_score = np.argsort(scores)
        correct = int(np.sum(coins[by_score[-side:]]) + np.sum(~coins[by_score[:side]]))
        proven = one_run_epsilon(canaries.count, 2 * side, correct, DELTA, self.level)
        return self._epsilon(f"one run, {mode}, epsilon {epsilon:g}", proven, plan)

    def two_run(self, mode: str, epsilon: float, executed: Plan | None = None) -> Finding:
        """Two jobs, one with the canaries and one without; a threshold at half a canary tells the worlds apart."""
        canaries = self.canaries
        plan = plan_for(mode, epsilon, 0.5, canaries.model, canaries.count)
        above = {}
        with self._cohort(executed or plan, canaries.model) as cohort:
            for present in (False, True):
                cohort.start([canaries.rows()] if present else [])
                scores = np.concatenate([canaries.scores(opened) for opened in cohort.opened(ROUNDS)])
                above[present] = (int(np.sum(scores > plan.max_grad_norm / 2)), scores.size)
        noise = noise_at_most(above[False], above[True], plan.sample_rate, self.level)
        proven = epsilon_of_noise(noise, plan.sample_rate, ROUNDS, DELTA)
        return self._epsilon(f"two runs, {mode}, epsilon {epsilon:g}", proven, plan)

    def _epsilon(self, audit: str, proven: float, plan: Plan) -> Finding:
        return Finding(audit, f"{proven:.3f}", f"{plan.epsilon:.3f}", proven > plan.epsilon, self.level)

    # -- the noise -------------------------------------------------------------------------------------------------

    def noise(self, mode: str, samples: int) -> Iterator[Finding]:
        """Holders without rows send noise alone: its variance, and its law.

        Variance by chi-square. The law by Kolmogorov and Smirnov against the normal one, after smoothing by one integer: the
        noise has a deviation of 500 integers or more and an excess kurtosis below 10^-5, which moves the distribution
        function by less than 10^-6; what 10^7 samples resolve is 10^-3.
        """
        plan, step = _noise_plan(mode, self.canaries.model)
        drawn: list[np.ndarray] = []
        with self._cohort(plan, self.canaries.model, reach=0.0) as cohort:
            cohort.start([])
            while sum(part.size for part in drawn) < samples:
                drawn += _noise_alone(cohort)
        values = np.concatenate(drawn)
        square, count = float(np.sum(values**2)), values.size
        shown = f"deviation {100 * (math.sqrt(square / count) - 1):+.4f} % off in {count:,} samples"
        yield self._probability(
            f"variance of the noise, {mode}", shown, _two_sided(stats.chi2(count), square)
        )
        values += np.random.default_rng().uniform(-step / 2, step / 2, count)
        test = stats.kstest(values, "norm")
        yield self._probability(
            f"law of the noise, {mode}", f"distance {test.statistic:.5f}", float(test.pvalue)
        )

    def repeats(self, mode: str, *restarted: Zygote) -> Finding:
        """Noise of children of one image, of processes that were started again, and of their later rounds: every pair is
        uncorrelated; by Bonferroni over the pairs. The product of independent normal vectors of length n is normal, of
        variance n, at such an n."""
        plan, _ = _noise_plan(mode, self.canaries.model)
        drawn: list[np.ndarray] = []
        for zygote in (self.zygote, self.zygote, *restarted):
            with AuditedCohort(zygote, self.folder, self.canaries.model, plan, 0.0) as cohort:
                cohort.start([])
                drawn += [*_noise_alone(cohort), *_noise_alone(cohort)]
        pairs = [*itertools.combinations(drawn, 2)]
        largest = max(abs(float(left @ right)) / math.sqrt(left.size) for left, right in pairs)
        p_value = min(1.0, len(pairs) * 2 * float(stats.norm.sf(largest)))
        return self._probability(f"repeated noise, {mode}", f"{len(pairs)} pairs of releases", p_value)

    # -- sampling and clipping -------------------------------------------------------------------------------------

    def sampling(self, mode: str, rounds: int) -> Iterator[Finding]:
        """Rows that are all one row, and next to no noise: an opened sum counts how many were drawn, each at the clip.

        The counts must be whole numbers, and binomial in total and in their spread.
        """
        canaries, size, rate = self.canaries, 400, 0.25
        plan = replace(_faint(mode, canaries.model, size, 1e-2), sample_rate=rate)
        with self._cohort(plan, canaries.model, reach=size * plan.max_grad_norm) as cohort:
            cohort.start([canaries.copies(size)])
            exact = (
                np.array([canaries.scores(opened)[0] for opened in cohort.opened(rounds)]) / plan.clip_norm
            )
        counts = np.rint(exact)
        off = float(np.abs(exact - counts).max())
        yield Finding(
            f"clipping of rows, {mode}", f"{off:.3f} off a whole number of rows", "0.25", off > 0.25, 0.0
        )
        drawn, rows = int(np.clip(counts.sum(), 0, rounds * size)), rounds * size
        yield self._probability(
            f"size of the sample, {mode}",
            f"mean {counts.mean():.2f} for {rate * size:g}",
            float(stats.binomtest(drawn, rows, rate).pvalue),
        )
        spread = float(np.sum((counts - size * rate) ** 2)) / (size * rate * (1 - rate))
        yield self._probability(
            f"spread of the sample, {mode}",
            f"{spread / rounds:.3f} of the binomial variance",
            _two_sided(stats.chi2(rounds), spread),
        )

    # -- reconstruction --------------------------------------------------------------------------------------------

    def reconstruction(
        self, mode: str, attacks: int, generator: np.random.Generator | None = None
    ) -> Iterator[Finding]:
        """Both attacks on jobs at epsilon 1: they must read nothing off. And on jobs with next to no noise: they must
        succeed, or the first finding would be worth nothing.

        Args:
            generator: makes rows and the attacker's starts; a fresh one by default.
        """
        generator = generator or np.random.default_rng()
        for name, model, attack, rows in (
            ("imprint layer", imprint_model(), imprint, IMPRINTED),
            ("gradient inversion", inversion_model(), inversion, 2),
        ):
            with self._cohort(
                _faint(mode, model, rows, 1e-3), model, reach=rows * CLIP_MICRO / 10**6
            ) as cohort:
                bare = attack(cohort, attacks, generator)
            shown = f"{100 * bare.recovered:.0f} % of the rows"
            yield Finding(f"{name} without privacy, {mode}", shown, ">= 60 %", bare.recovered < 0.6, 0.0)
            with self._cohort(plan_for(mode, 1.0, 1.0, model, ATTACKED_SIZE), model) as cohort:
                private = attack(cohort, attacks, generator)
            yield self._probability(
                f"{name}, {mode}, epsilon 1", f"{100 * private.recovered:.0f} % of the rows", private.p_value
            )
            yield Finding(
                f"rows by {name}, {mode}, epsilon 1",
                f"{100 * private.recovered:.0f} %",
                "0 %",
                private.recovered > 0,
                0.0,
            )

    def _probability(self, audit: str, shown: str, p_value: float) -> Finding:
        return Finding(
            audit, f"{shown}, p = {p_value:.2g}", f"p >= {self.level:.2g}", p_value < self.level, self.level
        )


def _two_sided(law: Any, value: float) -> float:
    return float(min(1.0, 2 * min(law.cdf(value), law.sf(value))))


def _noise_plan(mode: str, model: Model) -> tuple[Plan, float]:
    """A plan for a job without rows, and one of its integers in deviations of its noise."""
    if mode == "local":
        return LocalPlan(1.0, CLIP_MICRO / 10**6, 1.0, 1, ROUNDS, 0, 2, 2, 6, DELTA), 10 / (
            1 << (VALUE_BITS - 1)
        )
    noise = IntegerNoise(scale_micro=20_000 * 10**6, share_noise=1_000_000, clamp=60_000)
    return distributed_plan(model.parameters, noise, 1.0, 2, 6), 1e-3


def _noise_alone(cohort: AuditedCohort) -> list[np.ndarray]:
    """One round of holders without rows: each one's noise, in deviations."""
    released = cohort.releases(bytes(32))
    if isinstance(cohort.plan, LocalPlan):
        deviation = cohort.plan.noise_standard_deviation
        return [cohort.local_sum(codes) / deviation for codes in released]
    return [share / math.sqrt(cohort.plan.noise.share_noise) for share in released]


def _faint(mode: str, model: Model, rows: int, noise_multiplier: float) -> Plan:
    """A plan with next to no noise, of no use to anybody but an auditor. With `distributed` noise it is rounding, mostly."""
    if mode == "local":
        return LocalPlan(1.0, CLIP_MICRO / 10**6, noise_multiplier, 1, ROUNDS, 0, 64, rows, 6, DELTA)
    # so fine as the field allows: n rows are at most n rows long, and evenly over the block after the rotation
    steps = min(10**6, 3 * 10**5 * math.sqrt(block_size(model.parameters)) / (6 * rows))
    return distributed_plan(
        model.parameters, IntegerNoise(int(steps / CLIP_MICRO * 10**12), 1, 600_000), 1.0, rows, 6
    )
