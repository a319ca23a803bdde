"""What the builder does with the average of the holders' updates: one step of an optimiser of its own, each round.

The average is noised already, so whatever is computed from it costs no privacy (post-processing).

Source of the adaptive ones: Reddi et al., Adaptive Federated Optimization (ICLR 2021), Algorithm 2, the average update in
the place of the gradient, without bias correction. Source of momentum: Hsu et al., Measuring the Effects of Non-Identical Data
Distribution (2019), "FedAvgM".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from usufruct.builder.settings import between, whole
from usufruct.errors import ConfigError, InvalidInput

Vector = NDArray[np.float32]
Slots = Mapping[str, Vector]
"""What an optimiser remembers from round to round, by name: each float32, shape (parameters,)."""

_VALUES_AT_ONCE = 1 << 16
"""So that the temporaries in float64 stay small beside the model."""


@dataclass(frozen=True)
class Schedule:
    """By what the learning rate is multiplied, round by round.

    Attributes:
        decay: ``"constant"``, ``"linear"`` or ``"cosine"``: how it goes from 1 to ``final`` in the last round.
        final: what is left of it in the last round, 0 to 1; without meaning for a constant one.
        warmup_rounds: it rises in equal steps to 1 over so many rounds first.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    decay: str = "constant"
    final: float = 0.0
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if self.decay not in ("constant", "linear", "cosine"):
            raise InvalidInput(
                f"decay must be 'constant', 'linear' or 'cosine', not {self.decay!r}.",
                reason="SPEC_INVALID",
                field="decay",
            )
        if self.final != 0:
            between("final", self.final, 1e-9, 1.0)
        whole("warmup_rounds", self.warmup_rounds, 0, 1_000_000)

    def factor(self, round_: int, rounds: int) -> float:
        """In round ``round_``, from 1, of ``rounds``."""
        if round_ <= self.warmup_rounds:
            return round_ / self.warmup_rounds
        if self.decay == "constant":
            return 1.0
        first = self.warmup_rounds + 1
        passed = (round_ - first) / max(1, rounds - first)
        left = 1 - passed if self.decay == "linear" else (1 + math.cos(math.pi * passed)) / 2
        return self.final + (1 - self.final) * left


