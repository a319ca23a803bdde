from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_KIND_UNSPECIFIED: _ClassVar[NodeKind]
    NODE_KIND_INPUT: _ClassVar[NodeKind]
    NODE_KIND_MODULE: _ClassVar[NodeKind]
    NODE_KIND_FUNCTION: _ClassVar[NodeKind]
    NODE_KIND_OUTPUT: _ClassVar[NodeKind]
NODE_KIND_UNSPECIFIED: NodeKind
NODE_KIND_INPUT: NodeKind
NODE_KIND_MODULE: NodeKind
NODE_KIND_FUNCTION: NodeKind
NODE_KIND_OUTPUT: NodeKind

class ModelGraph(_message.Message):
    __slots__ = ("version", "input_shape", "input_dtype", "modules", "nodes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    INPUT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    version: int
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    input_dtype: str
    modules: _containers.RepeatedCompositeFieldContainer[ModuleSpec]
    nodes: _containers.RepeatedCompositeFieldContainer[GraphNode]
    def __init__(self, version: _Optional[int] = ..., input_shape: _Optional[_Iterable[int]] = ..., input_dtype: _Optional[str] = ..., modules: _Optional[_Iterable[_Union[ModuleSpec, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[GraphNode, _Mapping]]] = ...) -> None: ...

class ModuleSpec(_message.Message):
    __slots__ = ("class_name", "arguments", "frozen", "shared")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    arguments: _containers.RepeatedCompositeFieldContainer[NamedValue]
    frozen: _containers.RepeatedCompositeFieldContainer[FrozenParameter]
    shared: _containers.RepeatedCompositeFieldContainer[SharedParameter]
    def __init__(self, class_name: _Optional[str] = ..., arguments: _Optional[_Iterable[_Union[NamedValue, _Mapping]]] = ..., frozen: _Optional[_Iterable[_Union[FrozenParameter, _Mapping]]] = ..., shared: _Optional[_Iterable[_Union[SharedParameter, _Mapping]]] = ...) -> None: ...

class FrozenParameter(_message.Message):
    __slots__ = ("name", "base_name")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    base_name: str
    def __init__(self, name: _Optional[str] = ..., base_name: _Optional[str] = ...) -> None: ...

class SharedParameter(_message.Message):
    __slots__ = ("name", "owner", "owner_name")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    owner: int
    owner_name: str
    def __init__(self, name: _Optional[str] = ..., owner: _Optional[int] = ..., owner_name: _Optional[str] = ...) -> None: ...

class GraphNode(_message.Message):
    __slots__ = ("kind", "index", "function", "arguments", "keywords")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    KEYWORDS_FIELD_NUMBER: _ClassVar[int]
    kind: NodeKind
    index: int
    function: str
    arguments: _containers.RepeatedCompositeFieldContainer[GraphValue]
    keywords: _containers.RepeatedCompositeFieldContainer[NamedValue]
    def __init__(self, kind: _Optional[_Union[NodeKind, str]] = ..., index: _Optional[int] = ..., function: _Optional[str] = ..., arguments: _Optional[_Iterable[_Union[GraphValue, _Mapping]]] = ..., keywords: _Optional[_Iterable[_Union[NamedValue, _Mapping]]] = ...) -> None: ...

class NamedValue(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: GraphValue
    def __init__(self, name: _Optional[str] = ..., value: _Optional[_Union[GraphValue, _Mapping]] = ...) -> None: ...

class GraphValue(_message.Message):
    __slots__ = ("none", "flag", "integer", "real", "text", "node", "list")
    NONE_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    none: bool
    flag: bool
    integer: int
    real: float
    text: str
    node: int
    list: GraphValueList
    def __init__(self, none: _Optional[bool] = ..., flag: _Optional[bool] = ..., integer: _Optional[int] = ..., real: _Optional[float] = ..., text: _Optional[str] = ..., node: _Optional[int] = ..., list: _Optional[_Union[GraphValueList, _Mapping]] = ...) -> None: ...

class GraphValueList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[GraphValue]
    def __init__(self, values: _Optional[_Iterable[_Union[GraphValue, _Mapping]]] = ...) -> None: ...
