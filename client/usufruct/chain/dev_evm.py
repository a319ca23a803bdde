"""The development chain's machine: py-evm with one block per transaction and the wall clock's time.

Only for development, demonstrations and tests: everything is in memory, and whoever reaches it may fund accounts and
move its clock. Needs the extra ``demo`` (py-evm).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eth.chains.base import MiningChain
from eth.constants import (
    BLANK_ROOT_HASH,
    POST_MERGE_DIFFICULTY,
    POST_MERGE_MIX_HASH,
    POST_MERGE_NONCE,
    ZERO_ADDRESS,
)
from eth.db.atomic import AtomicDB
from eth.db.backends.memory import MemoryDB
from eth.exceptions import Revert
from eth.vm.forks.cancun import CancunVM
from eth.vm.spoof import SpoofTransaction
from eth_keys.datatypes import PrivateKey
from eth_utils.exceptions import ValidationError

Header = Any
"""A block's header. py-evm's own annotations of chains and machines are incomplete, so it is used untyped here."""

DEV_CHAIN_ID = 1337
BLOCK_GAS_LIMIT = 30_000_000
FAUCET_WEI = 10**27
MOST_ANSWERS = 10_000
STALE_SECONDS = 2
"""A reader of the newest block finds it at most this old; an empty block is mined if need be."""


class Reverted(Exception):
    """A call reverted; ``data`` is what the contract said."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


class Rejected(Exception):
    """A transaction or request that the node does not take; the message says why."""


@dataclass(frozen=True)
class MinedTransaction:
    """A transaction in its block; every block has at most one."""

    transaction: Any
    header: Header
    succeeded: bool
    gas_used: int
    effective_gas_price: int
    contract: bytes | None
    logs: tuple[Log, ...]
    bloom: int


@dataclass(frozen=True)
class Log:
    """One event of a transaction."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    transaction_hash: bytes
    log_index: int


class _DevVM(CancunVM):
    """Cancun, but a block may have its parent's second: a burst of blocks does not run ahead of the wall clock."""

    @classmethod
    def validate_header(cls, header: Header, parent_header: Header) -> None:
        if header.timestamp == parent_header.timestamp:
            header = header.copy(timestamp=parent_header.timestamp + 1)
        super().validate_header(header, parent_header)


class _DevChain(MiningChain):
    chain_id = DEV_CHAIN_ID
    vm_configuration: Any = ((0, _DevVM),)


