"""A holder that does what the test says: real transport, real keys, a real place on chain; no data and no ledger.

It grants whatever is proposed, accepts, charges what the rounds say, and signs receipts as an honest holder would; a test
changes what it refuses, signs or says.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from eth_account.signers.local import LocalAccount

from usufruct.chain import (
    Chain,
    LegState,
    sign_acceptance,
    sign_failure,
    sign_grant,
    sign_receipt,
    signer,
)
from usufruct.chain.typed_data import lower_hash
from usufruct.domain import ids
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.grant import Grant
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.training_job import NANO, TrainingJobSpec
from usufruct.errors import Refused, UsufructError
from usufruct.v1 import catalogue_pb2, catalogue_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from usufruct.wire import jobs
from usufruct.wire.receipts import receipt_to_proto

from stand_in_holder import Seat, StandInHolder  # isort: skip

import grpc  # isort: skip  (after usufruct, which settles the TLS version first)

TASK = "scripts"


class ScriptedHolder(StandInHolder):
    """One holder with one dataset.

    Attributes:
        holder_id: its number on chain, that of its dataset.
        chain: where it looks legs up.
        refusals: by method name ("StartLeg"), what is raised instead of an answer.
        before: by method name, called with the job's id before there is an answer.
        charged: by job id, attempts that its ledger would show.
        changed: fields of its receipts that it states otherwise than it should.
        statements: signs acceptances and receipts; the operator's key.
        policy: the bytes that it shows.
        lags: how often it still sees an accepted leg as it was before.
        moves_by: what its training adds to every parameter.
        calls: names of the methods that were called, in order.
    """

    def __init__(self, dataset_id: int, chain: Chain, seat: Seat) -> None:
        self.chain, self.holder_id = chain, dataset_id
        self.refusals: dict[str, UsufructError] = {}
        self.before: dict[str, Callable[[bytes], object]] = {}
        self.charged: dict[bytes, int] = {}
        self.changed: dict[str, Any] = {}
        self.moves_by, self.lags = 0.0, 0
        self.policy = b'{"scripted":true}'
        self.specs: dict[bytes, tuple[TrainingJobSpec, bytes]] = {}
        self.grants: dict[bytes, jobs_pb2.SignedGrant] = {}
        self.receipts: dict[bytes, LegReceipt] = {}
        self.calls: list[str] = []
        super().__init__(dataset_id, seat)
        self.statements: LocalAccount = self.operator
        self.card = DatasetCard(
            name=f"script {dataset_id}",
            task=TASK,
            description="no data",
            columns=(Column("a", "number", 0.0, 1.0), Column("b", "number", 0.0, 1.0)),
            label=Label("y", (("0",), ("1",))),
            person_column=None,
            nominal_size=100,
        )

    def add_services(self, server: grpc.Server) -> None:
        super().add_services(server)
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(_Catalogue(self), server)  # type: ignore[no-untyped-call]
        jobs_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self), server)  # type: ignore[no-untyped-call]

    # -- what it says -------------------------------------------------------------------------------------------

    def propose(self, request: jobs_pb2.ProposeJobRequest) -> jobs_pb2.Proposal:
        spec = jobs.spec_from_bytes(request.spec)
        self.specs[spec.job_id], self.spec = (spec, request.spec), spec
        loss, now = spec.reservation_micro(self.dataset_id), self.chain.block_time_seconds()
        terms = spec.leg(self.dataset_id)
        self.update = np.full(spec.encryption.parameter_count, self.moves_by * terms.weight_nano / NANO)
        grant = Grant(
            dataset_id=self.dataset_id, grantee=spec.builder, spec_hash=jobs.spec_hash(request.spec),
            purpose_hash=jobs.purpose_hash(spec.purpose), token=terms.token, price_units=terms.price_units, max_uses=1,
            loss_per_job_micro=loss, loss_total_micro=loss, not_before_seconds=now - 60, deadline_seconds=now + 86_400,
            revocation_epoch=0, salt=secrets.token_bytes(32),
        )  # fmt: skip
        signed = sign_grant(self.operator, grant, self.chain.chain_id, self.chain.registry)
        self.grants.setdefault(spec.job_id, jobs.signed_grant_to_proto(signed))
        return self.proposal(spec.job_id)

    def proposal(self, job_id: bytes) -> jobs_pb2.Proposal:
        if job_id not in self.specs:
            raise Refused(reason="JOB_UNKNOWN")
        return jobs_pb2.Proposal(
            job_id=job_id, dataset_id=self.dataset_id, spec_hash=jobs.spec_hash(self.specs[job_id][1]),
            state=jobs_pb2.PROPOSAL_STATE_GRANTED, grant=self.grants[job_id],
        )  # fmt: skip

    def start(self, job_id: bytes) -> jobs_pb2.StartLegResponse:
        leg = self.chain.leg(job_id, self.dataset_id)
        if leg is None:
            raise Refused(reason="LEG_NOT_OPEN")
        signature = b""
        if leg.state is not LegState.LOCKED and self.lags:
            self.lags, leg = self.lags - 1, replace(leg, state=LegState.LOCKED)
        if leg.state is LegState.LOCKED:
            signature = sign_acceptance(self.statements, leg.stored_hash(), self.epoch, *self._place)
        return jobs_pb2.StartLegResponse(
            leg=self.leg(job_id), fencing_epoch=self.epoch, acceptance_signature=signature
        )

    def leg(self, job_id: bytes) -> jobs_pb2.Leg:
        return jobs_pb2.Leg(
            job_id=job_id, dataset_id=self.dataset_id, state=jobs_pb2.LEG_STATE_RUNNING,
            attempts_charged=self.charged_of(job_id),
        )  # fmt: skip

    def finish(self, request: jobs_pb2.FinishLegRequest) -> jobs_pb2.FinishLegResponse:
        lower = (request.lower_loss_micro, request.lower_signature)
        receipt = self.receipts.get(request.job_id) or self.receipt(
            request.job_id, request.rounds_done, *lower
        )
        self.receipts[request.job_id] = receipt
        return jobs_pb2.FinishLegResponse(
            leg=self.leg(request.job_id),
            receipt=receipt_to_proto(receipt),
            receipt_signature=self.sign(receipt),
        )

    def release(self, job_id: bytes) -> jobs_pb2.ReleaseLegResponse:
        if self.charged_of(job_id):
            raise Refused(reason="ATTEMPT_ALREADY_CHARGED")
        leg = self.chain.leg(job_id, self.dataset_id)
        assert leg is not None
        signature = sign_failure(self.statements, leg.stored_hash(), 0, self.epoch, *self._place)
        return jobs_pb2.ReleaseLegResponse(
            leg=self.leg(job_id), fencing_epoch=self.epoch, failure_signature=signature
        )

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Its fencing epoch, as the chain has it."""
        return self.chain.holder(self.holder_id).fencing_epoch

    def charged_of(self, job_id: bytes) -> int:
        """Attempts that it would have charged: what the test says, or those that it was sent."""
        return self.charged.get(job_id, len(self.attempts.get(job_id, ())))

    def sign(self, receipt: LegReceipt) -> bytes:
        """The signature under a receipt."""
        return sign_receipt(self.statements, receipt, *self._place)

    def receipt(
        self, job_id: bytes, rounds_done: int, lower_micro: int = 0, lower_signature: bytes = b""
    ) -> LegReceipt:
        """Its statement of a leg."""
        spec, spec_bytes = self.specs[job_id]
        leg, terms = self.chain.leg(job_id, self.dataset_id), spec.leg(self.dataset_id)
        assert leg is not None
        charged, plan, loss = self.charged_of(job_id), spec.plan, leg.loss_micro
        if lower_signature and lower_micro == charged * terms.loss_per_attempt_micro:
            digest = lower_hash(leg.leg_id, lower_micro, *self._place)
            if signer(digest, lower_signature) == leg.builder:
                loss = lower_micro
        now = self.chain.block_time_seconds()
        receipt = LegReceipt(
            version=2, accountant_version=1, fencing_epoch=self.epoch, leg_id=leg.leg_id, job_id=leg.job_id,
            dataset_id=self.dataset_id, spec_hash=jobs.spec_hash(spec_bytes), grant_hash=leg.grant_hash, mechanism=1,
            neighbouring=1, rounding=1, order=terms.order, min_honest=0, max_colluding=0,
            steps_per_attempt=plan.local_steps, attempts_reserved=plan.attempts, attempts_charged=charged,
            rounds_done=rounds_done, dimension=spec.encryption.parameter_count,
            sample_rate_nano=plan.sample_rate_nano, clip_norm_micro=plan.max_grad_norm_micro,
            noise_multiplier_micro=plan.noise_multiplier_micro, scale_micro=0, delta_two_micro=0, delta_one_micro=0,
            share_noise_micro=0, loss_micro=loss, usage_head=ids.ZERO_HASH, updates_hash=ids.ZERO_HASH,
            started_seconds=now - 1, ended_seconds=now,
        )  # fmt: skip
        return replace(receipt, **self.changed)

    @property
    def _place(self) -> tuple[int, str]:
        return self.chain.chain_id, self.chain.compute_access


