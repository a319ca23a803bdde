"""ABI and bytecode of the contracts, and the encoding between them and Python.

The artefacts under ``artefacts/`` are compiled from ``contracts/src`` and compared byte for byte by ``make check``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import (
    collapse_if_tuple,
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_output_types,
)
from eth_utils.address import to_checksum_address

from usufruct.errors import ChainError, InvalidInput


class Interface:
    """One contract's functions, events and errors. Addresses come out checksummed, hashes as ``bytes``, text printable.

    Attributes:
        bytecode: creation bytecode, without constructor arguments.
        runtime_code: as it lies on the chain, with zeros in place of immutables.
        immutables: name -> where its 32 bytes stand in the run-time code.
        file: the source file that the contract is in. compiler: version. sources_sha256: of all sources, hexadecimal.
    """

    def __init__(self, artefact: dict[str, Any]) -> None:
        self.name: str = artefact["contract"]
        self.bytecode = bytes.fromhex(artefact["bytecode"][2:])
        self.runtime_code = bytes.fromhex(artefact["runtime_bytecode"][2:])
        self.immutables: dict[str, list[int]] = artefact["immutables"]
        self.file: str = artefact["file"]
        self.compiler: str = artefact["compiler"]
        self.sources_sha256: str = artefact["sources_sha256"]
        parts: dict[str, list[Any]] = {"function": [], "event": [], "error": [], "constructor": []}
        for part in artefact["abi"]:
            parts.setdefault(part["type"], []).append(part)
        self._functions: dict[str, Any] = {f["name"]: f for f in parts["function"]}
        self._selectors: dict[str, bytes] = {
            n: function_abi_to_4byte_selector(f) for n, f in self._functions.items()
        }
        self._constructor = parts["constructor"][0] if parts["constructor"] else {"inputs": []}
        self._events: dict[bytes, dict[str, Any]] = {
            bytes(event_abi_to_log_topic(e)): e for e in parts["event"]
        }
        self._errors = {bytes(function_abi_to_4byte_selector(_as_function(e))): e for e in parts["error"]}
        self.topics: dict[str, bytes] = {e["name"]: topic for topic, e in self._events.items()}

    def encode_call(self, function: str, *arguments: Any) -> bytes:
        """Calldata of a call. Raises :class:`InvalidInput` if an argument does not fit its type."""
        return self._selectors[function] + _encode(self._functions[function]["inputs"], arguments, function)

    def encode_creation(self, *arguments: Any) -> bytes:
        """Data of the transaction that deploys the contract."""
        return self.bytecode + self.encode_arguments(*arguments)

    def encode_arguments(self, *arguments: Any) -> bytes:
        """The constructor's arguments, as they follow the bytecode."""
        return _encode(self._constructor["inputs"], arguments, self.name)

    def decode_result(self, function: str, data: bytes) -> Any:
        """What a call returned: one value, or a tuple of several."""
        outputs = self._functions[function]["outputs"]
        values = _decode(get_abi_output_types(self._functions[function]), outputs, data)
        return values[0] if len(values) == 1 else values

    def decode_call(self, data: bytes) -> tuple[str, tuple[Any, ...]]:
        """Name and arguments of a transaction's calldata; raises :class:`ChainError` if it calls none of these."""
        for name, selector in self._selectors.items():
            if data[:4] == selector:
                inputs = self._functions[name]["inputs"]
                return name, _decode([collapse_if_tuple(one) for one in inputs], inputs, data[4:])
        raise ChainError(f"{self.name} has no such function in this version")

    def decode_log(self, topics: list[bytes], data: bytes) -> tuple[str, dict[str, Any]]:
        """Name and values of an event of this contract."""
        event = self._events.get(topics[0]) if topics else None
        if event is None:
            raise ChainError(f"{self.name} has an event that this version does not know")
        indexed = [i for i in event["inputs"] if i["indexed"]]
        plain = [i for i in event["inputs"] if not i["indexed"]]
        if len(indexed) != len(topics) - 1:
            raise ChainError(
                f"an event of {self.name} has another number of topics than the contract gives it"
            )
        values: dict[str, Any] = {}
        for one, topic in zip(indexed, topics[1:], strict=True):
            values[one["name"]] = _decode([collapse_if_tuple(one)], [one], topic)[0]
        decoded = _decode([collapse_if_tuple(i) for i in plain], plain, data)
        values.update(zip((i["name"] for i in plain), decoded, strict=True))
        return event["name"], values

    def decode_error(self, data: bytes) -> tuple[str, tuple[Any, ...]] | None:
        """Name and arguments of a custom error; None if it is none of this contract's."""
        error = self._errors.get(data[:4])
        if error is None:
            return None
        return error["name"], _decode(
            [collapse_if_tuple(i) for i in error["inputs"]], error["inputs"], data[4:]
        )


@cache
def interface(contract: str) -> Interface:
    """The interface of ``Registry``, ``ComputeAccess``, ``UsageLog`` or ``TestToken``."""
    text = files("usufruct.chain").joinpath("artefacts", f"{contract}.json").read_text(encoding="utf-8")
    return Interface(json.loads(text))


def _as_function(error: Any) -> Any:
    """A custom error's selector is computed as a function's."""
    return {**error, "type": "function"}


def _encode(inputs: list[Any], values: tuple[Any, ...], where: str) -> bytes:
    try:
        for one, value in zip(inputs, values, strict=True):
            _check_lengths(one, value)
        return encode([collapse_if_tuple(one) for one in inputs], values)
    except (EncodingError, TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: a value does not fit the contract: {error}", field=where) from error


def _check_lengths(one: Any, value: Any) -> None:
    """eth-abi pads short bytes with zeros; a hash that was cut off must not pass for another one."""
    if one["type"] == "tuple":
        for component, part in zip(one["components"], value, strict=True):
            _check_lengths(component, part)
    elif one["type"].endswith("[]"):
        for part in value:
            _check_lengths({**one, "type": one["type"][:-2]}, part)
    elif one["type"] == "bytes32" and len(value) != 32:
        raise ValueError(f"{one['name']} must have 32 bytes")


def _decode(types: list[str], inputs: list[dict[str, Any]], data: bytes) -> tuple[Any, ...]:
    try:
        # text is read as bytes, since eth-abi refuses what is not UTF-8: who registers such must not stop all readers
        values = decode([one.replace("string", "bytes") for one in types], data)
    except (DecodingError, ValueError, OverflowError) as error:
        raise ChainError(
            "the chain's answer does not fit the contract; is the address the right one?"
        ) from error
    return tuple(_tidy(one, value) for one, value in zip(inputs, values, strict=True))


def _tidy(one: dict[str, Any], value: Any) -> Any:
    if one["type"].endswith("[]"):
        return tuple(_tidy({**one, "type": one["type"][:-2]}, item) for item in value)
    if one["type"] == "address":
        return to_checksum_address(value)
    if one["type"] == "string":
        return _printable(value)
    if one["type"] == "tuple":
        return tuple(_tidy(c, v) for c, v in zip(one["components"], value, strict=True))
    return value


def _printable(text: bytes) -> str:
    """Text of a stranger, with escapes for what is not UTF-8 or would move a terminal's cursor."""
    decoded = text.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)
