"""An account that sends transactions: a crash at any point neither loses nor doubles one.

A transaction is signed and written into the :class:`Outbox` before it is broadcast, and from then on only pushed
forward: broadcast again where nodes have dropped it, signed again *with the same nonce* and higher fees where it is not
mined, and given another nonce only when it is final that the old one was used by something else.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount

from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.outbox import Attempt, Entry, Outbox, State
from usufruct.chain.reverts import refusal
from usufruct.chain.rpc import Rpc
from usufruct.domain.ids import to_hex
from usufruct.errors import ChainError

LONGEST_GAP = 16
"""Nonces below ours that nothing fills and that are filled with empty transactions; more means a lying node."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 1.0
SPARE_GAS = 30_000
"""Allowed above the estimate and a quarter: other transactions may make a word of storage new, which costs 17,100 more."""
_WAITS = ("nonce", "already", "underpriced", "known")
"""In nodes' words for a transaction whose nonce is used or waits already: the chain will tell by which."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SendPolicy:
    """How long things take, and what they may cost.

    Attributes:
        mined_seconds: how long ``send`` waits for the transaction to be mined; it goes on afterwards all the same.
        replace_seconds: not mined for so long, it is signed again with higher fees.
        rebroadcast_seconds: how often what is not mined is broadcast again.
        final_seconds: how long ``wait_final`` waits.
        most_fee_per_gas_wei: no fee is ever bid above this.
    """

    mined_seconds: float = 180.0
    replace_seconds: float = 60.0
    rebroadcast_seconds: float = 15.0
    final_seconds: float = 1800.0
    most_fee_per_gas_wei: int = 500 * 10**9


class Account:
    """An account that signs and sends. Any thread may use it; two processes with one key need an outbox each.

    Args:
        outbox: the outbox's file. None keeps it in memory: then a crash loses what was not mined.
    Raises:
        ConfigError: the outbox is open in another process, or is another key's.
    """

    def __init__(
        self,
        rpc: Rpc,
        chain_id: int,
        account: LocalAccount,
        outbox: Path | None = None,
        policy: SendPolicy | None = None,
    ) -> None:
        self.rpc = rpc
        self.address = str(account.address)
        self._chain_id = chain_id
        self._account = account
        self._policy = policy or SendPolicy()
        self._outbox = Outbox(outbox, chain_id, self.address)
        self._lock = threading.Lock()
        self._broadcast_at: dict[bytes, float] = {}
        self._gap_since: tuple[int, float] | None = None

    def close(self) -> None:
        """Closes the outbox, so that another process may open it. What is in it goes on when it is opened again."""
        with self._lock:
            self._outbox.close()

    def send(self, to: str | None, data: bytes, doing: str, purpose: str | None = None) -> TransactionReceipt:
        """Signs, writes down, broadcasts and waits until the transaction is mined.

        Args:
            to: None creates a contract.
            doing: what is tried, for messages: "openJob".
            purpose: the caller's name for this transaction. Asked again with it, also after a crash, the same
                transaction is gone on with. One that has reverted is tried anew once that is final. Without a purpose
                each call is another transaction.
        Raises:
            ChainError: with the catalogue's reason for what the contract said, before anything is written down or
                because it reverted; REQUEST_ID_REUSED: the purpose is of another transaction. CHAIN_UNREACHABLE,
                CHAIN_DISAGREES or TRANSACTION_FAILED because it was not mined in time: it stays in the outbox.
        """
        purpose = purpose or f"unnamed {secrets.token_hex(16)}"
        until = time.monotonic() + self._policy.mined_seconds
        with self._lock:
            entry = self._outbox.find(purpose)
            entry = self._begin(purpose, doing, to, data) if entry is None else self._step(entry)
            if entry.reverted:
                self._estimate(to, data, doing)  # would it be refused again? then nobody needs to wait
            elif (entry.to, entry.data) != (to, data):
                raise ChainError(
                    f"{doing}: another transaction was sent for the same purpose", reason="REQUEST_ID_REUSED"
                )
            elif entry.receipt is not None:
                return entry.receipt.again()
        if entry.reverted:
            failed = self._until_final(purpose, until, lambda text: None)
            with self._lock:
                if failed.reverted and self._again(failed) == failed:
                    self._begin_anew(failed, to, data)
        return self._until_mined(purpose, doing, until)

    def sent(self, purpose: str) -> Entry | None:
        """What was sent for a purpose, as it was last seen; None if nothing was."""
        with self._lock:
            return self._outbox.find(purpose)

    def wait_final(self, purpose: str, tell: Tell = lambda text: None) -> TransactionReceipt:
        """Waits until a transaction that was sent is final. One that is reorganised away is broadcast again.

        Args:
            tell: called with a line whenever there is progress.
        Raises:
            ChainError: as :meth:`send`; NOT_FOUND: nothing was sent for this purpose.
        """
        entry = self._until_final(purpose, time.monotonic() + self._policy.final_seconds, tell)
        assert entry.receipt is not None
        if entry.reverted:
            raise self._why(entry)
        return entry.receipt

    def settle(self) -> int:
        """Pushes everything that is not final forward by one step; how many are not final.

        For whoever runs long: after a start, and now and then.
        """
        with self._lock:
            for entry in self._outbox.open_entries():
                self._step(entry)
            self._fill_gap(self.rpc.nonce(self.address, "latest"))
            return len(self._outbox.open_entries())

    # -- waiting -------------------------------------------------------------------------------------------------

    def _until_mined(self, purpose: str, doing: str, until: float) -> TransactionReceipt:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._lock:
                entry = self._push(purpose, doing)
            if entry.reverted:
                raise self._why(entry)
            if entry.receipt is not None:
                return entry.receipt
            if time.monotonic() > until:
                raise ChainError(
                    f"{doing}: the transaction was not mined in time; it may still be, and asked again it is gone on with",
                    reason="TRANSACTION_FAILED",
                )
            threading.Event().wait(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 1.5)

    def _until_final(self, purpose: str, until: float, tell: Tell) -> Entry:
        pause, start, told = FIRST_PAUSE_SECONDS, None, ""
        while True:
            with self._lock:
                entry = self._push(purpose, purpose)
            if entry.state is State.FINAL:
                return entry
            final = self.rpc.final_block().number
            start = final if start is None else start
            text = "waiting for the transaction to be mined"
            if entry.receipt is not None:
                at = max(entry.receipt.block_number, start)
                text = f"waiting for finality: {max(0, min(final, at) - start)} of {at - start} blocks"
            if text != told:
                tell(text)
                told = text
            if time.monotonic() > until:
                raise ChainError(
                    f"{entry.doing}: the transaction is not final yet; asked again it is gone on with",
                    reason="TRANSACTION_FAILED",
                )
            threading.Event().wait(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 1.5)

    def _push(self, purpose: str, doing: str) -> Entry:
        """One step of this transaction, after those whose nonces come before."""
        entry = self._outbox.find(purpose)
        if entry is None:
            raise ChainError(f"nothing was sent for {doing}", reason="NOT_FOUND")
        if entry.state is State.PENDING:
            counted = self.rpc.nonce(self.address, "latest")
            for earlier in self._outbox.open_entries(counted):
                if earlier.nonce < entry.nonce:
                    self._step(earlier)
            self._fill_gap(counted)
        return self._step(entry)

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, entry: Entry) -> Entry:
        """Looks where a transaction stands, writes it down, and does what pushes it forward."""
        if entry.state is State.FINAL:
            return entry
        # asked before the receipt: what is in its block afterwards, and no higher, stays there
        final = -1 if entry.state is State.PENDING else self.rpc.final_block().number
        for attempt in reversed(entry.attempts):
            receipt = self.rpc.receipt(attempt.hash)
            if receipt is None:
                continue
            state = State.FINAL if receipt.block_number <= final else State.MINED
            if (state, receipt) != (entry.state, entry.receipt):
                self._outbox.mark(entry.purpose, state, receipt)
            self._broadcast_at.pop(entry.attempts[-1].hash, None)
            return self._again(entry)
        if entry.state is State.MINED:
            self._outbox.mark(entry.purpose, State.PENDING, None)
            entry = self._again(entry)
        if self.rpc.nonce(self.address, "latest") > entry.nonce:
            return self._used_by_another(entry)
        if self._due(entry):
            self._broadcast(self._replaced(entry))
        return self._again(entry)

    def _again(self, entry: Entry) -> Entry:
        found = self._outbox.find(entry.purpose)
        assert found is not None
        return found

    def _due(self, entry: Entry) -> bool:
        """Whether it is time to broadcast: for the first time in this process, or again."""
        at = self._broadcast_at.get(entry.attempts[-1].hash)
        return at is None or time.monotonic() - at >= self._policy.rebroadcast_seconds

    def _broadcast(self, entry: Entry) -> None:
        """Gives the latest attempt to the nodes. What they say of its nonce is not believed: the chain will show."""
        attempt = entry.attempts[-1]
        try:
            self.rpc.send_raw(attempt.raw)
        except RpcRefused as error:
            if not any(word in error.message for word in _WAITS):
                raise self._refused(error, entry.doing) from error
        self._broadcast_at[attempt.hash] = time.monotonic()

    def _replaced(self, entry: Entry) -> Entry:
        """The transaction with an attempt more, if its last one has waited long and higher fees are allowed."""
        last = entry.attempts[-1]
        if time.time() - last.signed_seconds < self._policy.replace_seconds:
            return entry
        _, fee, tip = self._fees()
        # nodes take a replacement only if it bids an eighth more, both for the fee and for the tip
        fee = max(fee, last.max_fee_wei + last.max_fee_wei // 8 + 1)
        if tip is not None and last.tip_wei is not None:
            tip = max(tip, last.tip_wei + last.tip_wei // 8 + 1)
        if fee > self._policy.most_fee_per_gas_wei:
            return entry
        signed = self._sign(entry.to, entry.data, entry.nonce, last.gas, fee, tip)
        self._outbox.add_attempt(entry.purpose, signed)
        return self._again(entry)

    def _used_by_another(self, entry: Entry) -> Entry:
        """The nonce is used, and not by an attempt that a node shows. Another nonce, once that is final."""
        final = self.rpc.final_block().number
        if self.rpc.nonce_at(self.address, final) <= entry.nonce:
            return entry
        if any(self.rpc.is_known(attempt.hash) for attempt in entry.attempts):
            return entry
        self._check_another_used(entry, final)
        if entry.purpose.startswith(_GAP):
            self._outbox.forget(entry.purpose)
            return entry
        self._begin_anew(entry, entry.to, entry.data)
        return self._again(entry)

    def _check_another_used(self, entry: Entry, final: int) -> None:
        """Finds the block in which the nonce was used, and that it lists no attempt of ours.

        A node that has merely lost its index of transactions would else make us send one twice.
        """
        without, used, forgotten = 0, final, False
        while used - without > 1:
            middle = (without + used) // 2
            try:
                counted = self.rpc.nonce_at(self.address, middle)
            except RpcRefused:
                without, forgotten = middle, True  # the node no longer knows the state of that block
                continue
            if counted > entry.nonce:
                used = middle
            else:
                without, forgotten = middle, False
        if forgotten:
            raise ChainError(
                f"{entry.doing}: which transaction used its nonce is too long ago for the node at {self.rpc.place}; use one "
                "that keeps the state of old blocks (an archive node) once",
                reason="TRANSACTION_FAILED",
            )
        block = self.rpc.block(used)
        if block is None or any(attempt.hash in block.transactions for attempt in entry.attempts):
            raise ChainError(
                f"the node at {self.rpc.place} does not find a transaction that its block {used} lists; use another node"
            )

    # -- beginning -----------------------------------------------------------------------------------------------

    def _begin(self, purpose: str, doing: str, to: str | None, data: bytes) -> Entry:
        gas = self._estimate(to, data, doing)
        fee, tip = self._affordable(gas, doing)
        nonce = self._outbox.next_nonce(self.rpc.nonce(self.address, "pending"))
        signed = self._sign(to, data, nonce, gas, fee, tip)
        self._outbox.add(purpose, doing, to, data, nonce, signed)
        found = self._outbox.find(purpose)
        assert found is not None
        return found

    def _begin_anew(self, entry: Entry, to: str | None, data: bytes) -> None:
        try:
            gas = self._estimate(to, data, entry.doing)
            fee, tip = self._affordable(gas, entry.doing)
        except ChainError as error:
            if not error.may_pass:
                self._outbox.forget(entry.purpose)  # nothing was done, and it is the caller's to decide again
            raise
        nonce = self._outbox.next_nonce(self.rpc.nonce(self.address, "pending"))
        self._outbox.begin_anew(entry.purpose, to, data, nonce, self._sign(to, data, nonce, gas, fee, tip))

    def _fill_gap(self, counted: int) -> None:
        """Fills nonces below ours that stay unused, because a foreign transaction there was dropped for good."""
        waiting = self._outbox.open_entries(counted)
        gap = waiting[0].nonce - counted if waiting else 0
        if not 0 < gap <= LONGEST_GAP:
            self._gap_since = None
            return
        if self._gap_since is None or self._gap_since[0] != counted:
            self._gap_since = (counted, time.monotonic())
        if time.monotonic() - self._gap_since[1] < self._policy.replace_seconds:
            return
        doing = "an empty transaction"
        for nonce in range(counted, waiting[0].nonce):
            if not self._outbox.has_used(nonce):
                gas = self._estimate(self.address, b"", doing)
                signed = self._sign(self.address, b"", nonce, gas, *self._affordable(gas, doing))
                self._outbox.add(f"{_GAP}{nonce}", doing, self.address, b"", nonce, signed)

    def _estimate(self, to: str | None, data: bytes, doing: str) -> int:
        """Gas to allow. Raises ChainError with what the contract says if it would refuse."""
        call = {"from": self.address, "data": to_hex(data), **({"to": to} if to else {})}
        try:
            gas = self.rpc.estimate_gas(call)
        except RpcRefused as error:
            raise self._refused(error, doing) from error
        # by chance, because two outboxes of one key would else sign the very same bytes for two wishes: one effect
        return gas + gas // 4 + SPARE_GAS + secrets.randbelow(SPARE_GAS)

    def _fees(self) -> tuple[int, int, int | None]:
        """What the chain asks per gas, what to bid, and the tip in that (EIP-1559): the base fee may double meanwhile."""
        base, most = self.rpc.newest().base_fee_wei, self._policy.most_fee_per_gas_wei
        if base is None:
            price = self.rpc.gas_price_wei()
            return price, min(most, price), None
        tip = self.rpc.tip_wei()
        return base, min(most, 2 * base + tip), min(most, tip)

    def _affordable(self, gas: int, doing: str) -> tuple[int, int | None]:
        base, fee, tip = self._fees()
        if base > fee:
            raise ChainError(
                f"{doing}: the chain asks {base} wei for gas, above the limit of {fee}; wait, or allow more",
                reason="TRANSACTION_FAILED",
            )
        if self.rpc.balance_wei(self.address) < gas * fee:
            raise ChainError(
                f"{doing}: does {self.address} have enough of the chain's coin for gas? It needs {gas * fee} wei in hand",
                reason="TRANSACTION_FAILED",
            )
        return fee, tip

    def _sign(
        self, to: str | None, data: bytes, nonce: int, gas: int, fee_wei: int, tip_wei: int | None
    ) -> Attempt:
        fees = (
            {"gasPrice": fee_wei}
            if tip_wei is None
            else {"type": 2, "maxFeePerGas": fee_wei, "maxPriorityFeePerGas": tip_wei}
        )
        fields: dict[str, Any] = {
            "chainId": self._chain_id, "nonce": nonce, "to": to or b"", "value": 0, "data": data, "gas": gas, **fees,
        }  # fmt: skip
        signed = self._account.sign_transaction(fields)
        return Attempt(
            bytes(signed.hash), bytes(signed.raw_transaction), gas, fee_wei, tip_wei, int(time.time())
        )

    # -- what went wrong -----------------------------------------------------------------------------------------

    def _why(self, entry: Entry) -> ChainError:
        """The contract's reason, from running the call again on its block."""
        assert entry.receipt is not None
        try:
            if entry.to is not None:
                self.rpc.call(entry.to, entry.data, entry.receipt.block_number, sender=self.address)
        except RpcRefused as error:
            return refusal(entry.doing, error.data)
        return refusal(entry.doing, None)

    def _refused(self, error: RpcRefused, doing: str) -> ChainError:
        if error.data is not None:
            return refusal(doing, error.data)
        hint = (
            f"; does {self.address} have enough of the chain's coin for gas?"
            if "fund" in error.message
            else ""
        )
        return ChainError(f"{doing}: {error.message}{hint}", reason="TRANSACTION_FAILED")


_GAP = "gap "
"""Begins the purpose of an empty transaction that only uses up a nonce."""
