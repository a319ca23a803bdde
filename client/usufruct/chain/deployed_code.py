"""Whether the code at an address is this version's: compared byte for byte, and its immutables with what they must be.

Immutables are part of the code and are filled in by the constructor. Other creation code could leave the same run-time
code behind with other immutables: a Registry, say, that trusts a foreign forwarder and takes its word for who is calling.
"""

from __future__ import annotations

from collections.abc import Mapping

from eth_utils.crypto import keccak

from usufruct.chain.interface import interface
from usufruct.chain.rpc import Rpc
from usufruct.chain.typed_data import DOMAIN_NAMES, DOMAIN_VERSION, domain_separator
from usufruct.errors import ChainError

WORD = 32
_FREE = "deploymentBlock"
"""The one immutable that nothing else determines."""


def check_code(rpc: Rpc, chain_id: int, addresses: Mapping[str, str], block: int | str = "latest") -> None:
    """Checks the code of Registry, ComputeAccess and UsageLog, which name each other.

    Args:
        addresses: of all three, by name.
    Raises:
        ChainError: WRONG_CHAIN, naming the contract and what differs.
    """
    for contract in DOMAIN_NAMES:
        found = difference(contract, rpc.code(addresses[contract], block), chain_id, addresses)
        if found is not None:
            raise ChainError(
                f"{addresses[contract]} on chain {chain_id} is not this version's {contract}: {found}. Check the RPC URL and "
                "the contract address, or install the version that was deployed",
                reason="WRONG_CHAIN",
                chain_id=chain_id,
            )


def difference(contract: str, code: bytes, chain_id: int, addresses: Mapping[str, str]) -> str | None:
    """In what the code at ``addresses[contract]`` is not what this version deploys there; None: in nothing."""
    artefact = interface(contract)
    if not code:
        return "there is no contract"
    masked, values = bytearray(code), {}
    for name, places in artefact.immutables.items():
        values[name] = {bytes(code[at : at + WORD]) for at in places}
        for at in places:
            masked[at : at + WORD] = bytes(WORD)
    if bytes(masked) != artefact.runtime_code:
        return f"its code of {len(code)} bytes is another"
    for name, expected in _immutables(contract, chain_id, addresses).items():
        if values.pop(name) != {expected}:
            return f"its immutable {name} has another value"
    return None if set(values) <= {_FREE} else f"its immutables {', '.join(sorted(values))} are unknown"


def _immutables(contract: str, chain_id: int, addresses: Mapping[str, str]) -> dict[str, bytes]:
    """What the constructors set, Registry's ``deploymentBlock`` excepted; those of OpenZeppelin begin with ``_``."""
    own = addresses[contract]
    named = {
        "ComputeAccess": {"registry": "Registry", "usageLog": "UsageLog"},
        "Registry": {
            "computeAccess": "ComputeAccess",
            "usageLog": "UsageLog",
            "_trustedForwarder": "Registry",
        },
        "UsageLog": {"registry": "Registry"},
    }[contract]
    return {
        **{name: _word(addresses[other]) for name, other in named.items()},
        "_cachedThis": _word(own),
        "_cachedChainId": chain_id.to_bytes(WORD, "big"),
        "_cachedDomainSeparator": domain_separator(DOMAIN_NAMES[contract], chain_id, own),
        "_hashedName": keccak(text=DOMAIN_NAMES[contract]),
        "_hashedVersion": keccak(text=DOMAIN_VERSION),
        "_name": _short_string(DOMAIN_NAMES[contract]),
        "_version": _short_string(DOMAIN_VERSION),
    }


def _word(address: str) -> bytes:
    return bytes.fromhex(address[2:]).rjust(WORD, b"\0")


def _short_string(text: str) -> bytes:
    """As OpenZeppelin's ShortStrings packs a text of up to 31 bytes: the text, and its length in the last byte."""
    return text.encode().ljust(WORD - 1, b"\0") + bytes([len(text)])
