"""Reading the contracts: every view at a final block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from usufruct.chain.answers import Block, Log
from usufruct.chain.deployed_code import check_code
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.entries import (
    CallState,
    DatasetEntry,
    GrantUseEntry,
    HolderEntry,
    JobEntry,
    LegEntry,
    RecordCall,
    Settings,
)
from usufruct.chain.event_reader import read_logs
from usufruct.chain.events import Event, LegEvent, LegLocked, event_from_values
from usufruct.chain.interface import Interface, interface
from usufruct.chain.reverts import GRANT_REASONS
from usufruct.chain.rpc import FINALITY_SECONDS, Rpc
from usufruct.domain.grant import SignedGrant
from usufruct.domain.ids import ZERO_ADDRESS, ZERO_HASH, address, hash32, leg_id
from usufruct.errors import ChainError


class Chain:
    """A connection to one deployment of the contracts. Any thread may use it.

    Every view reads at the newest *final* block: the chain's ``finalized`` tag, or ``confirmations`` blocks below the
    newest one where the chain has no such tag. Where there is a parameter ``block``, it is another one to read at: a
    number, or "latest". All views raise :class:`ChainError` CHAIN_UNREACHABLE, or CHAIN_DISAGREES where several endpoints
    contradict each other.

    Attributes:
        chain_id: the chain's number (EIP-155).
        compute_access, registry, usage_log: addresses.
        deployment_block: no event of the three is older.
    """

    def __init__(self, rpc: Rpc, compute_access: str) -> None:
        self.rpc = rpc
        self._legs: dict[bytes, _KnownLeg] = {}
        self._at_final: tuple[bytes, dict[tuple[str, bytes], bytes]] = (b"", {})
        self._lock = threading.Lock()
        self.compute_access = address(compute_access, "compute_access")
        self.chain_id = rpc.chain_id()
        # the three addresses are immutables of the contract: the newest block says the same as a final one
        self.registry: str = self._constant("ComputeAccess", self.compute_access, "registry")
        self.usage_log: str = self._constant("ComputeAccess", self.compute_access, "usageLog")
        self.deployment_block: int = self._constant("Registry", self.registry, "deploymentBlock")
        addresses = {
            "Registry": self.registry, "ComputeAccess": self.compute_access, "UsageLog": self.usage_log,
        }  # fmt: skip
        check_code(rpc, self.chain_id, addresses)
        self._addresses = addresses
        self._interfaces: dict[str, Interface] = {where: interface(name) for name, where in addresses.items()}

    @classmethod
    def connect(
        cls,
        rpc_url: str | Sequence[str],
        compute_access: str,
        *,
        timeout_seconds: float = 5.0,
        confirmations: int | None = None,
    ) -> Chain:
        """Connects, and checks that the code of the contracts is this version's.

        Args:
            rpc_url: one JSON-RPC endpoint, or several that must agree (a list, or text with spaces between).
            confirmations: None reads at the chain's ``finalized`` tag; a number, that many blocks below the newest.
        Raises:
            ChainError: CHAIN_UNREACHABLE within about ``timeout_seconds``; WRONG_CHAIN; CHAIN_DISAGREES.
        """
        return cls(Rpc(rpc_url, timeout_seconds, confirmations), compute_access)

    # -- blocks --------------------------------------------------------------------------------------------------

    def final_block(self) -> tuple[int, int]:
        """Number and time (UTC seconds) of the newest final block."""
        block = self.rpc.final_block()
        return block.number, block.time_seconds

    def at_final(self) -> AtBlock:
        """The same connection as of the newest final block: views that belong together, and are asked of the chain once as long as
        that block stays the newest final one."""
        return AtBlock(self, self.rpc.final_block())

    def wait_final(
        self,
        block_number: int,
        tell: Callable[[str], None] = lambda text: None,
        timeout_seconds: float = FINALITY_SECONDS,
    ) -> None:
        """Waits until a block is final.

        Args:
            tell: called with a line for people whenever there is progress: "waiting for finality: 5 of 12 blocks".
        Raises:
            ChainError: LEG_NOT_OPEN: it takes longer; ask again later.
        """
        self.rpc.wait_final(block_number, tell, timeout_seconds)

    def block_time_seconds(self) -> int:
        """Time of the final block, UTC seconds."""
        return self.final_block()[1]

    # -- registry ------------------------------------------------------------------------------------------------

    def holder_count(self) -> int:
        """Holders are numbered from 1 to this."""
        return int(self._view("Registry", "holderCount"))

    def dataset_count(self) -> int:
        """Datasets are numbered from 1 to this."""
        return int(self._view("Registry", "datasetCount"))

    def holder(self, holder_id: int, block: int | str | None = None) -> HolderEntry:
        """A data holder. Raises ChainError NOT_FOUND."""
        (
            operator, revocation_epoch, fencing_epoch, admin, payout_from, payout, next_payout, next_admin, ledger_head,
            fingerprint, endpoint,
        ) = self._view("Registry", "holder", holder_id, block=block)  # fmt: skip
        if admin == ZERO_ADDRESS:
            raise ChainError(f"no holder has the number {holder_id} on this chain", reason="NOT_FOUND")
        return HolderEntry(
            holder_id, admin, operator, payout, endpoint, fingerprint, revocation_epoch, fencing_epoch, ledger_head,
            next_payout, payout_from, next_admin,
        )  # fmt: skip

    def settings(self, block: int | str | None = None) -> Settings:
        """The guardian's settings: pause and fee."""
        return Settings(*self._view("Registry", "settings", block=block))

    def call_nonce(self, signer: str) -> int:
        """The nonce that ``signer`` must sign its next call of Registry with (``bySignature``)."""
        return int(self._view("Registry", "nonces", signer, block="latest"))

    def datasets(self) -> list[DatasetEntry]:
        """All datasets, retired ones too, as of one block."""
        block = self.final_block()[0]
        count = self._view("Registry", "datasetCount", block=block)
        return [self.dataset(i, block) for i in range(1, count + 1)]

    def dataset(self, dataset_id: int, block: int | str | None = None) -> DatasetEntry:
        """A dataset and its budget. Raises ChainError DATASET_UNKNOWN."""
        (
            cap, reserved, spent, holder_id, order, active, token, price, per_job, per_grant, term, cohort, next_cap,
            cap_from, previous_id, next_id, card, policy,
        ) = self._view("Registry", "dataset", dataset_id, block=block)  # fmt: skip
        if holder_id == 0:
            raise ChainError(
                f"no dataset has the number {dataset_id} on this chain", reason="DATASET_UNKNOWN"
            )
        return DatasetEntry(
            dataset_id, holder_id, card, policy, price, token, cohort, order, cap, reserved, spent, per_job, per_grant,
            term, active, next_cap, cap_from, previous_id, next_id,
        )  # fmt: skip

    def grant_use(self, grant_hash: bytes, block: int | str | None = None) -> GrantUseEntry:
        """What a grant (its EIP-712 hash) has been used for, and whether it was cancelled."""
        name = hash32(grant_hash, "grant_hash")
        return GrantUseEntry(*self._view("Registry", "grantUse", name, block=block))

    def check_grant(
        self, signed: SignedGrant, spec_hash: bytes, purpose_hash: bytes, builder: str, loss_micro: int
    ) -> str:
        """Why the grant does not open this leg: a reason of the catalogue, "" if it does.

        One Solidity view answers the holder's server, the SDK and ``openJob`` alike.
        """
        number: int
        _, number = self._view(
            "Registry",
            "checkGrant",
            grant_struct(signed),
            signed.signature,
            spec_hash,
            purpose_hash,
            builder,
            loss_micro,
        )
        if not 0 <= number < len(GRANT_REASONS):
            raise self._inconsistent()
        return GRANT_REASONS[number][1]

    # -- money ---------------------------------------------------------------------------------------------------

    def deposit_of(self, token: str, owner: str) -> int:
        """Deposited and not locked, in the token's smallest unit."""
        return int(self._view("ComputeAccess", "depositOf", token, owner))

    def earnings_of(self, token: str, holder_id: int) -> int:
        """Earned and not withdrawn, in the token's smallest unit."""
        return int(self._view("ComputeAccess", "earningsOf", token, holder_id))

    def token_balance(self, token: str, owner: str) -> int:
        """What ``owner`` holds of an ERC-20 token outside the escrow, in its smallest unit."""
        token_interface = interface("TestToken")  # any ERC-20 answers balanceOf
        data = token_interface.encode_call("balanceOf", owner)
        answer = self.rpc.call(address(token, "token"), data, self.final_block()[0])
        return int(token_interface.decode_result("balanceOf", answer))

    def balance_wei(self, owner: str) -> int:
        """What ``owner`` has for gas, at the newest block."""
        return self.rpc.balance_wei(owner)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def job(self, job_id: bytes, block: int | str | None = None) -> JobEntry | None:
        """A job; None if it was never opened, or not yet at that block."""
        builder, *rest = self._view("ComputeAccess", "job", hash32(job_id, "job_id"), block=block)
        return None if builder == ZERO_ADDRESS else JobEntry(job_id, builder, *rest)

    def job_legs(self, job_id: bytes) -> list[LegEntry]:
        """All legs of a job in the order of its opening; empty if there is no such job at a final block."""
        block = self.final_block()[0]
        job = self.job(job_id, block)
        if job is None:
            return []
        histories = self._histories([job_id], self.deployment_block, block)
        if len(histories) != job.legs:
            raise self._inconsistent()
        return [
            self._matching(history, self._stored(job_id, dataset, block)).leg
            for dataset, history in histories.items()
        ]

    def leg(self, job_id: bytes, dataset_id: int, block: int | str | None = None) -> LegEntry | None:
        """One leg; None if there is none.

        *Guarantee*: the leg's data come from events, but are returned only if their hash, state included, is the one
        storage word that the contract holds: a node that invents, changes or withholds events is found out.
        """
        at = self.final_block()[0] if block is None else block
        name, stored = leg_id(job_id, dataset_id), self._stored(job_id, dataset_id, at)
        if stored == ZERO_HASH:
            return None
        with self._lock:
            known = self._legs.get(name)
        if known is not None and known.leg.stored_hash() == stored:
            return known.leg
        names = [job_id, dataset_id.to_bytes(32, "big")]
        history = [] if known is None else self._histories(names, known.opened_block, at).get(dataset_id, [])
        if not history:  # not known, or reorganised into an earlier block
            history = self._histories(names, self.deployment_block, at).get(dataset_id, [])
        found = self._matching(history, stored)
        with self._lock:
            self._legs[name] = found
        return found.leg

    def _stored(self, job_id: bytes, dataset_id: int, block: int | str) -> bytes:
        word: bytes = self._view("ComputeAccess", "legHash", leg_id(job_id, dataset_id), block=block)
        return word

    def _histories(self, names: list[bytes], first: int, block: int | str) -> dict[int, list[_KnownLeg]]:
        """Dataset -> every form that its leg had, from events whose first topics are the job and perhaps the dataset."""
        histories: dict[int, list[_KnownLeg]] = {}
        for event in self._find(self.compute_access, [None, *names], block, first):
            if isinstance(event, LegLocked):
                histories[event.dataset_id] = [_KnownLeg(event.leg, event.block_number)]
            elif isinstance(event, LegEvent) and event.dataset_id in histories:
                history = histories[event.dataset_id]
                history.append(replace(history[-1], leg=event.after(history[-1].leg)))
        return histories

    def _matching(self, history: list[_KnownLeg], stored: bytes) -> _KnownLeg:
        # with "latest", the last forms may be of blocks that came after the word was read
        for known in reversed(history):
            if known.leg.stored_hash() == stored:
                return known
        raise self._inconsistent()

    def usage_head(self, holder_id: int) -> tuple[int, int]:
        """Next sequence number of a holder's usage log, and the low 32 bits of the last batch's root."""
        following, low = self._view("UsageLog", "head", holder_id)
        return following, low

    def usage_root(self, holder_id: int, first_sequence: int, block: int | str | None = None) -> bytes:
        """Root of the usage batch that starts there; 32 zero bytes if none does."""
        root: bytes = self._view("UsageLog", "rootOf", holder_id, first_sequence, block=block)
        return root

    def verify_usage(self, holder_id: int, first_sequence: int, leaf: bytes, proof: list[bytes]) -> bool:
        """Whether the contract accepts that a leaf is in the batch that starts at ``first_sequence``."""
        return bool(self._view("UsageLog", "verify", holder_id, first_sequence, leaf, proof))

    def record_call(self, holder_id: int, sequence: int, block: int | str | None = None) -> RecordCall:
        """Where an auditor's call for a usage record stands."""
        state, answer_by_seconds = self._view("UsageLog", "recordCall", holder_id, sequence, block=block)
        if state not in tuple(CallState):
            raise self._inconsistent()
        return RecordCall(CallState(state), answer_by_seconds)

    def silences(self, holder_id: int) -> int:
        """How many calls for records a holder has left unanswered."""
        return int(self._view("UsageLog", "silences", holder_id))

    # -- events --------------------------------------------------------------------------------------------------

    def events(self, from_block: int | None = None, to_block: int | None = None) -> Iterator[Event]:
        """All events of the three contracts in the chain's order.

        Args:
            from_block: None starts at the deployment. to_block: inclusive; None ends at the newest final block.
        """
        first = self.deployment_block if from_block is None else max(from_block, self.deployment_block)
        last = self.final_block()[0] if to_block is None else to_block
        yield from self._logs([self.registry, self.compute_access, self.usage_log], [], first, last)

    def find_events(
        self, contract: str, event: str, *indexed: bytes | None, block: int | str = "latest"
    ) -> list[Event]:
        """Events by name and indexed values (32 bytes each; None allows any), up to ``block``."""
        topics = [interface(contract).topics[event], *indexed]
        return list(self._find(self._addresses[contract], topics, block))

    def _find(
        self, contract: str, topics: Sequence[bytes | None], block: int | str, first: int | None = None
    ) -> Iterator[Event]:
        last = block if isinstance(block, int) else self.rpc.newest().number
        return self._logs([contract], topics, self.deployment_block if first is None else first, last)

    def _logs(
        self, contracts: list[str], topics: Sequence[bytes | None], first: int, last: int
    ) -> Iterator[Event]:
        return map(self.read_log, read_logs(self.rpc, contracts, topics, first, last))

    def read_log(self, log: Log) -> Event:
        """The typed event of one of the three contracts."""
        known = self._interfaces.get(log.address)
        if known is None:
            raise self._inconsistent()
        name, values = known.decode_log(list(log.topics), log.data)
        try:
            return event_from_values(name, values, log.block_number, log.transaction_hash, log.log_index)
        except ValueError as error:  # a state that the contract does not have
            raise self._inconsistent() from error

    # -- inside --------------------------------------------------------------------------------------------------

    def _view(self, contract: str, function: str, *arguments: Any, block: int | str | None = None) -> Any:
        at = self.final_block()[0] if block is None else block
        abi = interface(contract)
        return abi.decode_result(
            function, self.rpc.call(self._addresses[contract], abi.encode_call(function, *arguments), at)
        )

    def _constant(self, contract: str, where: str, function: str) -> Any:
        abi = interface(contract)
        try:
            data = self.rpc.call(where, abi.encode_call(function), "latest")
        except RpcRefused as error:
            raise self._wrong_chain() from error
        if not data:
            raise self._wrong_chain()
        return abi.decode_result(function, data)

    def _wrong_chain(self) -> ChainError:
        return ChainError(
            f"there is no ComputeAccess of this version at {self.compute_access} on chain {self.chain_id}; "
            "check the RPC URL and the contract address",
            reason="WRONG_CHAIN",
            chain_id=self.chain_id,
        )

    def _inconsistent(self) -> ChainError:
        return ChainError(
            f"the events of the node at {self.rpc.place} do not fit the contracts' storage; use another node"
        )


