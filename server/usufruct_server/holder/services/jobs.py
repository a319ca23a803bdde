"""JobService: proposals, legs, delivery. Every call needs a token; every refusal is logged as used by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from usufruct.domain.ids import hash32
from usufruct.errors import CATALOGUE, UsufructError
from usufruct.v1 import jobs_pb2, jobs_pb2_grpc
from usufruct.wire.auth import Authenticator
from usufruct.wire.jobs import signed_grant_to_proto, spec_hash
from usufruct.wire.receipts import receipt_to_proto
from usufruct_server.holder.job_store import LegStatus, ProposalStatus, StoredLeg, StoredProposal
from usufruct_server.holder.ledger import Ledger, LegUnknown
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.proposals import Proposals
from usufruct_server.holder.settlement import Settlement
from usufruct_server.holder.statements import Statements
from usufruct_server.holder.usage_log import UsageLog

_PROPOSAL_STATES = {
    ProposalStatus.PENDING: jobs_pb2.PROPOSAL_STATE_PENDING,
    ProposalStatus.GRANTED: jobs_pb2.PROPOSAL_STATE_GRANTED,
    ProposalStatus.REFUSED: jobs_pb2.PROPOSAL_STATE_REFUSED,
}
_LEG_STATES = {
    LegStatus.RUNNING: jobs_pb2.LEG_STATE_RUNNING,
    LegStatus.DELIVERING: jobs_pb2.LEG_STATE_DELIVERING,
    LegStatus.DELIVERED: jobs_pb2.LEG_STATE_DELIVERED,
    LegStatus.ENDED: jobs_pb2.LEG_STATE_DELIVERED,
    LegStatus.RELEASING: jobs_pb2.LEG_STATE_FAILED,
    LegStatus.RELEASED: jobs_pb2.LEG_STATE_FAILED,
    LegStatus.FAILED: jobs_pb2.LEG_STATE_FAILED,
}
_EMPTY_HASH = b""


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """The builder's side of a job, in protobuf."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        proposals: Proposals,
        legs: Legs,
        settlement: Settlement,
        statements: Statements,
        ledger: Ledger,
        usage: UsageLog,
    ) -> None:
        self._authenticator, self._proposals, self._legs = authenticator, proposals, legs
        self._settlement, self._statements = settlement, statements
        self._ledger, self._usage = ledger, usage

    def ProposeJob(
        self, request: jobs_pb2.ProposeJobRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.Proposal:
        """Judges a proposal."""
        caller = self._authenticator.authenticate(context)
        with self._refusals_logged(caller, request.dataset_id, _EMPTY_HASH, spec_hash(request.spec)):
            return _proposal(
                self._proposals.propose(caller, request.request_id, request.dataset_id, request.spec)
            )

    def GetProposal(
        self, request: jobs_pb2.GetProposalRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.Proposal:
        """How a proposal stands."""
        caller = self._authenticator.authenticate(context)
        return _proposal(self._proposals.find(caller, hash32(request.job_id, "job_id"), request.dataset_id))

    def StartLeg(
        self, request: jobs_pb2.StartLegRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.StartLegResponse:
        """Takes up a leg that is open on chain."""
        caller = self._authenticator.authenticate(context)
        job_id = hash32(request.job_id, "job_id")
        with self._refusals_logged(caller, request.dataset_id, job_id):
            started = self._legs.start(caller, job_id, request.dataset_id)
        return jobs_pb2.StartLegResponse(
            leg=self._leg(caller, job_id, request.dataset_id),
            fencing_epoch=started.fencing_epoch,
            acceptance_signature=started.acceptance,
        )

    def GetLeg(self, request: jobs_pb2.GetLegRequest, context: grpc.ServicerContext) -> jobs_pb2.Leg:
        """How a leg stands."""
        caller = self._authenticator.authenticate(context)
        return self._leg(caller, hash32(request.job_id, "job_id"), request.dataset_id)

    def FinishLeg(
        self, request: jobs_pb2.FinishLegRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.FinishLegResponse:
        """Ends a leg's rounds and signs its receipt."""
        caller = self._authenticator.authenticate(context)
        job_id = hash32(request.job_id, "job_id")
        signed = self._settlement.finish(
            caller, job_id, request.dataset_id, request.rounds_done, request.lower_loss_micro,
            request.lower_signature,
        )  # fmt: skip
        return jobs_pb2.FinishLegResponse(
            leg=self._leg(caller, job_id, request.dataset_id),
            receipt=receipt_to_proto(signed.receipt),
            receipt_signature=signed.signature,
        )

    def ReleaseLeg(
        self, request: jobs_pb2.ReleaseLegRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.ReleaseLegResponse:
        """Gives up a leg of which nothing was charged."""
        caller = self._authenticator.authenticate(context)
        job_id = hash32(request.job_id, "job_id")
        signature = self._settlement.release(caller, job_id, request.dataset_id)
        return jobs_pb2.ReleaseLegResponse(
            leg=self._leg(caller, job_id, request.dataset_id),
            fencing_epoch=self._statements.epoch,
            failure_signature=signature,
        )

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _refusals_logged(
        self, builder: str, dataset_id: int, job_id: bytes, spec: bytes = _EMPTY_HASH
    ) -> Iterator[None]:
        try:
            yield
        except UsufructError as error:
            self._usage.refused(
                error.reason, dataset_id=dataset_id, job_id=job_id, builder=builder, spec_hash=spec
            )
            raise

    def _leg(self, caller: str, job_id: bytes, dataset_id: int) -> jobs_pb2.Leg:
        proposal, leg = self._legs.find(caller, job_id, dataset_id)
        try:
            charged = self._ledger.leg(dataset_id, job_id).charged
        except LegUnknown:
            charged = 0
        return _leg(proposal, leg, charged)


def _proposal(stored: StoredProposal) -> jobs_pb2.Proposal:
    return jobs_pb2.Proposal(
        job_id=stored.job_id,
        dataset_id=stored.dataset_id,
        spec_hash=stored.spec_hash,
        state=_PROPOSAL_STATES[stored.state],
        grant=signed_grant_to_proto(stored.signed_grant) if stored.signed_grant else None,
        reason=stored.reason,
        text=CATALOGUE[stored.reason].text if stored.reason else "",
    )


def _leg(proposal: StoredProposal, leg: StoredLeg | None, charged: int) -> jobs_pb2.Leg:
    return jobs_pb2.Leg(
        job_id=proposal.job_id,
        dataset_id=proposal.dataset_id,
        state=_LEG_STATES[leg.state] if leg else jobs_pb2.LEG_STATE_PENDING,
        last_round=leg.last_round if leg else 0,
        attempts_charged=charged,
        attempts_reserved=proposal.spec.plan.attempts,
    )
