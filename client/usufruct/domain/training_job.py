"""The frozen description of a training job. Integers only, so that every party computes with the same figures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from usufruct.domain import ids
from usufruct.domain.query import EvaluationQuery, JobKind, Query, StatisticsQuery, check_query
from usufruct.errors import InvalidInput

SPEC_VERSION = 1
NANO = 10**9
MICRO = 10**6
PICO = 10**12
VALUE_BITS = (8, 12, 16)
"""Of a holder's value with local noise."""


class NoiseMode(IntEnum):
    """Where the noise is added; the numbers are those of ``usufruct.v1.NoiseMode``."""

    LOCAL = 1
    DISTRIBUTED = 2


class Clipping(IntEnum):
    """How a row's gradient g becomes one whose norm is at most C; the numbers are those of ``usufruct.v1.Clipping``.

    ``FLAT``: g·min(1, C/|g|) (Abadi et al. 2016). ``AUTOMATIC``: g·C/(|g| + 0.01), which takes all rows to about the same
    norm, so that C and the learning rate need not both be tuned (Bu et al. 2022, "Automatic Clipping").
    """

    FLAT = 1
    AUTOMATIC = 2


@dataclass(frozen=True)
class LocalOptimizer:
    """The optimiser that each holder runs. Rates in 10^-9."""

    name: str
    learning_rate_nano: int
    momentum_nano: int = 0


QUERY_OPTIMIZER = LocalOptimizer("sgd", NANO)
"""Of a job that trains nothing: its update is one step at rate 1 from zero, minus what the noised sum gives."""


@dataclass(frozen=True)
class TrainingPlan:
    """What is sampled, clipped and noised, and how often; see ``usufruct.v1.TrainingPlan`` for the units.

    Every figure that a privacy loss depends on is here, in the leg's terms, or the number of parameters and of legs.
    """

    noise_mode: NoiseMode
    rounds: int
    spare_attempts: int
    local_steps: int
    sample_rate_nano: int
    max_grad_norm_micro: int
    noise_multiplier_micro: int
    delta_pico: int
    micro_batch_size: int
    min_honest: int = 0
    max_colluding: int = 0
    scale_micro: int = 0
    share_noise: int = 0
    clamp: int = 0
    clipping: Clipping = Clipping.FLAT

    @property
    def attempts(self) -> int:
        """Attempts that are reserved: rounds that count, and the spare ones."""
        return self.rounds + self.spare_attempts


@dataclass(frozen=True)
class LegTerms:
    """One dataset's part of a job."""

    dataset_id: int
    holder_id: int
    card_hash: bytes
    nominal_size: int
    operator: str
    token: str
    price_units: int
    order: int
    loss_per_attempt_micro: int
    weight_nano: int


@dataclass(frozen=True)
class EncryptionPlan:
    """How an update becomes integers and then a ciphertext; ``value_bits`` and ``update_range_nano`` are 0 with distributed
    noise, whose plan says how integers come about. ``parameter_count``: of the model in training, or numbers that a query
    takes of a row."""

    parameters: str
    value_bits: int
    update_range_nano: int
    parameter_count: int


@dataclass(frozen=True)
class AggregatorRef:
    """Where the aggregator is, and the SHA-256 of its TLS public key (32 bytes)."""

    endpoint: str
    fingerprint: bytes


