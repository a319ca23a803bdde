"""Every error of Usufruct: one root, few families, one catalogue.

A *reason* is what crosses the wire (``google.rpc.ErrorInfo.reason``). The catalogue gives each reason its gRPC
status and the one fixed public text that a peer is shown. Texts never contain data; what an error needs to carry
(a dataset id, a limit, a field name) is an attribute, and only attributes named in ``PUBLIC_DETAILS`` travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

DOMAIN = "usufruct.v1"
"""The ``ErrorInfo.domain`` of every error below."""


class Status(StrEnum):
    """The gRPC status codes that the catalogue uses, by name, so that this module needs no gRPC."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    status: Status
    text: str


_S = Status
CATALOGUE: MappingProxyType[str, Entry] = MappingProxyType(
    {
        # -- callers and bytes -------------------------------------------------------------------------------
        "UNAUTHENTICATED": Entry(
            _S.UNAUTHENTICATED, "Prove an Ethereum key first: ask for a challenge and sign it."
        ),
        "TOKEN_EXPIRED": Entry(_S.UNAUTHENTICATED, "The session token has expired; authenticate again."),
        "NOT_YOURS": Entry(_S.PERMISSION_DENIED, "This belongs to another builder."),
        "MALFORMED": Entry(_S.INVALID_ARGUMENT, "The message cannot be read; check the client's version."),
        "UNSUPPORTED_VERSION": Entry(
            _S.INVALID_ARGUMENT, "This version of the message is not supported here."
        ),
        "TOO_LARGE": Entry(_S.RESOURCE_EXHAUSTED, "The message is larger than this server accepts."),
        "TOO_MANY": Entry(_S.RESOURCE_EXHAUSTED, "Too many open requests of one caller; finish some first."),
        "REQUEST_ID_REUSED": Entry(
            _S.ALREADY_EXISTS, "This request_id was used for another request; choose a new one."
        ),
        "NOT_FOUND": Entry(_S.NOT_FOUND, "There is nothing of this name here."),
        # -- the proposal and its grant ----------------------------------------------------------------------
        "DATASET_UNKNOWN": Entry(_S.NOT_FOUND, "This holder serves no such dataset."),
        "DATASET_RETIRED": Entry(_S.FAILED_PRECONDITION, "The dataset has been retired."),
        "CARD_MISMATCH": Entry(
            _S.FAILED_PRECONDITION, "The job was written for another version of the dataset card."
        ),
        "GRAPH_NOT_ALLOWED": Entry(
            _S.INVALID_ARGUMENT, "The model graph has a part that is not on the allow-list, or mixes records."
        ),
        "WEIGHTS_NOT_ALLOWED": Entry(
            _S.INVALID_ARGUMENT, "The weights do not fit the model graph, or are not finite."
        ),
        "BASE_MODEL_UNKNOWN": Entry(
            _S.FAILED_PRECONDITION, "This holder does not have the base model that the job names."
        ),
        "BASE_MODEL_INVALID": Entry(
            _S.FAILED_PRECONDITION, "The base model is damaged or is none; the holder has been told."
        ),
        "SPEC_INVALID": Entry(_S.INVALID_ARGUMENT, "A value of the job spec is out of its range."),
        "WRONG_CHAIN": Entry(
            _S.FAILED_PRECONDITION, "The job names another chain or another contract than this holder's."
        ),
        "WRONG_SPEC": Entry(_S.PERMISSION_DENIED, "The grant or the leg names another job spec."),
        "POLICY_MISMATCH": Entry(
            _S.FAILED_PRECONDITION, "The holder shows another policy than the one that is registered."
        ),
        "POLICY_REFUSED": Entry(_S.PERMISSION_DENIED, "The holder's policy does not allow this job."),
        "POLICY_PRICE_TOO_LOW": Entry(_S.PERMISSION_DENIED, "The job offers less than the holder's price."),
        "POLICY_LOSS_TOO_HIGH": Entry(
            _S.PERMISSION_DENIED, "The job asks for more privacy loss than the holder allows one job."
        ),
        "POLICY_JOB_KIND": Entry(_S.PERMISSION_DENIED, "The holder does not accept this kind of job."),
        "POLICY_NOISE_MODE": Entry(_S.PERMISSION_DENIED, "The holder does not accept this noise mode."),
        "REFUSED_BY_HOLDER": Entry(_S.PERMISSION_DENIED, "A person at the holder refused this job."),
        "GRANT_PENDING": Entry(_S.FAILED_PRECONDITION, "The holder has not decided yet; ask again later."),
        "GRANT_MISSING": Entry(_S.PERMISSION_DENIED, "There is no grant for this job on this dataset."),
        "GRANT_EXPIRED": Entry(_S.PERMISSION_DENIED, "The grant's deadline has passed."),
        "GRANT_NOT_YET": Entry(_S.PERMISSION_DENIED, "The grant is not valid yet."),
        "GRANT_REVOKED": Entry(_S.PERMISSION_DENIED, "The holder has revoked the grants of this epoch."),
        "GRANT_CANCELLED": Entry(_S.PERMISSION_DENIED, "The holder has cancelled this grant."),
        "GRANT_WITHDRAWN": Entry(
            _S.PERMISSION_DENIED, "The grant was cancelled or revoked after the leg was opened."
        ),
        "GRANT_OTHER_BUILDER": Entry(_S.PERMISSION_DENIED, "The grant names another builder."),
        "GRANT_USED_UP": Entry(_S.PERMISSION_DENIED, "The grant has been used as often as it allows."),
        "GRANT_BAD_SIGNATURE": Entry(
            _S.PERMISSION_DENIED, "The grant is not signed by the holder's operator key."
        ),
        "GRANT_TERMS": Entry(
            _S.PERMISSION_DENIED, "The grant's price, token or privacy loss does not fit the job."
        ),
        "BUDGET_SHORT": Entry(
            _S.RESOURCE_EXHAUSTED, "The dataset's privacy budget is too small for this job."
        ),
        "EPSILON_BELOW_FLOOR": Entry(
            _S.INVALID_ARGUMENT, "The epsilon asked for is below what the dataset's Rényi order can state."
        ),
        "COHORT_TOO_SMALL": Entry(
            _S.FAILED_PRECONDITION, "The job has fewer holders than the dataset's minimum cohort."
        ),
        "PERSON_HAS_SEVERAL_ROWS": Entry(
            _S.FAILED_PRECONDITION, "A person has more than one row, and this version protects one row."
        ),
        "DATA_UNREADABLE": Entry(
            _S.FAILED_PRECONDITION,
            "The holder's data cannot be read as its card describes; the holder has been told.",
        ),
        # -- legs and rounds ---------------------------------------------------------------------------------
        "JOB_UNKNOWN": Entry(_S.NOT_FOUND, "This holder knows no such job."),
        "PAUSED": Entry(_S.UNAVAILABLE, "New jobs and registrations are stopped for the time being."),
        "FENCED_OUT": Entry(_S.FAILED_PRECONDITION, "A later server of this holder has taken over."),
        "LEDGER_BEHIND_CHAIN": Entry(
            _S.FAILED_PRECONDITION, "The local ledger lacks history that the chain has."
        ),
        "LEG_NOT_OPEN": Entry(_S.FAILED_PRECONDITION, "The leg is not open on chain at a final block."),
        "LEG_NOT_ACCEPTED": Entry(
            _S.FAILED_PRECONDITION, "The leg is not accepted on chain at a final block."
        ),
        "TOO_FEW_ACCEPTED": Entry(
            _S.FAILED_PRECONDITION, "Too few legs of the job are accepted at a final block."
        ),
        "NO_ARBITER": Entry(
            _S.FAILED_PRECONDITION, "The job was opened without an arbiter, so there are no disputes."
        ),
        "LEG_EXPIRED": Entry(_S.FAILED_PRECONDITION, "The leg's deadline has passed."),
        "ROUND_OUT_OF_ORDER": Entry(
            _S.FAILED_PRECONDITION, "This round or attempt does not follow the last one."
        ),
        "ROUND_VIEW_CHANGED": Entry(
            _S.FAILED_PRECONDITION, "This attempt was started with other weights, key or roster."
        ),
        "CHECK_CHANGED": Entry(
            _S.FAILED_PRECONDITION, "Another challenge of this attempt has been answered already."
        ),
        "ATTEMPT_LOST": Entry(
            _S.ABORTED, "This attempt was charged but its update was lost; start the next attempt."
        ),
        "ATTEMPT_ALREADY_CHARGED": Entry(_S.FAILED_PRECONDITION, "This attempt has been charged before."),
        "ATTEMPTS_EXHAUSTED": Entry(
            _S.RESOURCE_EXHAUSTED, "Every attempt that was reserved has been charged; the job ends here."
        ),
        "TRAINER_FAILED": Entry(
            _S.ABORTED, "The trainer stopped; the attempt is charged, start the next one."
        ),
        "ROUND_INCOMPLETE": Entry(_S.ABORTED, "Not every holder of the roster has sent its update in time."),
        "ROUND_UNKNOWN": Entry(_S.NOT_FOUND, "The aggregator has no such round open."),
        "ROSTER_MISMATCH": Entry(_S.FAILED_PRECONDITION, "The roster is not the one that was agreed."),
        "BAD_SIGNATURE": Entry(_S.PERMISSION_DENIED, "The signature is not of the key that was named."),
        "UPLOAD_INVALID": Entry(
            _S.INVALID_ARGUMENT, "The encrypted update has a wrong length or a coefficient out of range."
        ),
        "UPLOAD_CHANGED": Entry(
            _S.ALREADY_EXISTS, "Another update of the same attempt has been sent already."
        ),
        "KEY_USED": Entry(_S.FAILED_PRECONDITION, "A round key opens one sum only; start the next attempt."),
        "PUBLIC_KEY_INVALID": Entry(
            _S.INVALID_ARGUMENT, "The round's public key has a wrong length or a coefficient out of range."
        ),
        "SUM_INVALID": Entry(_S.ABORTED, "The encrypted sum does not fit the round; nothing was decrypted."),
        # -- surroundings ------------------------------------------------------------------------------------
        "CHAIN_UNREACHABLE": Entry(
            _S.UNAVAILABLE, "The chain cannot be reached; no new work is taken until it can."
        ),
        "CHAIN_DISAGREES": Entry(
            _S.UNAVAILABLE, "The chain's nodes contradict each other; no new work is taken until they agree."
        ),
        "TRANSACTION_FAILED": Entry(_S.ABORTED, "The chain refused the transaction."),
        "PEER_UNREACHABLE": Entry(_S.UNAVAILABLE, "The peer cannot be reached."),
        "PEER_KEY_MISMATCH": Entry(
            _S.PERMISSION_DENIED, "The peer shows another TLS key than the one that was agreed."
        ),
        "DEADLINE_EXCEEDED": Entry(_S.DEADLINE_EXCEEDED, "The peer did not answer in time."),
        "LEDGER_LOCKED": Entry(_S.UNAVAILABLE, "Another server has this ledger open."),
        "LEDGER_CORRUPT": Entry(
            _S.INTERNAL, "The holder's ledger does not verify; the holder has been told."
        ),
        "CONFIG_INVALID": Entry(_S.FAILED_PRECONDITION, "The configuration has an error."),
        "KEY_INVALID": Entry(_S.FAILED_PRECONDITION, "The key file or its passphrase is wrong."),
        "PORT_IN_USE": Entry(_S.FAILED_PRECONDITION, "The port is in use."),
        "SEAL_LAYOUT_CHANGED": Entry(
            _S.INTERNAL, "The installed SEAL has another object layout than this version knows."
        ),
        "MONEY_SHORT": Entry(_S.FAILED_PRECONDITION, "The deposit does not cover the price."),
        "AUDIT_FAILED": Entry(_S.FAILED_PRECONDITION, "The audit found a discrepancy."),
        "INTERRUPTED": Entry(_S.ABORTED, "The job was interrupted; resume it with its id."),
        "INTERNAL": Entry(_S.INTERNAL, "The server met an unexpected error; its log has the details."),
    }
)

