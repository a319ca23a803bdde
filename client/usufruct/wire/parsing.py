"""Reading a protobuf message from bytes of another party."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from usufruct.errors import InvalidInput

M = TypeVar("M", bound=Message)


def parse(message: type[M], data: bytes, limit_bytes: int) -> M:
    """Parses ``data`` as ``message``.

    Raises:
        InvalidInput: ``TOO_LARGE`` above ``limit_bytes``; ``MALFORMED`` if the bytes are not such a message.
    """
    if len(data) > limit_bytes:
        raise InvalidInput(
            f"the message is longer than {limit_bytes} bytes", reason="TOO_LARGE", limit=limit_bytes
        )
    result = message()
    try:
        result.ParseFromString(data)
    except DecodeError as error:
        raise InvalidInput(
            f"the bytes are not a {message.DESCRIPTOR.name}", field=message.DESCRIPTOR.name
        ) from error
    return result


def decimal(text: str, field: str, highest: int) -> int:
    """Reads a whole number written in plain decimal digits, at most ``highest``."""
    if not (text.isascii() and text.isdigit() and len(text) <= 40) or int(text) > highest:
        raise InvalidInput(f"{field} must be a whole number in decimal digits", field=field)
    return int(text)
