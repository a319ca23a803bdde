"""Writes ``eip712.json``: grants, receipts and acknowledgements with their EIP-712 hashes.

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
REGISTRY = "0x1111111111111111111111111111111111111111"
COMPUTE_ACCESS = "0x2222222222222222222222222222222222222222"
GRANT = (
    "uint64 datasetId,address grantee,bytes32 specHash,bytes32 purposeHash,address token,uint96 priceUnits,uint32 maxUses,"
    "uint64 lossPerJobMicro,uint64 lossTotalMicro,uint40 notBeforeSeconds,uint40 deadlineSeconds,uint32 revocationEpoch,"
    "bytes32 salt"
)
RECEIPT = (
    "uint16 version,uint16 accountantVersion,bytes32 legId,bytes32 jobId,uint64 datasetId,bytes32 specHash,"
    "bytes32 grantHash,uint8 mechanism,uint8 neighbouring,uint8 rounding,uint16 order,uint16 minHonest,uint16 maxColluding,"
    "uint32 stepsPerAttempt,uint32 attemptsReserved,uint32 attemptsCharged,uint32 roundsDone,uint64 dimension,"
    "uint64 sampleRateNano,uint64 clipNormMicro,uint64 noiseMultiplierMicro,uint128 scaleMicro,uint128 deltaTwoMicro,"
    "uint128 deltaOneMicro,uint128 shareNoiseMicro,uint64 lossMicro,bytes32 usageHead,bytes32 updatesHash,"
    "uint40 startedSeconds,uint40 endedSeconds"
)


def members(text: str) -> list[dict[str, str]]:
    """Members of a struct as typed data lists them."""
    return [dict(zip(("type", "name"), one.split(" "), strict=True)) for one in text.split(",")]


def example(text: str, case: str) -> dict[str, Any]:
    """Values of a struct: all zero, all at their greatest, or derived from the field's name."""
    values: dict[str, Any] = {}
    for member in members(text):
        kind, seed = member["type"], keccak(text=f"{case} {member['name']}")
        if case == "zero":
            seed = bytes(32)
        elif case == "greatest":
            seed = b"\xff" * 32
        if kind == "bytes32":
            values[member["name"]] = "0x" + seed.hex()
        elif kind == "address":
            values[member["name"]] = "0x" + seed[:20].hex()
        else:
            values[member["name"]] = int.from_bytes(seed, "big") % (1 << int(kind[4:]))
    return values


def typed_hash(name: str, contract: str, struct: str, fields: str, values: dict[str, Any]) -> str:
    """EIP-712 hash by eth-account."""
    domain = {"name": name, "version": "1", "chainId": CHAIN_ID, "verifyingContract": contract}
    raw = {k: bytes.fromhex(v[2:]) if isinstance(v, str) and len(v) == 66 else v for k, v in values.items()}
    return "0x" + _hash_eip191_message(encode_typed_data(domain, {struct: members(fields)}, raw)).hex()


def abi_encoded(fields: str, values: dict[str, Any]) -> str:
    """The struct's ABI encoding, for Solidity's ``abi.decode``."""
    raw = [bytes.fromhex(v[2:]) if isinstance(v, str) and len(v) == 66 else v for v in values.values()]
    return "0x" + encode([f"({','.join(m['type'] for m in members(fields))})"], [tuple(raw)]).hex()


def vectors() -> dict[str, Any]:
    """All cases."""
    cases = ("zero", "greatest", "first", "second", "third")
    grants = [example(GRANT, case) for case in cases]
    receipts = [example(RECEIPT, case) for case in cases]
    name = "Usufruct ComputeAccess"
    receipts_hash = [typed_hash(name, COMPUTE_ACCESS, "LegReceipt", RECEIPT, r) for r in receipts]
    acknowledgement = "bytes32 legId,bytes32 receiptHash"
    return {
        "source": "eth-account's encode_typed_data, by make_eip712.py",
        "chain_id": CHAIN_ID,
        "registry": REGISTRY,
        "compute_access": COMPUTE_ACCESS,
        "grants": grants,
        "grants_encoded": [abi_encoded(GRANT, g) for g in grants],
        "grants_hash": [typed_hash("Usufruct Registry", REGISTRY, "Grant", GRANT, g) for g in grants],
        "receipts": receipts,
        "receipts_encoded": [abi_encoded(RECEIPT, r) for r in receipts],
        "receipts_hash": receipts_hash,
        "acknowledgements_hash": [
            typed_hash(
                name,
                COMPUTE_ACCESS,
                "Acknowledgement",
                acknowledgement,
                {"legId": r["legId"], "receiptHash": h},
            )
            for r, h in zip(receipts, receipts_hash, strict=True)
        ],
    }


if __name__ == "__main__":
    Path(__file__).with_name("eip712.json").write_text(
        json.dumps(vectors(), indent=1) + "\n", encoding="utf-8"
    )
