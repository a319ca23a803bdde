"""The contracts' transactions: each method waits for its receipt and says what the contract said when it refused."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, TypeVar

from eth_account.signers.local import LocalAccount

from usufruct.chain.account import Account
from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain, grant_struct
from usufruct.chain.entries import LegEntry, LegState
from usufruct.chain.events import DatasetRegistered, Event, HolderRegistered
from usufruct.chain.interface import interface
from usufruct.chain.typed_data import receipt_hash
from usufruct.domain.grant import SignedGrant
from usufruct.domain.ids import ZERO_HASH, address, job_id
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import ChainError

DEFAULT_GRANT_TERM_SECONDS = 30 * 86_400
_Kind = TypeVar("_Kind", bound=Event)


class Sender:
    """The contracts' transactions from one account.

    What the state of the contracts can tell is idempotent: asked twice, the second call sends nothing and returns the
    first one's receipt. Deposits, withdrawals and minting are not: each call moves money.
    """

    def __init__(self, chain: Chain, account: LocalAccount) -> None:
        self.chain = chain
        self.account = Account(chain.rpc, chain.chain_id, account)
        self.address = self.account.address

    # -- holders and datasets ------------------------------------------------------------------------------------

    def register_holder(self, operator: str, payout: str, endpoint: str, fingerprint: bytes) -> int:
        """Registers a holder whose admin key is this account; returns its number."""
        for event in self.chain.find_events("Registry", "HolderRegistered", None, _topic(self.address)):
            if isinstance(event, HolderRegistered) and (event.operator, event.payout, event.endpoint, event.fingerprint) == (
                address(operator, "operator"), address(payout, "payout"), endpoint, fingerprint,
            ):  # fmt: skip
                return event.holder_id
        receipt = self._send("Registry", "registerHolder", operator, payout, endpoint, fingerprint)
        return self._event(receipt, HolderRegistered).holder_id

    def set_operator(self, holder_id: int, operator: str) -> TransactionReceipt:
        """Replaces a holder's operator key; grants of the old one are void at once."""
        return self._send("Registry", "setOperator", holder_id, operator)

    def update_endpoint(self, holder_id: int, endpoint: str, fingerprint: bytes) -> TransactionReceipt:
        """Says where the holder's server is, and which TLS key it shows (SHA-256 of the public key)."""
        return self._send("Registry", "updateEndpoint", holder_id, endpoint, fingerprint)

    def register_dataset(
        self, holder_id: int, card_hash: bytes, token: str, price_units: int, min_cohort: int, order: int, cap_micro: int,
        max_loss_per_job_micro: int, max_grant_term_seconds: int = DEFAULT_GRANT_TERM_SECONDS,
    ) -> int:  # fmt: skip
        """Registers a dataset with its whole privacy budget; returns its number.

        A dataset with the same card and the same terms is not registered twice: that would double its budget.
        """
        init = (
            holder_id, card_hash, address(token, "token"), price_units, min_cohort, order, cap_micro,
            max_loss_per_job_micro, max_grant_term_seconds,
        )  # fmt: skip
        for event in self.chain.find_events(
            "Registry", "DatasetRegistered", None, holder_id.to_bytes(32, "big")
        ):
            if isinstance(event, DatasetRegistered) and astuple(event)[4:] == init:
                return event.dataset_id
        return self._event(self._send("Registry", "registerDataset", init), DatasetRegistered).dataset_id

    def retire_dataset(self, dataset_id: int) -> TransactionReceipt:
        """No new legs on the dataset from now on."""
        return self._send("Registry", "retireDataset", dataset_id)

    # -- money ---------------------------------------------------------------------------------------------------

    def deposit(self, token: str, units: int) -> TransactionReceipt:
        """Approves and deposits; the receipt is the deposit's."""
        approve = interface("TestToken").encode_call("approve", self.chain.compute_access, units)
        self.account.send(address(token, "token"), approve, "approve")
        return self._send("ComputeAccess", "deposit", token, units)

    def withdraw(self, token: str, units: int) -> TransactionReceipt:
        """Moves deposited money back to this account."""
        return self._send("ComputeAccess", "withdraw", token, units)

    def withdraw_earnings(self, token: str, holder_id: int) -> TransactionReceipt:
        """Pushes a holder's earnings to its payout address; anyone may."""
        return self._send("ComputeAccess", "withdrawEarnings", token, holder_id)

    def mint_test_token(self, token: str, owner: str, units: int) -> TransactionReceipt:
        """Mints the worthless token of tests and demonstrations."""
        data = interface("TestToken").encode_call("mint", owner, units)
        return self.account.send(address(token, "token"), data, "mint")

    # -- jobs ----------------------------------------------------------------------------------------------------

    def open_job(
        self, nonce: bytes, spec_hash: bytes, purpose_hash: bytes, legs: list[tuple[SignedGrant, int]],
        deliver_by_seconds: int, min_cohort: int,
    ) -> TransactionReceipt:  # fmt: skip
        """Opens the job of this nonce: checks all grants, locks all money, reserves all losses (10^-6 nat), or nothing.

        Raises:
            ChainError: GRANT_EXPIRED, BUDGET_SHORT, MONEY_SHORT, COHORT_TOO_SMALL and the like.
        """
        job = job_id(self.chain.chain_id, self.chain.compute_access, self.address, nonce)
        if self.chain.job_at(job, "latest") is not None:
            return self._earlier(self.chain.find_events("ComputeAccess", "JobOpened", job))
        init = (nonce, spec_hash, purpose_hash, deliver_by_seconds, min_cohort)
        asked = [(grant_struct(signed), signed.signature, loss) for signed, loss in legs]
        return self._send("ComputeAccess", "openJob", init, asked)

    def deliver(self, leg: LegEntry, receipt: LegReceipt, signature: bytes = b"") -> TransactionReceipt:
        """Delivers the receipt of a leg; its whole reservation is spent.

        Args:
            signature: the operator's; may be empty when this account is the operator.
        """
        now = self._now(leg)
        if now.state in (LegState.DELIVERED, LegState.PAID):
            if now.receipt_hash == receipt_hash(receipt, self.chain.chain_id, self.chain.compute_access):
                return self._earlier(self._leg_events("LegDelivered", leg))
            raise ChainError("the leg was delivered with another receipt", reason="LEG_NOT_OPEN")
        values = tuple(int(v) if isinstance(v, int) else v for v in astuple(receipt))
        return self._send("ComputeAccess", "deliver", now.to_struct(), values, signature)

    def acknowledge(self, leg: LegEntry, signature: bytes = b"") -> TransactionReceipt:
        """Accepts a delivered leg's receipt; its price becomes the holder's.

        Args:
            signature: the builder's; may be empty when this account is the builder.
        """
        now = self._now(leg)
        if now.state is LegState.PAID:
            return self._earlier(self._leg_events("LegPaid", leg))
        return self._send("ComputeAccess", "acknowledge", now.to_struct(), signature)

    def refund_expired(self, leg: LegEntry) -> TransactionReceipt:
        """After the deadline of a leg that was never delivered: money back to the payer's deposit, loss kept."""
        now = self._now(leg)
        if now.state is LegState.REFUNDED:
            return self._earlier(self._leg_events("LegRefunded", leg))
        return self._send("ComputeAccess", "refundExpired", now.to_struct())

    # -- usage log -----------------------------------------------------------------------------------------------

    def append_usage(
        self, holder_id: int, root: bytes, count: int, prev_root: bytes, first_sequence: int
    ) -> TransactionReceipt:
        """Appends a batch of usage records; this account is the operator.

        Args:
            prev_root: root of the batch before; 32 zero bytes for the first.
        """
        data = interface("UsageLog").encode_call("rootOf", holder_id, first_sequence)
        there = interface("UsageLog").decode_result(
            "rootOf", self.chain.rpc.call(self.chain.usage_log, data, "latest")
        )
        if there == root != ZERO_HASH:
            indexed = (holder_id.to_bytes(32, "big"), first_sequence.to_bytes(32, "big"))
            return self._earlier(self.chain.find_events("UsageLog", "UsageBatch", *indexed))
        return self._send("UsageLog", "append", holder_id, root, count, prev_root, first_sequence)

    # -- inside --------------------------------------------------------------------------------------------------

    def _send(self, contract: str, function: str, *arguments: Any) -> TransactionReceipt:
        where = {
            "Registry": self.chain.registry, "ComputeAccess": self.chain.compute_access, "UsageLog": self.chain.usage_log,
        }[contract]  # fmt: skip
        return self.account.send(where, interface(contract).encode_call(function, *arguments), function)

    def _now(self, leg: LegEntry) -> LegEntry:
        """The leg as the newest block has it: a transaction is judged there, not at a final block."""
        now = self.chain.leg_at(leg.job_id, leg.dataset_id, "latest")
        if now is None:
            raise ChainError("the leg is not open on chain", reason="LEG_NOT_OPEN")
        return now

    def _leg_events(self, name: str, leg: LegEntry) -> list[Event]:
        return self.chain.find_events("ComputeAccess", name, leg.job_id, leg.dataset_id.to_bytes(32, "big"))

    def _earlier(self, events: list[Event]) -> TransactionReceipt:
        if not events:
            raise ChainError("the node has no event for what its storage says; use another node")
        receipt = self.chain.rpc.receipt(events[0].transaction_hash)
        if receipt is None:
            raise ChainError("the node has no receipt for an event that it shows; ask again in a while")
        return receipt.again()

    def _event(self, receipt: TransactionReceipt, kind: type[_Kind]) -> _Kind:
        for log in receipt.logs:
            event = self.chain.read_log(log)
            if isinstance(event, kind):
                return event
        raise ChainError(f"the transaction has no {kind.__name__} event; use another node")


def _topic(value: str) -> bytes:
    return bytes(12) + bytes.fromhex(value[2:])
