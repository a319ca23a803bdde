from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_KIND_UNSPECIFIED: _ClassVar[UsageKind]
    USAGE_KIND_GRANTED: _ClassVar[UsageKind]
    USAGE_KIND_REFUSED: _ClassVar[UsageKind]
    USAGE_KIND_CHARGED: _ClassVar[UsageKind]
    USAGE_KIND_SUBMITTED: _ClassVar[UsageKind]
    USAGE_KIND_LOST: _ClassVar[UsageKind]
    USAGE_KIND_DELIVERED: _ClassVar[UsageKind]
    USAGE_KIND_CHECKED: _ClassVar[UsageKind]
USAGE_KIND_UNSPECIFIED: UsageKind
USAGE_KIND_GRANTED: UsageKind
USAGE_KIND_REFUSED: UsageKind
USAGE_KIND_CHARGED: UsageKind
USAGE_KIND_SUBMITTED: UsageKind
USAGE_KIND_LOST: UsageKind
USAGE_KIND_DELIVERED: UsageKind
USAGE_KIND_CHECKED: UsageKind

class ListUsageRecordsRequest(_message.Message):
    __slots__ = ("first_sequence", "page_size")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    page_size: int
    def __init__(self, first_sequence: _Optional[int] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListUsageRecordsResponse(_message.Message):
    __slots__ = ("records", "next_sequence")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    next_sequence: int
    def __init__(self, records: _Optional[_Iterable[bytes]] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class UsageRecord(_message.Message):
    __slots__ = ("version", "sequence", "kind", "time_seconds", "dataset_id", "job_id", "builder", "spec_hash", "reason", "round", "attempt", "loss_micro", "view_hash", "upload_digest", "document_hash", "sum_digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BUILDER_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LOSS_MICRO_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    SUM_DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    sequence: int
    kind: UsageKind
    time_seconds: int
    dataset_id: int
    job_id: bytes
    builder: str
    spec_hash: bytes
    reason: str
    round: int
    attempt: int
    loss_micro: int
    view_hash: bytes
    upload_digest: bytes
    document_hash: bytes
    sum_digest: bytes
    def __init__(self, version: _Optional[int] = ..., sequence: _Optional[int] = ..., kind: _Optional[_Union[UsageKind, str]] = ..., time_seconds: _Optional[int] = ..., dataset_id: _Optional[int] = ..., job_id: _Optional[bytes] = ..., builder: _Optional[str] = ..., spec_hash: _Optional[bytes] = ..., reason: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., loss_micro: _Optional[int] = ..., view_hash: _Optional[bytes] = ..., upload_digest: _Optional[bytes] = ..., document_hash: _Optional[bytes] = ..., sum_digest: _Optional[bytes] = ...) -> None: ...
