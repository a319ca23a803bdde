"""Somebody else pays: the payer's promise for one job, signed on its own machine or on the builder's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from usufruct.builder.money import missing_units
from usufruct.chain import sign_sponsorship
from usufruct.domain import ids
from usufruct.domain.grant import SignedSponsorship, Sponsorship

if TYPE_CHECKING:
    from usufruct.builder.network import Network


@dataclass(frozen=True)
class JobToSponsor:
    """What a payer has to know of a job; ``proposal.to_sponsor`` has it.

    Attributes:
        job_id, spec_hash: 32 bytes each.
        token: that all its legs are priced in.
        units: its whole price.
    """

    job_id: bytes
    spec_hash: bytes
    token: str
    units: int


def sponsor(network: Network, job: JobToSponsor, units: int | None, valid_seconds: int) -> SignedSponsorship:
    """See :meth:`usufruct.builder.network.Network.sponsor`."""
    chain, most = network.chain, job.units if units is None else units
    short = missing_units(chain, job.token, network.address, most, "The job may cost")
    if short:
        network.deposit(short, job.token)
    now = max(int(time.time()), chain.block_time_seconds())
    promise = Sponsorship(network.address, job.job_id, job.spec_hash, job.token, most, now + valid_seconds)
    signature = sign_sponsorship(network.account, promise, chain.chain_id, chain.compute_access)
    return SignedSponsorship(promise, signature)


def write_sponsorship(signed: SignedSponsorship) -> dict[str, Any]:
    """As JSON can hold it."""
    fields = asdict(signed.sponsorship)
    for name in ("job_id", "spec_hash"):
        fields[name] = ids.to_hex(fields[name])
    return {**fields, "signature": ids.to_hex(signed.signature)}


def read_sponsorship(fields: Mapping[str, Any]) -> SignedSponsorship:
    """The opposite of :func:`write_sponsorship`."""
    values = dict(fields)
    signature = bytes.fromhex(values.pop("signature")[2:])
    for name in ("job_id", "spec_hash"):
        values[name] = ids.from_hex32(values[name], name)
    return SignedSponsorship(Sponsorship(**values), signature)
