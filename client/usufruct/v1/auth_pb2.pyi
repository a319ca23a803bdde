from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetChallengeRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class GetChallengeResponse(_message.Message):
    __slots__ = ("challenge", "expire_time_seconds")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    expire_time_seconds: int
    def __init__(self, challenge: _Optional[bytes] = ..., expire_time_seconds: _Optional[int] = ...) -> None: ...

class GetTokenRequest(_message.Message):
    __slots__ = ("address", "challenge", "signature")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    address: str
    challenge: bytes
    signature: bytes
    def __init__(self, address: _Optional[str] = ..., challenge: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class GetTokenResponse(_message.Message):
    __slots__ = ("token", "expire_time_seconds")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expire_time_seconds: int
    def __init__(self, token: _Optional[str] = ..., expire_time_seconds: _Optional[int] = ...) -> None: ...
