"""EIP-712 hashes and signatures: grants in Registry's domain, all that concerns a job in ComputeAccess's.

The hashes equal those of ``Registry.hashGrant``, ``ComputeAccess.hashReceipt`` and ``hashAcknowledgement``;
``tests/vectors/eip712.json`` holds the same cases for both sides. Source: EIP-712, definition of hashStruct.
"""

from __future__ import annotations

from dataclasses import astuple

from eth_abi.abi import encode
from eth_abi.exceptions import EncodingError
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32
from eth_utils.crypto import keccak

from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput

GRANT_FIELDS = (
    "uint64 datasetId", "address grantee", "bytes32 specHash", "bytes32 purposeHash", "address token", "uint96 priceUnits",
    "uint32 maxUses", "uint64 lossPerJobMicro", "uint64 lossTotalMicro", "uint40 notBeforeSeconds",
    "uint40 deadlineSeconds", "uint32 revocationEpoch", "bytes32 salt",
)  # fmt: skip
RECEIPT_FIELDS = (
    "uint16 version", "uint16 accountantVersion", "bytes32 legId", "bytes32 jobId", "uint64 datasetId", "bytes32 specHash",
    "bytes32 grantHash", "uint8 mechanism", "uint8 neighbouring", "uint8 rounding", "uint16 order", "uint16 minHonest",
    "uint16 maxColluding", "uint32 stepsPerAttempt", "uint32 attemptsReserved", "uint32 attemptsCharged",
    "uint32 roundsDone", "uint64 dimension", "uint64 sampleRateNano", "uint64 clipNormMicro",
    "uint64 noiseMultiplierMicro", "uint128 scaleMicro", "uint128 deltaTwoMicro", "uint128 deltaOneMicro",
    "uint128 shareNoiseMicro", "uint64 lossMicro", "bytes32 usageHead", "bytes32 updatesHash", "uint40 startedSeconds",
    "uint40 endedSeconds",
)  # fmt: skip
ACKNOWLEDGEMENT_FIELDS = ("bytes32 legId", "bytes32 receiptHash")
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


def grant_hash(grant: Grant, chain_id: int, registry: str) -> bytes:
    """EIP-712 hash of a grant: what the operator signs, and the grant's name in legs and receipts; 32 bytes."""
    return _digest("Grant", GRANT_FIELDS, astuple(grant), registry_domain(chain_id, registry))


def receipt_hash(receipt: LegReceipt, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of a leg receipt: what the operator signs; 32 bytes."""
    values = tuple(int(v) if isinstance(v, int) else v for v in astuple(receipt))
    return _digest("LegReceipt", RECEIPT_FIELDS, values, compute_access_domain(chain_id, compute_access))


def acknowledgement_hash(leg_id: bytes, receipt: bytes, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of the builder's acknowledgement of a receipt (its hash)."""
    domain = compute_access_domain(chain_id, compute_access)
    return _digest("Acknowledgement", ACKNOWLEDGEMENT_FIELDS, (leg_id, receipt), domain)


def sign_grant(account: LocalAccount, grant: Grant, chain_id: int, registry: str) -> SignedGrant:
    """Signs a grant with the operator key."""
    return SignedGrant(grant, sign(account, grant_hash(grant, chain_id, registry)))


def sign_receipt(account: LocalAccount, receipt: LegReceipt, chain_id: int, compute_access: str) -> bytes:
    """The operator's 65-byte signature of a receipt, for a ``deliver`` that somebody else sends."""
    return sign(account, receipt_hash(receipt, chain_id, compute_access))


def sign_acknowledgement(
    account: LocalAccount, leg_id: bytes, receipt: bytes, chain_id: int, compute_access: str
) -> bytes:
    """The builder's 65-byte signature, for an ``acknowledge`` that somebody else sends."""
    return sign(account, acknowledgement_hash(leg_id, receipt, chain_id, compute_access))


def sign(account: LocalAccount, digest: bytes) -> bytes:
    """65-byte signature (r, s, v = 27 or 28; low s) of a 32-byte EIP-712 hash."""
    return bytes(account.unsafe_sign_hash(Hash32(digest)).signature)


def signer(digest: bytes, signature: bytes) -> str:
    """Address that made a signature; raises :class:`InvalidInput` BAD_SIGNATURE if none can have."""
    try:
        return str(Account._recover_hash(digest, signature=signature))
    except Exception as error:  # eth-keys, eth-account and coincurve each have their own
        raise InvalidInput("the signature cannot be read", reason="BAD_SIGNATURE") from error


def registry_domain(chain_id: int, registry: str) -> bytes:
    """Domain separator of Registry; 32 bytes."""
    return _domain("Usufruct Registry", chain_id, registry)


def compute_access_domain(chain_id: int, compute_access: str) -> bytes:
    """Domain separator of ComputeAccess; 32 bytes."""
    return _domain("Usufruct ComputeAccess", chain_id, compute_access)


def _domain(name: str, chain_id: int, contract: str) -> bytes:
    values = [keccak(text=_DOMAIN_TYPE), keccak(text=name), keccak(text="1"), chain_id, contract]
    return keccak(encode(["bytes32", "bytes32", "bytes32", "uint256", "address"], values))


def _digest(name: str, fields: tuple[str, ...], values: tuple[object, ...], domain: bytes) -> bytes:
    type_hash = keccak(text=f"{name}({','.join(fields)})")
    for field, value in zip(fields, values, strict=True):
        # eth-abi would pad: a spec hash that is missing would become zero, which allows any spec
        if field.startswith("bytes32 ") and (not isinstance(value, bytes) or len(value) != 32):
            raise InvalidInput(f"{name}: {field} must be 32 bytes", field=field.split(" ")[1])
    try:
        # no field is of a dynamic type, so the ABI encoding is EIP-712's encodeData
        encoded = encode(["bytes32", *(field.split(" ")[0] for field in fields)], [type_hash, *values])
    except (EncodingError, TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: a value does not fit: {error}", field=name) from error
    return keccak(b"\x19\x01" + domain + keccak(encoded))
