"""What a builder chooses: privacy, optimiser, encryption, escrow. Plain numbers here; integers from ``planning`` on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from usufruct.domain import ids
from usufruct.domain.query import MOST_BINS
from usufruct.domain.training_job import VALUE_BITS
from usufruct.errors import InvalidInput


@dataclass(frozen=True)
class Privacy:
    """The promise asked of every dataset in the job.

    Attributes:
        epsilon: bound on each dataset's binding epsilon for the *whole* job, spare attempts included. The noise is
            the least that keeps it.
        delta: for which epsilon is stated.
        max_grad_norm: bound on the Euclidean norm of one record's gradient (clipping).
        clipping: how a gradient is taken to that bound. ``"flat"``: scaled down where it is longer. ``"automatic"``: every
            gradient to about that norm, so that the bound and the learning rate are one figure to tune and not two. Both
            cost the same. Only for training: a query has no gradients.
        noise: where noise is added. ``"local"``: in full at every holder, so that the promise holds against everyone else
            together. ``"distributed"``: a share at every holder, so that the sum has the noise of a trusted centre and the
            promise holds as long as ``min_honest`` holders of every sum are honest; for three holders or more. None:
            ``"distributed"`` for three datasets or more, each of another holder whose policy accepts it, unless the optimiser
            has momentum or several local steps; else ``"local"``. The quote says which.
        max_colluding: with distributed noise, how many holders may side with the builder and the aggregator.
        min_honest: with distributed noise, how many honest shares the noise is sized for; None for all holders but
            ``max_colluding``, so that every round needs every holder. Each less lets one holder fail, for more noise.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    epsilon: float
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    noise: str | None = None
    max_colluding: int = 1
    min_honest: int | None = None
    clipping: str = "flat"

    def __post_init__(self) -> None:
        between("epsilon", self.epsilon, 0.0, 1e3)
        between("delta", self.delta, 1e-12, 0.01)
        between("max_grad_norm", self.max_grad_norm, 1e-3, 1e3)
        if self.clipping not in ("flat", "automatic"):
            raise InvalidInput(
                f"clipping must be 'flat' or 'automatic', not {self.clipping!r}.",
                reason="SPEC_INVALID",
                field="clipping",
            )
        if self.noise not in (None, "local", "distributed"):
            raise InvalidInput(
                f"noise must be 'local' or 'distributed', not {self.noise!r}.",
                reason="SPEC_INVALID",
                field="noise",
            )
        whole("max_colluding", self.max_colluding, 1, 62)
        if self.min_honest is not None:
            whole("min_honest", self.min_honest, 2, 63)


@dataclass(frozen=True)
class SGD:
    """The optimiser that each holder runs, and how much of it one round is.

    The defaults suit tables of some hundred rows (they did well on the demo's two clinical sets). For larger data, a
    ``sample_rate`` of 0.05 to 0.2 saves time and, through amplification by sampling, noise.

    Attributes:
        lr: learning rate.
        momentum: in [0, 1); restarts at zero in every round, so it has no part in distributed noise.
        local_steps: DP-SGD steps in one round at each holder, each with its own noise; None for 4 with local noise and 1, the
            only choice, with distributed noise.
        sample_rate: probability with which each record enters a step, independently.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    lr: float
    momentum: float = 0.0
    local_steps: int | None = None
    sample_rate: float = 0.5

    def __post_init__(self) -> None:
        between("lr", self.lr, 1e-9, 1e3)
        if self.momentum != 0:
            between("momentum", self.momentum, 1e-9, 1 - 1e-9)
        between("sample_rate", self.sample_rate, 1e-9, 1.0)
        if self.local_steps is not None:
            whole("local_steps", self.local_steps, 1, 10_000)


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on the holders' rows: their number, accuracy, area under the ROC curve, loss.

    Attributes:
        score_bins: scores (the probability of class 1 of 2) are counted in so many bins of equal width. More are a finer
            curve and more noise in its area.
        loss_bound: a row's loss is cut off there. A lower one has less noise and says less.
        sample_rate: probability with which each row takes part. All by default; fewer do not pay, but for very large data.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    score_bins: int = 20
    loss_bound: float = 4.0
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        whole("score_bins", self.score_bins, 2, MOST_BINS)
        between("loss_bound", self.loss_bound, 1e-3, 1e3)
        between("sample_rate", self.sample_rate, 1e-9, 1.0)


@dataclass(frozen=True)
class Statistics:
    """What columns look like: counts, means, histograms, by the bounds and categories that the cards declare.

    Attributes:
        columns: names of feature columns, or of the label; None for all. The noise grows with the root of their number.
        bins: of equal width, between the declared bounds of a number.
        sample_rate: as in :class:`Evaluation`.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    columns: tuple[str, ...] | None = None
    bins: int = 10
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
        whole("bins", self.bins, 2, MOST_BINS)
        between("sample_rate", self.sample_rate, 1e-9, 1.0)


