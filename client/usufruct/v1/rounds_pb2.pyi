from usufruct.v1 import aggregation_pb2 as _aggregation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUND_STATE_UNSPECIFIED: _ClassVar[RoundState]
    ROUND_STATE_CHARGED: _ClassVar[RoundState]
    ROUND_STATE_READY: _ClassVar[RoundState]
    ROUND_STATE_ENCRYPTED: _ClassVar[RoundState]
    ROUND_STATE_SUBMITTED: _ClassVar[RoundState]
    ROUND_STATE_CHECKED: _ClassVar[RoundState]
ROUND_STATE_UNSPECIFIED: RoundState
ROUND_STATE_CHARGED: RoundState
ROUND_STATE_READY: RoundState
ROUND_STATE_ENCRYPTED: RoundState
ROUND_STATE_SUBMITTED: RoundState
ROUND_STATE_CHECKED: RoundState

class RoundHeader(_message.Message):
    __slots__ = ("job_id", "dataset_id", "round", "attempt", "public_key_bytes", "public_key_digest", "weights_bytes", "weights_digest", "offer_signature")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFER_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    round: int
    attempt: int
    public_key_bytes: int
    public_key_digest: bytes
    weights_bytes: int
    weights_digest: bytes
    offer_signature: bytes
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., public_key_bytes: _Optional[int] = ..., public_key_digest: _Optional[bytes] = ..., weights_bytes: _Optional[int] = ..., weights_digest: _Optional[bytes] = ..., offer_signature: _Optional[bytes] = ...) -> None: ...

class RoundStep(_message.Message):
    __slots__ = ("submit", "check")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    submit: Submit
    check: Check
    def __init__(self, submit: _Optional[_Union[Submit, _Mapping]] = ..., check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("roster", "view_signature")
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    VIEW_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    roster: _containers.RepeatedCompositeFieldContainer[RosterMember]
    view_signature: bytes
    def __init__(self, roster: _Optional[_Iterable[_Union[RosterMember, _Mapping]]] = ..., view_signature: _Optional[bytes] = ...) -> None: ...

class RosterMember(_message.Message):
    __slots__ = ("dataset_id", "mask_key", "ready_signature")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    READY_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    mask_key: bytes
    ready_signature: bytes
    def __init__(self, dataset_id: _Optional[int] = ..., mask_key: _Optional[bytes] = ..., ready_signature: _Optional[bytes] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("seed", "sum_root", "uploads", "next_public_key")
    SEED_FIELD_NUMBER: _ClassVar[int]
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    sum_root: bytes
    uploads: _containers.RepeatedCompositeFieldContainer[_aggregation_pb2.UploadHeader]
    next_public_key: bytes
    def __init__(self, seed: _Optional[bytes] = ..., sum_root: _Optional[bytes] = ..., uploads: _Optional[_Iterable[_Union[_aggregation_pb2.UploadHeader, _Mapping]]] = ..., next_public_key: _Optional[bytes] = ...) -> None: ...

class GetRoundRequest(_message.Message):
    __slots__ = ("job_id", "dataset_id", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    attempt: int
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class RoundEvent(_message.Message):
    __slots__ = ("state", "attempts_charged", "offer_hash", "mask_key", "ready_signature", "view_hash", "upload_root", "upload_bytes", "check_values", "check_signature")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_CHARGED_FIELD_NUMBER: _ClassVar[int]
    OFFER_HASH_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    READY_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ROOT_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECK_VALUES_FIELD_NUMBER: _ClassVar[int]
    CHECK_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    state: RoundState
    attempts_charged: int
    offer_hash: bytes
    mask_key: bytes
    ready_signature: bytes
    view_hash: bytes
    upload_root: bytes
    upload_bytes: int
    check_values: _containers.RepeatedScalarFieldContainer[int]
    check_signature: bytes
    def __init__(self, state: _Optional[_Union[RoundState, str]] = ..., attempts_charged: _Optional[int] = ..., offer_hash: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ..., ready_signature: _Optional[bytes] = ..., view_hash: _Optional[bytes] = ..., upload_root: _Optional[bytes] = ..., upload_bytes: _Optional[int] = ..., check_values: _Optional[_Iterable[int]] = ..., check_signature: _Optional[bytes] = ...) -> None: ...
