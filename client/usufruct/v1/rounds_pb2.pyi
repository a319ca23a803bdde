from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUND_STATE_UNSPECIFIED: _ClassVar[RoundState]
    ROUND_STATE_CHARGED: _ClassVar[RoundState]
    ROUND_STATE_ENCRYPTED: _ClassVar[RoundState]
    ROUND_STATE_SUBMITTED: _ClassVar[RoundState]
ROUND_STATE_UNSPECIFIED: RoundState
ROUND_STATE_CHARGED: RoundState
ROUND_STATE_ENCRYPTED: RoundState
ROUND_STATE_SUBMITTED: RoundState

class RoundHeader(_message.Message):
    __slots__ = ("job_id", "dataset_id", "round", "attempt", "roster", "public_key_bytes", "public_key_digest", "weights_bytes", "weights_digest", "view_signature")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VIEW_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    dataset_id: int
    round: int
    attempt: int
    roster: _containers.RepeatedScalarFieldContainer[int]
    public_key_bytes: int
    public_key_digest: bytes
    weights_bytes: int
    weights_digest: bytes
    view_signature: bytes
    def __init__(self, job_id: _Optional[bytes] = ..., dataset_id: _Optional[int] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., roster: _Optional[_Iterable[int]] = ..., public_key_bytes: _Optional[int] = ..., public_key_digest: _Optional[bytes] = ..., weights_bytes: _Optional[int] = ..., weights_digest: _Optional[bytes] = ..., view_signature: _Optional[bytes] = ...) -> None: ...

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
    __slots__ = ("state", "view_hash", "upload_digest", "upload_bytes", "attempts_charged")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_CHARGED_FIELD_NUMBER: _ClassVar[int]
    state: RoundState
    view_hash: bytes
    upload_digest: bytes
    upload_bytes: int
    attempts_charged: int
    def __init__(self, state: _Optional[_Union[RoundState, str]] = ..., view_hash: _Optional[bytes] = ..., upload_digest: _Optional[bytes] = ..., upload_bytes: _Optional[int] = ..., attempts_charged: _Optional[int] = ...) -> None: ...
