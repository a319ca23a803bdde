"""Takes up legs that are open on chain, and says before each use whether grant and leg still hold."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from usufruct.chain import Chain, HolderEntry, JobEntry, LegEntry
from usufruct.chain import LegState as ChainLegState
from usufruct.domain.ids import ZERO_ADDRESS
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct_server.holder.catalogue import Catalogue, ServedDataset
from usufruct_server.holder.config import Policy
from usufruct_server.holder.job_store import JobStore, LegStatus, ProposalStatus, StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger, LegClosed
from usufruct_server.holder.statements import Statements
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


@dataclass(frozen=True)
class StartedLeg:
    """A leg that was taken up.

    Attributes:
        fencing_epoch: of this server.
        acceptance: the operator's signature, for the chain; empty when the leg is accepted already.
    """

    leg: StoredLeg
    fencing_epoch: int
    acceptance: bytes


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
        policy: Policy,
        statements: Statements,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._chain = store, ledger, chain
        self._catalogue, self._trainers, self._clock = catalogue, trainers, clock
        self._policy, self._statements = policy, statements
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

    def require_trainable(self, job: GrantedJob) -> None:
        """Checks at a final block that this server may train the leg now: accepted, with enough others, not withdrawn.

        Raises:
            Refused: FENCED_OUT, LEG_NOT_ACCEPTED, TOO_FEW_ACCEPTED, GRANT_WITHDRAWN, LEG_EXPIRED, and what
                :meth:`on_chain` raises.
            ChainError: the chain cannot be asked.
        """
        chain = self._chain.at_final()
        holder = self._statements.fencing.require(chain)
        entry, opened = self.on_chain(job, chain)
        about = {"dataset_id": entry.dataset_id}
        if entry.state is not ChainLegState.ACCEPTED:
            raise Refused("the leg is not accepted at a final block", reason="LEG_NOT_ACCEPTED", **about)
        if not opened.started:
            raise Refused(
                f"{opened.accepted} legs are accepted at a final block and {opened.min_legs} are needed",
                reason="TOO_FEW_ACCEPTED",
                **about,
            )
        self._require_grant(entry, holder, chain)

    def on_chain(self, job: GrantedJob, chain: Chain) -> tuple[LegEntry, JobEntry]:
        """The leg and its job at a final block, if they are what was granted and neither ended nor out of time.

        Args:
            chain: as of that block.
        Raises:
            Refused: LEG_NOT_OPEN, GRANT_OTHER_BUILDER, WRONG_SPEC, GRANT_TERMS, COHORT_TOO_SMALL, LEG_EXPIRED,
                GRANT_EXPIRED.
            ChainError: the chain cannot be asked.
        """
        job_id, dataset_id = job.key
        about = {"dataset_id": dataset_id}
        now = max(int(self._clock()), chain.block_time_seconds())
        entry, opened = chain.leg(job_id, dataset_id), chain.job(job_id)
        if job.grant_deadline_seconds <= now:
            raise Refused("the grant's deadline has passed", reason="GRANT_EXPIRED", **about)
        if entry is None or opened is None:
            raise Refused("the leg is not open on chain at a final block", reason="LEG_NOT_OPEN", **about)
        if entry.builder != job.builder:
            raise Refused("the leg is another builder's", reason="GRANT_OTHER_BUILDER", **about)
        if entry.spec_hash != job.spec_hash:
            raise Refused("the leg names another spec", reason="WRONG_SPEC", **about)
        if entry.state not in (ChainLegState.LOCKED, ChainLegState.ACCEPTED):
            raise Refused("the leg has ended on chain", reason="LEG_NOT_OPEN", **about)
        if min(entry.deliver_by_seconds, job.spec.deliver_by_seconds) <= now:
            raise Refused("the leg's deadline has passed", reason="LEG_EXPIRED", **about)
        terms = job.spec.leg(dataset_id)
        opened_on = (
            entry.grant_hash, entry.loss_micro, entry.token, entry.price_units, entry.deliver_by_seconds,
        )  # fmt: skip
        if opened_on != (
            job.document_hash, job.spec.reservation_micro(dataset_id), terms.token, terms.price_units,
            job.spec.deliver_by_seconds,
        ):  # fmt: skip
            raise Refused("the leg was opened on other terms than the spec's", reason="GRANT_TERMS", **about)
        minimum = max(job.spec.min_cohort, job.served.config.min_cohort)
        if opened.min_legs < minimum:
            raise Refused(
                f"the job may start with {opened.min_legs} legs, and the minimum cohort is {minimum}",
                reason="COHORT_TOO_SMALL",
                minimum=minimum,
                **about,
            )
        return entry, opened

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

    def require_epoch(self) -> None:
        """Checks that no other server has taken over. Ask after each charge, before anything of it leaves: a server that takes over
        later then finds the charge noted by the witness.

        Raises:
            Refused: FENCED_OUT. ChainError: the chain cannot be asked.
        """
        self._statements.fencing.require()

    def start(self, caller: str, job_id: bytes, dataset_id: int) -> StartedLeg:
        """Takes up a leg: checks grant and chain, reserves in the ledger, warms a trainer, signs the acceptance.

        Again: warms the trainer, and signs again as long as the leg is not accepted. A leg that was closed at its whole
        reservation is left as it is: its builder may end it.

        Raises:
            Refused: see :meth:`granted` and :meth:`on_chain`; FENCED_OUT, GRANT_WITHDRAWN, POLICY_REFUSED, BUDGET_SHORT,
                PERSON_HAS_SEVERAL_ROWS.
            InvalidInput: DATA_UNREADABLE. ChainError.
        """
        job = self.granted(caller, job_id, dataset_id)
        with self.lock(job.key):
            chain = self._chain.at_final()
            holder = self._statements.fencing.require(chain)
            entry, opened = self.on_chain(job, chain)
            locked = entry.state is ChainLegState.LOCKED
            if self._store.leg(*job.key) is not None:
                self.running(job)
            if locked:
                self._require_acceptable(entry, opened, chain)
                self._require_grant(entry, holder, chain)
            plan = job.spec.plan
            terms = job.spec.leg(dataset_id)
            try:
                self._ledger.reserve(
                    dataset_id, job_id, terms.loss_per_attempt_micro, plan.attempts, job.spec_hash
                )
            except LegClosed:
                if locked:
                    raise
            else:
                self._warm_up(job, locked)
            started = self._store.start_leg(job_id, dataset_id, int(self._clock()))
            signature = self._statements.acceptance(entry) if locked else b""
        _log.info("event=leg_started job=%s dataset=%d", job_id.hex(), dataset_id)
        return StartedLeg(started, self._statements.epoch, signature)

    def _require_acceptable(self, entry: LegEntry, opened: JobEntry, chain: Chain) -> None:
        dataset_id, longest = entry.dataset_id, self._policy.longest_challenge_seconds
        now = max(int(self._clock()), chain.block_time_seconds())
        if opened.accept_by_seconds <= now:
            raise Refused("the time to accept the leg is over", reason="LEG_EXPIRED", dataset_id=dataset_id)
        if entry.arbiter not in (ZERO_ADDRESS, *self._policy.arbiters):
            raise Refused("the job names an arbiter that is not in [policy] arbiters", dataset_id=dataset_id)
        if entry.challenge_term_seconds > longest:
            raise Refused(
                f"the leg may be disputed for longer than [policy] longest_challenge_seconds = {longest}",
                dataset_id=dataset_id,
            )

    @staticmethod
    def _require_grant(entry: LegEntry, holder: HolderEntry, chain: Chain) -> None:
        use = chain.grant_use(entry.grant_hash)
        if use.cancelled or use.revocation_epoch != holder.revocation_epoch:
            raise Refused(
                "this holder has withdrawn the grant", reason="GRANT_WITHDRAWN", dataset_id=entry.dataset_id
            )

    def _warm_up(self, job: GrantedJob, locked: bool) -> None:
        job_id, dataset_id = job.key
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
            # A leg that was started before, or is accepted, keeps its reservation: its builder may still end it.
            if locked and self._store.leg(job_id, dataset_id) is None:
                self._ledger.release(dataset_id, job_id)
            if error.reason == "TRAINER_FAILED":  # its public text speaks of a charge, and there was none
                raise UsufructError("the trainer does not start; nothing was charged") from error
            raise
        self._catalogue.mark(dataset_id, "")


def _granted_job(proposal: StoredProposal, served: ServedDataset) -> GrantedJob:
    assert proposal.signed_grant is not None
    return GrantedJob(
        proposal.spec, proposal.spec_hash, proposal.builder, proposal.signed_grant.grant.deadline_seconds,
        proposal.document_hash, served,
    )  # fmt: skip
