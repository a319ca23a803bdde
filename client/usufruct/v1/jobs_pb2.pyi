from usufruct.v1 import catalogue_pb2 as _catalogue_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Clipping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIPPING_UNSPECIFIED: _ClassVar[Clipping]
    CLIPPING_FLAT: _ClassVar[Clipping]
    CLIPPING_AUTOMATIC: _ClassVar[Clipping]

class ProposalState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROPOSAL_STATE_UNSPECIFIED: _ClassVar[ProposalState]
    PROPOSAL_STATE_PENDING: _ClassVar[ProposalState]
    PROPOSAL_STATE_GRANTED: _ClassVar[ProposalState]
    PROPOSAL_STATE_REFUSED: _ClassVar[ProposalState]

class LegState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEG_STATE_UNSPECIFIED: _ClassVar[LegState]
    LEG_STATE_PENDING: _ClassVar[LegState]
    LEG_STATE_RUNNING: _ClassVar[LegState]
    LEG_STATE_DELIVERING: _ClassVar[LegState]
    LEG_STATE_DELIVERED: _ClassVar[LegState]
    LEG_STATE_FAILED: _ClassVar[LegState]
CLIPPING_UNSPECIFIED: Clipping
CLIPPING_FLAT: Clipping
CLIPPING_AUTOMATIC: Clipping
PROPOSAL_STATE_UNSPECIFIED: ProposalState
PROPOSAL_STATE_PENDING: ProposalState
PROPOSAL_STATE_GRANTED: ProposalState
PROPOSAL_STATE_REFUSED: ProposalState
LEG_STATE_UNSPECIFIED: LegState
LEG_STATE_PENDING: LegState
LEG_STATE_RUNNING: LegState
LEG_STATE_DELIVERING: LegState
LEG_STATE_DELIVERED: LegState
LEG_STATE_FAILED: LegState

class TrainingJobSpec(_message.Message):
    __slots__ = ("version", "chain_id", "compute_access", "builder", "nonce", "model_graph", "loss", "optimizer", "plan", "legs", "encryption", "aggregator", "min_cohort", "purpose", "deliver_by_seconds", "round_timeout_seconds", "base_model", "evaluation", "statistics")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_ACCESS_FIELD_NUMBER: _ClassVar[int]
    BUILDER_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_GRAPH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    LEGS_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_FIELD_NUMBER: _ClassVar[int]
    AGGREGATOR_FIELD_NUMBER: _ClassVar[int]
    MIN_COHORT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    DELIVER_BY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROUND_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    version: int
    chain_id: int
    compute_access: str
    builder: str
    nonce: bytes
    model_graph: bytes
    loss: str
    optimizer: LocalOptimizer
    plan: TrainingPlan
    legs: _containers.RepeatedCompositeFieldContainer[LegTerms]
    encryption: EncryptionPlan
    aggregator: AggregatorRef
    min_cohort: int
    purpose: str
    deliver_by_seconds: int
    round_timeout_seconds: int
    base_model: bytes
    evaluation: EvaluationQuery
    statistics: StatisticsQuery
    def __init__(self, version: _Optional[int] = ..., chain_id: _Optional[int] = ..., compute_access: _Optional[str] = ..., builder: _Optional[str] = ..., nonce: _Optional[bytes] = ..., model_graph: _Optional[bytes] = ..., loss: _Optional[str] = ..., optimizer: _Optional[_Union[LocalOptimizer, _Mapping]] = ..., plan: _Optional[_Union[TrainingPlan, _Mapping]] = ..., legs: _Optional[_Iterable[_Union[LegTerms, _Mapping]]] = ..., encryption: _Optional[_Union[EncryptionPlan, _Mapping]] = ..., aggregator: _Optional[_Union[AggregatorRef, _Mapping]] = ..., min_cohort: _Optional[int] = ..., purpose: _Optional[str] = ..., deliver_by_seconds: _Optional[int] = ..., round_timeout_seconds: _Optional[int] = ..., base_model: _Optional[bytes] = ..., evaluation: _Optional[_Union[EvaluationQuery, _Mapping]] = ..., statistics: _Optional[_Union[StatisticsQuery, _Mapping]] = ...) -> None: ...