class AtBlock(Chain):
    """A connection whose final block is a certain one; :meth:`Chain.at_final` makes it. What a contract answers at a block of one
    hash never changes, so it is asked once."""

    def __init__(self, chain: Chain, block: Block) -> None:
        self.__dict__.update(chain.__dict__)
        self._block = block
        with chain._lock:
            if chain._at_final[0] != block.hash:
                chain._at_final = block.hash, {}
            self._known = chain._at_final[1]

    def final_block(self) -> tuple[int, int]:
        """Number and time (UTC seconds) of the chosen block."""
        return self._block.number, self._block.time_seconds

    def at_final(self) -> AtBlock:
        """This one."""
        return self

    def view(self, contract: str, function: str, *arguments: Any) -> Any:
        """Any view of the contracts, by name."""
        return self.view_at(self._addresses[contract], contract, function, *arguments)

    def view_at(self, where: str, contract: str, function: str, *arguments: Any) -> Any:
        """A view of the contract at ``where``, which has the interface of ``contract``."""
        abi = interface(contract)
        call = where, abi.encode_call(function, *arguments)
        answer = self._known.get(call)
        if answer is None:
            answer = self._known[call] = self.rpc.call(*call, self._block.number)
        return abi.decode_result(function, answer)

    def _view(self, contract: str, function: str, *arguments: Any, block: int | str | None = None) -> Any:
        if block not in (None, self._block.number):
            return super()._view(contract, function, *arguments, block=block)
        return self.view(contract, function, *arguments)


@dataclass(frozen=True)
class _KnownLeg:
    """A leg, and the block that it was opened in: none of its events is older."""

    leg: LegEntry
    opened_block: int


def grant_struct(signed: SignedGrant) -> tuple[Any, ...]:
    """The Solidity struct ``Grant``."""
    grant = signed.grant
    return tuple(getattr(grant, field) for field in grant.__dataclass_fields__)
