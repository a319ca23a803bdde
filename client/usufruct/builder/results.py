"""What a builder sees of a round, of a leg and of a job that was left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from usufruct.domain import ids


@dataclass(frozen=True)
class RoundResult:
    """One round that counted.

    Attributes:
        index: number of the round, from 1.
        attempt: number of the attempt that succeeded, counted through the whole job, from 1.
        epsilon: largest binding epsilon of all datasets, for what their holders have charged so far.
        validation_loss, validation_accuracy: on the builder's own validation data; None where there is none (accuracy
            also for a loss that is no classification).
        seconds: wall time of the round, attempts that were lost included.
        upload_bytes: ciphertext bytes that the holders sent to the aggregator.
        download_bytes: bytes that this builder sent to the holders and fetched from the aggregator.
        stages: of the attempt that succeeded, how long each stage took, wall seconds: ``ready`` (charged and trained by all),
            ``encrypted``, ``summed`` (sent, added and fetched), ``checked``, ``opened``.
        left_out: datasets whose legs take part in the job and whose updates are not in this round.
    """

    index: int
    attempt: int
    epsilon: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    upload_bytes: int
    download_bytes: int
    left_out: tuple[int, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)


def read_round_result(entry: Mapping[str, Any]) -> RoundResult:
    """A round as the job's state on disk has it."""
    return RoundResult(**{**entry, "left_out": tuple(entry.get("left_out", ()))})


@dataclass(frozen=True)
class LegResult:
    """One dataset's part of a job, as the chain has it at a final block and this builder checked it.

    Attributes:
        state: of the leg on chain: ``"ACKNOWLEDGED"`` (paid), ``"DELIVERED"`` (not acknowledged), ``"CANCELLED"``, …
        loss_micro: privacy loss spent, 10^-6 nat at the dataset's order; 0 where nothing was.
        epsilon: the binding figure for it, at the job's delta.
        token: address of the token that it is priced in.
        price_units: what was locked.
        paid_units, refunded_units: how much of it went to the holder (fee included) and back to the payer; both 0 while
            it is still locked.
        receipt_hash: EIP-712 hash of the receipt, 32 bytes; zero where nothing was delivered.
        findings: what the receipt says otherwise than this builder saw; empty when all is well. A leg with findings is not
            acknowledged by itself: ``job.dispute`` or ``job.acknowledge`` it.
        refusal: why its holder took no part, a reason of the error catalogue; empty otherwise.
    """

    dataset_id: int
    endpoint: str
    state: str
    loss_micro: int
    epsilon: float
    token: str
    price_units: int
    paid_units: int
    refunded_units: int
    receipt_hash: bytes
    findings: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether this builder has released the payment."""
        return self.state == "ACKNOWLEDGED"

    @property
    def delivered(self) -> bool:
        """Whether there is a receipt."""
        return any(self.receipt_hash)

    def __str__(self) -> str:
        words = [f"dataset {self.dataset_id}: {self.state.lower()}"]
        if self.refusal:
            words.append(f"the holder took no part ({self.refusal})")
        if self.paid_units:
            words.append(f"{self.paid_units} paid")
        if self.refunded_units:
            words.append(f"{self.refunded_units} back")
        if self.loss_micro:
            words.append(f"epsilon {self.epsilon:.3f} spent")
        if not self.paid_units and not self.refunded_units and self.price_units:
            words.append(f"{self.price_units} still locked")
        return ", ".join(words)


@dataclass(frozen=True)
class Pending:
    """A leg that cannot end yet.

    Attributes:
        units: still locked.
        from_seconds: UTC; from then on anyone can push it out, whatever its holder does.
        why: what keeps it, in words.
    """

    dataset_id: int
    units: int
    from_seconds: int
    why: str

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.from_seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"dataset {self.dataset_id}: {self.units} locked until {when} ({self.why})"


@dataclass(frozen=True)
class Departure:
    """What became of the legs of a job that was left.

    Attributes:
        results: legs that have ended, or are delivered.
        pending: legs that could not yet; ``uf.resume`` goes on with them.
    """

    results: tuple[LegResult, ...]
    pending: tuple[Pending, ...]

    @property
    def refunded_units(self) -> dict[str, int]:
        """By token address, what is back in the payer's deposit."""
        back: dict[str, int] = {}
        for leg in self.results:
            back[leg.token] = back.get(leg.token, 0) + leg.refunded_units
        return {token: units for token, units in back.items() if units}

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "legs": [write_leg_result(leg) for leg in self.results],
            "pending": [asdict(leg) for leg in self.pending],
            "refunded_units": self.refunded_units,
        }

    def __str__(self) -> str:
        return "; ".join(str(leg) for leg in (*self.results, *self.pending))


def write_leg_result(result: LegResult) -> dict[str, Any]:
    """As JSON can hold it."""
    return {**asdict(result), "receipt_hash": ids.to_hex(result.receipt_hash)}


def read_leg_result(entry: Mapping[str, Any]) -> LegResult:
    """The opposite of :func:`write_leg_result`."""
    fields = dict(entry)
    fields["receipt_hash"] = ids.from_hex32(fields["receipt_hash"], "receipt_hash")
    fields["findings"] = tuple(fields["findings"])
    return LegResult(**fields)
