"""Receives proposals, has them judged, keeps the inbox, and signs grants with the operator key."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from usufruct.chain import Chain, grant_hash
from usufruct.domain.grant import Grant
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import ChainError, InvalidInput, Refused
from usufruct.wire.jobs import purpose_hash, spec_from_bytes, spec_hash
from usufruct_server.holder.appraisal import GraphAppraiser, appraise
from usufruct_server.holder.catalogue import Catalogue, ServedDataset
from usufruct_server.holder.config import Policy
from usufruct_server.holder.job_store import JobStore, ProposalStatus, StoredProposal
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.policy import DatasetFacts, Decision, HolderFacts, judge
from usufruct_server.holder.statements import Statements
from usufruct_server.holder.usage_log import UsageLog

MOST_OPEN_PER_BUILDER = 50
"""Proposals of one builder that wait in the inbox, or are granted and not started."""
MOST_OPEN = 2000
_REQUEST_ID_LENGTH = 100

_log = logging.getLogger("usufruct.holder.proposals")


class Proposals:
    """The holder's side of proposing.

    Args:
        statements: sign the grants.
        appraise_graph: looks at a proposed graph, in a process of its own.
        clock: UTC seconds.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        usage: UsageLog,
        chain: Chain,
        catalogue: Catalogue,
        policy: Policy,
        holder_id: int,
        statements: Statements,
        appraise_graph: GraphAppraiser,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._usage, self._chain = store, ledger, usage, chain
        self._catalogue, self._policy, self._holder_id = catalogue, policy, holder_id
        self._statements = statements
        self._appraise_graph, self._clock = appraise_graph, clock
        self._guard, self._logging = threading.Lock(), threading.Lock()

    def propose(self, caller: str, request_id: str, dataset_id: int, spec_bytes: bytes) -> StoredProposal:
        """Judges a proposal. The same again: the same proposal.

        A refusal is answered and logged, and not kept: it may be proposed again when the reason is gone.

        Raises:
            InvalidInput: the spec cannot be read; REQUEST_ID_REUSED.
            Refused: NOT_YOURS, or WRONG_SPEC where the job was proposed here with another spec; TOO_MANY.
            ChainError: the chain cannot be asked; nothing is kept.
        """
        if not 0 < len(request_id) <= _REQUEST_ID_LENGTH or not request_id.isprintable():
            raise InvalidInput(
                f"request_id must be 1 to {_REQUEST_ID_LENGTH} printable characters", field="request_id"
            )
        hash_ = spec_hash(spec_bytes)
        known = self._store.proposal_of_request(caller, request_id, dataset_id)
        if known:
            if known.spec_hash != hash_:
                raise InvalidInput(
                    "request_id was used for another spec", reason="REQUEST_ID_REUSED", field="request_id"
                )
            return self.current(known)
        spec = spec_from_bytes(spec_bytes)
        if spec.builder != caller:
            raise Refused(
                "the spec names another builder than the caller", reason="NOT_YOURS", field="builder"
            )
        before = self._store.proposal(spec.job_id, dataset_id)
        if before:
            if before.spec_hash != hash_:
                raise Refused("this job was proposed before with another spec", reason="WRONG_SPEC")
            return self.current(before)
        decision = self._judge(spec, dataset_id)
        now = int(self._clock())
        pending = StoredProposal(
            spec.job_id, dataset_id, request_id, caller, spec_bytes, hash_, ProposalStatus.PENDING, "", decision.note,
            "", None, b"", now, None, False,
        )  # fmt: skip
        _log.info(
            "event=proposal job=%s dataset=%d builder=%s kind=%s outcome=%s reason=%s noise=%s note=%r",
            spec.job_id.hex(), dataset_id, caller, spec.kind, decision.outcome, decision.reason, spec.plan.noise_mode.name.lower(),
            decision.note,
        )  # fmt: skip
        if decision.outcome == "refuse":
            self._usage.refused(
                decision.reason, dataset_id=dataset_id, job_id=spec.job_id, builder=caller, spec_hash=hash_
            )
            return replace(pending, state=ProposalStatus.REFUSED, reason=decision.reason, logged=True)
        with self._guard:
            self._check_room(caller)
            stored = self._store.add_proposal(pending)
        return self._grant(stored) if decision.outcome == "grant" else stored

    def find(self, caller: str, job_id: bytes, dataset_id: int) -> StoredProposal:
        """How a proposal stands; acts on a person's decision first.

        Raises:
            Refused: NOT_YOURS. InvalidInput: JOB_UNKNOWN.
        """
        stored = self._store.proposal(job_id, dataset_id)
        if stored is None:
            raise InvalidInput("no such proposal", reason="JOB_UNKNOWN", dataset_id=dataset_id)
        if stored.builder != caller:
            raise Refused("the proposal is another builder's", reason="NOT_YOURS")
        return self.current(stored)

    def current(self, stored: StoredProposal) -> StoredProposal:
        """Acts on a person's decision and completes what a crash left half done."""
        if stored.state is ProposalStatus.PENDING and stored.decision == "refuse":
            stored = self._settle(
                stored, ProposalStatus.REFUSED, reason="REFUSED_BY_HOLDER", note=stored.note
            )
        elif stored.state is ProposalStatus.PENDING and stored.decision == "grant":
            person = replace(self._policy, auto_grant=True, unknown_builders="grant")
            decision = self._judge(stored.spec, stored.dataset_id, person)
            if decision.outcome == "refuse":
                stored = self._settle(
                    stored, ProposalStatus.REFUSED, reason=decision.reason, note=decision.note
                )
            else:
                stored = self._grant(stored)
        if stored.state is not ProposalStatus.PENDING and not stored.logged:
            self._log_outcome(stored)
        return stored

    def act_on_decisions(self) -> None:
        """Acts on every decision that a person has made since; at start and whenever the server looks."""
        for stored in self._store.unsettled():
            self.current(stored)

    # -- inside -------------------------------------------------------------------------------------------------

    def _judge(self, spec: TrainingJobSpec, dataset_id: int, policy: Policy | None = None) -> Decision:
        now = max(int(self._clock()), self._chain.block_time_seconds())
        holder = HolderFacts(
            self._chain.chain_id, self._chain.compute_access, self._holder_id, self._statements.operator, now
        )
        served = self._catalogue.find(dataset_id)
        facts = self._facts(served) if served else None
        job = appraise(spec, served, self._appraise_graph)
        decision = judge(spec, spec.builder, holder, facts, job, policy or self._policy)
        if decision.outcome != "refuse" and (invented := self._invented_leg(spec)):
            return Decision(
                "refuse", "CARD_MISMATCH", f"dataset {invented} of the spec is not as registered on chain"
            )
        return decision

    def _invented_leg(self, spec: TrainingJobSpec) -> int | None:
        """The first leg that names no active dataset, or not its holder, card and operator: it would only make the
        cohort look larger, with an update that the builder makes itself."""
        for terms in spec.legs:
            try:
                entry = self._chain.dataset(terms.dataset_id)
                operator = self._chain.holder(entry.holder_id).operator
            except ChainError as error:
                if error.reason in ("DATASET_UNKNOWN", "NOT_FOUND"):
                    return terms.dataset_id
                raise
            registered = (entry.holder_id, entry.card_hash, operator)
            if not entry.active or registered != (terms.holder_id, terms.card_hash, terms.operator):
                return terms.dataset_id
        return None

    def _facts(self, served: ServedDataset) -> DatasetFacts:
        entry = self._chain.dataset(served.dataset_id)
        return DatasetFacts(
            dataset_id=served.dataset_id,
            active=entry.active,
            unfit=self._catalogue.unfit(served.dataset_id),
            card_hash=served.card.hash,
            nominal_size=served.card.card.nominal_size,
            order=entry.order,
            delta=served.config.delta,
            token=entry.token,
            price_units=entry.price_units,
            min_cohort=entry.min_cohort,
            available_micro=min(entry.left_micro, self._ledger.budget(served.dataset_id).available_micro),
            cap_micro=entry.cap_micro,
            loss_limit_on_chain_micro=entry.max_loss_per_job_micro,
        )

    def _grant(self, stored: StoredProposal) -> StoredProposal:
        spec = stored.spec
        terms, loss = spec.leg(stored.dataset_id), spec.reservation_micro(stored.dataset_id)
        chain_now, here_now = self._chain.block_time_seconds(), int(self._clock())
        grant = Grant(
            dataset_id=stored.dataset_id,
            grantee=spec.builder,
            spec_hash=stored.spec_hash,
            purpose_hash=purpose_hash(spec.purpose),
            token=terms.token,
            price_units=terms.price_units,
            max_uses=1,
            loss_per_job_micro=loss,
            loss_total_micro=loss,
            not_before_seconds=min(chain_now, here_now),
            deadline_seconds=max(chain_now, here_now) + self._policy.grant_term_seconds,
            revocation_epoch=self._chain.holder(self._holder_id).revocation_epoch,
            salt=secrets.token_bytes(32),
        )
        signed = self._statements.grant(grant)
        document = grant_hash(grant, self._chain.chain_id, self._chain.registry)
        return self._settle(stored, ProposalStatus.GRANTED, signed_grant=signed, document_hash=document)

    def _settle(self, stored: StoredProposal, state: ProposalStatus, **columns: Any) -> StoredProposal:
        settled = self._store.settle_proposal(
            stored.job_id, stored.dataset_id, state, now_seconds=int(self._clock()), **columns
        )
        self._log_outcome(settled)
        return replace(settled, logged=True)

    def _log_outcome(self, stored: StoredProposal) -> None:
        with self._logging:
            now = self._store.proposal(stored.job_id, stored.dataset_id)
            if now is not None and not now.logged:
                self._log_once(stored)

    def _log_once(self, stored: StoredProposal) -> None:
        about: dict[str, Any] = {
            "dataset_id": stored.dataset_id, "job_id": stored.job_id, "builder": stored.builder, "spec_hash": stored.spec_hash,
        }  # fmt: skip
        if stored.state is ProposalStatus.GRANTED:
            self._usage.record(UsageKind.GRANTED, document_hash=stored.document_hash, **about)
        else:
            self._usage.refused(stored.reason, **about)
        self._store.mark_logged(stored.job_id, stored.dataset_id)

    def _check_room(self, builder: str) -> None:
        mine, all_ = self._store.open_proposals(builder)
        if mine >= MOST_OPEN_PER_BUILDER or all_ >= MOST_OPEN:
            raise Refused("too many open proposals", reason="TOO_MANY", limit=MOST_OPEN_PER_BUILDER)