class DevEvm:
    """A chain in memory. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._answers: dict[tuple[bytes, bytes, bytes, bytes, int], bytes] = {}
        self._faucet = PrivateKey(secrets.token_bytes(32))
        self._offset_seconds = 0
        genesis: Any = {
            "coinbase": ZERO_ADDRESS,
            "difficulty": POST_MERGE_DIFFICULTY,
            "mix_hash": POST_MERGE_MIX_HASH,
            "nonce": POST_MERGE_NONCE,
            "extra_data": b"",
            "gas_limit": BLOCK_GAS_LIMIT,
            "receipt_root": BLANK_ROOT_HASH,
            "transaction_root": BLANK_ROOT_HASH,
            "timestamp": self.now_seconds(),
        }
        rich: Any = {"balance": FAUCET_WEI, "nonce": 0, "code": b"", "storage": {}}
        owner: Any = self._faucet.public_key.to_canonical_address()
        self._stored: dict[bytes, bytes] = {}
        database = AtomicDB(MemoryDB(self._stored))
        self._chain: Any = _DevChain.from_genesis(database, genesis, {owner: rich})
        self._headers: list[Header] = [self._chain.get_canonical_head()]
        self._numbers: dict[bytes, int] = {self._headers[0].hash: 0}
        self._mined: dict[bytes, MinedTransaction] = {}
        self._in_block: dict[int, bytes] = {}
        self._logs: list[Log] = []

    def copy(self) -> DevEvm:
        """Another chain with the same history; from here on each goes its own way."""
        other = DevEvm.__new__(DevEvm)
        with self._lock:
            other._lock = threading.RLock()
            other._faucet, other._offset_seconds = self._faucet, self._offset_seconds
            other._answers = self._answers.copy()
            other._stored = self._stored.copy()
            other._chain = _DevChain(AtomicDB(MemoryDB(other._stored)), self._chain.header)
            other._headers, other._numbers = self._headers.copy(), self._numbers.copy()
            other._mined, other._in_block = self._mined.copy(), self._in_block.copy()
            other._logs = self._logs.copy()
        return other

    # -- time and blocks -----------------------------------------------------------------------------------------

    def now_seconds(self) -> int:
        """The wall clock and what :meth:`increase_time` has added, UTC seconds."""
        return int(time.time()) + self._offset_seconds

    def increase_time(self, seconds: int) -> None:
        """Moves the chain's clock ahead and mines a block there; it never goes back."""
        if seconds < 0:
            raise Rejected("time does not go back")
        with self._lock:
            self._offset_seconds += seconds
            self.mine()

    def mine(self) -> None:
        """Mines an empty block."""
        with self._lock:
            self._begin()
            self._end()

    def freshen(self) -> None:
        """Mines an empty block if the newest one is older than :data:`STALE_SECONDS`."""
        with self._lock:
            if self.now_seconds() - self.head.timestamp > STALE_SECONDS:
                self.mine()

    @property
    def head(self) -> Header:
        """Header of the newest block."""
        return self._headers[-1]

    def header(self, number: int) -> Header | None:
        """Header of block ``number``; None if there is none yet."""
        return self._headers[number] if 0 <= number < len(self._headers) else None

    def header_by_hash(self, block_hash: bytes) -> Header | None:
        """Header of the block of this hash; None if there is none."""
        number = self._numbers.get(block_hash)
        return None if number is None else self._headers[number]

    def _begin(self) -> None:
        parent = self.head
        timestamp = max(parent.timestamp, self.now_seconds())
        header = self._chain.create_header_from_parent(parent, gas_limit=BLOCK_GAS_LIMIT, timestamp=timestamp)
        self._chain.header = header

    def _end(self) -> Header:
        header = self._chain.mine_block().header
        self._headers.append(header)
        self._numbers[header.hash] = header.block_number
        return header

    # -- transactions --------------------------------------------------------------------------------------------

    def send_raw(self, raw: bytes) -> bytes:
        """Executes a signed transaction in a block of its own; returns its hash. Raises :class:`Rejected`."""
        with self._lock:
            try:
                transaction = self._vm(self.head).get_transaction_builder().decode(raw)
            except Exception as error:
                raise Rejected("the transaction cannot be read") from error
            if transaction.hash in self._mined:
                raise Rejected("already known")
            self._check_sender(transaction)
            self._begin()
            try:
                _, receipt, computation = self._chain.apply_transaction(transaction)
            except (ValidationError, ValueError) as error:
                raise Rejected(str(error)) from error
            header = self._end()
            self._record(transaction, receipt, computation, header)
            return bytes(transaction.hash)

    def _check_sender(self, transaction: Any) -> None:
        """The two common faults, in the words that other nodes use."""
        state = self._vm(self.head).state
        due = state.get_nonce(transaction.sender)
        if transaction.nonce != due:
            raise Rejected(f"nonce too {'low' if transaction.nonce < due else 'high'}")
        if (
            state.get_balance(transaction.sender)
            < transaction.value + transaction.gas * transaction.max_fee_per_gas
        ):
            raise Rejected("insufficient funds for gas * price + value")

    def _record(self, transaction: Any, receipt: Any, computation: Any, header: Header) -> None:
        logs = tuple(
            Log(
                address=bytes(log.address),
                topics=tuple(int(t).to_bytes(32, "big") for t in log.topics),
                data=bytes(log.data),
                block_number=header.block_number,
                block_hash=bytes(header.hash),
                transaction_hash=bytes(transaction.hash),
                log_index=index,
            )
            for index, log in enumerate(receipt.logs)
        )
        tip = min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - header.base_fee_per_gas)
        mined = MinedTransaction(
            transaction=transaction,
            header=header,
            succeeded=computation.is_success,
            gas_used=receipt.gas_used,
            effective_gas_price=header.base_fee_per_gas + tip,
            contract=bytes(computation.msg.storage_address) if computation.msg.is_create else None,
            logs=logs,
            bloom=receipt.bloom,
        )
        self._mined[bytes(transaction.hash)] = mined
        self._in_block[header.block_number] = bytes(transaction.hash)
        self._logs.extend(logs)

    def mined(self, transaction_hash: bytes) -> MinedTransaction | None:
        """The transaction of this hash, None if unknown."""
        return self._mined.get(transaction_hash)

    def transaction_in(self, number: int) -> bytes | None:
        """Hash of the transaction in block ``number``, if it has one."""
        return self._in_block.get(number)

    def fund(self, address: bytes, wei: int) -> bytes:
        """Sends ``wei`` from the faucet; returns the transaction's hash."""
        if not 0 <= wei <= FAUCET_WEI // 1000:
            raise Rejected(f"the faucet gives 0 to {FAUCET_WEI // 1000} wei at once")
        with self._lock:
            unsigned = self._unsigned(self._vm(self.head), address, wei, b"", 21_000, self._faucet_nonce())
            return self.send_raw(unsigned.as_signed_transaction(self._faucet).encode())

    def _faucet_nonce(self) -> int:
        return self.nonce(self._faucet.public_key.to_canonical_address(), self.head)

    # -- state ---------------------------------------------------------------------------------------------------

    def balance(self, address: bytes, at: Header) -> int:
        """Balance in wei."""
        with self._lock:
            return int(self._vm(at).state.get_balance(address))

    def nonce(self, address: bytes, at: Header) -> int:
        """How many transactions the account has sent."""
        with self._lock:
            return int(self._vm(at).state.get_nonce(address))

    def code(self, address: bytes, at: Header) -> bytes:
        """The contract's code; empty for an account."""
        with self._lock:
            return bytes(self._vm(at).state.get_code(address))

    def storage(self, address: bytes, slot: int, at: Header) -> int:
        """One word of a contract's storage."""
        with self._lock:
            return int(self._vm(at).state.get_storage(address, slot))

    def call(self, sender: bytes, to: bytes, data: bytes, value: int, at: Header) -> bytes:
        """Runs a call on the state after block ``at`` and forgets its effects; without ``to``, creation code. What a call gave at a
        block it gives again, so that is remembered.

        Raises:
            Reverted.
        """
        known = at.hash, sender, to, data, value
        with self._lock:
            if known in self._answers:
                return self._answers[known]
            vm = self._vm(at)
            state = vm.state
            if not to:
                return self._output(self._spoof(vm, sender, to, data, value)[0])
            computation = vm.execute_bytecode(
                origin=sender, gas_price=0, gas=BLOCK_GAS_LIMIT, to=to, sender=sender, value=value, data=data,
                code=state.get_code(to),
            )  # fmt: skip
            output = self._output(computation)
            while len(self._answers) >= MOST_ANSWERS:
                del self._answers[next(iter(self._answers))]
            self._answers[known] = output
        return output

    def estimate_gas(self, sender: bytes, to: bytes, data: bytes, value: int) -> int:
        """Gas limit that the transaction needs in the next block, with a fifth to spare. Raises :class:`Reverted`."""
        with self._lock:
            self._begin()
            computation, intrinsic_gas = self._spoof(self._vm(self._chain.header), sender, to, data, value)
            self._output(computation)
            spent: int = intrinsic_gas + computation.get_gas_used()
        # a call passes on at most 63/64 of its gas, and refunds come only at the end: leave room for both
        return min(BLOCK_GAS_LIMIT, spent + spent // 5)

    def logs(
        self, first_block: int, last_block: int, addresses: set[bytes], topics: list[set[bytes]]
    ) -> Iterator[Log]:
        """Events of a range of blocks; an empty set allows anything."""
        for log in tuple(self._logs):
            if not first_block <= log.block_number <= last_block or (
                addresses and log.address not in addresses
            ):
                continue
            if len(topics) > len(log.topics):
                continue
            if all(not wanted or topic in wanted for wanted, topic in zip(topics, log.topics, strict=False)):
                yield log

    # -- inside --------------------------------------------------------------------------------------------------

    def _vm(self, header: Header) -> Any:
        return self._chain.get_vm(header)

    def _spoof(self, vm: Any, sender: bytes, to: bytes, data: bytes, value: int) -> tuple[Any, int]:
        """Runs a transaction that nobody has signed and nobody pays for, on a state that is thrown away.

        Returns:
            The computation, and what the transaction takes before anything is run.
        """
        vm.state.set_balance(sender, FAUCET_WEI)
        unsigned = self._unsigned(vm, to, value, data, BLOCK_GAS_LIMIT, vm.state.get_nonce(sender))
        computation = vm.state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        return computation, unsigned.intrinsic_gas

    def _unsigned(self, vm: Any, to: bytes, value: int, data: bytes, gas: int, nonce: int) -> Any:
        return vm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=DEV_CHAIN_ID,
            nonce=nonce,
            max_priority_fee_per_gas=0,
            max_fee_per_gas=2 * self.head.base_fee_per_gas,
            gas=gas,
            to=to,
            value=value,
            data=data,
            access_list=(),
        )

    @staticmethod
    def _output(computation: Any) -> bytes:
        if isinstance(computation._error, Revert):
            raise Reverted(bytes(computation.output))
        if computation.is_error:
            raise Rejected(f"execution failed: {type(computation._error).__name__}")
        return bytes(computation.output)
