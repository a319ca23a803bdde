"""EIP-712 hashes and signatures: grants and calls in Registry's domain, all that concerns a job in ComputeAccess's, usage
batches in UsageLog's.

Each hash equals the contracts' view of the same name (``Registry.hashGrant``, ``ComputeAccess.hashReceipt`` …);
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

from usufruct.domain.grant import Grant, SignedGrant, Sponsorship
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import InvalidInput

GRANT_FIELDS = (
    "uint64 datasetId", "address grantee", "bytes32 specHash", "bytes32 purposeHash", "address token", "uint96 priceUnits",
    "uint32 maxUses", "uint64 lossPerJobMicro", "uint64 lossTotalMicro", "uint40 notBeforeSeconds",
    "uint40 deadlineSeconds", "uint32 revocationEpoch", "bytes32 salt",
)  # fmt: skip
RECEIPT_FIELDS = (
    "uint16 version", "uint16 accountantVersion", "uint64 fencingEpoch", "bytes32 legId", "bytes32 jobId", "uint64 datasetId", "bytes32 specHash",
    "bytes32 grantHash", "uint8 mechanism", "uint8 neighbouring", "uint8 rounding", "uint16 order", "uint16 minHonest",
    "uint16 maxColluding", "uint32 stepsPerAttempt", "uint32 attemptsReserved", "uint32 attemptsCharged",
    "uint32 roundsDone", "uint64 dimension", "uint64 sampleRateNano", "uint64 clipNormMicro",
    "uint64 noiseMultiplierMicro", "uint128 scaleMicro", "uint128 deltaTwoMicro", "uint128 deltaOneMicro",
    "uint128 shareNoiseMicro", "uint64 lossMicro", "bytes32 usageHead", "bytes32 updatesHash", "uint40 startedSeconds",
    "uint40 endedSeconds",
)  # fmt: skip
ACKNOWLEDGEMENT_FIELDS = ("bytes32 legId", "bytes32 receiptHash")
LOWER_FIELDS = ("bytes32 legId", "uint64 lossMicro")
ACCEPTANCE_FIELDS = ("bytes32 legHash", "uint64 fencingEpoch")
DECLINE_FIELDS = ("bytes32 legHash",)
FAILURE_FIELDS = ("bytes32 legHash", "uint64 lossMicro", "uint64 fencingEpoch")
SPONSORSHIP_FIELDS = (
    "address payer", "bytes32 jobId", "bytes32 specHash", "address token", "uint256 units", "uint40 deadlineSeconds",
)  # fmt: skip
USAGE_BATCH_FIELDS = (
    "uint32 holderId", "bytes32 root", "uint32 count", "bytes32 prevRoot", "uint64 firstSequence",
)  # fmt: skip
CALL_FIELDS = ("address signer", "bytes data", "uint256 nonce", "uint40 deadlineSeconds")
DOMAIN_NAMES = {
    "ComputeAccess": "Usufruct ComputeAccess", "Registry": "Usufruct Registry", "UsageLog": "Usufruct UsageLog",
}  # fmt: skip
"""Contract -> name of its EIP-712 domain."""
DOMAIN_VERSION = "1"
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


def lower_hash(leg_id: bytes, loss_micro: int, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of the builder's consent that a leg spends ``loss_micro``, less than it reserved."""
    return _digest(
        "Lower", LOWER_FIELDS, (leg_id, loss_micro), compute_access_domain(chain_id, compute_access)
    )


