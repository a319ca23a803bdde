"""When a delivered leg is not what was paid for: its arbiter decides, or it is paid all the same."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.crypto import keccak

from usufruct.builder.book import JobBook, Say
from usufruct.builder.money import missing_units
from usufruct.builder.results import LegResult
from usufruct.builder.steps import Step, TakeStep, newest_leg, take_steps
from usufruct.builder.store import write_durably
from usufruct.chain import Chain, LegEntry, LegState, Sender, TransactionReceipt, bond_units
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.domain.training_job import LegTerms
from usufruct.errors import ChainError, Refused


@dataclass(frozen=True)
class Dispute:
    """A leg that its arbiter decides about.

    Attributes:
        bond_units: taken from the payer's deposit; back, unless the holder gets more than half of the price.
        arbiter: who decides.
        until_seconds: UTC; when the arbiter has said nothing until then, price and bond come back.
        reason_hash: Keccak-256 of the statement that the payer shows the arbiter, 32 bytes.
    """

    dataset_id: int
    bond_units: int
    arbiter: str
    until_seconds: int
    reason_hash: bytes


def dispute_leg(book: JobBook, dataset_id: int, reason: str, say: Say) -> Dispute:
    """See ``JobHandle.dispute``."""
    leg = newest_leg(book, dataset_id)
    check_disputable(book.chain, leg, book.network.address)
    write_durably(book.store.directory / f"dispute-{dataset_id}.txt", reason.encode())

    def take(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step:
        return Step("dispute", send_dispute(book.chain, book.sender, leg, reason))

    _take_one(book, dataset_id, take, say)
    return read_dispute(book.chain, newest_leg(book, dataset_id), reason)


def acknowledge_leg(book: JobBook, dataset_id: int, say: Say) -> LegResult:
    """See ``JobHandle.acknowledge``."""

    def take(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step:
        if leg.state is not LegState.DELIVERED:
            raise ChainError(
                f"The leg of dataset {dataset_id} is {leg.state.name.lower()}; only a delivered one can be acknowledged.",
                reason="LEG_NOT_OPEN",
                dataset_id=dataset_id,
            )
        return Step("acknowledge", book.sender.acknowledge(leg))

    _take_one(book, dataset_id, take, say)
    return next(result for result in book.results if result.dataset_id == dataset_id)


def check_disputable(chain: Chain, leg: LegEntry, account: str) -> None:
    """Raises what keeps ``account`` from disputing a leg; see ``JobHandle.dispute``."""
    named = {"dataset_id": leg.dataset_id}
    if leg.arbiter == ZERO_ADDRESS:
        raise Refused(
            "The job was opened without an arbiter, so there are no disputes.", reason="NO_ARBITER", **named
        )
    if leg.payer != account:
        raise Refused(
            f"{leg.payer} pays for this job, and only it can dispute: network.dispute(job_id, dataset_id, reason).",
            reason="NOT_YOURS",
            **named,
        )
    if leg.state is not LegState.DELIVERED:
        raise ChainError(
            f"The leg of dataset {leg.dataset_id} is {leg.state.name.lower()}; only a delivered one can be disputed.",
            reason="LEG_NOT_OPEN",
            **named,
        )


def send_dispute(chain: Chain, sender: Sender, leg: LegEntry, reason: str) -> TransactionReceipt:
    """Deposits what the bond needs, and disputes."""
    short = missing_units(chain, leg.token, leg.payer, bond_units(leg.price_units), "The bond is")
    if short:
        sender.deposit(leg.token, short, purpose=f"bond {leg.leg_id.hex()}")
    return sender.dispute(leg, keccak(reason.encode()))


def read_dispute(chain: Chain, leg: LegEntry, reason: str) -> Dispute:
    """What was agreed to by disputing a leg."""
    bond = bond_units(leg.price_units)
    return Dispute(leg.dataset_id, bond, leg.arbiter, leg.until_seconds, keccak(reason.encode()))


def _take_one(book: JobBook, dataset_id: int, take: TakeStep, say: Say) -> None:
    failures = take_steps(book, [book.spec.leg(dataset_id)], take, say)
    if failures:
        raise failures[dataset_id]
