"""Follows every leg on chain at final blocks, and does what is the holder's to do there without being asked.

The ledger is never ahead of the chain in giving loss back: a reservation is freed only when a final block says that
the leg ended unspent and nothing of it was charged here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from usufruct.chain import ENDED, HANDED_IN, UNSPENT, Chain, LegEntry, Sender
from usufruct.chain import LegState as ChainLegState
from usufruct.errors import ChainError, RoundFailed, UsufructError
from usufruct_server.holder.job_store import JobStore, LegStatus, StoredLeg
from usufruct_server.holder.ledger import Ledger, LegState
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.rounds import RoundRunner
from usufruct_server.holder.settlement import Settlement
from usufruct_server.holder.trainers import LegKey

LOCK_SECONDS = 5.0
"""How long a leg that is in use is waited for; it is looked at again the next time."""
LEAST_SPARE_SECONDS, MOST_SPARE_SECONDS = 15, 3600
"""How long before its deadline a leg is delivered without being asked: a tenth of its term, within these."""
_OPEN = (ChainLegState.LOCKED, ChainLegState.ACCEPTED)
_FOLLOWED = (LegStatus.RUNNING, LegStatus.RELEASING, LegStatus.DELIVERING, LegStatus.DELIVERED)
_log = logging.getLogger("usufruct.holder.following")


class Following:
    """Looks at legs on chain and brings ledger and store to what it says.

    Args:
        sender: of the operator key.
        clock: UTC seconds.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        chain: Chain,
        sender: Sender,
        legs: Legs,
        rounds: RoundRunner,
        settlement: Settlement,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._chain, self._sender = store, ledger, chain, sender
        self._legs, self._rounds, self._settlement = legs, rounds, settlement
        self._clock = clock
        self._sleeping: dict[LegKey, int] = {}

    def recover(self) -> None:
        """After a start: a leg that was reserved and not yet noted as started is followed like the others, also where it
        was closed just now."""
        for booked in self._ledger.jobs():
            if booked.state is not LegState.RELEASED:
                self._store.start_leg(booked.job_id, booked.dataset_id, int(self._clock()))

    def follow(self) -> int | None:
        """Looks at every leg that has not ended. One that cannot be brought on keeps no other from it.

        Returns:
            UTC time at which the next leg comes due, or None.
        Raises:
            ChainError: CHAIN_UNREACHABLE, CHAIN_DISAGREES; try again later.
        """
        following: int | None = None
        # read before the legs: one that is then not delivered before its deadline never will be
        now = self._chain.block_time_seconds()
        for leg in self._store.legs(*_FOLLOWED):
            try:
                due = self._look(leg, now)
            except RoundFailed:
                due = int(self._clock())  # an attempt is still being worked on: look again
            except UsufructError as error:
                if isinstance(error, ChainError) and error.may_pass:
                    raise
                due = None
                _log.error(
                    "event=leg_waits job=%s dataset=%d reason=%s text=%r",
                    leg.job_id.hex(), leg.dataset_id, error.reason, error.message,
                )  # fmt: skip
            if due is not None:
                following = min(following or due, due)
        return following

    # -- inside -------------------------------------------------------------------------------------------------

    def _look(self, leg: StoredLeg, now: int) -> int | None:
        key = (leg.job_id, leg.dataset_id)
        if now <= self._sleeping.get(key, -1):
            return None
        entry = self._chain.leg(*key)
        if entry is None:
            return None
        if entry.state in _OPEN:
            return self._open(leg, entry, now)
        lock = self._legs.lock(key)
        if not lock.acquire(timeout=LOCK_SECONDS):
            return int(self._clock())
        try:
            self._rounds.wind_up(key, LOCK_SECONDS)
            state = self._close(entry)
            if state is not leg.state:
                self._store.update_leg(*key, state=state)
                _log.info(
                    "event=leg_on_chain job=%s dataset=%d chain=%s here=%s",
                    leg.job_id.hex(), leg.dataset_id, entry.state.name, state.value,
                )  # fmt: skip
        finally:
            lock.release()
        self._rounds.end_leg(key)
        if entry.state is ChainLegState.DELIVERED and now > entry.until_seconds and self._unchanged(entry):
            self._sender.settle(entry)
        self._sleeping[key] = entry.until_seconds
        return None

    def _open(self, leg: StoredLeg, entry: LegEntry, now: int) -> int | None:
        """A leg that is neither delivered nor ended at a final block."""
        job = self._chain.job(leg.job_id)
        if job is None:
            return None
        if now > job.accept_by_seconds and (entry.state is ChainLegState.LOCKED or not job.started):
            if self._unchanged(entry):
                self._sender.release(entry)
            return None
        if entry.state is not ChainLegState.ACCEPTED or not job.started:
            return None
        if now > entry.deliver_by_seconds:
            self._expire(leg, entry)
            return None
        due = _due(entry, leg)
        if due > self._clock():
            return due
        if self._unchanged(entry):
            self._deliver(leg, entry)
        return None

    def _deliver(self, leg: StoredLeg, entry: LegEntry) -> None:
        """Delivers by a transaction of this holder's own: a builder that is silent would have its money back."""
        key = (leg.job_id, leg.dataset_id)
        proposal = self._store.proposal(*key)
        if proposal is None:
            return
        lock = self._legs.lock(key)
        if not lock.acquire(timeout=LOCK_SECONDS):
            return
        try:
            self._rounds.wind_up(key, LOCK_SECONDS)
            leg = self._store.leg(*key) or leg
            if leg.rounds_done is None:
                leg = self._settlement.end_unasked(proposal, leg)
            signed = self._settlement.sign(proposal, leg)
            sent = self._sender.deliver(entry, signed.receipt, signed.signature, leg.lower_signature)
            self._store.update_leg(*key, transaction_hash=bytes(sent.hash))
        finally:
            lock.release()
        _log.warning("event=leg_delivered_unasked job=%s dataset=%d", leg.job_id.hex(), leg.dataset_id)

    def _expire(self, leg: StoredLeg, entry: LegEntry) -> None:
        """The deadline has passed without a receipt: the chain keeps the whole loss, and before it the ledger."""
        key = (leg.job_id, leg.dataset_id)
        lock = self._legs.lock(key)
        if not lock.acquire(timeout=LOCK_SECONDS):
            return
        try:
            self._rounds.wind_up(key, LOCK_SECONDS)
            self._rounds.settle_attempts(key)
            self._ledger.commit(leg.dataset_id, leg.job_id)
        finally:
            lock.release()
        self._rounds.end_leg(key)
        if self._unchanged(entry):
            self._sender.expire(entry)
            _log.warning("event=leg_expired job=%s dataset=%d", leg.job_id.hex(), leg.dataset_id)

    def _close(self, entry: LegEntry) -> LegStatus:
        """Brings the ledger to what a final block says; how the leg then stands here. The leg's lock is held."""
        job_id, dataset_id = entry.job_id, entry.dataset_id
        booked = self._ledger.leg(dataset_id, job_id)
        if booked.state is LegState.RESERVED:
            unspent = entry.state in UNSPENT or (
                entry.state is ChainLegState.FAILED and entry.loss_micro == 0
            )
            if unspent and booked.charged == 0:
                self._ledger.release(dataset_id, job_id)
                return LegStatus.RELEASED
            if entry.loss_micro < booked.charged_micro:
                _log.critical(
                    "event=loss_below_charges job=%s dataset=%d chain_micro=%d charged_micro=%d the_ledger_keeps_it=true",
                    job_id.hex(), dataset_id, entry.loss_micro, booked.charged_micro,
                )  # fmt: skip
            self._rounds.settle_attempts((job_id, dataset_id))
            fits = booked.charged_micro <= entry.loss_micro <= booked.reservation_micro
            self._ledger.commit(dataset_id, job_id, entry.loss_micro if fits else None)
        if entry.state in HANDED_IN:
            return LegStatus.ENDED if entry.state in ENDED else LegStatus.DELIVERED
        return LegStatus.RELEASED if booked.state is LegState.RELEASED else LegStatus.FAILED

    def _unchanged(self, entry: LegEntry) -> bool:
        """Whether the newest block says the same: else a transaction is on its way to being final."""
        return self._chain.leg(entry.job_id, entry.dataset_id, "latest") == entry


def _due(entry: LegEntry, leg: StoredLeg) -> int:
    """When the holder delivers without being asked, UTC seconds."""
    spare = (entry.deliver_by_seconds - leg.started_seconds) // 10
    return entry.deliver_by_seconds - max(LEAST_SPARE_SECONDS, min(MOST_SPARE_SECONDS, spare))
