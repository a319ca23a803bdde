"""Opening a job on chain: everything is fixed and on disk before anything is sent, so that asking twice opens once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usufruct.builder.book import JobBook
from usufruct.builder.money import missing_units
from usufruct.builder.settings import EscrowTerms
from usufruct.builder.sponsoring import read_sponsorship, write_sponsorship
from usufruct.domain.grant import SignedGrant, SignedSponsorship
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.errors import ChainError, Refused
from usufruct.v1 import jobs_pb2
from usufruct.wire import jobs


@dataclass(frozen=True)
class Opening:
    """What a job is opened with, besides its spec.

    Attributes:
        accept_by_seconds: UTC; holders accept until then.
        arbiter: the zero address where there is none.
        deposits: by token address, what is deposited first.
        grants: in the order of the spec's legs.
        sponsorship: of whoever pays, where that is not the builder.
    """

    accept_by_seconds: int
    challenge_term_seconds: int
    arbiter: str
    deposits: Mapping[str, int]
    grants: tuple[SignedGrant, ...]
    sponsorship: SignedSponsorship | None = None

    def to_json(self) -> dict[str, Any]:
        """As the job's state keeps it."""
        grants = [jobs.signed_grant_to_proto(grant).SerializeToString().hex() for grant in self.grants]
        paid = None if self.sponsorship is None else write_sponsorship(self.sponsorship)
        return {**self.__dict__, "deposits": dict(self.deposits), "grants": grants, "sponsorship": paid}


def read_opening(fields: Mapping[str, Any]) -> Opening:
    """The opposite of :meth:`Opening.to_json`."""
    grants = (jobs_pb2.SignedGrant.FromString(bytes.fromhex(text)) for text in fields["grants"])
    paid = fields["sponsorship"]
    return Opening(
        fields["accept_by_seconds"],
        fields["challenge_term_seconds"],
        fields["arbiter"],
        fields["deposits"],
        tuple(map(jobs.signed_grant_from_proto, grants)),
        None if paid is None else read_sponsorship(paid),
    )


def fix_opening(
    book: JobBook, grants: Sequence[SignedGrant], terms: EscrowTerms, sponsorship: SignedSponsorship | None
) -> Opening:
    """Checks every grant and the money on chain, and fixes what the job is opened with. Sends nothing.

    Raises:
        Refused: the reason for which a grant opens no leg, naming its dataset; LEG_EXPIRED; MONEY_SHORT.
        ChainError: the chain cannot be asked.
    """
    chain, spec = book.chain, book.spec
    spec_hash, purpose_hash = jobs.spec_hash(book.spec_bytes), jobs.purpose_hash(spec.purpose)
    for leg, grant in zip(spec.legs, grants, strict=True):
        loss = spec.reservation_micro(leg.dataset_id)
        reason = chain.check_grant(grant, spec_hash, purpose_hash, spec.builder, loss)
        if reason:
            raise Refused(
                f"The grant for dataset {leg.dataset_id} does not open a job: {Refused(reason=reason).message}",
                reason=reason,
                dataset_id=leg.dataset_id,
            )
    now = max(int(time.time()), chain.block_time_seconds())
    if now + 1 >= spec.deliver_by_seconds:
        raise Refused(
            "The deadline that was proposed for this job has passed; propose it again.", reason="LEG_EXPIRED"
        )
    return Opening(
        accept_by_seconds=min(now + terms.accept_within_seconds, spec.deliver_by_seconds - 1),
        challenge_term_seconds=terms.challenge_seconds,
        arbiter=terms.arbiter or ZERO_ADDRESS,
        deposits=_missing_deposits(book) if sponsorship is None else {},
        grants=tuple(grants),
        sponsorship=sponsorship,
    )


def send_opening(book: JobBook) -> int:
    """Deposits and opens, or finds that it was done; returns the block that opened the job.

    Raises:
        ChainError: the chain refused, and nothing is locked: then the phase is ``proposed`` again. Or it cannot be asked
            or did not mine the transaction in time: then it may still be opened, and repeating this goes on with it.
    """
    spec, opening = book.spec, read_opening(book.state.opening)
    losses = [spec.reservation_micro(leg.dataset_id) for leg in spec.legs]
    try:
        if book.chain.job(spec.job_id, "latest") is None:
            for token, units in opening.deposits.items():
                book.note_gas(
                    f"deposit {token}", book.sender.deposit(token, units, purpose=f"deposit for {book.id}")
                )
        opened = book.sender.open_job(
            spec.nonce,
            jobs.spec_hash(book.spec_bytes),
            jobs.purpose_hash(spec.purpose),
            list(zip(opening.grants, losses, strict=True)),
            accept_by_seconds=opening.accept_by_seconds,
            deliver_by_seconds=spec.deliver_by_seconds,
            challenge_term_seconds=opening.challenge_term_seconds,
            min_legs=spec.min_cohort,
            arbiter=opening.arbiter,
            sponsorship=opening.sponsorship,
        )
    except ChainError as error:
        if "contract_reason" in error.details and book.chain.job(spec.job_id, "latest") is None:
            book.save(phase="proposed", opening={})
        raise
    book.note_gas("openJob", opened)
    if book.state.phase == "opening":
        book.save(phase="accepting")
    return int(opened.block_number)


def _missing_deposits(book: JobBook) -> Mapping[str, int]:
    """By token, what has to be deposited. Raises :class:`Refused` MONEY_SHORT if the wallet has less."""
    spec, missing = book.spec, {}
    for token in sorted({leg.token for leg in spec.legs}):
        price = sum(leg.price_units for leg in spec.legs if leg.token == token)
        short = missing_units(book.chain, token, spec.builder, price, "The job costs")
        if short:
            missing[token] = short
    return missing