Question = Evaluation | Statistics
"""What may be asked of rows in place of training on them."""


@dataclass(frozen=True)
class Encryption:
    """What is sent of an update, and how well it is encrypted. The planner picks the rest by the size of the cohort
    (``usufruct.encryption.planner``); ``network.quote`` shows what it picked.

    Attributes:
        value_bits: 8, 12 or 16: an update's range is divided into so many values. None: as few as keep the rounding small beside
            the noise; fewer bits are fewer bytes. With local noise; distributed noise has fields of 22 bits for the sum.
        security_bits: 128 or 192, by SEAL's own tables.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    value_bits: int | None = None
    security_bits: int = 128

    def __post_init__(self) -> None:
        if self.value_bits is not None:
            _one_of("value_bits", self.value_bits, VALUE_BITS)
        _one_of("security_bits", self.security_bits, (128, 192))


@dataclass(frozen=True)
class EscrowTerms:
    """How the money of a job is locked, and when it comes back.

    Attributes:
        accept_within_seconds: how long holders may take to accept; never beyond the job's own deadline. A leg that nobody
            accepts comes back whole, money and privacy budget.
        challenge_seconds: how long a delivered leg may be disputed, 1 hour to 30 days. Whoever says nothing until then
            has paid.
        arbiter: address that decides disputes; every holder must list it in its policy. None: there are no disputes.
        sponsored: somebody else pays, so the job is not opened without a sponsorship.
    Raises:
        InvalidInput: naming the field.
    """

    accept_within_seconds: int = 3600
    challenge_seconds: int = 86_400
    arbiter: str | None = None
    sponsored: bool = False

    def __post_init__(self) -> None:
        whole("accept_within_seconds", self.accept_within_seconds, 1, 400 * 86_400)
        whole("challenge_seconds", self.challenge_seconds, 3600, 30 * 86_400)
        if self.arbiter is not None:
            object.__setattr__(self, "arbiter", ids.address(self.arbiter, "arbiter"))


def whole(field: str, value: int, least: int, most: int) -> None:
    """Raises :class:`InvalidInput` SPEC_INVALID for anything but an ``int`` from ``least`` to ``most``."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidInput(
            f"{field} must be a whole number from {least} to {most}, not {value!r}.",
            reason="SPEC_INVALID",
            field=field,
        )


def _one_of(field: str, value: int, allowed: tuple[int, ...]) -> None:
    if type(value) is not int or value not in allowed:
        raise InvalidInput(
            f"{field} must be one of {', '.join(map(str, allowed))}, not {value!r}.",
            reason="SPEC_INVALID",
            field=field,
        )


def between(field: str, value: float, least: float, most: float) -> None:
    """Raises :class:`InvalidInput` SPEC_INVALID for anything but a finite number above 0 from ``least`` to ``most``."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not least <= value <= most or value <= 0:
        raise InvalidInput(
            f"{field} must be a number from {least:g} to {most:g}, not {value!r}.",
            reason="SPEC_INVALID",
            field=field,
        )