PUBLIC_DETAILS = frozenset(
    {
        "dataset_id", "job_id", "round", "attempt", "field", "limit", "requested", "order", "endpoint", "holders",
        "missing", "class_name", "operation", "minimum", "chain_id", "contract_reason",
    }
)  # fmt: skip
"""Attributes that may travel in ``ErrorInfo.metadata``. All are public facts of a job; none is about a row."""


class UsufructError(Exception):
    """Root of all errors. ``message`` is for the person at this end; a peer sees only the catalogue's text.

    Attributes:
        reason: key of :data:`CATALOGUE`.
        details: what the error carries; only :data:`PUBLIC_DETAILS` leave this process.
    """

    reason: str = "INTERNAL"

    def __init__(self, message: str = "", *, reason: str | None = None, **details: Any) -> None:
        self.reason = reason if reason is not None else type(self).reason
        if self.reason not in CATALOGUE:
            raise ValueError(f"{self.reason} is not in the error catalogue")
        self.details = details
        self.message = message or CATALOGUE[self.reason].text
        super().__init__(self.message)

    @property
    def status(self) -> Status:
        """gRPC status of this error."""
        return CATALOGUE[self.reason].status

    @property
    def public_text(self) -> str:
        """The fixed text that a peer is shown."""
        return CATALOGUE[self.reason].text

    @property
    def public_details(self) -> dict[str, str]:
        """The attributes that may travel, as strings."""
        return {key: str(value) for key, value in self.details.items() if key in PUBLIC_DETAILS}