class EvaluationQuery(_message.Message):
    __slots__ = ("model_parameters", "score_bins", "loss_bound_micro")
    MODEL_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SCORE_BINS_FIELD_NUMBER: _ClassVar[int]
    LOSS_BOUND_MICRO_FIELD_NUMBER: _ClassVar[int]
    model_parameters: int
    score_bins: int
    loss_bound_micro: int
    def __init__(self, model_parameters: _Optional[int] = ..., score_bins: _Optional[int] = ..., loss_bound_micro: _Optional[int] = ...) -> None: ...

class StatisticsQuery(_message.Message):
    __slots__ = ("columns", "bins")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    bins: int
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., bins: _Optional[int] = ...) -> None: ...

class LocalOptimizer(_message.Message):
    __slots__ = ("name", "learning_rate_nano", "momentum_nano")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_NANO_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_NANO_FIELD_NUMBER: _ClassVar[int]
    name: str
    learning_rate_nano: int
    momentum_nano: int
    def __init__(self, name: _Optional[str] = ..., learning_rate_nano: _Optional[int] = ..., momentum_nano: _Optional[int] = ...) -> None: ...

class TrainingPlan(_message.Message):
    __slots__ = ("noise_mode", "rounds", "spare_attempts", "local_steps", "sample_rate_nano", "max_grad_norm_micro", "noise_multiplier_micro", "delta_pico", "micro_batch_size", "min_honest", "max_colluding", "scale_micro", "share_noise", "clamp", "clipping")
    NOISE_MODE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SPARE_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_NANO_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_MICRO_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_MICRO_FIELD_NUMBER: _ClassVar[int]
    DELTA_PICO_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MIN_HONEST_FIELD_NUMBER: _ClassVar[int]
    MAX_COLLUDING_FIELD_NUMBER: _ClassVar[int]
    SCALE_MICRO_FIELD_NUMBER: _ClassVar[int]
    SHARE_NOISE_FIELD_NUMBER: _ClassVar[int]
    CLAMP_FIELD_NUMBER: _ClassVar[int]
    CLIPPING_FIELD_NUMBER: _ClassVar[int]
    noise_mode: _catalogue_pb2.NoiseMode
    rounds: int
    spare_attempts: int
    local_steps: int
    sample_rate_nano: int
    max_grad_norm_micro: int
    noise_multiplier_micro: int
    delta_pico: int
    micro_batch_size: int
    min_honest: int
    max_colluding: int
    scale_micro: int
    share_noise: int
    clamp: int
    clipping: Clipping
    def __init__(self, noise_mode: _Optional[_Union[_catalogue_pb2.NoiseMode, str]] = ..., rounds: _Optional[int] = ..., spare_attempts: _Optional[int] = ..., local_steps: _Optional[int] = ..., sample_rate_nano: _Optional[int] = ..., max_grad_norm_micro: _Optional[int] = ..., noise_multiplier_micro: _Optional[int] = ..., delta_pico: _Optional[int] = ..., micro_batch_size: _Optional[int] = ..., min_honest: _Optional[int] = ..., max_colluding: _Optional[int] = ..., scale_micro: _Optional[int] = ..., share_noise: _Optional[int] = ..., clamp: _Optional[int] = ..., clipping: _Optional[_Union[Clipping, str]] = ...) -> None: ...

class LegTerms(_message.Message):
    __slots__ = ("dataset_id", "holder_id", "card_hash", "nominal_size", "operator", "token", "price_units", "order", "loss_per_attempt_micro", "weight_nano")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_HASH_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PRICE_UNITS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    LOSS_PER_ATTEMPT_MICRO_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_NANO_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    holder_id: int
    card_hash: bytes
    nominal_size: int
    operator: str
    token: str
    price_units: str
    order: int
    loss_per_attempt_micro: int
    weight_nano: int
    def __init__(self, dataset_id: _Optional[int] = ..., holder_id: _Optional[int] = ..., card_hash: _Optional[bytes] = ..., nominal_size: _Optional[int] = ..., operator: _Optional[str] = ..., token: _Optional[str] = ..., price_units: _Optional[str] = ..., order: _Optional[int] = ..., loss_per_attempt_micro: _Optional[int] = ..., weight_nano: _Optional[int] = ...) -> None: ...

class EncryptionPlan(_message.Message):
    __slots__ = ("parameters", "value_bits", "update_range_nano", "parameter_count")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VALUE_BITS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_RANGE_NANO_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    parameters: str
    value_bits: int
    update_range_nano: int
    parameter_count: int
    def __init__(self, parameters: _Optional[str] = ..., value_bits: _Optional[int] = ..., update_range_nano: _Optional[int] = ..., parameter_count: _Optional[int] = ...) -> None: ...

