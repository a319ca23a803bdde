"""What a demo run ends with, as data; ``summary`` shows it to people, ``picture`` draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from usufruct.privacy import Guarantee
from usufruct_server.demo.baselines import Baseline, Score


@dataclass(frozen=True)
class CurvePoint:
    """The model after one round, on the watched rows.

    Attributes:
        round: from 1.
        epsilon: largest binding epsilon of the holders so far.
        seconds: wall time of the round.
        upload_bytes: ciphertext of all holders together.
    """

    round: int
    loss: float
    accuracy: float
    epsilon: float
    seconds: float
    upload_bytes: int


@dataclass(frozen=True)
class LegReport:
    """One hospital's part of the job.

    Attributes:
        epsilon: binding figure for what its receipt commits.
        loss_micro: the same as Rényi loss at ``order``, 10^-6 nat.
        paid_units: what it was paid, in the token's smallest unit.
        alone: what it reaches by itself under the same epsilon.
    """

    hospital: str
    dataset_id: int
    nominal_size: int
    epsilon: float
    loss_micro: int
    order: int
    paid_units: int
    alone: Baseline


@dataclass(frozen=True)
class AuditReport:
    """The auditor's verdict.

    Attributes:
        ok: whether no book differs from another.
        verdict: in words.
        findings: discrepancies in words; empty when ``ok``.
        records: how many usage records of each kind the holders' logs have.
    """

    ok: bool
    verdict: str
    findings: tuple[str, ...]
    records: dict[str, int]


@dataclass(frozen=True)
class Report:
    """Everything a demo run measured. ``decimals`` are the token's; ``gas_setup`` is deployment and registration.

    Attributes:
        max_colluding: hospitals that may side with builder and aggregator: the assumption of every ``epsilon``.
        against_everyone: what remains if all others do, for every attempt that was reserved.
    """

    title: str
    watched: str
    job_id: str
    model: str
    parameters: int
    rounds: int
    delta: float
    max_colluding: int
    against_everyone: Guarantee
    test: Score
    pooled: Baseline
    legs: tuple[LegReport, ...]
    curve: tuple[CurvePoint, ...]
    gas_setup: int
    gas_job: int
    decimals: int
    symbol: str
    audit: AuditReport
    picture: Path
    wall_seconds: float

    @property
    def epsilon(self) -> float:
        """The largest binding epsilon of the holders."""
        return max(leg.epsilon for leg in self.legs)

    @property
    def alone_accuracy(self) -> float:
        """Mean over hospitals of the test accuracy that each reaches by itself."""
        return mean(leg.alone.test.accuracy for leg in self.legs)

    @property
    def alone_auc(self) -> float:
        """Mean over hospitals of the test AUC that each reaches by itself."""
        return mean(leg.alone.test.auc for leg in self.legs)

    @property
    def upload_bytes(self) -> int:
        """Ciphertext that all holders sent in all rounds."""
        return sum(point.upload_bytes for point in self.curve)

    @property
    def upload_bytes_per_parameter(self) -> float:
        """Ciphertext of one holder in one round, over the number of parameters."""
        return self.upload_bytes / (len(self.curve) * len(self.legs) * self.parameters)

    @property
    def seconds_per_round(self) -> float:
        """Median."""
        return median(point.seconds for point in self.curve)

    @property
    def paid_total(self) -> float:
        """All payments, in whole tokens."""
        return float(sum(leg.paid_units for leg in self.legs) / 10**self.decimals)

    @staticmethod
    def _stated(epsilon: float) -> float | None:
        """JSON knows no infinity."""
        return round(epsilon, 6) if math.isfinite(epsilon) else None

    def figures(self) -> dict[str, Any]:
        """The line of ``--json``."""
        return {
            "holders": len(self.legs),
            "rounds": self.rounds,
            "parameters": self.parameters,
            "test_accuracy": round(self.test.accuracy, 4),
            "test_auc": round(self.test.auc, 4),
            "pooled_accuracy": round(self.pooled.test.accuracy, 4),
            "pooled_auc": round(self.pooled.test.auc, 4),
            "alone_accuracy": round(self.alone_accuracy, 4),
            "alone_auc": round(self.alone_auc, 4),
            "epsilon": round(self.epsilon, 6),
            "delta": self.delta,
            "max_colluding": self.max_colluding,
            "epsilon_against_everyone": self._stated(self.against_everyone.epsilon),
            "upload_bytes": self.upload_bytes,
            "upload_bytes_per_parameter": round(self.upload_bytes_per_parameter, 3),
            "seconds_per_round": round(self.seconds_per_round, 4),
            "gas_total": self.gas_setup + self.gas_job,
            "gas_job": self.gas_job,
            "paid_total": self.paid_total,
            "audit_ok": self.audit.ok,
            "job_id": self.job_id,
            "picture": str(self.picture),
            "wall_seconds": round(self.wall_seconds, 2),
        }
