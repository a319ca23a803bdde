"""What a job would cost, before anyone is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usufruct.builder.datasets import Dataset
from usufruct.builder.planning import JobPlan, make_plan
from usufruct.builder.settings import SGD, Privacy
from usufruct.domain.training_job import MICRO
from usufruct.encryption import DEFAULT_PARAMETERS

if TYPE_CHECKING:
    from torch import nn

GAS_DEPOSIT = 130_000
"""approve and a first deposit."""
GAS_OPEN_JOB = 60_000
GAS_OPEN_LEG = 110_000
GAS_ACKNOWLEDGE = 75_000
"""What this builder's transactions take, rounded up (``research`` figures and the contracts' own gas report)."""


@dataclass(frozen=True)
class LegQuote:
    """One dataset's part of a quote.

    Attributes:
        epsilon: binding epsilon of the whole reservation.
        loss_micro: the reservation, 10^-6 nat at the dataset's order.
        share: weight of this dataset in the average.
    """

    dataset_id: int
    name: str
    price_units: int
    token: str
    epsilon: float
    loss_micro: int
    order: int
    share: float


@dataclass(frozen=True)
class Quote:
    """A job's costs.

    Attributes:
        price_units: by token address, what would be locked and, when delivered, paid.
        noise_multiplier: standard deviation of the noise over the norm bound, the same at every holder.
        gas: estimate for this builder's transactions (deposit, open, acknowledge).
        upload_bytes_per_round: by all holders together; None without a model.
    """

    legs: tuple[LegQuote, ...]
    price_units: Mapping[str, int]
    delta: float
    noise_multiplier: float
    attempts: int
    gas: int
    parameters: int | None
    upload_bytes_per_round: int | None

    @property
    def epsilon(self) -> float:
        """Largest binding epsilon of all datasets."""
        return max(leg.epsilon for leg in self.legs)

    def __repr__(self) -> str:
        lines = [
            f"dataset {leg.dataset_id} {leg.name!r}: price {leg.price_units}, epsilon {leg.epsilon:.3f} at delta "
            f"{self.delta:g}, weight {leg.share:.0%}"
            for leg in self.legs
        ]
        total = ", ".join(str(units) for units in self.price_units.values())
        lines.append(
            f"in all: price {total}, about {self.gas} gas, noise multiplier {self.noise_multiplier:.4f} over "
            f"{self.attempts} attempts"
        )
        return "<Quote\n " + "\n ".join(lines) + ">"


def make_quote(
    model: nn.Module | None,
    datasets: Sequence[Dataset],
    *,
    privacy: Privacy,
    rounds: int,
    optimizer: SGD,
    loss: str | None,
    spare_attempts: int | None,
    min_cohort: int | None,
) -> Quote:
    """See :meth:`usufruct.builder.network.Network.quote`; raises what proposing would."""
    parameters = None
    if model is not None:
        from usufruct.builder.proposal import trace_for

        parameters = trace_for(model, datasets, loss).bounds.parameters
    plan = make_plan(
        datasets,
        privacy,
        optimizer,
        rounds=rounds,
        spare_attempts=spare_attempts,
        parameter_count=parameters or 1,
        min_cohort=min_cohort,
    )
    return _quote(plan, {dataset.id: dataset for dataset in datasets}, privacy.delta, parameters)


def _quote(plan: JobPlan, datasets: Mapping[int, Dataset], delta: float, parameters: int | None) -> Quote:
    prices: dict[str, int] = {}
    for leg in plan.legs:
        prices[leg.token] = prices.get(leg.token, 0) + leg.price_units
    count = len(plan.legs)
    return Quote(
        legs=tuple(
            LegQuote(
                dataset_id=leg.dataset_id,
                name=datasets[leg.dataset_id].name,
                price_units=leg.price_units,
                token=leg.token,
                epsilon=epsilon,
                loss_micro=plan.plan.attempts * leg.loss_per_attempt_micro,
                order=leg.order,
                share=leg.weight_nano / 10**9,
            )
            for leg, epsilon in zip(plan.legs, plan.epsilons, strict=True)
        ),
        price_units=prices,
        delta=delta,
        noise_multiplier=plan.plan.noise_multiplier_micro / MICRO,
        attempts=plan.plan.attempts,
        gas=GAS_DEPOSIT * len(prices) + GAS_OPEN_JOB + count * (GAS_OPEN_LEG + GAS_ACKNOWLEDGE),
        parameters=parameters,
        upload_bytes_per_round=None
        if parameters is None
        else count * DEFAULT_PARAMETERS.upload_bytes(parameters),
    )
