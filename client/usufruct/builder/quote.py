"""What a job would cost, before anyone is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usufruct.builder.datasets import Dataset
from usufruct.builder.gas import Circumstances, TransactionQuote, job_transactions, total
from usufruct.builder.planning import JobPlan, make_plan
from usufruct.builder.settings import SGD, Encryption, Privacy, Question
from usufruct.chain import bond_units
from usufruct.domain.training_job import NANO
from usufruct.encryption import EncryptionParameters
from usufruct.privacy import DistributedPlan, Guarantee

if TYPE_CHECKING:
    from torch import nn

    from usufruct.builder.network import Network


@dataclass(frozen=True)
class LegQuote:
    """One dataset's part of a quote.

    Attributes:
        epsilon: binding epsilon of the whole reservation.
        alone: with distributed noise, what remains of the promise if everybody else sides with the builder: this holder's own
            share of the noise. None with local noise, where ``epsilon`` holds against everyone.
        loss_micro: the reservation, 10^-6 nat at the dataset's order.
        share: weight of this dataset in the average.
    """

    dataset_id: int
    name: str
    price_units: int
    token: str
    epsilon: float
    alone: Guarantee | None
    loss_micro: int
    order: int
    share: float


@dataclass(frozen=True)
class EncryptionQuote:
    """What the planner picked for the cohort; see ``encryption/README.md`` for the formulas.

    Attributes:
        parameters: name of the set, as the spec has it.
        value_bits: of a holder's value; with distributed noise of the sum.
        security_bits: by SEAL's tables.
        max_holders: most updates in one sum.
        bytes_per_parameter: of an update, in the limit of large models.
        noise_headroom: standard deviations of a full sum's noise that fit the room it has.
        failure_log2: log2 of the probability that one coefficient of a full sum decrypts wrongly.
    """

    parameters: str
    value_bits: int
    security_bits: int
    max_holders: int
    bytes_per_parameter: float
    noise_headroom: float
    failure_log2: float

    def __str__(self) -> str:
        return (
            f"{self.value_bits}-bit values at {self.security_bits} bits of security, {self.bytes_per_parameter:.2f} bytes a "
            f"parameter, {self.noise_headroom:.1f} deviations of headroom: a coefficient of a sum of {self.max_holders} opens "
            f"wrongly once in 2^{-self.failure_log2:.0f} ({self.parameters})"
        )


@dataclass(frozen=True)
class Quote:
    """A job's costs.

    Attributes:
        price_units: by token address, what would be locked and, when delivered, paid.
        fee_bps: ten-thousandths of the price that the protocol takes from it, not on top of it.
        deposit_units: by token address, what has to be deposited first; opening does so by itself.
        bond_units: by dataset number, what disputing its leg takes from the deposit; empty without an arbiter.
        noise: where it is added, ``"local"`` or ``"distributed"``.
        min_honest, max_colluding: what ``epsilon`` assumes of every sum with distributed noise; 0 with local noise.
        noise_multiplier: standard deviation of the noise over the norm bound: with local noise in full at every holder, with
            distributed noise of ``min_honest`` shares together.
        transactions: what this builder sends when all goes well.
        gas_price_wei: what the chain asks for gas now.
        parameters: numbers of an update: parameters of the model, or what a query takes of a row; None without a model.
        upload_bytes_per_round: by all holders together; None without a model.
        sum_bytes_per_round: what this builder fetches; None without a model.
    """

    legs: tuple[LegQuote, ...]
    price_units: Mapping[str, int]
    fee_bps: int
    deposit_units: Mapping[str, int]
    bond_units: Mapping[int, int]
    delta: float
    noise: str
    min_honest: int
    max_colluding: int
    noise_multiplier: float
    attempts: int
    transactions: tuple[TransactionQuote, ...]
    gas_price_wei: int
    parameters: int | None
    upload_bytes_per_round: int | None
    sum_bytes_per_round: int | None
    encryption: EncryptionQuote

    @property
    def epsilon(self) -> float:
        """Largest binding epsilon of all datasets, if every attempt is used."""
        return max(leg.epsilon for leg in self.legs)

    @property
    def gas(self) -> int:
        """Of all transactions."""
        return total(self.transactions)

    @property
    def cost_wei(self) -> int:
        """What the gas costs at the chain's present price."""
        return self.gas * self.gas_price_wei

    @property
    def cost_coin(self) -> Decimal:
        """The same in the chain's coin (10^18 wei)."""
        return Decimal(self.cost_wei).scaleb(-18)

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"dataset {leg.dataset_id} {leg.name!r}: price {leg.price_units}, epsilon up to {leg.epsilon:.3f} at delta "
            f"{self.delta:g}, weight {leg.share:.0%}"
            for leg in self.legs
        ]
        if self.noise == "distributed":
            lines.append(
                f"these epsilons hold against you, the aggregator and up to {self.max_colluding} of the holders together, as "
                f"long as {self.min_honest} holders of every sum are honest; a sum has at least "
                f"{self.min_honest + self.max_colluding}"
            )
            lines += [
                f"dataset {leg.dataset_id} against everyone else together: {leg.alone}" for leg in self.legs
            ]
        for token, units in self.price_units.items():
            fee = f", of which the protocol takes {self.fee_bps / 100:g} %" if self.fee_bps else ""
            lines.append(
                f"price: {units} units of {token}{fee}; to deposit first: {self.deposit_units.get(token, 0)}"
            )
        if self.bond_units:
            bonds = ", ".join(f"{units} for dataset {dataset}" for dataset, units in self.bond_units.items())
            lines.append(f"a dispute takes a bond: {bonds}")
        sent = ", ".join(f"{quoted.count} x {quoted.function} {quoted.gas}" for quoted in self.transactions)
        lines.append(
            f"gas: about {self.gas} ({sent}); at {Decimal(self.gas_price_wei).scaleb(-9):f} gwei that is "
            f"{self.cost_wei} wei = {self.cost_coin:f} coin"
        )
        lines.append(
            f"{self.noise} noise, multiplier {self.noise_multiplier:.4f}, over {self.attempts} attempts"
        )
        lines.append(f"encryption: {self.encryption}")
        if self.upload_bytes_per_round is not None:
            lines.append(
                f"a round moves {self.upload_bytes_per_round} bytes of encrypted updates to the aggregator, and "
                f"{self.sum_bytes_per_round} bytes of their sum to you"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        derived = {
            "epsilon": self.epsilon,
            "gas": self.gas,
            "cost_wei": self.cost_wei,
            "cost_coin": f"{self.cost_coin:f}",
        }
        return {**asdict(self), "legs": [_leg_json(leg) for leg in self.legs], **derived}

    def __repr__(self) -> str:
        return "<Quote\n " + "\n ".join(self.lines()) + ">"


def make_quote(
    network: Network,
    model: nn.Module | None,
    datasets: Sequence[Dataset],
    *,
    privacy: Privacy,
    rounds: int,
    optimizer: SGD,
    loss: str | None,
    spare_attempts: int | None,
    min_cohort: int | None,
    encryption: Encryption | None,
    arbiter: str | None,
    sponsored: bool,
    question: Question | None = None,
) -> Quote:
    """See :meth:`usufruct.builder.network.Network.quote`; raises what proposing would."""
    parameters = None
    if model is not None or question is not None:
        from usufruct.builder.proposing import work_on

        parameters = work_on(model, datasets, loss, question).values
    plan = make_plan(
        datasets,
        privacy,
        optimizer,
        rounds=rounds,
        spare_attempts=spare_attempts,
        parameter_count=parameters or 1,
        min_cohort=min_cohort,
        encryption=encryption,
    )
    size = None if parameters is None else plan.parameters.upload_bytes(plan.values)
    chain, count = network.chain, len(plan.legs)
    prices: dict[str, int] = {}
    for leg in plan.legs:
        prices[leg.token] = prices.get(leg.token, 0) + leg.price_units
    there = _deposited(network, prices)
    missing = {} if sponsored else {token: price - there[token] for token, price in prices.items()}
    deposits = {token: units for token, units in missing.items() if units > 0}
    fee_bps = chain.settings().fee_bps
    return Quote(
        legs=_leg_quotes(plan, {dataset.id: dataset.name for dataset in datasets}),
        price_units=prices,
        fee_bps=fee_bps,
        deposit_units=deposits,
        bond_units={}
        if arbiter is None
        else {leg.dataset_id: bond_units(leg.price_units) for leg in plan.legs},
        delta=privacy.delta,
        noise=plan.plan.noise_mode.name.lower(),
        min_honest=plan.plan.min_honest,
        max_colluding=plan.plan.max_colluding,
        noise_multiplier=plan.plans[0].noise_multiplier,
        attempts=plan.plan.attempts,
        transactions=job_transactions(
            Circumstances(
                legs=count,
                deposits=len(deposits),
                empty_deposits=sum(there[token] == 0 for token in deposits),
                first_earnings=sum(_never_paid(network, dataset) for dataset in datasets),
                fee=fee_bps > 0,
                sponsored=sponsored,
            )
        ),
        gas_price_wei=chain.rpc.gas_price_wei(),
        parameters=parameters,
        upload_bytes_per_round=None if size is None else count * size,
        sum_bytes_per_round=size,
        encryption=_encryption_quote(plan.parameters),
    )


def _encryption_quote(parameters: EncryptionParameters) -> EncryptionQuote:
    literal = parameters.literal
    return EncryptionQuote(
        parameters=parameters.name,
        value_bits=literal.field_bits if literal.value_bits is None else literal.value_bits,
        security_bits=literal.security_bits,
        max_holders=parameters.max_holders,
        bytes_per_parameter=parameters.upload_bytes_per_parameter(),
        noise_headroom=parameters.noise_headroom,
        failure_log2=parameters.failure_log2,
    )


def _leg_quotes(plan: JobPlan, names: Mapping[int, str]) -> tuple[LegQuote, ...]:
    return tuple(
        LegQuote(
            dataset_id=leg.dataset_id,
            name=names[leg.dataset_id],
            price_units=leg.price_units,
            token=leg.token,
            epsilon=priced.epsilon,
            alone=priced.alone if isinstance(priced, DistributedPlan) else None,
            loss_micro=priced.reservation_micro,
            order=leg.order,
            share=leg.weight_nano / NANO,
        )
        for leg, priced in zip(plan.legs, plan.plans, strict=True)
    )


def _leg_json(leg: LegQuote) -> dict[str, Any]:
    """JSON knows no infinity: an epsilon that cannot be stated is null."""
    fields = asdict(leg)
    if leg.alone is not None and not math.isfinite(leg.alone.epsilon):
        fields["alone"]["epsilon"] = None
    return fields


def _deposited(network: Network, tokens: Iterable[str]) -> dict[str, int]:
    """By token, what is in the builder's deposit; nothing where there is no key to look for."""
    if network.key_path is None:
        return dict.fromkeys(tokens, 0)
    return {token: network.chain.deposit_of(token, network.address) for token in tokens}


def _never_paid(network: Network, dataset: Dataset) -> bool:
    """Whether nobody seems to have paid the dataset's holder yet: paying it then writes a new word."""
    return dataset.spent_micro == 0 and network.chain.earnings_of(dataset.token, dataset.holder_id) == 0