@dataclass(frozen=True)
class TrainingJobSpec:
    """A training job. What grants name is the hash of its serialised bytes (``usufruct.wire.jobs``).

    Attributes:
        base_model: digest of the base model that the graph's frozen parameters are of; empty where all are trained.
        query: what is asked of rows in place of training; None for training.
    """

    chain_id: int
    compute_access: str
    builder: str
    nonce: bytes
    model_graph: bytes
    loss: str
    optimizer: LocalOptimizer
    plan: TrainingPlan
    legs: tuple[LegTerms, ...]
    encryption: EncryptionPlan
    aggregator: AggregatorRef
    min_cohort: int
    purpose: str
    deliver_by_seconds: int
    round_timeout_seconds: int
    version: int = SPEC_VERSION
    base_model: bytes = b""
    query: Query | None = None

    @property
    def kind(self) -> JobKind:
        """What the job does with rows."""
        if self.query is None:
            return JobKind.TRAINING
        return JobKind.EVALUATION if isinstance(self.query, EvaluationQuery) else JobKind.STATISTICS

    @property
    def model_parameters(self) -> int:
        """Parameters of the model whose weights are sent in a round; 0 where there is no model."""
        if self.query is None:
            return self.encryption.parameter_count
        return self.query.model_parameters if isinstance(self.query, EvaluationQuery) else 0

    @cached_property
    def job_id(self) -> bytes:
        """32 bytes; see :func:`usufruct.domain.ids.job_id`."""
        return ids.job_id(self.chain_id, self.compute_access, self.builder, self.nonce)

    def leg(self, dataset_id: int) -> LegTerms:
        """The terms of one dataset; raises :class:`InvalidInput` if the job has no such leg."""
        for terms in self.legs:
            if terms.dataset_id == dataset_id:
                return terms
        raise InvalidInput("the job has no leg on this dataset", reason="JOB_UNKNOWN", dataset_id=dataset_id)

    def reservation_micro(self, dataset_id: int) -> int:
        """Worst-case privacy loss of a leg: attempts × loss of one, 10^-6 nat."""
        return self.plan.attempts * self.leg(dataset_id).loss_per_attempt_micro