class _Catalogue(catalogue_pb2_grpc.CatalogueServiceServicer):  # type: ignore[misc]
    def __init__(self, holder: ScriptedHolder) -> None:
        self._holder = holder

    def GetDatasetCard(
        self, request: catalogue_pb2.GetDatasetCardRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.GetDatasetCardResponse:
        return catalogue_pb2.GetDatasetCardResponse(
            card=self._holder.card.to_bytes(), policy=self._holder.policy
        )


class _Jobs(jobs_pb2_grpc.JobServiceServicer):  # type: ignore[misc]
    def __init__(self, holder: ScriptedHolder) -> None:
        self._holder = holder

    def _answer(
        self, name: str, request: Any, context: grpc.ServicerContext, answer: Callable[[], Any]
    ) -> Any:
        self._holder.authenticator.authenticate(context)
        self._holder.calls.append(name)
        if name in self._holder.before:
            self._holder.before[name](request.job_id)
        if name in self._holder.refusals:
            raise self._holder.refusals[name]
        return answer()

    def ProposeJob(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("ProposeJob", request, context, lambda: self._holder.propose(request))

    def GetProposal(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("GetProposal", request, context, lambda: self._holder.proposal(request.job_id))

    def StartLeg(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("StartLeg", request, context, lambda: self._holder.start(request.job_id))

    def GetLeg(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("GetLeg", request, context, lambda: self._holder.leg(request.job_id))

    def FinishLeg(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("FinishLeg", request, context, lambda: self._holder.finish(request))

    def ReleaseLeg(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("ReleaseLeg", request, context, lambda: self._holder.release(request.job_id))
