"""Takes up legs that are open on chain, and says before each use whether grant and leg still hold."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from usufruct.chain import Chain, LegEntry
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct_server.holder.catalogue import Catalogue, ServedDataset
from usufruct_server.holder.job_store import JobStore, LegStatus, ProposalStatus, StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.trainers import LegKey, Trainers

_DATA_REASONS = ("PERSON_HAS_SEVERAL_ROWS", "DATA_UNREADABLE")
_log = logging.getLogger("usufruct.holder.legs")


@dataclass(frozen=True)
class GrantedJob:
    """A granted proposal with what belongs to it, read once.

    Attributes:
        document_hash: EIP-712 hash of the grant.
    """

    spec: TrainingJobSpec
    spec_hash: bytes
    builder: str
    grant_deadline_seconds: int
    document_hash: bytes
    served: ServedDataset

    @property
    def key(self) -> LegKey:
        """Names the leg."""
        return self.spec.job_id, self.served.dataset_id


class Legs:
    """The holder's legs. A leg's operations hold :meth:`lock`: one at a time per leg.

    Args:
        clock: UTC seconds.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        chain: Chain,
        catalogue: Catalogue,
        trainers: Trainers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._chain = store, ledger, chain
        self._catalogue, self._trainers, self._clock = catalogue, trainers, clock
        self._guard = threading.Lock()
        self._locks: dict[LegKey, threading.Lock] = {}

    def lock(self, key: LegKey) -> threading.Lock:
        """The leg's lock. Only for legs of granted jobs, so that strangers cannot make it grow."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    # -- what holds ---------------------------------------------------------------------------------------------

    def granted(self, caller: str, job_id: bytes, dataset_id: int) -> GrantedJob:
        """The granted job, if it is the caller's and the grant's deadline has not passed.

        Raises:
            Refused: DATASET_UNKNOWN, GRANT_MISSING, GRANT_OTHER_BUILDER, GRANT_PENDING, GRANT_EXPIRED.
        """
        proposal = self._store.proposal(job_id, dataset_id)
        served = self._catalogue.find(dataset_id)
        if served is None:
            raise Refused(
                "this holder serves no such dataset", reason="DATASET_UNKNOWN", dataset_id=dataset_id
            )
        if proposal is None or proposal.state is ProposalStatus.REFUSED:
            raise Refused("there is no grant for this job", reason="GRANT_MISSING", dataset_id=dataset_id)
        if proposal.builder != caller:
            raise Refused(
                "the grant names another builder", reason="GRANT_OTHER_BUILDER", dataset_id=dataset_id
            )
        if proposal.state is ProposalStatus.PENDING or proposal.signed_grant is None:
            raise Refused("the proposal waits for a person", reason="GRANT_PENDING", dataset_id=dataset_id)
        job = _granted_job(proposal, served)
        if job.grant_deadline_seconds <= self._clock():
            raise Refused("the grant's deadline has passed", reason="GRANT_EXPIRED", dataset_id=dataset_id)
        return job

    def require_open(self, job: GrantedJob) -> LegEntry:
        """Reads the leg at a final block and checks that it is this job's, locked, and in time.

        Raises:
            Refused: LEG_NOT_OPEN, GRANT_OTHER_BUILDER, WRONG_SPEC, GRANT_TERMS, LEG_EXPIRED, GRANT_EXPIRED.
            ChainError: the chain cannot be asked.
        """
        job_id, dataset_id = job.key
        entry = self._chain.leg(job_id, dataset_id)
        now = max(int(self._clock()), self._chain.block_time_seconds())
        if job.grant_deadline_seconds <= now:
            raise Refused("the grant's deadline has passed", reason="GRANT_EXPIRED", dataset_id=dataset_id)
        if entry is None:
            raise Refused(
                "the leg is not open on chain at a final block", reason="LEG_NOT_OPEN", dataset_id=dataset_id
            )
        if entry.builder != job.builder:
            raise Refused("the leg is another builder's", reason="GRANT_OTHER_BUILDER", dataset_id=dataset_id)
        if entry.spec_hash != job.spec_hash:
            raise Refused("the leg names another spec", reason="WRONG_SPEC", dataset_id=dataset_id)
        reservation = job.spec.reservation_micro(dataset_id)
        if (entry.grant_hash, entry.loss_reserved_micro) != (job.document_hash, reservation):
            raise Refused("the leg was opened on other terms", reason="GRANT_TERMS", dataset_id=dataset_id)
        if entry.deliver_by_seconds < job.spec.deliver_by_seconds:
            # The contract would give the money back before this holder thinks of delivering.
            raise Refused(
                "the leg was opened with an earlier deadline than the spec's",
                reason="GRANT_TERMS",
                dataset_id=dataset_id,
            )
        if entry.state is not ChainLegState.LOCKED:
            raise Refused("the leg has ended on chain", reason="LEG_NOT_OPEN", dataset_id=dataset_id)
        if min(entry.deliver_by_seconds, job.spec.deliver_by_seconds) <= now:
            raise Refused("the leg's deadline has passed", reason="LEG_EXPIRED", dataset_id=dataset_id)
        return entry

    def running(self, job: GrantedJob) -> StoredLeg:
        """The leg, if it was started here and has not ended.

        Raises:
            Refused: LEG_NOT_OPEN.
        """
        leg = self._store.leg(*job.key)
        if leg is None or leg.state is not LegStatus.RUNNING:
            raise Refused(
                "the leg has not been started, or has ended", reason="LEG_NOT_OPEN", dataset_id=job.key[1]
            )
        return leg

    def find(self, caller: str, job_id: bytes, dataset_id: int) -> tuple[StoredProposal, StoredLeg | None]:
        """How a leg stands.

        Raises:
            InvalidInput: JOB_UNKNOWN. Refused: NOT_YOURS.
        """
        proposal = self._store.proposal(job_id, dataset_id)
        if proposal is None:
            raise InvalidInput("no such job", reason="JOB_UNKNOWN", dataset_id=dataset_id)
        if proposal.builder != caller:
            raise Refused("the job is another builder's", reason="NOT_YOURS")
        return proposal, self._store.leg(job_id, dataset_id)

    # -- starting -----------------------------------------------------------------------------------------------

    def start(self, caller: str, job_id: bytes, dataset_id: int) -> StoredLeg:
        """Takes up a leg: checks grant and chain, reserves in the ledger, warms a trainer. Again: re-warms it.

        Raises:
            Refused: see :meth:`granted` and :meth:`require_open`; BUDGET_SHORT; PERSON_HAS_SEVERAL_ROWS.
            InvalidInput: DATA_UNREADABLE. ChainError.
        """
        job = self.granted(caller, job_id, dataset_id)
        with self.lock(job.key):
            self.require_open(job)
            if self._store.leg(*job.key) is not None:
                self.running(job)
            plan = job.spec.plan
            terms = job.spec.leg(dataset_id)
            self._ledger.reserve(
                dataset_id, job_id, terms.loss_per_attempt_micro, plan.attempts, job.spec_hash
            )
            try:
                self._trainers.for_leg(job.spec, job.served)
            except UsufructError as error:
                if error.reason in _DATA_REASONS:
                    self._catalogue.mark(dataset_id, error.reason)
                    _log.error(
                        "event=data_unfit dataset=%d reason=%s advice='run usufruct holder doctor'",
                        dataset_id,
                        error.reason,
                    )
                # A leg that was started before keeps its reservation: the builder may still run its rounds or end it.
                if (
                    self._store.leg(job_id, dataset_id) is None
                    and self._ledger.leg(dataset_id, job_id).charged == 0
                ):
                    self._ledger.release(dataset_id, job_id)
                if error.reason == "TRAINER_FAILED":  # its public text speaks of a charge, and there was none
                    raise UsufructError("the trainer does not start; nothing was charged") from error
                raise
            self._catalogue.mark(dataset_id, "")
            started = self._store.start_leg(job_id, dataset_id, int(self._clock()))
        _log.info("event=leg_started job=%s dataset=%d", job_id.hex(), dataset_id)
        return started


def _granted_job(proposal: StoredProposal, served: ServedDataset) -> GrantedJob:
    assert proposal.signed_grant is not None
    return GrantedJob(
        proposal.spec, proposal.spec_hash, proposal.builder, proposal.signed_grant.grant.deadline_seconds,
        proposal.document_hash, served,
    )  # fmt: skip
