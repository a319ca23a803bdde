from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NoiseMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOISE_MODE_UNSPECIFIED: _ClassVar[NoiseMode]
    NOISE_MODE_LOCAL: _ClassVar[NoiseMode]
    NOISE_MODE_DISTRIBUTED: _ClassVar[NoiseMode]
NOISE_MODE_UNSPECIFIED: NoiseMode
NOISE_MODE_LOCAL: NoiseMode
NOISE_MODE_DISTRIBUTED: NoiseMode

class ListDatasetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("holder_id", "chain_id", "compute_access", "datasets")
    HOLDER_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_ACCESS_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    holder_id: int
    chain_id: int
    compute_access: str
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetSummary]
    def __init__(self, holder_id: _Optional[int] = ..., chain_id: _Optional[int] = ..., compute_access: _Optional[str] = ..., datasets: _Optional[_Iterable[_Union[DatasetSummary, _Mapping]]] = ...) -> None: ...

class DatasetSummary(_message.Message):
    __slots__ = ("dataset_id", "name", "task", "card_hash", "accepted_noise_modes")
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CARD_HASH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_NOISE_MODES_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    name: str
    task: str
    card_hash: bytes
    accepted_noise_modes: _containers.RepeatedScalarFieldContainer[NoiseMode]
    def __init__(self, dataset_id: _Optional[int] = ..., name: _Optional[str] = ..., task: _Optional[str] = ..., card_hash: _Optional[bytes] = ..., accepted_noise_modes: _Optional[_Iterable[_Union[NoiseMode, str]]] = ...) -> None: ...

class GetDatasetCardRequest(_message.Message):
    __slots__ = ("dataset_id",)
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    dataset_id: int
    def __init__(self, dataset_id: _Optional[int] = ...) -> None: ...

class GetDatasetCardResponse(_message.Message):
    __slots__ = ("card", "policy")
    CARD_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    card: bytes
    policy: bytes
    def __init__(self, card: _Optional[bytes] = ..., policy: _Optional[bytes] = ...) -> None: ...