def acceptance_hash(leg_hash: bytes, fencing_epoch: int, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of the operator's acceptance of a leg, by the hash that the contract stores of it."""
    domain = compute_access_domain(chain_id, compute_access)
    return _digest("Acceptance", ACCEPTANCE_FIELDS, (leg_hash, fencing_epoch), domain)


def decline_hash(leg_hash: bytes, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of the operator's refusal of a locked leg, by the hash that the contract stores of it."""
    return _digest("Decline", DECLINE_FIELDS, (leg_hash,), compute_access_domain(chain_id, compute_access))


def failure_hash(
    leg_hash: bytes, loss_micro: int, fencing_epoch: int, chain_id: int, compute_access: str
) -> bytes:
    """EIP-712 hash of the operator's statement that it gives an accepted leg up, having spent ``loss_micro``."""
    domain = compute_access_domain(chain_id, compute_access)
    return _digest("Failure", FAILURE_FIELDS, (leg_hash, loss_micro, fencing_epoch), domain)


def sponsorship_hash(sponsorship: Sponsorship, chain_id: int, compute_access: str) -> bytes:
    """EIP-712 hash of a payer's promise to pay for somebody else's job."""
    domain = compute_access_domain(chain_id, compute_access)
    return _digest("Sponsorship", SPONSORSHIP_FIELDS, astuple(sponsorship), domain)


def usage_batch_hash(
    holder_id: int,
    root: bytes,
    count: int,
    prev_root: bytes,
    first_sequence: int,
    chain_id: int,
    usage_log: str,
) -> bytes:
    """EIP-712 hash of a batch of usage records: what the operator signs when somebody else appends it."""
    values = (holder_id, root, count, prev_root, first_sequence)
    return _digest("UsageBatch", USAGE_BATCH_FIELDS, values, usage_log_domain(chain_id, usage_log))


def call_hash(
    signer: str, data: bytes, nonce: int, deadline_seconds: int, chain_id: int, registry: str
) -> bytes:
    """EIP-712 hash of a call of Registry that somebody else sends (``bySignature``)."""
    values = (signer, data, nonce, deadline_seconds)
    return _digest("Call", CALL_FIELDS, values, registry_domain(chain_id, registry))


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


def sign_lower(
    account: LocalAccount, leg_id: bytes, loss_micro: int, chain_id: int, compute_access: str
) -> bytes:
    """The builder's consent that a leg spends less than it reserved."""
    return sign(account, lower_hash(leg_id, loss_micro, chain_id, compute_access))


def sign_acceptance(
    account: LocalAccount, leg_hash: bytes, fencing_epoch: int, chain_id: int, compute_access: str
) -> bytes:
    """The operator's acceptance, for an ``accept`` that somebody else sends."""
    return sign(account, acceptance_hash(leg_hash, fencing_epoch, chain_id, compute_access))


def sign_decline(account: LocalAccount, leg_hash: bytes, chain_id: int, compute_access: str) -> bytes:
    """The operator's refusal, for a ``decline`` that somebody else sends."""
    return sign(account, decline_hash(leg_hash, chain_id, compute_access))


def sign_failure(
    account: LocalAccount,
    leg_hash: bytes,
    loss_micro: int,
    fencing_epoch: int,
    chain_id: int,
    compute_access: str,
) -> bytes:
    """The operator's statement, for a ``fail`` that somebody else sends."""
    return sign(account, failure_hash(leg_hash, loss_micro, fencing_epoch, chain_id, compute_access))


def sign_sponsorship(
    account: LocalAccount, sponsorship: Sponsorship, chain_id: int, compute_access: str
) -> bytes:
    """The payer's signature of a sponsorship."""
    return sign(account, sponsorship_hash(sponsorship, chain_id, compute_access))


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
    return domain_separator(DOMAIN_NAMES["Registry"], chain_id, registry)


def usage_log_domain(chain_id: int, usage_log: str) -> bytes:
    """Domain separator of UsageLog; 32 bytes."""
    return domain_separator(DOMAIN_NAMES["UsageLog"], chain_id, usage_log)


def compute_access_domain(chain_id: int, compute_access: str) -> bytes:
    """Domain separator of ComputeAccess; 32 bytes."""
    return domain_separator(DOMAIN_NAMES["ComputeAccess"], chain_id, compute_access)


def domain_separator(name: str, chain_id: int, contract: str) -> bytes:
    """EIP-712 domain separator of a contract; 32 bytes."""
    values = [keccak(text=_DOMAIN_TYPE), keccak(text=name), keccak(text=DOMAIN_VERSION), chain_id, contract]
    return keccak(encode(["bytes32", "bytes32", "bytes32", "uint256", "address"], values))


def _digest(name: str, fields: tuple[str, ...], values: tuple[object, ...], domain: bytes) -> bytes:
    type_hash = keccak(text=f"{name}({','.join(fields)})")
    for field, value in zip(fields, values, strict=True):
        # eth-abi would pad: a spec hash that is missing would become zero, which allows any spec
        if field.startswith("bytes32 ") and (not isinstance(value, bytes) or len(value) != 32):
            raise InvalidInput(f"{name}: {field} must be 32 bytes", field=field.split(" ")[1])
    types = [field.split(" ")[0] for field in fields]
    try:
        # bytes count by their hash; all else is of fixed size, and its ABI encoding is EIP-712's encodeData
        words = [
            keccak(v) if t == "bytes" and isinstance(v, bytes) else v
            for t, v in zip(types, values, strict=True)
        ]
        encoded = encode(["bytes32", *("bytes32" if t == "bytes" else t for t in types)], [type_hash, *words])
    except (EncodingError, TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: a value does not fit: {error}", field=name) from error
    return keccak(b"\x19\x01" + domain + keccak(encoded))
