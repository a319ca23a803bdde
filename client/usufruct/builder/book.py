"""The book of one job: what is on disk of it, and the means to act on it. Every step of a job's life is given one.

Whoever writes holds the job's lock, so that two processes never drive one job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from usufruct import privacy
from usufruct.builder.results import LegResult, read_leg_result, write_leg_result
from usufruct.builder.store import JobState, JobStore
from usufruct.chain import Chain, Sender, TransactionReceipt
from usufruct.domain import ids
from usufruct.domain.training_job import PICO, LegTerms
from usufruct.errors import ChainError
from usufruct.wire import jobs

if TYPE_CHECKING:
    from usufruct.builder.network import Network

Say = Callable[[str], None]
"""Told in words what happens."""


class JobBook:
    """One job of this machine.

    Attributes:
        spec, spec_bytes: the job, and the exact bytes that were hashed.
    """

    def __init__(self, network: Network, store: JobStore) -> None:
        self.network, self.store = network, store
        self.spec_bytes = store.spec_bytes()
        self.spec = jobs.spec_from_bytes(self.spec_bytes)
        self._state = store.state()
        self._sender: Sender | None = None

    @property
    def id(self) -> str:
        """``0x…``"""
        return ids.to_hex(self.spec.job_id)

    @property
    def chain(self) -> Chain:
        """The chain it is on."""
        return self.network.chain

    @property
    def sender(self) -> Sender:
        """Sends the job's transactions, through its own outbox. Only while this process drives the job."""
        if self._sender is None:
            self.lock()
            self._sender = Sender(self.chain, self.network.account, self.store.directory / "outbox.sqlite")
        return self._sender

    @property
    def state(self) -> JobState:
        """How far the job has come, as this process knows it."""
        return self._state

    # -- driving ------------------------------------------------------------------------------------------------

    def lock(self) -> bool:
        """Makes this process the one that drives the job; whether another had come further in between.

        Raises:
            ConfigError: LEDGER_LOCKED: another process drives it.
        """
        if self.store.locked:
            return False
        self.store.lock()
        before, self._state = self._state, self.store.state()
        return self._state != before

    def unlock(self) -> None:
        """Lets another process drive the job."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        self.store.unlock()

    def discard(self) -> None:
        """Removes what is on disk of a proposal that was never opened."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        self.store.discard()

    def settle(self) -> None:
        """Pushes on what an earlier process has sent. Call it before other threads use the sender.

        What the contracts refuse by now needs no pushing: whoever wanted it looks at the chain and asks again.
        """
        try:
            self.sender.account.settle()
        except ChainError as error:
            if "contract_reason" not in error.details:
                raise

    # -- writing ------------------------------------------------------------------------------------------------

    def save(self, **changes: Any) -> JobState:
        """Changes fields of the state; durable on return."""
        state = replace(self._state, **changes)
        self.store.save(state)
        self._state = state
        return state

    def take_attempt(self) -> int:
        """Uses up the next attempt number, which may then be sent, and never again."""
        number, self._state = self.store.take_attempt(self._state)
        return number

    def save_round(self, state: JobState, weights: bytes, optimizer: bytes) -> None:
        """Makes ``weights`` the checkpoint of ``state.rounds_done``, with what the server optimiser remembers."""
        self._state = self.store.save_round(state, weights, optimizer)

    def note_gas(self, what: str, receipt: TransactionReceipt) -> None:
        """Keeps what a transaction took. ``what`` names it, so that one that is found again is not counted twice."""
        if self._state.gas.get(what) != receipt.gas_used:
            self.save(gas={**self._state.gas, what: receipt.gas_used})

    def note_leg(self, result: LegResult) -> LegResult:
        """Keeps how a leg has ended."""
        entry = write_leg_result(result)
        self.save(legs={**self._state.legs, str(result.dataset_id): entry})
        return result

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def results(self) -> tuple[LegResult, ...]:
        """How legs have ended so far, in order of dataset."""
        found = (read_leg_result(entry) for entry in self._state.legs.values())
        return tuple(sorted(found, key=lambda result: result.dataset_id))

    @property
    def members(self) -> tuple[LegTerms, ...]:
        """The legs that take part: all, until it is known whose were accepted."""
        roster = self._state.roster or [leg.dataset_id for leg in self.spec.legs]
        return tuple(leg for leg in self.spec.legs if leg.dataset_id in roster)

    def epsilon_of(self, dataset_id: int, loss_micro: int) -> float:
        """Binding epsilon of a loss at this dataset's order, at the job's delta."""
        order = self.spec.leg(dataset_id).order
        return privacy.epsilon(loss_micro, order, self.spec.plan.delta_pico / PICO) if loss_micro else 0.0
