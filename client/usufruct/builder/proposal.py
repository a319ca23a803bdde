"""A proposed job: what the holders answer, and opening it on chain once all have granted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from eth_utils.crypto import keccak
from torch import nn

from usufruct.builder.asking import at_all
from usufruct.builder.book import JobBook
from usufruct.builder.job import JobHandle
from usufruct.builder.opening import fix_opening, send_opening
from usufruct.builder.peers import HolderPeer, connect_holders, meet_aggregator
from usufruct.builder.policies import check_policy
from usufruct.builder.settings import EscrowTerms
from usufruct.builder.sponsoring import JobToSponsor
from usufruct.builder.store import JobStore
from usufruct.domain import ids
from usufruct.domain.grant import SignedGrant, SignedSponsorship
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct.v1 import jobs_pb2
from usufruct.wire import jobs

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
        self._network, self._book = network, JobBook(network, store)
        self._model, self._validation = model, validation
        self._spec_bytes, self.spec = self._book.spec_bytes, self._book.spec
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

    @property
    def to_sponsor(self) -> JobToSponsor:
        """What somebody else has to know to pay for it: :meth:`Network.sponsor`.

        Raises:
            InvalidInput: its legs are priced in several tokens.
        """
        tokens = {leg.token for leg in self.spec.legs}
        if len(tokens) != 1:
            raise InvalidInput(
                "Only a job priced in one token can be paid for by somebody else.", field="token"
            )
        price = sum(leg.price_units for leg in self.spec.legs)
        return JobToSponsor(self.spec.job_id, jobs.spec_hash(self._spec_bytes), tokens.pop(), price)

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

    def open(
        self,
        *,
        accept_within_seconds: int | None = None,
        challenge_seconds: int | None = None,
        arbiter: str | None = None,
        sponsorship: SignedSponsorship | None = None,
    ) -> JobHandle:
        """Opens the job on chain, with every grant, or not at all, and has every holder accept it; deposits what is
        missing first. Everything is on disk before it is sent: after a crash, opening it again opens the same job once.

        A holder that refuses, or does not answer in time, is left out if the job's ``min_cohort`` is met without it.

        Args:
            accept_within_seconds, challenge_seconds, arbiter: see :class:`EscrowTerms`; as they were chosen before, or its
                defaults, where None.
            sponsorship: of whoever pays, where that is not the builder; :meth:`Network.sponsor` signs it.
        Raises:
            Refused: a holder has refused or not decided; a grant is not valid on chain; MONEY_SHORT; TOO_FEW_ACCEPTED: then
                everything comes back, and the message says when.
            PeerError: the aggregator or a holder cannot be reached, or shows another key.
            ChainError: the chain cannot be reached, or refused.
        """
        asked = {
            "accept_within_seconds": accept_within_seconds,
            "challenge_seconds": challenge_seconds,
            "arbiter": arbiter,
        }
        self._book.lock()
        try:
            if self._book.state.phase == "proposed":
                self._fix({name: value for name, value in asked.items() if value is not None}, sponsorship)
            if self._book.state.phase == "opening":
                send_opening(self._book)
            handle = JobHandle(self._book, self._model, self._validation)
            handle.accept()
        except BaseException:
            self._book.unlock()  # whoever goes on may be this process or another
            raise
        finally:
            self._hang_up()
        return handle

    @property
    def ended(self) -> bool:
        """Whether it was opened and all its legs are out again."""
        return self._book.state.phase == "cancelled"

    def withdraw(self) -> bool:
        """Forgets a proposal that has not been opened; whether it was one. Unused grants expire by themselves."""
        if self._book.state.phase != "proposed":
            return False
        self._book.lock()
        if self._book.state.phase != "proposed":  # another process was faster
            self._book.unlock()
            return False
        self._hang_up()
        self._book.discard()
        return True

    # -- inside -----------------------------------------------------------------------------------------------

    def _fix(self, asked: Mapping[str, Any], sponsorship: SignedSponsorship | None) -> None:
        """Looks at everyone and everything once more, and writes down what the job is opened with."""
        terms = EscrowTerms(**{**self._book.state.escrow, **asked})
        if terms.sponsored and sponsorship is None:
            raise InvalidInput(
                "Somebody else was to pay for this job: open it with sponsorship=…, which the payer signs.",
                field="sponsorship",
            )
        meet_aggregator(self._network, self.spec.aggregator)
        grants = [_granted(leg) for leg in self.wait(0.0)]
        for dataset_id, (_, policy) in at_all(self._holders(), lambda holder: holder.card()).items():
            if keccak(policy) != self._network.chain.dataset(dataset_id).policy_hash:
                raise Refused(reason="POLICY_MISMATCH", dataset_id=dataset_id)
            check_policy(dataset_id, policy, terms)
        opening = fix_opening(self._book, grants, terms, sponsorship)
        self._book.save(phase="opening", escrow=asdict(terms), opening=opening.to_json())

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
            self._peers = connect_holders(self._network, self.spec.legs)
        return self._peers

    def _hang_up(self) -> None:
        for peer in (self._peers or {}).values():
            peer.close()
        self._peers = None


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
