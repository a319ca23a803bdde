"""Ends legs as their builders ask: a signed receipt of what was spent, or a signed end at no loss.

The builder submits both to the chain. Every step is written down before the next begins, and each can be repeated:
after a crash the next call goes on where this one stopped. A step that fails never makes the loss smaller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from usufruct.chain import HANDED_IN, Chain, LegEntry, lower_hash, receipt_hash, signer
from usufruct.chain import LegState as ChainLegState
from usufruct.domain import ids
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import InvalidInput, Refused
from usufruct_server.holder.job_store import JobStore, LegStatus, StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger, LegState
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.receipts import write_receipt
from usufruct_server.holder.rounds import RoundRunner
from usufruct_server.holder.statements import Statements
from usufruct_server.holder.trainers import LegKey
from usufruct_server.holder.usage_log import UsageLog

_log = logging.getLogger("usufruct.holder.settlement")


@dataclass(frozen=True)
class SignedReceipt:
    """A leg's receipt and the operator's signature, ready for the chain."""

    receipt: LegReceipt
    signature: bytes


class Settlement:
    """Finishes legs and gives them up.

    Args:
        clock: UTC seconds.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        usage: UsageLog,
        publisher: Publisher,
        chain: Chain,
        statements: Statements,
        legs: Legs,
        rounds: RoundRunner,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._usage, self._publisher = store, ledger, usage, publisher
        self._chain, self._statements, self._legs = chain, statements, legs
        self._rounds, self._clock = rounds, clock

    # -- what the builder asks ----------------------------------------------------------------------------------

    def finish(
        self,
        caller: str,
        job_id: bytes,
        dataset_id: int,
        rounds_done: int,
        lower_loss_micro: int = 0,
        lower_signature: bytes = b"",
    ) -> SignedReceipt:
        """Ends a leg's rounds and signs its receipt. Again: the same receipt, signed for the present fencing epoch.

        Args:
            rounds_done: what the builder opened; kept from the first call on.
            lower_loss_micro, lower_signature: the builder's consent that the leg spends just that. It counts if it is
                exactly what was charged; otherwise the whole reservation is spent.
        Raises:
            InvalidInput: JOB_UNKNOWN; or rounds_done is not between what this holder took part in and the plan's.
            Refused: NOT_YOURS, LEG_NOT_OPEN, LEG_NOT_ACCEPTED, TOO_FEW_ACCEPTED, LEG_EXPIRED, FENCED_OUT.
            ChainError: try again; nothing is lost.
        """
        proposal, leg = self._found(caller, job_id, dataset_id)
        key = (job_id, dataset_id)
        with self._legs.lock(key):
            self._rounds.wind_up(key, float(proposal.spec.round_timeout_seconds))
            leg = self._store.leg(*key) or leg
            if leg.state in (LegStatus.FAILED, LegStatus.RELEASED):
                raise Refused(
                    "the leg has ended without delivery", reason="LEG_EXPIRED", dataset_id=dataset_id
                )
            if leg.receipt is None:
                self._require_deliverable(key)
                lower = self._agreed(proposal, key, lower_loss_micro, lower_signature)
                if self._given_up(leg) and not lower:
                    raise Refused(
                        "the leg was given up at no loss; end it so on chain, or agree to no loss",
                        reason="LEG_NOT_OPEN",
                        dataset_id=dataset_id,
                    )
                leg = self._end_rounds(proposal, leg, rounds_done, lower)
            return self.sign(proposal, leg)

    def release(self, caller: str, job_id: bytes, dataset_id: int) -> bytes:
        """Gives up an accepted leg of which nothing was charged: the operator's statement, for the chain.

        No round starts on the leg from here on. Its reservation is held until the chain says that it has ended so.

        Raises:
            InvalidInput: JOB_UNKNOWN.
            Refused: NOT_YOURS, LEG_NOT_OPEN, LEG_NOT_ACCEPTED, FENCED_OUT; ATTEMPT_ALREADY_CHARGED where something was,
                or the leg's loss is committed: finish it instead.
            ChainError: the chain cannot be asked.
        """
        proposal, leg = self._found(caller, job_id, dataset_id)
        key = (job_id, dataset_id)
        with self._legs.lock(key):
            self._rounds.wind_up(key, float(proposal.spec.round_timeout_seconds))
            leg = self._store.leg(*key) or leg
            booked = self._ledger.leg(dataset_id, job_id)
            committed = leg.state not in (LegStatus.RUNNING, LegStatus.RELEASING)
            if committed or booked.charged or booked.state is LegState.COMMITTED:
                raise Refused(
                    "something of the leg was charged, or its loss is committed: finish it",
                    reason="ATTEMPT_ALREADY_CHARGED",
                    dataset_id=dataset_id,
                )
            entry = self._accepted(key)
            self._store.update_leg(*key, state=LegStatus.RELEASING)
            signature = self._statements.lossless_failure(entry)
        self._rounds.end_leg(key)
        _log.info("event=leg_given_up job=%s dataset=%d", job_id.hex(), dataset_id)
        return signature

    # -- receipts -----------------------------------------------------------------------------------------------

    def end_unasked(self, proposal: StoredProposal, leg: StoredLeg) -> StoredLeg:
        """Ends the rounds of a leg whose builder is silent, as they stand. Called with the leg's lock held."""
        return self._end_rounds(proposal, leg, leg.last_round, b"")

    def sign(self, proposal: StoredProposal, leg: StoredLeg) -> SignedReceipt:
        """Commits the loss, publishes the usage records, signs the receipt. Called with the leg's lock held.

        Raises:
            Refused: FENCED_OUT. ChainError: try again; what was done is kept.
        """
        key = (leg.job_id, leg.dataset_id)
        receipt = leg.receipt
        if receipt is None:
            self._rounds.settle_attempts(key)
            loss_micro = self._committed(leg)
            self._publisher.publish()
            receipt = write_receipt(
                proposal, leg, loss_micro, self._statements.epoch, ledger=self._ledger, usage=self._usage,
                publisher=self._publisher,
            )  # fmt: skip
        elif receipt.fencing_epoch != self._statements.epoch and not self._handed_in(key):
            receipt = replace(
                receipt, fencing_epoch=self._statements.epoch
            )  # the chain takes no other any more
        hash_ = receipt_hash(receipt, self._chain.chain_id, self._chain.compute_access)
        if receipt != leg.receipt:
            self._store.update_leg(*key, receipt=receipt, receipt_hash=hash_)
        signature = self._statements.receipt(receipt)
        self._usage.record(
            UsageKind.DELIVERED, dataset_id=leg.dataset_id, job_id=leg.job_id, builder=proposal.builder,
            spec_hash=proposal.spec_hash, round=receipt.rounds_done, loss_micro=receipt.loss_micro, document_hash=hash_,
        )  # fmt: skip
        self._rounds.end_leg(key)
        _log.info(
            "event=receipt_signed job=%s dataset=%d loss_micro=%d",
            leg.job_id.hex(),
            leg.dataset_id,
            receipt.loss_micro,
        )
        return SignedReceipt(receipt, signature)

    # -- inside -------------------------------------------------------------------------------------------------

    def _found(self, caller: str, job_id: bytes, dataset_id: int) -> tuple[StoredProposal, StoredLeg]:
        proposal, leg = self._legs.find(caller, job_id, dataset_id)
        if leg is None:
            raise Refused("the leg was never started", reason="LEG_NOT_OPEN", dataset_id=dataset_id)
        return proposal, leg

    def _end_rounds(
        self, proposal: StoredProposal, leg: StoredLeg, rounds_done: int, lower: bytes
    ) -> StoredLeg:
        """From here on no attempt is charged. What the builder agreed to is kept before the ledger follows it."""
        if leg.state is LegStatus.DELIVERING:
            return leg
        if not leg.last_round <= rounds_done <= proposal.spec.plan.rounds:
            raise InvalidInput(
                "rounds_done does not fit the rounds that ran here", reason="ROUND_OUT_OF_ORDER",
                minimum=leg.last_round,
            )  # fmt: skip
        # a leg that was given up stays so unless its builder has agreed to no loss: its reservation is not committed
        # before the chain says how it ended, for the builder holds a statement that it ends at no loss
        stays = self._given_up(leg) and not lower
        return self._store.update_leg(
            leg.job_id,
            leg.dataset_id,
            state=LegStatus.RELEASING if stays else LegStatus.DELIVERING,
            rounds_done=rounds_done,
            ended_seconds=int(self._clock()),
            lower_signature=lower,
        )

    def _given_up(self, leg: StoredLeg) -> bool:
        """At no loss; not one that a start has closed at its whole reservation since."""
        booked = self._ledger.leg(leg.dataset_id, leg.job_id)
        return leg.state is LegStatus.RELEASING and booked.state is LegState.RESERVED

    def _committed(self, leg: StoredLeg) -> int:
        """The leg's loss, committed in the ledger. One that is lower than the reservation, or of a leg that was given up, is
        committed only when a final block has it: until then the leg may still expire, at its whole reservation."""
        booked = self._ledger.leg(leg.dataset_id, leg.job_id)
        if booked.state is LegState.RESERVED and leg.state is LegStatus.RELEASING:
            return booked.reservation_micro
        if booked.state is LegState.RESERVED and leg.lower_signature:
            return booked.charged_micro
        return self._ledger.commit(leg.dataset_id, leg.job_id)

    def _agreed(self, proposal: StoredProposal, key: LegKey, loss_micro: int, signature: bytes) -> bytes:
        """The builder's consent, if it is to exactly what was charged and a key signed it; else nothing.

        A loss that is committed stays. That of a builder that is a contract cannot be read here, so its legs spend their whole reservation.
        """
        job_id, dataset_id = key
        booked = self._ledger.leg(dataset_id, job_id)
        if booked.state is not LegState.RESERVED or not signature:
            return b""
        if not loss_micro == booked.charged_micro < booked.reservation_micro:
            return b""
        place = self._chain.chain_id, self._chain.compute_access
        try:
            signed_by = signer(lower_hash(ids.leg_id(job_id, dataset_id), loss_micro, *place), signature)
        except InvalidInput:
            return b""
        return signature if signed_by == proposal.builder else b""

    def _require_deliverable(self, key: LegKey) -> None:
        """The chain will take a receipt: else the leg's reservation would be spent here and free there."""
        entry, opened = self._accepted(key), self._chain.job(key[0])
        if opened is None or not opened.started:
            raise Refused(
                "too few legs of the job are accepted at a final block",
                reason="TOO_FEW_ACCEPTED",
                dataset_id=entry.dataset_id,
            )

    def _accepted(self, key: LegKey) -> LegEntry:
        now = self._chain.block_time_seconds()
        entry = self._chain.leg(*key)
        if entry is None or entry.state is ChainLegState.LOCKED:
            raise Refused(
                "the leg is not accepted at a final block", reason="LEG_NOT_ACCEPTED", dataset_id=key[1]
            )
        if entry.state is not ChainLegState.ACCEPTED or entry.deliver_by_seconds < now:
            raise Refused(
                "the leg has ended, or its deadline has passed", reason="LEG_EXPIRED", dataset_id=key[1]
            )
        return entry

    def _handed_in(self, key: LegKey) -> bool:
        entry = self._chain.leg(*key, "latest")
        return entry is not None and entry.state in HANDED_IN
