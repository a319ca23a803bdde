"""Writes ``eip712.json``: every statement that is signed, with its EIP-712 hash.

Source of the hashes: eth-account's ``encode_typed_data``, which shares no code with ``usufruct.chain.typed_data`` or with
the contracts. Both are tested against this file. Run: ``python tests/vectors/make_eip712.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account.messages import _hash_eip191_message, encode_typed_data
from eth_utils.crypto import keccak

CHAIN_ID = 1337
CONTRACTS = {
    "Usufruct Registry": "0x1111111111111111111111111111111111111111",
    "Usufruct ComputeAccess": "0x2222222222222222222222222222222222222222",
    "Usufruct UsageLog": "0x3333333333333333333333333333333333333333",
}
STATEMENTS = {
    "grants": (
        "Usufruct Registry",
        "Grant",
        "uint64 datasetId,address grantee,bytes32 specHash,bytes32 purposeHash,address token,uint96 priceUnits,"
        "uint32 maxUses,uint64 lossPerJobMicro,uint64 lossTotalMicro,uint40 notBeforeSeconds,uint40 deadlineSeconds,"
        "uint32 revocationEpoch,bytes32 salt",
    ),
    "calls": (
        "Usufruct Registry",
        "Call",
        "address signer,bytes data,uint256 nonce,uint40 deadlineSeconds",
    ),
    "sponsorships": (
        "Usufruct ComputeAccess",
        "Sponsorship",
        "address payer,bytes32 jobId,bytes32 specHash,address token,uint256 units,uint40 deadlineSeconds",
    ),
    "acceptances": ("Usufruct ComputeAccess", "Acceptance", "bytes32 legHash,uint64 fencingEpoch"),
    "declines": ("Usufruct ComputeAccess", "Decline", "bytes32 legHash"),
    "failures": ("Usufruct ComputeAccess", "Failure", "bytes32 legHash,uint64 lossMicro,uint64 fencingEpoch"),
    "receipts": (
        "Usufruct ComputeAccess",
        "LegReceipt",
        "uint16 version,uint16 accountantVersion,uint64 fencingEpoch,bytes32 legId,bytes32 jobId,uint64 datasetId,"
        "bytes32 specHash,bytes32 grantHash,uint8 mechanism,uint8 neighbouring,uint8 rounding,uint16 order,"
        "uint16 minHonest,uint16 maxColluding,uint32 stepsPerAttempt,uint32 attemptsReserved,uint32 attemptsCharged,"
        "uint32 roundsDone,uint64 dimension,uint64 sampleRateNano,uint64 clipNormMicro,uint64 noiseMultiplierMicro,"
        "uint128 scaleMicro,uint128 deltaTwoMicro,uint128 deltaOneMicro,uint128 shareNoiseMicro,uint64 lossMicro,"
        "bytes32 usageHead,bytes32 updatesHash,uint40 startedSeconds,uint40 endedSeconds",
    ),
    "lowers": ("Usufruct ComputeAccess", "Lower", "bytes32 legId,uint64 lossMicro"),
    "acknowledgements": ("Usufruct ComputeAccess", "Acknowledgement", "bytes32 legId,bytes32 receiptHash"),
    "batches": (
        "Usufruct UsageLog",
        "UsageBatch",
        "uint32 holderId,bytes32 root,uint32 count,bytes32 prevRoot,uint64 firstSequence",
    ),
}
"""Plural in the file -> domain, struct, its fields."""
CASES = ("zero", "greatest", "first", "second", "third")


def members(fields: str) -> list[dict[str, str]]:
    """Members of a struct as typed data lists them."""
    return [dict(zip(("type", "name"), one.split(" "), strict=True)) for one in fields.split(",")]


def example(fields: str, case: str) -> dict[str, Any]:
    """Values of a struct: all zero, all at their greatest, or derived from the field's name."""
    values: dict[str, Any] = {}
    for member in members(fields):
        kind, seed = member["type"], keccak(text=f"{case} {member['name']}")
        if case == "zero":
            seed = bytes(32)
        elif case == "greatest":
            seed = b"\xff" * 32
        if kind == "bytes32":
            values[member["name"]] = "0x" + seed.hex()
        elif kind == "bytes":
            values[member["name"]] = "0x" + (seed * 8)[: seed[0]].hex()
        elif kind == "address":
            values[member["name"]] = "0x" + seed[:20].hex()
        else:
            values[member["name"]] = int.from_bytes(seed, "big") % (1 << int(kind[4:]))
    return values


def raw(fields: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values with byte strings as bytes."""
    return {
        m["name"]: bytes.fromhex(values[m["name"]][2:])
        if m["type"].startswith("bytes")
        else values[m["name"]]
        for m in members(fields)
    }


def typed_hash(domain_name: str, struct: str, fields: str, values: dict[str, Any]) -> str:
    """EIP-712 hash by eth-account."""
    domain = {
        "name": domain_name, "version": "1", "chainId": CHAIN_ID, "verifyingContract": CONTRACTS[domain_name],
    }  # fmt: skip
    typed = encode_typed_data(domain, {struct: members(fields)}, raw(fields, values))
    return "0x" + _hash_eip191_message(typed).hex()


def abi_encoded(fields: str, values: dict[str, Any]) -> str:
    """The fields' ABI encoding, for Solidity's ``abi.decode``."""
    return "0x" + encode([m["type"] for m in members(fields)], list(raw(fields, values).values())).hex()


def vectors() -> dict[str, Any]:
    """All cases."""
    written: dict[str, Any] = {
        "source": "eth-account's encode_typed_data, by make_eip712.py",
        "layout": "for each kind of statement, by index: KIND its fields; KIND_encoded their ABI encoding in that order, "
        "for abi.decode; KIND_hash the EIP-712 hash for the chain id and the contract given here",
        "chain_id": CHAIN_ID,
        "registry": CONTRACTS["Usufruct Registry"],
        "compute_access": CONTRACTS["Usufruct ComputeAccess"],
        "usage_log": CONTRACTS["Usufruct UsageLog"],
    }
    for kind, (domain, struct, fields) in STATEMENTS.items():
        values = [example(fields, case) for case in CASES]
        written[kind] = values
        written[f"{kind}_encoded"] = [abi_encoded(fields, one) for one in values]
        written[f"{kind}_hash"] = [typed_hash(domain, struct, fields, one) for one in values]
    return written


if __name__ == "__main__":
    Path(__file__).with_name("eip712.json").write_text(
        json.dumps(vectors(), indent=1) + "\n", encoding="utf-8"
    )