class InvalidInput(UsufructError):
    """A peer's or a person's input does not hold what it must."""

    reason = "MALFORMED"


class Refused(UsufructError):
    """A party said no: policy, grant, budget, cohort. Nothing was used and nothing was charged."""

    reason = "POLICY_REFUSED"


class NotAuthenticated(UsufructError):
    """The caller has not proved its key."""

    reason = "UNAUTHENTICATED"


class RoundFailed(UsufructError):
    """A round or an attempt could not be finished. What was charged stays charged."""

    reason = "ROUND_INCOMPLETE"


class LedgerError(UsufructError):
    """The holder's ledger refuses; it fails closed."""

    reason = "LEDGER_CORRUPT"


class ChainError(UsufructError):
    """The chain cannot be reached, or refused."""

    reason = "CHAIN_UNREACHABLE"

    @property
    def may_pass(self) -> bool:
        """Whether the chain said nothing that counts, so that asking again later may go well."""
        return self.reason in ("CHAIN_UNREACHABLE", "CHAIN_DISAGREES")


class PeerError(UsufructError):
    """A peer cannot be reached, or is not who it should be."""

    reason = "PEER_UNREACHABLE"


class ConfigError(UsufructError):
    """A configuration, key file or surrounding of this process is wrong. Names the file, line and key."""

    reason = "CONFIG_INVALID"


class AuditError(UsufructError):
    """An audit cannot be done, or found a discrepancy."""

    reason = "AUDIT_FAILED"


class PeerUnreachable(PeerError):
    """No TLS peer answers at the endpoint."""

    reason = "PEER_UNREACHABLE"


class PeerKeyMismatch(PeerError):
    """The peer's TLS key is not the pinned one. Carries ``expected`` and ``found``, both ``sha256:<hex>``."""

    reason = "PEER_KEY_MISMATCH"


class SealLayoutChanged(ConfigError):
    """The installed SEAL lays its objects out otherwise than this version has proved."""

    reason = "SEAL_LAYOUT_CHANGED"