@dataclass(frozen=True)
class ServerSGD:
    """x += lr m, with m = momentum m + average. Plain averaging (FedAvg) with the defaults.

    Attributes:
        lr: 1 takes the average as it is.
        momentum: in [0, 1).
        schedule: of ``lr``.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    lr: float = 1.0
    momentum: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)

    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        between("lr", self.lr, 1e-9, 1e3)
        _below_one("momentum", self.momentum)

    @property
    def first(self) -> Mapping[str, float]:
        """What every slot starts with."""
        return {"momentum": 0.0} if self.momentum else {}

    def direction(
        self, average: NDArray[np.float64], slots: dict[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """What ``lr`` multiplies; brings ``slots`` up to date in place."""
        if not self.momentum:
            return average
        slots["momentum"] *= self.momentum
        slots["momentum"] += average
        return slots["momentum"]


@dataclass(frozen=True)
class _Adaptive:
    """x += lr m / (sqrt(v) + tau), with m = beta1 m + (1 - beta1) average.

    Attributes:
        lr: of a parameter's step, in its own units.
        beta1, beta2: in [0, 1): how long average and square are remembered.
        tau: how adaptive: where sqrt(v) is far below it, the step is that of plain SGD with lr / tau.
        schedule: of ``lr``.
    Raises:
        InvalidInput: SPEC_INVALID, naming the field.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        between("lr", self.lr, 1e-9, 1e3)
        _below_one("beta1", self.beta1)
        _below_one("beta2", self.beta2)
        between("tau", self.tau, 1e-12, 1e3)

    @property
    def first(self) -> Mapping[str, float]:
        """What every slot starts with."""
        return {"average": 0.0, "square": self.tau**2}

    def direction(
        self, average: NDArray[np.float64], slots: dict[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """What ``lr`` multiplies; brings ``slots`` up to date in place."""
        slots["average"] *= self.beta1
        slots["average"] += (1 - self.beta1) * average
        self._remember(slots["square"], average**2)
        result: NDArray[np.float64] = slots["average"] / (np.sqrt(slots["square"]) + self.tau)
        return result

    def _remember(self, square: NDArray[np.float64], new: NDArray[np.float64]) -> None:
        raise TypeError("ServerAdam or ServerYogi")


@dataclass(frozen=True)
class ServerAdam(_Adaptive):
    """FedAdam: v = beta2 v + (1 - beta2) average²."""

    __doc__ = f"{__doc__}\n\n    {_Adaptive.__doc__}"
    name: ClassVar[str] = "adam"

    def _remember(self, square: NDArray[np.float64], new: NDArray[np.float64]) -> None:
        square += (1 - self.beta2) * (new - square)


@dataclass(frozen=True)
class ServerYogi(_Adaptive):
    """FedYogi: v = v - (1 - beta2) average² sign(v - average²): a large v falls slowly."""

    __doc__ = f"{__doc__}\n\n    {_Adaptive.__doc__}"
    name: ClassVar[str] = "yogi"

    def _remember(self, square: NDArray[np.float64], new: NDArray[np.float64]) -> None:
        square -= (1 - self.beta2) * new * np.sign(square - new)


ServerOptimizer = ServerSGD | ServerAdam | ServerYogi
_KINDS: Mapping[str, type[ServerOptimizer]] = {
    kind.name: kind for kind in (ServerSGD, ServerAdam, ServerYogi)
}


def step(
    optimizer: ServerOptimizer,
    slots: Slots,
    vector: Vector,
    average: NDArray[np.float64],
    round_: int,
    rounds: int,
) -> tuple[Vector, Slots]:
    """The weights and what is remembered after a round; what was given stays as it is.

    Args:
        slots: of the round before; empty before the first.
        average: the holders' update, float64, shape (parameters,).
        round_: from 1, of ``rounds``.
    Raises:
        ConfigError: the slots are those of another optimiser or model.
    """
    first = optimizer.first
    if slots and (set(slots) != set(first) or any(slot.shape != vector.shape for slot in slots.values())):
        raise ConfigError("The optimiser's memory does not fit the job; the job's directory is damaged.")
    factor = optimizer.lr * optimizer.schedule.factor(round_, rounds)
    stepped = np.empty_like(vector)
    after = {name: np.empty_like(vector) for name in first}
    for start in range(0, vector.size, _VALUES_AT_ONCE):
        part = slice(start, start + _VALUES_AT_ONCE)
        now = {
            name: slots[name][part].astype(np.float64) if slots else np.full(average[part].shape, value)
            for name, value in first.items()
        }
        stepped[part] = vector[part] + factor * optimizer.direction(average[part], now)
        for name, slot in now.items():
            after[name][part] = slot
    return stepped, after


def write_slots(slots: Slots) -> bytes:
    """As safetensors; empty for none."""
    return bytes(write_safetensors(dict(slots))) if slots else b""


def read_slots(data: bytes) -> Slots:
    """What :func:`write_slots` wrote.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return read_safetensors(data) if data else {}
    except SafetensorError as error:
        raise ConfigError("The optimiser's memory of the job is damaged.") from error


def write_server_optimizer(optimizer: ServerOptimizer) -> dict[str, Any]:
    """As JSON has it."""
    return {"name": optimizer.name, **asdict(optimizer)}


def read_server_optimizer(entry: Mapping[str, Any]) -> ServerOptimizer:
    """The optimiser of :func:`write_server_optimizer`; plain averaging for none.

    Raises:
        ConfigError: it is none.
    """
    fields = dict(entry)
    try:
        kind = _KINDS[fields.pop("name", ServerSGD.name)]
        return kind(**{**fields, "schedule": Schedule(**fields.get("schedule", {}))})
    except (InvalidInput, KeyError, TypeError) as error:
        raise ConfigError("The job's server optimiser is none; the job's directory is damaged.") from error


def _below_one(name: str, value: float) -> None:
    if value != 0:
        between(name, value, 1e-9, 1 - 1e-9)
