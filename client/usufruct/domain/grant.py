"""A grant: the holder's signed permission. Dataset × builder × spec × price × loss × deadline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grant:
    """The EIP-712 struct ``Grant`` of ``Registry``, field by field and in its order.

    Attributes:
        dataset_id: the dataset's number on chain.
        grantee: address of the builder it is for; a leaked copy is worthless to others.
        spec_hash: 32 bytes; zero allows any spec.
        purpose_hash: 32 bytes, Keccak-256 of the purpose's UTF-8 text.
        token: address of the ERC-20 token of the price.
        price_units: price of one use, in the token's smallest unit.
        max_uses: how many jobs it may open.
        loss_per_job_micro: privacy loss one job may reserve, 10^-6 nat at the dataset's Rényi order.
        loss_total_micro: privacy loss all its jobs together may reserve, 10^-6 nat.
        not_before_seconds, deadline_seconds: when it is valid, UTC; the deadline is mandatory.
        revocation_epoch: the holder's epoch at signing; a later epoch revokes it.
        salt: 32 random bytes.
    """

    dataset_id: int
    grantee: str
    spec_hash: bytes
    purpose_hash: bytes
    token: str
    price_units: int
    max_uses: int
    loss_per_job_micro: int
    loss_total_micro: int
    not_before_seconds: int
    deadline_seconds: int
    revocation_epoch: int
    salt: bytes


@dataclass(frozen=True)
class SignedGrant:
    """A grant and the operator's 65-byte EIP-712 signature."""

    grant: Grant
    signature: bytes


@dataclass(frozen=True)
class Sponsorship:
    """Somebody else pays for a job: the EIP-712 struct ``Sponsorship`` of ``ComputeAccess``, in its order.

    Attributes:
        payer: address whose deposit pays, and to which refunds go.
        job_id, spec_hash: 32 bytes each; the job that it is for.
        units: most that the job may lock, all in ``token``, in its smallest unit.
        deadline_seconds: until when the job can be opened with it, UTC.
    """

    payer: str
    job_id: bytes
    spec_hash: bytes
    token: str
    units: int
    deadline_seconds: int


@dataclass(frozen=True)
class SignedSponsorship:
    """A sponsorship and the payer's EIP-712 signature."""

    sponsorship: Sponsorship
    signature: bytes
