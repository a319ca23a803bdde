"""A proposed job: what the holders answer, and opening it on chain once all have granted."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from usufruct import graph
from usufruct.builder import losses
from usufruct.builder import weights as model_weights
from usufruct.builder.datasets import Dataset
from usufruct.builder.job import JobHandle
from usufruct.builder.peers import AggregatorPeer, HolderPeer, at_all, connect_holders
from usufruct.builder.planning import make_plan
from usufruct.builder.settings import SGD, Privacy
from usufruct.builder.store import JobRecord, JobStore
from usufruct.domain import ids
from usufruct.domain.grant import SignedGrant
from usufruct.domain.preprocessing import feature_names, feature_width
from usufruct.domain.training_job import AggregatorRef, TrainingJobSpec
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct.graph import TracedModel
from usufruct.v1 import jobs_pb2
from usufruct.wire import jobs
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.model_graph import graph_to_bytes

if TYPE_CHECKING:
    from usufruct.builder.network import Network

log = logging.getLogger("usufruct.builder")

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
_STATES = {
    jobs_pb2.PROPOSAL_STATE_PENDING: "PENDING",
    jobs_pb2.PROPOSAL_STATE_GRANTED: "GRANTED",
    jobs_pb2.PROPOSAL_STATE_REFUSED: "REFUSED",
}


@dataclass(frozen=True)
class LegStatus:
    """How one holder has answered.

    Attributes:
        state: ``PENDING`` (waits for a person at the holder), ``GRANTED`` or ``REFUSED``.
        reason, text: of the error catalogue, when refused.
    """

    dataset_id: int
    endpoint: str
    state: str
    reason: str = ""
    text: str = ""
    grant: SignedGrant | None = None


class Proposal:
    """A job that has been proposed. It is on disk; ``network.proposal(id)`` finds it again, days later."""

    def __init__(
        self, network: Network, store: JobStore, model: nn.Module | None = None, validation: Any = None
    ) -> None:
        self._network, self._store = network, store
        self._model, self._validation = model, validation
        self._spec_bytes = store.spec_bytes()
        self.spec = jobs.spec_from_bytes(self._spec_bytes)
        self._peers: dict[int, HolderPeer] | None = None

    @property
    def id(self) -> str:
        """The job's id, ``0x…``."""
        return ids.to_hex(self.spec.job_id)

    @property
    def epsilon_asked(self) -> float:
        """Largest binding epsilon of all datasets for the whole job."""
        from usufruct import privacy
        from usufruct.domain.training_job import PICO

        delta = self.spec.plan.delta_pico / PICO
        return max(
            privacy.epsilon(self.spec.reservation_micro(leg.dataset_id), leg.order, delta)
            for leg in self.spec.legs
        )

    def __repr__(self) -> str:
        return f"<Proposal {self.id}: {len(self.spec.legs)} datasets, {self.spec.plan.rounds} rounds>"

    def status(self) -> tuple[LegStatus, ...]:
        """How every holder has answered so far, in order of dataset. Holders that never heard of it hear of it now.

        Raises:
            PeerError: a holder cannot be reached.
        """
        answers = at_all(self._holders(), self._ask)
        return tuple(self._status(dataset_id, answer) for dataset_id, answer in answers.items())

    def wait(
        self,
        timeout_seconds: float,
        on_wait: Callable[[tuple[LegStatus, ...]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[LegStatus, ...]:
        """Waits until every holder has granted, asking less and less often (0.5 to 30 s).

        Args:
            on_wait: called whenever the set of holders that are still deciding has changed.
            stop: ends the waiting from another thread.
        Raises:
            Refused: a holder refused (its reason and dataset), or GRANT_PENDING at the end of the time, naming who has
                not decided; the proposal stays open.
        """
        deadline, pause = time.monotonic() + timeout_seconds, FIRST_WAIT_SECONDS
        stop = stop or threading.Event()
        told: list[int] = []
        while True:
            status = self.status()
            for leg in status:
                if leg.state == "REFUSED":
                    raise self._refused(leg)
            pending = [leg for leg in status if leg.state == "PENDING"]
            if not pending:
                return status
            if [leg.dataset_id for leg in pending] != told:
                told = [leg.dataset_id for leg in pending]
                log.warning("waiting in the inbox of %s", _names(pending))
                if on_wait is not None:
                    on_wait(status)
            left = deadline - time.monotonic()
            if left <= 0 or stop.wait(min(pause, left)):
                raise Refused(
                    f"{_names(pending)} has not decided yet: a person there has to run `usufruct holder grant "
                    f'{self.id}`. The proposal stays; go on with uf.resume("{self.id}").',
                    reason="GRANT_PENDING",
                    job_id=self.id,
                    dataset_id=pending[0].dataset_id,
                )
            pause = min(LONGEST_WAIT_SECONDS, pause * 2)

    def open(self) -> JobHandle:
        """Opens the job on chain, with every grant, or not at all; deposits what is missing first.

        Raises:
            Refused: a holder has refused or not decided; a grant is not valid on chain; MONEY_SHORT.
            PeerError: the aggregator or a holder cannot be reached, or shows another key.
            ChainError: the chain cannot be reached, or refused.
        """
        self._store.lock()
        state = self._store.state()
        if state.phase == "proposed":
            gas = 0
            if not self._network.chain.job_legs(self.spec.job_id):
                _meet_aggregator(self._network, self.spec.aggregator)
                gas = self._open_on_chain(self.wait(0.0))
            self._store.save(replace(state, phase="open", gas_used=state.gas_used + gas))
        self._hang_up()
        return JobHandle(self._network, self._store, self._model, self._validation)

    def withdraw(self) -> bool:
        """Forgets a proposal that has not been opened; whether it was one. Unused grants expire by themselves."""
        self._store.lock()
        if self._store.state().phase != "proposed" or self._network.chain.job_legs(self.spec.job_id):
            self._store.unlock()
            return False
        self._hang_up()
        self._store.discard()
        return True

    # -- inside -----------------------------------------------------------------------------------------------

    def _open_on_chain(self, status: Sequence[LegStatus]) -> int:
        """Checks every grant on chain, deposits, opens; returns the gas used."""
        chain, sender = self._network.chain, self._network.sender
        spec_hash, purpose_hash = jobs.spec_hash(self._spec_bytes), jobs.purpose_hash(self.spec.purpose)
        legs: list[tuple[SignedGrant, int]] = []
        for leg in status:
            grant, loss = _granted(leg), self.spec.reservation_micro(leg.dataset_id)
            reason = chain.check_grant(grant, spec_hash, purpose_hash, self.spec.builder, loss)
            if reason:
                raise Refused(
                    f"The grant for dataset {leg.dataset_id} does not open a job: {Refused(reason=reason).message}",
                    reason=reason,
                    dataset_id=leg.dataset_id,
                )
            legs.append((grant, loss))
        gas = 0
        for token, units in self._missing_deposits().items():
            gas += int(sender.deposit(token, units).gas_used)
        opened = sender.open_job(
            nonce=self.spec.nonce,
            spec_hash=spec_hash,
            purpose_hash=purpose_hash,
            legs=legs,
            deliver_by_seconds=self.spec.deliver_by_seconds,
            min_cohort=self.spec.min_cohort,
        )
        return gas + int(opened.gas_used)

    def _missing_deposits(self) -> Mapping[str, int]:
        """By token, what has to be deposited. Raises :class:`Refused` MONEY_SHORT if the wallet has less."""
        chain, builder = self._network.chain, self.spec.builder
        missing: dict[str, int] = {}
        for token in sorted({leg.token for leg in self.spec.legs}):
            price = sum(leg.price_units for leg in self.spec.legs if leg.token == token)
            short = price - chain.deposit_of(token, builder)
            if short > 0:
                wallet = chain.token_balance(token, builder)
                if wallet < short:
                    raise Refused(
                        f"The job costs {price} units of {token}; {price - short} are deposited and the wallet {builder} "
                        f"has {wallet}. Send it {short - wallet} more.",
                        reason="MONEY_SHORT",
                        requested=short,
                        limit=wallet,
                    )
                missing[token] = short
        return missing

    def _ask(self, holder: HolderPeer) -> jobs_pb2.Proposal:
        try:
            return holder.proposal(self.spec.job_id)
        except UsufructError as error:
            if error.reason not in ("JOB_UNKNOWN", "NOT_FOUND"):
                raise
        return holder.propose(self.spec.job_id, self._spec_bytes)

    def _status(self, dataset_id: int, answer: jobs_pb2.Proposal) -> LegStatus:
        endpoint = self._holders()[dataset_id].endpoint
        same = (answer.job_id, answer.dataset_id, answer.spec_hash) == (
            self.spec.job_id,
            dataset_id,
            jobs.spec_hash(self._spec_bytes),
        )
        if not same or answer.state not in _STATES:
            raise InvalidInput(
                f"The holder of dataset {dataset_id} at {endpoint} answered about another proposal.",
                dataset_id=dataset_id,
            )
        if answer.state == jobs_pb2.PROPOSAL_STATE_GRANTED:
            return LegStatus(
                dataset_id, endpoint, "GRANTED", grant=jobs.signed_grant_from_proto(answer.grant)
            )
        if answer.state == jobs_pb2.PROPOSAL_STATE_REFUSED:
            known = _known(answer.reason)
            return LegStatus(dataset_id, endpoint, "REFUSED", known.reason, known.public_text)
        return LegStatus(dataset_id, endpoint, "PENDING")

    def _refused(self, leg: LegStatus) -> Refused:
        return Refused(
            f"The holder of dataset {leg.dataset_id} at {leg.endpoint} refused: {leg.text}",
            reason=leg.reason,
            dataset_id=leg.dataset_id,
            job_id=self.id,
        )

    def _holders(self) -> dict[int, HolderPeer]:
        if self._peers is None:
            self._peers = connect_holders(self._network, self.spec)
        return self._peers

    def _hang_up(self) -> None:
        for peer in (self._peers or {}).values():
            peer.close()
        self._peers = None


def new_proposal(
    network: Network,
    model: nn.Module,
    datasets: Sequence[Dataset],
    *,
    aggregator: str,
    loss: str,
    optimizer: SGD,
    privacy: Privacy,
    rounds: int,
    validation: Any,
    spare_attempts: int | None,
    min_cohort: int | None,
    purpose: str | None,
    round_timeout_seconds: int,
    deliver_within_seconds: int,
) -> Proposal:
    """See :meth:`usufruct.builder.network.Network.propose`."""
    at = PinnedEndpoint.parse(aggregator)
    aggregator_ref = AggregatorRef(at.endpoint, at.fingerprint)
    traced = trace_for(model, datasets, loss)
    checked_validation = losses.read_validation(validation, traced.graph.input_shape[0])
    plan = make_plan(
        datasets,
        privacy,
        optimizer,
        rounds=rounds,
        spare_attempts=spare_attempts,
        parameter_count=traced.bounds.parameters,
        min_cohort=min_cohort,
    )
    spec = TrainingJobSpec(
        chain_id=network.chain.chain_id,
        compute_access=network.chain.compute_access,
        builder=network.address,
        nonce=secrets.token_bytes(32),
        model_graph=graph_to_bytes(traced.graph),
        loss=loss,
        optimizer=plan.optimizer,
        plan=plan.plan,
        legs=plan.legs,
        encryption=plan.encryption,
        aggregator=aggregator_ref,
        min_cohort=plan.min_cohort,
        purpose=purpose or f"Train a model for {datasets[0].task}",
        deliver_by_seconds=max(int(time.time()), network.chain.block_time_seconds()) + deliver_within_seconds,
        round_timeout_seconds=round_timeout_seconds,
    )
    spec_bytes = jobs.spec_to_bytes(spec)
    vector = graph.vector_from_model(model, traced)
    graph.pack_vector(traced.graph, vector)  # refuses weights that a holder would refuse
    record = JobRecord(
        rpc_url=network.rpc_url,
        confirmations=network.confirmations,
        compute_access=network.chain.compute_access,
        key_path=str(network.key_path or ""),
        builder=network.address,
        parameter_names=traced.parameter_names,
    )
    checkpoint = model_weights.vector_to_checkpoint(traced.graph, traced.parameter_names, vector)
    _meet_aggregator(network, aggregator_ref)
    store = JobStore.create(spec.job_id, spec_bytes, record, checkpoint)
    store.unlock()  # whoever opens the job drives it: this process, or another one in some days
    proposal = Proposal(network, store, model, checked_validation)
    try:
        proposal.status()
    except BaseException:
        proposal.withdraw()
        raise
    return proposal


def _meet_aggregator(network: Network, aggregator: AggregatorRef) -> None:
    """Whether the aggregator is there and holds its key, looked at before anyone is asked and before money is locked.

    Raises:
        PeerError: naming the aggregator.
    """
    AggregatorPeer(PinnedEndpoint(aggregator.endpoint, aggregator.fingerprint), network.account).close()


def trace_for(model: nn.Module, datasets: Sequence[Dataset], loss: str | None) -> TracedModel:
    """The model's graph for the features of these datasets.

    Raises:
        InvalidInput: the datasets' features or classes differ, the model is no graph, or the loss does not fit.
    """
    if not datasets:
        raise InvalidInput(
            "A job needs at least one dataset; network.datasets() lists what there is.", field="datasets"
        )
    first = datasets[0]
    for other in datasets[1:]:
        if feature_names(other.card) != feature_names(first.card) or len(other.card.label.classes) != len(
            first.card.label.classes
        ):
            raise InvalidInput(
                f"The datasets {first.id} and {other.id} do not have the same features and classes; one model cannot "
                "be trained on both.",
                reason="SPEC_INVALID",
                field="datasets",
                dataset_id=other.id,
            )
    traced = graph.trace(model, (feature_width(first.card),))
    if loss is not None:
        losses.checked_loss(loss, traced.bounds.outputs, len(first.card.label.classes))
    return traced


def _granted(leg: LegStatus) -> SignedGrant:
    if leg.grant is None:
        raise Refused(reason="GRANT_MISSING", dataset_id=leg.dataset_id)
    return leg.grant


def _known(reason: str) -> Refused:
    """The catalogue's entry for a reason that a holder gave; one we do not know counts as its policy."""
    try:
        return Refused(reason=reason)
    except ValueError:
        return Refused()


def _names(legs: Sequence[LegStatus]) -> str:
    return ", ".join(f"the holder of dataset {leg.dataset_id} ({leg.endpoint})" for leg in legs)