class AggregatorRef(_message.Message):
    __slots__ = ("endpoint", "fingerprint")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    fingerprint: bytes
    def __init__(self, endpoint: _Optional[str] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class ProposeJobRequest(_message.Message):
    __slots__ = ("request_id", "dataset_id", "spec")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    dataset_id: int
    spec: bytes
    def __init__(self, request_id: _Optional[str] = ..., dataset_id: _Optional[int] = ..., spec: _Optional[bytes] = ...) -> None: ...

class GetProposalRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("job_id", "dataset_id", "spec_hash", "state", "grant", "reason", "text")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    spec_hash: bytes
    state: ProposalState
    grant: SignedGrant
    reason: str
    text: str
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., spec_hash: _Optional[bytes] = ..., state: _Optional[_Union[ProposalState, str]] = ..., grant: _Optional[_Union[SignedGrant, _Mapping]] = ..., reason: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class SignedGrant(_message.Message):
    __slots__ = ("dataset_id", "grantee", "spec_hash", "purpose_hash", "token", "price_units", "max_uses", "loss_per_job_micro", "loss_total_micro", "not_before_seconds", "deadline_seconds", "revocation_epoch", "salt", "signature")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    GRANTEE_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_HASH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PRICE_UNITS_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    LOSS_PER_JOB_MICRO_FIELD_NUMBER: _ClassVar[int]
    LOSS_TOTAL_MICRO_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    grantee: str
    spec_hash: bytes
    purpose_hash: bytes
    token: str
    price_units: str
    max_uses: int
    loss_per_job_micro: int
    loss_total_micro: int
    not_before_seconds: int
    deadline_seconds: int
    revocation_epoch: int
    salt: bytes
    signature: bytes
    def __init__(self, dataset_id: _Optional[int] = ..., grantee: _Optional[str] = ..., spec_hash: _Optional[bytes] = ..., purpose_hash: _Optional[bytes] = ..., token: _Optional[str] = ..., price_units: _Optional[str] = ..., max_uses: _Optional[int] = ..., loss_per_job_micro: _Optional[int] = ..., loss_total_micro: _Optional[int] = ..., not_before_seconds: _Optional[int] = ..., deadline_seconds: _Optional[int] = ..., revocation_epoch: _Optional[int] = ..., salt: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class StartLegRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ...) -> None: ...

class StartLegResponse(_message.Message):
    __slots__ = ("leg", "fencing_epoch", "acceptance_signature")
    LEG_FIELD_NUMBER: _ClassVar[int]
    FENCING_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    leg: Leg
    fencing_epoch: int
    acceptance_signature: bytes
    def __init__(self, leg: _Optional[_Union[Leg, _Mapping]] = ..., fencing_epoch: _Optional[int] = ..., acceptance_signature: _Optional[bytes] = ...) -> None: ...

class GetLegRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ...) -> None: ...

class Leg(_message.Message):
    __slots__ = ("job_id", "dataset_id", "state", "last_round", "attempts_charged", "attempts_reserved")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_CHARGED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_RESERVED_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    state: LegState
    last_round: int
    attempts_charged: int
    attempts_reserved: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., state: _Optional[_Union[LegState, str]] = ..., last_round: _Optional[int] = ..., attempts_charged: _Optional[int] = ..., attempts_reserved: _Optional[int] = ...) -> None: ...

class FinishLegRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id", "rounds_done", "lower_loss_micro", "lower_signature")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    LOWER_LOSS_MICRO_FIELD_NUMBER: _ClassVar[int]
    LOWER_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    rounds_done: int
    lower_loss_micro: int
    lower_signature: bytes
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., rounds_done: _Optional[int] = ..., lower_loss_micro: _Optional[int] = ..., lower_signature: _Optional[bytes] = ...) -> None: ...

class FinishLegResponse(_message.Message):
    __slots__ = ("leg", "receipt", "receipt_signature")
    LEG_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    leg: Leg
    receipt: LegReceipt
    receipt_signature: bytes
    def __init__(self, leg: _Optional[_Union[Leg, _Mapping]] = ..., receipt: _Optional[_Union[LegReceipt, _Mapping]] = ..., receipt_signature: _Optional[bytes] = ...) -> None: ...

class ReleaseLegRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ...) -> None: ...

