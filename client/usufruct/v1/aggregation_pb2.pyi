from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RosterEntry(_message.Message):
    __slots__ = ("dataset_id", "operator")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    operator: str
    def __init__(self, dataset_id: _Optional[int] = ..., operator: _Optional[str] = ...) -> None: ...

class OpenRoundRequest(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "view_hash", "roster", "parameter_count", "parameters", "timeout_seconds")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    round: int
    attempt: int
    view_hash: bytes
    roster: _containers.RepeatedCompositeFieldContainer[RosterEntry]
    parameter_count: int
    parameters: str
    timeout_seconds: int
    def __init__(self, job_id: _Optional[bytes] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., view_hash: _Optional[bytes] = ..., roster: _Optional[_Iterable[_Union[RosterEntry, _Mapping]]] = ..., parameter_count: _Optional[int] = ..., parameters: _Optional[str] = ..., timeout_seconds: _Optional[int] = ...) -> None: ...

class OpenRoundResponse(_message.Message):
    __slots__ = ("expire_time_seconds",)
    EXPIRE_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    expire_time_seconds: int
    def __init__(self, expire_time_seconds: _Optional[int] = ...) -> None: ...

class CloseRoundRequest(_message.Message):
    __slots__ = ("job_id", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    attempt: int
    def __init__(self, job_id: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class CloseRoundResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "dataset_id", "view_hash", "upload_root", "upload_bytes", "signature")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ROOT_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    round: int
    attempt: int
    dataset_id: int
    view_hash: bytes
    upload_root: bytes
    upload_bytes: int
    signature: bytes
    def __init__(self, job_id: _Optional[bytes] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., dataset_id: _Optional[int] = ..., view_hash: _Optional[bytes] = ..., upload_root: _Optional[bytes] = ..., upload_bytes: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class FetchSumRequest(_message.Message):
    __slots__ = ("job_id", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    attempt: int
    def __init__(self, job_id: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class SumHeader(_message.Message):
    __slots__ = ("uploads",)
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[UploadHeader]
    def __init__(self, uploads: _Optional[_Iterable[_Union[UploadHeader, _Mapping]]] = ...) -> None: ...

class SumTrailer(_message.Message):
    __slots__ = ("sum_root",)
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    sum_root: bytes
    def __init__(self, sum_root: _Optional[bytes] = ...) -> None: ...

class FetchChunkRequest(_message.Message):
    __slots__ = ("job_id", "attempt", "view_hash", "index")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VIEW_HASH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    attempt: int
    view_hash: bytes
    index: int
    def __init__(self, job_id: _Optional[bytes] = ..., attempt: _Optional[int] = ..., view_hash: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class ChunkHeader(_message.Message):
    __slots__ = ("uploads", "upload_proofs", "sum_root", "sum_proof")
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_PROOFS_FIELD_NUMBER: _ClassVar[int]
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    SUM_PROOF_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[UploadHeader]
    upload_proofs: _containers.RepeatedCompositeFieldContainer[ChunkProof]
    sum_root: bytes
    sum_proof: ChunkProof
    def __init__(self, uploads: _Optional[_Iterable[_Union[UploadHeader, _Mapping]]] = ..., upload_proofs: _Optional[_Iterable[_Union[ChunkProof, _Mapping]]] = ..., sum_root: _Optional[bytes] = ..., sum_proof: _Optional[_Union[ChunkProof, _Mapping]] = ...) -> None: ...

class ChunkProof(_message.Message):
    __slots__ = ("siblings",)
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    siblings: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, siblings: _Optional[_Iterable[bytes]] = ...) -> None: ...
