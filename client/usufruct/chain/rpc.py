"""The chain behind one or several JSON-RPC endpoints, which must agree.

*Guarantee*: with several endpoints, whatever decides something (a view or events at a block, a block's hash, a receipt)
was answered alike by all of them. One that lies can stop everything, and nothing else; one that lags makes final blocks
older, until the time limit. Hints (fees, nonces, the newest block) are the smallest of what they say. Transactions are
given to all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from usufruct.chain.answers import (
    MOST_BLOCK,
    Block,
    Log,
    Transaction,
    TransactionReceipt,
    read_block,
    read_data,
    read_logs,
    read_number,
    read_receipt,
    read_transaction,
)
from usufruct.chain.endpoint import Endpoint, RpcRefused
from usufruct.domain.ids import to_hex
from usufruct.errors import ChainError, ConfigError

PATIENCE_SECONDS = 20.0
"""How long endpoints may differ before that is an error."""
LAG_SECONDS = 300.0
"""How long the slowest endpoint may take to have a final block that the fastest has."""
FINALITY_SECONDS = 1800.0
"""How long a block may take to become final; Ethereum's take 13 to 20 minutes."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
T = TypeVar("T")


class Rpc:
    """A chain's JSON-RPC endpoints. Any thread may use it. All methods raise :class:`ChainError`.

    CHAIN_UNREACHABLE: one of them does not answer. CHAIN_DISAGREES: they contradict each other.
    :class:`RpcRefused`: they answered with an error.

    Args:
        urls: one, or several that must agree, as a list or as text with spaces between. They may contain keys, so messages
            name only their hosts.
        timeout_seconds: for each answer.
        confirmations: None: final is what the chain calls ``finalized``; a number: that many blocks below the newest.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        timeout_seconds: float,
        confirmations: int | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        lag_seconds: float = LAG_SECONDS,
    ) -> None:
        listed = urls.split() if isinstance(urls, str) else list(urls)
        if not listed or len(set(listed)) != len(listed):
            raise ConfigError("name one RPC URL, or several different ones", field="rpc_url")
        self._endpoints = [Endpoint(url, timeout_seconds) for url in listed]
        self._confirmations = confirmations
        self._patience_seconds, self._lag_seconds = patience_seconds, lag_seconds
        self._lock = threading.Lock()
        self._goal: tuple[int, float] | None = None
        self._final: Block | None = None
        self.place = " and ".join(endpoint.place for endpoint in self._endpoints)

    def request(self, method: str, *params: Any) -> Any:
        """Any method of the first endpoint, as JSON: for what only development chains know."""
        return self._endpoints[0].request(method, *params)

    # -- what decides: all alike ---------------------------------------------------------------------------------

    def chain_id(self) -> int:
        """The chain's number (EIP-155)."""
        return self._agreed(read_number, "eth_chainId")

    def block(self, number: int) -> Block | None:
        """A block by number; None if there is none yet."""
        return self._agreed(read_block, "eth_getBlockByNumber", hex(number), False)

    def final_block(self) -> Block:
        """The newest block that is final at every endpoint."""
        until = time.monotonic() + self._patience_seconds
        for pause in _pauses():
            found = [self._newest_final(endpoint) for endpoint in self._endpoints]
            numbers = [block if isinstance(block, int) else block.number for block in found]
            self._check_lag(min(numbers), max(numbers))
            # a block that every endpoint gave alike need not be asked for by its number
            newest = found[0] if all(other == found[0] for other in found) else min(numbers)
            block = self.block(newest) if isinstance(newest, int) else newest
            if block is not None and self._follows(block):
                return block
            if time.monotonic() > until:
                self._disagree("a final block that was there before is gone")
            _wait(pause)
        raise AssertionError("unreachable")

    def wait_final(
        self, block_number: int, tell: Callable[[str], None], timeout_seconds: float = FINALITY_SECONDS
    ) -> None:
        """Waits until a block is final; ``tell`` is called with a line for people whenever there is progress.

        Raises:
            ChainError: LEG_NOT_OPEN: it takes longer; ask again later.
        """
        start, told, until = self.final_block().number, "", time.monotonic() + timeout_seconds
        final = start
        for pause in _pauses():
            if final >= block_number:
                return
            text = f"waiting for finality: {final - start} of {block_number - start} blocks"
            if text != told:
                tell(text)
                told = text
            if time.monotonic() > until:
                raise ChainError(
                    f"block {block_number} is not final after {timeout_seconds:g} s; go on later",
                    reason="LEG_NOT_OPEN",
                )
            _wait(pause)
            final = self.final_block().number

    def call(self, to: str | None, data: bytes, block: int | str, sender: str | None = None) -> bytes:
        """Runs a view at a block: its number, or "latest". Without ``to``, runs creation code, and keeps nothing."""
        named = {key: value for key, value in (("to", to), ("from", sender)) if value}
        transaction = {**named, "data": to_hex(data)}
        return self._agreed(read_data, "eth_call", transaction, self._tag(block))

    def code(self, address: str, block: int | str) -> bytes:
        """A contract's code; empty for an account."""
        return self._agreed(read_data, "eth_getCode", address, self._tag(block))

    def logs(
        self, addresses: list[str], topics: Sequence[bytes | None], first: int, last: int
    ) -> tuple[Log, ...]:
        """Events of a range of blocks in the chain's order; ``topics`` None allows any. RpcRefused: ask for less."""
        wanted: dict[str, Any] = {"address": addresses, "fromBlock": hex(first), "toBlock": hex(last)}
        if topics:
            wanted["topics"] = [None if topic is None else to_hex(topic) for topic in topics]

        def read(value: Any) -> tuple[Log, ...]:
            found = read_logs(value)
            if any(
                log.address not in addresses
                or not first <= log.block_number <= last
                or len(log.topics) < len(topics)
                or any(
                    want is not None and want != have for want, have in zip(topics, log.topics, strict=False)
                )
                for log in found
            ):
                raise ValueError("events that were not asked for")
            return found

        return self._agreed(read, "eth_getLogs", wanted, any_refusal_decides=True)

    def receipt(self, transaction_hash: bytes) -> TransactionReceipt | None:
        """Receipt of a mined transaction whose block every endpoint has; None while one of them has none.

        *Guarantee*: the block at its height is its block, and lists the transaction.
        """
        receipt = self._agreed(
            _of_hash(read_receipt, transaction_hash),
            "eth_getTransactionReceipt",
            to_hex(transaction_hash),
            none_decides=True,
        )
        if receipt is None:
            return None
        block = self._agreed(
            read_block, "eth_getBlockByNumber", hex(receipt.block_number), False, none_decides=True
        )
        if block is None or block.hash != receipt.block_hash:
            return None  # the node's own view changes just now: it counts once it fits
        if transaction_hash not in block.transactions:
            self._disagree("a receipt of a transaction that is not in its block")
        return receipt

    def transaction(self, transaction_hash: bytes) -> Transaction | None:
        """A transaction that every endpoint knows, mined or not."""
        return self._agreed(
            _of_hash(read_transaction, transaction_hash),
            "eth_getTransactionByHash",
            to_hex(transaction_hash),
            none_decides=True,
        )

    def nonce_at(self, address: str, block: int) -> int:
        """How many transactions the account had sent by the end of a block."""
        return self._agreed(_small, "eth_getTransactionCount", address, hex(block))

    def estimate_gas(self, transaction: dict[str, str]) -> int:
        """Gas that a transaction needs after the newest block, the most that one says.

        RpcRefused: it would revert, and why. For that all must say so alike.
        """
        estimates: list[int] = []

        def read(value: Any) -> None:
            estimates.append(_small(value))

        self._agreed(read, "eth_estimateGas", transaction, "latest")
        return max(estimates)

    # -- hints: the smallest -------------------------------------------------------------------------------------

    def newest(self) -> Block:
        """The newest block that every endpoint has. It may yet be replaced."""
        block = self.block(min(self._each(_small, "eth_blockNumber")))
        if block is None:
            raise ChainError(f"the chain at {self.place} has no blocks; try again in a while")
        return block

    def nonce(self, address: str, tag: str) -> int:
        """How many transactions the account has sent by "latest", or by "pending"."""
        return min(self._each(_small, "eth_getTransactionCount", address, tag))

    def balance_wei(self, address: str) -> int:
        """What the account has of the chain's coin, at the newest block."""
        return min(self._each(read_number, "eth_getBalance", address, "latest"))

    def gas_price_wei(self) -> int:
        """What the node suggests to pay for gas, all in all."""
        return min(self._each(read_number, "eth_gasPrice"))

    def tip_wei(self) -> int:
        """What the node suggests to pay for gas on top of the base fee."""
        return min(self._each(read_number, "eth_maxPriorityFeePerGas"))

    def is_known(self, transaction_hash: bytes) -> bool:
        """Whether any endpoint knows the transaction, mined or not."""
        named = to_hex(transaction_hash)
        mined = self._each(_of_hash(read_receipt, transaction_hash), "eth_getTransactionReceipt", named)
        waiting = self._each(_of_hash(read_transaction, transaction_hash), "eth_getTransactionByHash", named)
        return any(one is not None for one in (*mined, *waiting))

    def send_raw(self, raw: bytes) -> None:
        """Gives a signed transaction to every endpoint. Raises only if none of them takes it."""
        failures: list[ChainError] = []
        for endpoint in self._endpoints:
            try:
                endpoint.ask(read_data, "eth_sendRawTransaction", to_hex(raw))
            except ChainError as error:
                failures.append(error)
        if len(failures) == len(self._endpoints):
            raise failures[0]

    # -- inside --------------------------------------------------------------------------------------------------

    def _each(self, read: Callable[[Any], T], method: str, *params: Any) -> list[T]:
        return [endpoint.ask(read, method, *params) for endpoint in self._endpoints]

    def _agreed(
        self,
        read: Callable[[Any], T],
        method: str,
        *params: Any,
        none_decides: bool = False,
        any_refusal_decides: bool = False,
    ) -> T:
        """What all endpoints answer alike; asked again for a while where they do not.

        Args:
            none_decides: one None makes it None, since the others may be ahead.
            any_refusal_decides: one that refuses makes it refused, since the others may allow more.
        """
        until = time.monotonic() + self._patience_seconds
        for pause in _pauses():
            answers: list[T] = []
            refusals: list[RpcRefused] = []
            for endpoint in self._endpoints:
                try:
                    answers.append(endpoint.ask(read, method, *params))
                except RpcRefused as refused:
                    if any_refusal_decides:
                        raise
                    refusals.append(refused)
            if not answers and all(refused.data == refusals[0].data for refused in refusals):
                raise refusals[0]
            if not refusals and none_decides and None in answers:
                return answers[answers.index(None)]  # type: ignore[arg-type]
            if not refusals and all(answer == answers[0] for answer in answers):
                return answers[0]
            if time.monotonic() > until:
                self._disagree(f"{method} is answered differently")
            _wait(pause)
        raise AssertionError("unreachable")

    def _newest_final(self, endpoint: Endpoint) -> Block | int:
        """The newest final block of an endpoint, or its number where that is all one needs to ask for."""
        if self._confirmations is not None:
            return max(0, endpoint.ask(_small, "eth_blockNumber") - self._confirmations)
        try:
            block = endpoint.ask(read_block, "eth_getBlockByNumber", "finalized", False)
        except RpcRefused:
            block = None
        if block is None:
            raise ChainError(
                f"the chain at {endpoint.place} names no finalized block. If it is a chain without finality, set "
                "`confirmations`: how many blocks below the newest count as final"
            )
        return block

    def _check_lag(self, slowest: int, fastest: int) -> None:
        """Raises if the slowest endpoint needs longer than the limit to get where the fastest has been."""
        with self._lock:
            now = time.monotonic()
            if self._goal is None or slowest >= self._goal[0]:
                self._goal = (fastest, now) if fastest > slowest else None
            elif now - self._goal[1] > self._lag_seconds:
                self._disagree(f"one of them has been behind block {self._goal[0]} for too long")

    def _follows(self, block: Block) -> bool:
        """Whether a final block fits the ones before: what the chain calls finalized never goes back."""
        if self._confirmations is not None:
            return True
        with self._lock:
            before = self._final
            if before is not None and (
                block.number < before.number or (block.number == before.number and block != before)
            ):
                return False
            self._final = block
            return True

    def _tag(self, block: int | str) -> str:
        if isinstance(block, int):
            return hex(block)
        if len(self._endpoints) == 1:
            return block
        return hex(min(self._each(_small, "eth_blockNumber")))

    def _disagree(self, what: str) -> NoReturn:
        raise ChainError(
            f"{what} ({self.place}); nothing goes on until that is cleared up: use other RPC endpoints",
            reason="CHAIN_DISAGREES",
        )


def _small(value: Any) -> int:
    return read_number(value, MOST_BLOCK)


def _of_hash(read: Callable[[Any], T], transaction_hash: bytes) -> Callable[[Any], T]:
    """The reader, for an answer about this very transaction."""

    def checked(value: Any) -> T:
        found = read(value)
        if found is not None and getattr(found, "hash", None) != transaction_hash:
            raise ValueError("another transaction")
        return found

    return checked


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