def check_spec(spec: TrainingJobSpec) -> TrainingJobSpec:
    """Checks every range that can be checked without a chain; returns the spec.

    Raises:
        InvalidInput: reason ``SPEC_INVALID`` with the field's name, or ``UNSUPPORTED_VERSION``.
    """
    need = _need
    if spec.version != SPEC_VERSION:
        raise InvalidInput(f"spec version {spec.version} is not supported", reason="UNSUPPORTED_VERSION")
    plan = spec.plan
    need(spec.chain_id > 0, "chain_id", "must be positive")
    ids.address(spec.compute_access, "compute_access")
    ids.address(spec.builder, "builder")
    ids.hash32(spec.nonce, "nonce")
    if isinstance(spec.query, StatisticsQuery):
        need(
            not spec.model_graph and not spec.loss and not spec.base_model,
            "model_graph",
            "must be empty, as the loss and the base model, for statistics",
        )
    else:
        need(0 < len(spec.model_graph) <= 4 << 20, "model_graph", "must be between 1 byte and 4 MiB")
    need(len(spec.base_model) in (0, 32), "base_model", "must be a SHA-256 digest, or empty")
    need(spec.optimizer.name == "sgd", "optimizer.name", "must be 'sgd'")
    need(
        0 < spec.optimizer.learning_rate_nano <= 1000 * NANO,
        "optimizer.learning_rate_nano",
        "must be in (0, 1000]",
    )
    need(0 <= spec.optimizer.momentum_nano < NANO, "optimizer.momentum_nano", "must be in [0, 1)")
    need(1 <= plan.rounds <= 10_000, "plan.rounds", "must be in [1, 10000]")
    need(0 <= plan.spare_attempts <= 1000, "plan.spare_attempts", "must be in [0, 1000]")
    need(1 <= plan.local_steps <= 10_000, "plan.local_steps", "must be in [1, 10000]")
    need(0 < plan.sample_rate_nano <= NANO, "plan.sample_rate_nano", "must be in (0, 1]")
    need(
        MICRO // 1000 <= plan.max_grad_norm_micro <= 1000 * MICRO,
        "plan.max_grad_norm_micro",
        "must be in [0.001, 1000]",
    )
    need(0 < plan.delta_pico < PICO // 100, "plan.delta_pico", "must be in (0, 0.01)")
    need(1 <= plan.micro_batch_size <= 65_536, "plan.micro_batch_size", "must be in [1, 65536]")
    need(1 <= len(spec.legs) <= 64, "legs", "must be between 1 and 64")
    numbers = [terms.dataset_id for terms in spec.legs]
    need(numbers == sorted(set(numbers)), "legs", "must be in ascending order of dataset number, each once")
    for terms in spec.legs:
        ids.hash32(terms.card_hash, "legs.card_hash")
        ids.address(terms.operator, "legs.operator")
        ids.address(terms.token, "legs.token")
        need(0 < terms.dataset_id < 2**64, "legs.dataset_id", "must be a positive 64-bit number")
        need(0 < terms.holder_id < 2**32, "legs.holder_id", "must be a positive 32-bit number")
        need(1 <= terms.nominal_size <= 10**12, "legs.nominal_size", "must be in [1, 10^12]")
        need(2 <= terms.order <= 256, "legs.order", "must be in [2, 256]")
        need(0 <= terms.price_units < 2**128, "legs.price_units", "must fit in 128 bits")
        need(0 < terms.loss_per_attempt_micro < 2**48, "legs.loss_per_attempt_micro", "must be positive")
        need(0 < terms.weight_nano <= NANO, "legs.weight_nano", "must be in (0, 1]")
    need(sum(terms.weight_nano for terms in spec.legs) == NANO, "legs.weight_nano", "must add up to 1")
    need(
        1 <= spec.encryption.parameter_count <= 200_000_000,
        "encryption.parameter_count",
        "must be in [1, 2*10^8]",
    )
    need(0 < len(spec.encryption.parameters) <= 64, "encryption.parameters", "must name a parameter set")
    ids.hash32(spec.aggregator.fingerprint, "aggregator.fingerprint")
    need(0 < len(spec.aggregator.endpoint) <= 255, "aggregator.endpoint", "must be host:port")
    need(1 <= spec.min_cohort <= len(spec.legs), "min_cohort", "must be between 1 and the number of legs")
    need(len(spec.purpose.encode()) <= 1000, "purpose", "must be at most 1000 bytes")
    need(0 < spec.deliver_by_seconds < 2**40, "deliver_by_seconds", "must be a UTC time in seconds")
    need(5 <= spec.round_timeout_seconds <= 7 * 86_400, "round_timeout_seconds", "must be in [5, 604800]")
    if spec.query is not None:
        check_query(spec.query)
        need(spec.optimizer == QUERY_OPTIMIZER, "optimizer", "must be SGD at rate 1 for a query")
        need(plan.rounds == plan.local_steps == 1, "plan.rounds", "must be 1, of 1 step, for a query")
        need(
            plan.clipping is Clipping.FLAT,
            "plan.clipping",
            "must be flat for a query, which has no gradients",
        )
    (_check_distributed if plan.noise_mode is NoiseMode.DISTRIBUTED else _check_local)(spec)
    return spec


def _check_local(spec: TrainingJobSpec) -> None:
    plan, encryption = spec.plan, spec.encryption
    _need(
        MICRO // 10 <= plan.noise_multiplier_micro <= 10**5 * MICRO,
        "plan.noise_multiplier_micro",
        "must be in [0.1, 100000]",
    )
    for field in ("min_honest", "max_colluding", "scale_micro", "share_noise", "clamp"):
        _need(getattr(plan, field) == 0, f"plan.{field}", "must be 0 with local noise")
    _need(encryption.value_bits in VALUE_BITS, "encryption.value_bits", "must be 8, 12 or 16")
    _need(
        0 < encryption.update_range_nano <= 10**6 * NANO, "encryption.update_range_nano", "must be positive"
    )


def _check_distributed(spec: TrainingJobSpec) -> None:
    """A round is one step, and its sum has a share of noise of ``min_honest`` holders whatever ``max_colluding`` others do.
    Ranges of the integers are the privacy plan's."""
    plan, encryption = spec.plan, spec.encryption
    _need(plan.local_steps == 1, "plan.local_steps", "must be 1 with distributed noise")
    _need(spec.optimizer.momentum_nano == 0, "optimizer.momentum_nano", "must be 0 with distributed noise")
    _need(plan.noise_multiplier_micro == 0, "plan.noise_multiplier_micro", "must be 0 with distributed noise")
    _need(plan.min_honest >= 2, "plan.min_honest", "must be at least 2; for less there is local noise")
    _need(plan.max_colluding >= 1, "plan.max_colluding", "must be at least 1 with distributed noise")
    for field in ("scale_micro", "share_noise", "clamp"):
        _need(getattr(plan, field) >= 1, f"plan.{field}", "must be positive with distributed noise")
    for field in ("value_bits", "update_range_nano"):
        _need(getattr(encryption, field) == 0, f"encryption.{field}", "must be 0 with distributed noise")
    _need(
        spec.min_cohort >= plan.min_honest + plan.max_colluding,
        "min_cohort",
        "must be at least min_honest + max_colluding",
    )
    _need(
        len({terms.holder_id for terms in spec.legs}) == len(spec.legs),
        "legs.holder_id",
        "must differ with distributed noise, which counts holders",
    )


def _need(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise InvalidInput(f"{field}: {what}", reason="SPEC_INVALID", field=field)