class ReleaseLegResponse(_message.Message):
    __slots__ = ("leg", "fencing_epoch", "failure_signature")
    LEG_FIELD_NUMBER: _ClassVar[int]
    FENCING_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FAILURE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    leg: Leg
    fencing_epoch: int
    failure_signature: bytes
    def __init__(self, leg: _Optional[_Union[Leg, _Mapping]] = ..., fencing_epoch: _Optional[int] = ..., failure_signature: _Optional[bytes] = ...) -> None: ...

class LegReceipt(_message.Message):
    __slots__ = ("version", "accountant_version", "fencing_epoch", "leg_id", "job_id", "dataset_id", "spec_hash", "grant_hash", "mechanism", "neighbouring", "rounding", "order", "min_honest", "max_colluding", "steps_per_attempt", "attempts_reserved", "attempts_charged", "rounds_done", "dimension", "sample_rate_nano", "clip_norm_micro", "noise_multiplier_micro", "scale_micro", "delta_two_micro", "delta_one_micro", "share_noise_micro", "loss_micro", "usage_head", "updates_hash", "started_seconds", "ended_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTANT_VERSION_FIELD_NUMBER: _ClassVar[int]
    FENCING_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEG_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    GRANT_HASH_FIELD_NUMBER: _ClassVar[int]
    MECHANISM_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURING_FIELD_NUMBER: _ClassVar[int]
    ROUNDING_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MIN_HONEST_FIELD_NUMBER: _ClassVar[int]
    MAX_COLLUDING_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_RESERVED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_CHARGED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_NANO_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_MICRO_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_MICRO_FIELD_NUMBER: _ClassVar[int]
    SCALE_MICRO_FIELD_NUMBER: _ClassVar[int]
    DELTA_TWO_MICRO_FIELD_NUMBER: _ClassVar[int]
    DELTA_ONE_MICRO_FIELD_NUMBER: _ClassVar[int]
    SHARE_NOISE_MICRO_FIELD_NUMBER: _ClassVar[int]
    LOSS_MICRO_FIELD_NUMBER: _ClassVar[int]
    USAGE_HEAD_FIELD_NUMBER: _ClassVar[int]
    UPDATES_HASH_FIELD_NUMBER: _ClassVar[int]
    STARTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENDED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: int
    accountant_version: int
    fencing_epoch: int
    leg_id: bytes
    job_id: bytes
    dataset_id: int
    spec_hash: bytes
    grant_hash: bytes
    mechanism: int
    neighbouring: int
    rounding: int
    order: int
    min_honest: int
    max_colluding: int
    steps_per_attempt: int
    attempts_reserved: int
    attempts_charged: int
    rounds_done: int
    dimension: int
    sample_rate_nano: int
    clip_norm_micro: int
    noise_multiplier_micro: int
    scale_micro: bytes
    delta_two_micro: bytes
    delta_one_micro: bytes
    share_noise_micro: bytes
    loss_micro: int
    usage_head: bytes
    updates_hash: bytes
    started_seconds: int
    ended_seconds: int
    def __init__(self, version: _Optional[int] = ..., accountant_version: _Optional[int] = ..., fencing_epoch: _Optional[int] = ..., leg_id: _Optional[bytes] = ..., job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., spec_hash: _Optional[bytes] = ..., grant_hash: _Optional[bytes] = ..., mechanism: _Optional[int] = ..., neighbouring: _Optional[int] = ..., rounding: _Optional[int] = ..., order: _Optional[int] = ..., min_honest: _Optional[int] = ..., max_colluding: _Optional[int] = ..., steps_per_attempt: _Optional[int] = ..., attempts_reserved: _Optional[int] = ..., attempts_charged: _Optional[int] = ..., rounds_done: _Optional[int] = ..., dimension: _Optional[int] = ..., sample_rate_nano: _Optional[int] = ..., clip_norm_micro: _Optional[int] = ..., noise_multiplier_micro: _Optional[int] = ..., scale_micro: _Optional[bytes] = ..., delta_two_micro: _Optional[bytes] = ..., delta_one_micro: _Optional[bytes] = ..., share_noise_micro: _Optional[bytes] = ..., loss_micro: _Optional[int] = ..., usage_head: _Optional[bytes] = ..., updates_hash: _Optional[bytes] = ..., started_seconds: _Optional[int] = ..., ended_seconds: _Optional[int] = ...) -> None: ...
