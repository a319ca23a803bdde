"""Names of things: job ids, leg ids, addresses, hashes.

32-byte values are ``bytes`` in Python and ``0x…`` text for people; addresses are checksummed text.
"""

from __future__ import annotations

import re

from eth_abi.abi import encode
from eth_utils.address import is_address, to_checksum_address
from eth_utils.crypto import keccak

from usufruct.errors import InvalidInput

ZERO_HASH = bytes(32)
ZERO_ADDRESS = "0x" + "0" * 40


def job_id(chain_id: int, compute_access: str, builder: str, nonce: bytes) -> bytes:
    """Id of a job, known before the chain knows the job: keccak256(abi.encode(chain id, contract, builder, nonce)).

    Args:
        nonce: 32 bytes chosen by the builder.
    Returns:
        32 bytes, equal to what ``ComputeAccess.jobIdOf`` returns.
    """
    return keccak(
        encode(
            ["uint256", "address", "address", "bytes32"],
            [chain_id, compute_access, builder, hash32(nonce, "nonce")],
        )
    )


def leg_id(job: bytes, dataset_id: int) -> bytes:
    """Id of one dataset's part of a job: keccak256(abi.encode(job id, dataset number)); 32 bytes."""
    return keccak(encode(["bytes32", "uint64"], [hash32(job, "job_id"), dataset_id]))


def hash32(value: bytes, field: str) -> bytes:
    """Returns ``value`` if it is exactly 32 bytes; raises :class:`InvalidInput` naming ``field`` otherwise."""
    if not isinstance(value, bytes) or len(value) != 32:
        raise InvalidInput(f"{field} must be 32 bytes", field=field)
    return value


def address(value: str, field: str) -> str:
    """Returns the checksummed form of an address; raises :class:`InvalidInput` naming ``field`` if it is none."""
    if not isinstance(value, str) or not is_address(value):
        raise InvalidInput(f"{field} must be an Ethereum address such as 0x5aAe…", field=field)
    return str(to_checksum_address(value))


def from_hex32(text: str, field: str = "id") -> bytes:
    """Reads ``0x`` and 64 hexadecimal digits; raises :class:`InvalidInput` naming ``field`` otherwise."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{64}", text or ""):
        raise InvalidInput(f"{field} must be 0x followed by 64 hexadecimal digits", field=field)
    return bytes.fromhex(text[2:])


def to_hex(value: bytes) -> str:
    """``0x…`` text of bytes."""
    return "0x" + value.hex()
