"""Ends legs: publishes their usage records, commits the whole reservation, delivers the receipt on chain.

Every step is written down before the next begins, and each can be repeated: after a crash the next FinishLeg, or the
next start of the server, goes on where this one stopped. A step that fails never makes the loss smaller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from usufruct.chain import Chain, LegEntry, Sender, receipt_hash
from usufruct.chain import LegState as ChainLegState
from usufruct.domain import ids
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
    updates_hash,
)
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import ChainError, InvalidInput, Refused, RoundFailed, UsufructError
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.job_store import JobStore, LegStatus, StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger, LegState
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.publisher import Publisher, publish_quietly
from usufruct_server.holder.rounds import RoundRunner
from usufruct_server.holder.trainers import LegKey, Trainers
from usufruct_server.holder.usage_log import UsageLog

LOCK_SECONDS = 5.0
"""How long housekeeping waits for a leg that is in use."""
LEAST_SPARE_SECONDS, MOST_SPARE_SECONDS = 15, 3600
"""How long before its deadline a leg is delivered without being asked: a tenth of its term, within these."""
_log = logging.getLogger("usufruct.holder.settlement")


class Settlement:
    """Finishes and expires legs.

    Args:
        sender: of the operator key.
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
        sender: Sender,
        legs: Legs,
        rounds: RoundRunner,
        trainers: Trainers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._usage, self._publisher = store, ledger, usage, publisher
        self._chain, self._sender, self._legs = chain, sender, legs
        self._rounds, self._trainers, self._clock = rounds, trainers, clock

    def finish(self, caller: str, job_id: bytes, dataset_id: int, rounds_done: int) -> StoredLeg:
        """Delivers a leg. Again: the same receipt.

        Args:
            rounds_done: what the builder opened; kept from the first call on.
        Raises:
            InvalidInput: JOB_UNKNOWN; or rounds_done is not between what this holder took part in and the plan's.
            Refused: NOT_YOURS, LEG_NOT_OPEN, LEG_EXPIRED. ChainError: try again; nothing is lost.
        """
        proposal, leg = self._legs.find(caller, job_id, dataset_id)
        if leg is None:
            raise Refused("the leg was never started", reason="LEG_NOT_OPEN", dataset_id=dataset_id)
        key = (job_id, dataset_id)
        with self._legs.lock(key):
            spec = proposal.spec
            self._rounds.wait_idle(key, float(spec.round_timeout_seconds))
            leg = self._store.leg(*key) or leg
            if leg.state is LegStatus.DELIVERED:
                return leg
            if leg.state is LegStatus.FAILED:
                raise Refused(
                    "the leg has ended without delivery", reason="LEG_EXPIRED", dataset_id=dataset_id
                )
            if leg.state is LegStatus.RUNNING:
                if not leg.last_round <= rounds_done <= spec.plan.rounds:
                    raise InvalidInput(
                        "rounds_done does not fit the rounds that ran here", reason="ROUND_OUT_OF_ORDER",
                        minimum=leg.last_round,
                    )  # fmt: skip
                leg = self._store.update_leg(
                    *key,
                    state=LegStatus.DELIVERING,
                    rounds_done=rounds_done,
                    ended_seconds=int(self._clock()),
                )
            return self._deliver(proposal, spec, leg)

    def deliver_unasked(self) -> int | None:
        """Ends legs that have trained and whose deadline comes near, so that they are delivered without FinishLeg.

        A builder that took its rounds and then stayed silent would otherwise have its money back after the deadline,
        and the model too. :meth:`resume_deliveries` delivers what this ends.

        Returns:
            UTC time at which the next leg comes due, or None.
        """
        now, following = int(self._clock()), None
        for leg in self._store.legs(LegStatus.RUNNING):
            key = (leg.job_id, leg.dataset_id)
            proposal = self._store.proposal(*key)
            if proposal is None or not self._ledger.charged_attempts(leg.dataset_id, leg.job_id):
                continue  # nothing was trained, so nothing is owed
            deadline = proposal.spec.deliver_by_seconds
            spare = (deadline - leg.started_seconds) // 10
            due = deadline - max(LEAST_SPARE_SECONDS, min(MOST_SPARE_SECONDS, spare))
            if due > now:
                following = min(following or due, due)
                continue
            lock = self._legs.lock(key)
            if deadline < now or not lock.acquire(timeout=LOCK_SECONDS):
                continue
            try:
                self._rounds.wait_idle(key, LOCK_SECONDS)
                current = self._store.leg(*key)
                if current is not None and current.state is LegStatus.RUNNING:
                    self._store.update_leg(
                        *key, state=LegStatus.DELIVERING, rounds_done=current.last_round, ended_seconds=now
                    )
                    _log.warning(
                        "event=leg_ended_unasked job=%s dataset=%d", leg.job_id.hex(), leg.dataset_id
                    )
            except RoundFailed:
                following = now  # an attempt is still being worked on: look again
            finally:
                lock.release()
        return following

    def expire(self) -> int | None:
        """Closes legs whose deadline has passed at their whole reservation; UTC time of the next deadline, or None.

        The chain keeps a leg's loss when its money goes back; the ledger does the same.
        """
        now, following = int(self._clock()), None
        for entry in self._ledger.jobs():
            if entry.state is not LegState.RESERVED:
                continue
            key = (entry.job_id, entry.dataset_id)
            proposal = self._store.proposal(*key)
            deadline = proposal.spec.deliver_by_seconds if proposal else 0
            if deadline >= now:
                following = min(following or deadline, deadline)
                continue
            lock = self._legs.lock(key)
            if not lock.acquire(timeout=LOCK_SECONDS):
                following = now
                continue
            try:
                self._rounds.wait_idle(
                    key, LOCK_SECONDS
                )  # an attempt has one outcome: not LOST and then sent
                self._settle_attempts(key)
                self._ledger.commit(entry.dataset_id, entry.job_id)
                if self._store.leg(*key) is not None:
                    self._store.update_leg(*key, state=LegStatus.FAILED)
            except RoundFailed:
                following = now
                continue
            finally:
                lock.release()
            self._trainers.end(key)
            _log.warning("event=leg_expired job=%s dataset=%d", entry.job_id.hex(), entry.dataset_id)
        return following

    def resume_deliveries(self) -> None:
        """Delivers what a crash or an unreachable chain left half delivered.

        One that fails does not keep the others from being delivered: a builder can bring that about.

        Raises:
            ChainError: CHAIN_UNREACHABLE, CHAIN_DISAGREES; try again later.
        """
        for leg in self._store.legs(LegStatus.DELIVERING):
            proposal = self._store.proposal(leg.job_id, leg.dataset_id)
            lock = self._legs.lock((leg.job_id, leg.dataset_id))
            if proposal is None or not lock.acquire(timeout=LOCK_SECONDS):
                continue
            try:
                self._deliver(proposal, proposal.spec, self._store.leg(leg.job_id, leg.dataset_id) or leg)
            except UsufructError as error:
                if isinstance(error, ChainError) and error.may_pass:
                    raise
                _log.error(
                    "event=leg_not_delivered job=%s dataset=%d reason=%s",
                    leg.job_id.hex(),
                    leg.dataset_id,
                    error.reason,
                )
            finally:
                lock.release()

    # -- inside -------------------------------------------------------------------------------------------------

    def _deliver(self, proposal: StoredProposal, spec: TrainingJobSpec, leg: StoredLeg) -> StoredLeg:
        key = (leg.job_id, leg.dataset_id)
        if leg.receipt is None:
            self._settle_attempts(key)
            committed = self._ledger.commit(leg.dataset_id, leg.job_id)
            self._publisher.publish()
            receipt = self._receipt(proposal, spec, leg, committed)
            hash_ = receipt_hash(receipt, self._chain.chain_id, self._chain.compute_access)
            leg = self._store.update_leg(*key, receipt=receipt, receipt_hash=hash_)
        assert leg.receipt is not None
        entry = self._chain.leg(*key)
        if entry is None:
            raise Refused(
                "the leg is not on chain at a final block", reason="LEG_NOT_OPEN", dataset_id=leg.dataset_id
            )
        if self._too_late(entry):
            self._store.update_leg(*key, state=LegStatus.FAILED)
            self._trainers.end(key)
            raise RoundFailed(
                "the leg's deadline passed before it was delivered",
                reason="LEG_EXPIRED",
                dataset_id=leg.dataset_id,
            )
        transaction = bytes(self._sender.deliver(entry, leg.receipt).hash)
        loss_micro = leg.receipt.loss_micro
        self._usage.record(
            UsageKind.DELIVERED, dataset_id=leg.dataset_id, job_id=leg.job_id, builder=proposal.builder,
            spec_hash=proposal.spec_hash, round=leg.receipt.rounds_done, loss_micro=loss_micro,
            document_hash=leg.receipt_hash,
        )  # fmt: skip
        leg = self._store.update_leg(*key, state=LegStatus.DELIVERED, transaction_hash=transaction)
        self._trainers.end(key)
        publish_quietly(self._publisher)
        _log.info(
            "event=leg_delivered job=%s dataset=%d loss_micro=%d",
            leg.job_id.hex(),
            leg.dataset_id,
            loss_micro,
        )
        return leg

    def _too_late(self, entry: LegEntry) -> bool:
        """Whether the contract will never take this leg's receipt: refunded, or past the deadline at a final block."""
        if entry.state is ChainLegState.LOCKED:
            return self._chain.block_time_seconds() > entry.deliver_by_seconds
        return entry.state is ChainLegState.REFUNDED

    def _settle_attempts(self, key: LegKey) -> None:
        job_id, dataset_id = key
        for round_, attempt in self._ledger.charged_attempts(dataset_id, job_id):
            self._rounds.settle_attempt(dataset_id, job_id, round_, attempt, keep_stored=False)

    def _receipt(
        self, proposal: StoredProposal, spec: TrainingJobSpec, leg: StoredLeg, loss_micro: int
    ) -> LegReceipt:
        plan = spec.plan
        last = self._usage.last_sequence(leg.dataset_id, leg.job_id)
        return LegReceipt(
            version=RECEIPT_VERSION,
            accountant_version=ACCOUNTANT_VERSION,
            leg_id=ids.leg_id(leg.job_id, leg.dataset_id),
            job_id=leg.job_id,
            dataset_id=leg.dataset_id,
            spec_hash=proposal.spec_hash,
            grant_hash=proposal.document_hash,
            mechanism=int(MechanismKind.SUBSAMPLED_GAUSSIAN),
            neighbouring=int(NeighbouringRelation.ADD_OR_REMOVE_ONE),
            rounding=int(Rounding.AFTER_NOISE),
            order=spec.leg(leg.dataset_id).order,
            min_honest=plan.min_honest,
            max_colluding=plan.max_colluding,
            steps_per_attempt=plan.local_steps,
            attempts_reserved=plan.attempts,
            attempts_charged=self._ledger.leg(leg.dataset_id, leg.job_id).charged,
            rounds_done=leg.rounds_done or 0,
            dimension=spec.encryption.parameter_count,
            sample_rate_nano=plan.sample_rate_nano,
            clip_norm_micro=plan.max_grad_norm_micro,
            noise_multiplier_micro=plan.noise_multiplier_micro,
            scale_micro=0,
            delta_two_micro=0,
            delta_one_micro=0,
            share_noise_micro=0,
            loss_micro=loss_micro,
            usage_head=self._publisher.root_with(last) if last is not None else bytes(32),
            updates_hash=self._updates_hash(leg),
            started_seconds=leg.started_seconds,
            ended_seconds=leg.ended_seconds or int(self._clock()),
        )

    def _updates_hash(self, leg: StoredLeg) -> bytes:
        """Over the SUBMITTED records of the leg, in their order."""
        digests: list[bytes] = []
        position = 0
        while page := self._ledger.usage_records(position, 1000):
            for record in map(record_from_bytes, page):
                mine = (record.dataset_id, record.job_id) == (leg.dataset_id, leg.job_id)
                if mine and record.kind is UsageKind.SUBMITTED:
                    digests.append(record.upload_digest)
            position += len(page)
        return updates_hash(digests)
