"""The contracts' transactions: each method waits for its receipt and says what the contract said when it refused."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain.account import Account
from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain, grant_struct
from usufruct.chain.entries import HANDED_IN, CallState, DatasetTerms, LegEntry, LegState
from usufruct.chain.events import DatasetRegistered, Event, HolderRegistered, LegClosed
from usufruct.chain.interface import interface
from usufruct.chain.typed_data import call_hash, grant_hash, receipt_hash, sign
from usufruct.domain.grant import SignedGrant, SignedSponsorship
from usufruct.domain.ids import ZERO_ADDRESS, ZERO_HASH, address, job_id
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.errors import ChainError

_Kind = TypeVar("_Kind", bound=Event)


class Sender:
    """The contracts' transactions from one account.

    What the state of the contracts can tell is idempotent: asked twice, the second call sends nothing and returns the
    first one's receipt. Deposits, withdrawals, minting, revoking all grants and taking a fencing epoch are not: each call
    is another transaction, unless it is given a purpose. Every statement of a leg may be sent by anyone who has the
    signature of the one whose statement it is; where that is this account itself, the signature may be empty.

    Args:
        outbox_path: the outbox's file; None keeps it in memory, then a crash loses what was not mined.
    """

    def __init__(self, chain: Chain, account: LocalAccount, outbox_path: Path | None = None) -> None:
        self.chain = chain
        self.account = Account(chain.rpc, chain.chain_id, account, outbox_path)
        self.address = self.account.address

    def close(self) -> None:
        """Closes the outbox."""
        self.account.close()

    # -- holders -------------------------------------------------------------------------------------------------

    def register_holder(self, operator: str, payout: str, endpoint: str, fingerprint: bytes) -> int:
        """Registers a holder whose admin key is this account; returns its number."""
        for event in self.chain.find_events("Registry", "HolderRegistered", None, _topic(self.address)):
            if isinstance(event, HolderRegistered) and (event.operator, event.payout, event.endpoint, event.fingerprint) == (
                address(operator, "operator"), address(payout, "payout"), endpoint, fingerprint,
            ):  # fmt: skip
                return event.holder_id
        receipt = self._send_once("Registry", "registerHolder", operator, payout, endpoint, fingerprint)
        return self._event(receipt, HolderRegistered).holder_id

    def set_operator(self, holder_id: int, operator: str) -> TransactionReceipt:
        """Replaces a holder's operator key; whatever the old one signed and nobody used is void at once."""
        done = self.chain.holder(holder_id, "latest").operator == address(operator, "operator")
        told = ("HolderRegistered", "OperatorChanged")
        return self._unless(done, told, _word(holder_id), "setOperator", holder_id, operator)

    def update_endpoint(self, holder_id: int, endpoint: str, fingerprint: bytes) -> TransactionReceipt:
        """Says where the holder's server is, and which TLS key it shows (SHA-256 of the public key)."""
        entry = self.chain.holder(holder_id, "latest")
        done = (entry.endpoint, entry.fingerprint) == (endpoint, fingerprint)
        told = ("HolderRegistered", "EndpointChanged")
        return self._unless(done, told, _word(holder_id), "updateEndpoint", holder_id, endpoint, fingerprint)

    def schedule_payout(self, holder_id: int, payout: str) -> TransactionReceipt:
        """Announces another payout address, for 48 hours from now at the earliest; the zero address takes it back."""
        done = self.chain.holder(holder_id, "latest").next_payout == address(payout, "payout")
        return self._unless(done, ("PayoutScheduled",), _word(holder_id), "schedulePayout", holder_id, payout)

    def apply_payout(self, holder_id: int) -> TransactionReceipt:
        """Applies an announced payout address; anyone may, once its time has come."""
        return self._apply(("PayoutScheduled", "PayoutChanged"), _word(holder_id), "applyPayout", holder_id)

    def offer_admin(self, holder_id: int, admin: str) -> TransactionReceipt:
        """Offers the admin role to another key; the zero address takes the offer back."""
        done = self.chain.holder(holder_id, "latest").next_admin == address(admin, "admin")
        return self._unless(done, ("AdminOffered",), _word(holder_id), "offerAdmin", holder_id, admin)

    def accept_admin(self, holder_id: int) -> TransactionReceipt:
        """Takes the admin role that was offered to this account."""
        done = self.chain.holder(holder_id, "latest").admin == self.address
        return self._unless(done, ("AdminChanged",), _word(holder_id), "acceptAdmin", holder_id)

    def take_fencing_epoch(self, holder_id: int, epoch: int, ledger_head: bytes) -> TransactionReceipt:
        """Makes this server the only one of its holder; every earlier epoch ends.

        Asked twice it is two transactions: else two copies of one outbox would both believe that they took the epoch.

        Args:
            epoch: the present one plus one. ledger_head: hash of the local ledger's last row, 32 bytes.
        Raises:
            ChainError: FENCED_OUT: somebody else has taken that epoch.
        """
        return self._send("Registry", "takeFencingEpoch", holder_id, epoch, ledger_head)

    def revoke_grants(self, holder_id: int) -> TransactionReceipt:
        """Makes every grant void that the holder signed up to now. Asked twice, it does so twice."""
        return self._send("Registry", "revokeGrants", holder_id)

    def cancel_grant(self, signed: SignedGrant) -> TransactionReceipt:
        """Makes one grant void."""
        digest = grant_hash(signed.grant, self.chain.chain_id, self.chain.registry)
        done = self.chain.grant_use(digest, "latest").cancelled
        return self._unless(done, ("GrantCancelled",), digest, "cancelGrant", grant_struct(signed))

    # -- datasets ------------------------------------------------------------------------------------------------

    def register_dataset(
        self, holder_id: int, card_hash: bytes, token: str, order: int, cap_micro: int, terms: DatasetTerms, *,
        previous_id: int = 0, disjoint: bool = False,
    ) -> int:  # fmt: skip
        """Registers a dataset with its privacy budget; returns its number.

        A dataset with the same card and the same terms is not registered twice: that would double its budget.

        Args:
            order: Rényi order of the budget. cap_micro: the budget, 10^-6 nat.
            previous_id: the dataset that this is a new version of; its loss is inherited unless ``disjoint`` declares, on
                the record, that no unit is in both.
        """
        asked = (
            holder_id, previous_id, disjoint, card_hash, address(token, "token"), order, cap_micro, astuple(terms),
        )  # fmt: skip
        for event in self.chain.find_events("Registry", "DatasetRegistered", None, _word(holder_id)):
            if isinstance(event, DatasetRegistered) and astuple(event)[4:-1] == asked:
                return event.dataset_id
        return self._event(
            self._send_once("Registry", "registerDataset", asked), DatasetRegistered
        ).dataset_id

    def set_terms(self, dataset_id: int, terms: DatasetTerms) -> TransactionReceipt:
        """Changes price, policy, cohort and limits for legs that are opened from now on."""
        done = self.chain.dataset(dataset_id, "latest").terms == terms
        told = ("DatasetRegistered", "TermsChanged")
        return self._unless(done, told, _word(dataset_id), "setTerms", dataset_id, astuple(terms))

    def set_cap(self, dataset_id: int, cap_micro: int) -> TransactionReceipt:
        """Lowers a budget at once, or announces a higher one for 48 hours from now at the earliest."""
        entry = self.chain.dataset(dataset_id, "latest")
        done = cap_micro == (entry.next_cap_micro if entry.cap_from_seconds else entry.cap_micro)
        told = ("DatasetRegistered", "CapScheduled", "CapChanged")
        return self._unless(done, told, _word(dataset_id), "setCap", dataset_id, cap_micro)

    def apply_cap(self, dataset_id: int) -> TransactionReceipt:
        """Applies an announced budget; anyone may, once its time has come."""
        return self._apply(("CapScheduled", "CapChanged"), _word(dataset_id), "applyCap", dataset_id)

    def retire_dataset(self, dataset_id: int) -> TransactionReceipt:
        """No new legs on the dataset from now on."""
        done = not self.chain.dataset(dataset_id, "latest").active
        return self._unless(done, ("DatasetRetired",), _word(dataset_id), "retireDataset", dataset_id)

    # -- calls of Registry by signature --------------------------------------------------------------------------

    def by_signature(
        self, signer: str, data: bytes, deadline_seconds: int, signature: bytes
    ) -> TransactionReceipt:
        """Calls Registry in the name of ``signer``, who has signed the call (:func:`sign_call`)."""
        return self._send_once("Registry", "bySignature", signer, data, deadline_seconds, signature)

    # -- the guardian --------------------------------------------------------------------------------------------

    def set_paused(self, paused: bool) -> TransactionReceipt:
        """Stops new jobs and registrations, or lets them go on."""
        done = self.chain.settings("latest").paused == paused
        return self._unless(done, ("PausedChanged",), None, "setPaused", paused)

    def schedule_fee(self, fee_bps: int) -> TransactionReceipt:
        """Announces another fee, at most 500 ten-thousandths, for 7 days from now at the earliest."""
        settings = self.chain.settings("latest")
        done = settings.fee_from_seconds != 0 and settings.next_fee_bps == fee_bps
        return self._unless(done, ("FeeScheduled",), None, "scheduleFee", fee_bps)

    def apply_fee(self) -> TransactionReceipt:
        """Applies an announced fee; anyone may, once its time has come."""
        return self._apply(("FeeScheduled", "FeeChanged"), None, "applyFee")

    def offer_guardian(self, guardian: str) -> TransactionReceipt:
        """Offers the guardian's role to another account; the zero address takes the offer back."""
        newest = self._told(("GuardianOffered", "GuardianChanged"), None)[-1:]
        done = any(getattr(event, "guardian", None) == address(guardian, "guardian") for event in newest)
        return self._unless(done, ("GuardianOffered",), None, "offerGuardian", guardian)

    def accept_guardian(self) -> TransactionReceipt:
        """Takes the guardian's role that was offered to this account."""
        done = self.chain.settings("latest").guardian == self.address
        return self._unless(done, ("GuardianChanged",), None, "acceptGuardian")

    # -- money ---------------------------------------------------------------------------------------------------

    def deposit(self, token: str, units: int, purpose: str | None = None) -> TransactionReceipt:
        """Approves and deposits; the receipt is the deposit's.

        Args:
            purpose: the caller's name for this deposit. Asked again with it, also after a crash, nothing is sent twice.
        """
        approve = interface("TestToken").encode_call("approve", self.chain.compute_access, units)
        self.account.send(address(token, "token"), approve, "approve", purpose and f"approve, {purpose}")
        where, data = self._call("ComputeAccess", "deposit", token, units)
        return self.account.send(where, data, "deposit", purpose and f"deposit, {purpose}")

    def withdraw(
        self, token: str, units: int, to: str | None = None, purpose: str | None = None
    ) -> TransactionReceipt:
        """Moves deposited money out, to this account if nothing else is said; ``purpose`` as in :meth:`deposit`."""
        where, data = self._call("ComputeAccess", "withdraw", token, units, to or self.address)
        return self.account.send(where, data, "withdraw", purpose and f"withdraw, {purpose}")

    def withdraw_earnings(self, token: str, holder_id: int, purpose: str | None = None) -> TransactionReceipt:
        """Pushes a holder's earnings to its payout address; anyone may. Number 0 is the protocol.

        Args:
            purpose: as in :meth:`deposit`.
        """
        where, data = self._call("ComputeAccess", "withdrawEarnings", token, holder_id)
        return self.account.send(where, data, "withdrawEarnings", purpose and f"earnings, {purpose}")

    def mint_test_token(self, token: str, owner: str, units: int) -> TransactionReceipt:
        """Mints the worthless token of tests and demonstrations."""
        data = interface("TestToken").encode_call("mint", owner, units)
        return self.account.send(address(token, "token"), data, "mint")

    # -- opening -------------------------------------------------------------------------------------------------

    def open_job(
        self, nonce: bytes, spec_hash: bytes, purpose_hash: bytes, legs: list[tuple[SignedGrant, int]], *,
        accept_by_seconds: int, deliver_by_seconds: int, challenge_term_seconds: int, min_legs: int,
        arbiter: str = ZERO_ADDRESS, sponsorship: SignedSponsorship | None = None,
    ) -> TransactionReceipt:  # fmt: skip
        """Opens the job of this nonce: checks all grants, locks all money, reserves all losses (10^-6 nat), or nothing.

        Args:
            challenge_term_seconds: how long a delivered leg may be disputed; silence until its end pays the holder.
            min_legs: nobody trains before so many are accepted.
            arbiter: who decides disputes; the zero address: there are none.
            sponsorship: of a payer other than this account.
        Raises:
            ChainError: GRANT_EXPIRED, BUDGET_SHORT, MONEY_SHORT, COHORT_TOO_SMALL, PAUSED and the like.
        """
        job = job_id(self.chain.chain_id, self.chain.compute_access, self.address, nonce)
        if self.chain.job(job, "latest") is not None:
            return self._earlier(self.chain.find_events("ComputeAccess", "JobOpened", job))
        init = (
            nonce, spec_hash, purpose_hash, arbiter, accept_by_seconds, deliver_by_seconds, challenge_term_seconds,
            min_legs,
        )  # fmt: skip
        asked = [(grant_struct(signed), signed.signature, loss) for signed, loss in legs]
        if sponsorship is None:
            return self._send_once("ComputeAccess", "openJob", init, asked)
        signed = (astuple(sponsorship.sponsorship), sponsorship.signature)
        return self._send_once("ComputeAccess", "openSponsoredJob", init, asked, *signed)

    # -- before training -----------------------------------------------------------------------------------------

    def accept(self, leg: LegEntry, fencing_epoch: int, signature: bytes = b"") -> TransactionReceipt:
        """Locked -> Accepted. The statement is the operator's, over the hash that the contract stores of the leg.

        Raises:
            ChainError: LEG_EXPIRED, FENCED_OUT, GRANT_WITHDRAWN, BAD_SIGNATURE.
        """
        now = self._now(leg)
        accepted = [] if now.state is LegState.LOCKED else self._leg_events("LegAccepted", leg)
        if accepted:
            return self._earlier(accepted)
        return self._send_once("ComputeAccess", "accept", now.to_struct(), fencing_epoch, signature)

    def decline(self, leg: LegEntry, signature: bytes = b"") -> TransactionReceipt:
        """Locked -> Declined: the holder will not; money and loss are free again."""
        return self._end(leg, LegState.DECLINED, "decline", signature)

    def cancel(self, leg: LegEntry) -> TransactionReceipt:
        """Locked -> Cancelled, by payer or builder; money and loss are free again."""
        return self._end(leg, LegState.CANCELLED, "cancel")

    def release(self, leg: LegEntry) -> TransactionReceipt:
        """Anyone, past the time to accept: a leg that was not accepted, or with too few others. All is free again."""
        return self._end(leg, LegState.RELEASED, "release")

    # -- after training ------------------------------------------------------------------------------------------

    def deliver(
        self, leg: LegEntry, receipt: LegReceipt, signature: bytes = b"", lower_signature: bytes = b""
    ) -> TransactionReceipt:
        """Accepted -> Delivered: the receipt's loss is spent.

        Args:
            signature: the operator's. lower_signature: the builder's Lower, when less than the reservation is spent.
        """
        now = self._now(leg)
        if now.state in HANDED_IN:
            return self._delivered(now, receipt)
        return self._send_once(
            "ComputeAccess", "deliver", now.to_struct(), _receipt_struct(receipt), signature, lower_signature
        )

    def acknowledge(self, leg: LegEntry, signature: bytes = b"") -> TransactionReceipt:
        """Delivered -> Acknowledged: the builder agrees; the price, less the fee, is the holder's."""
        return self._end(leg, LegState.ACKNOWLEDGED, "acknowledge", signature)

    def deliver_and_acknowledge(
        self, leg: LegEntry, receipt: LegReceipt, signature: bytes = b"", lower_signature: bytes = b"",
        acknowledgement: bytes = b"",
    ) -> TransactionReceipt:  # fmt: skip
        """Both in one transaction; a leg that is delivered already is acknowledged."""
        now = self._now(leg)
        if now.state in HANDED_IN:
            self._delivered(now, receipt)
            return self.acknowledge(now, acknowledgement)
        return self._send_once(
            "ComputeAccess", "deliverAndAcknowledge", now.to_struct(), _receipt_struct(receipt), signature,
            lower_signature, acknowledgement,
        )  # fmt: skip

    def fail(
        self,
        leg: LegEntry,
        loss_micro: int,
        fencing_epoch: int,
        signature: bytes = b"",
        lower_signature: bytes = b"",
    ) -> TransactionReceipt:
        """Accepted -> Failed: the holder gives up; the price goes back, the loss (whole, or with Lower less) is spent."""
        now = self._now(leg)
        if now.state is LegState.FAILED and now.loss_micro != loss_micro:
            raise ChainError("the leg was given up with another loss", reason="LEG_NOT_OPEN")
        return self._end(leg, LegState.FAILED, "fail", loss_micro, fencing_epoch, signature, lower_signature)

    def expire(self, leg: LegEntry) -> TransactionReceipt:
        """Anyone, past the deadline of a leg that was accepted and not delivered: money back, the whole loss spent."""
        return self._end(leg, LegState.EXPIRED, "expire")

    def settle(self, leg: LegEntry) -> TransactionReceipt:
        """Anyone, past the challenge window: silence pays the holder."""
        return self._end(leg, LegState.SETTLED, "settle")

    # -- disputes ------------------------------------------------------------------------------------------------

    def dispute(self, leg: LegEntry, reason_hash: bytes) -> TransactionReceipt:
        """Delivered -> Disputed, by the payer, with a bond from its deposit."""
        now = self._now(leg)
        if now.state in (LegState.DISPUTED, LegState.RESOLVED, LegState.UNRESOLVED):
            return self._earlier(self._leg_events("LegDisputed", leg))
        return self._send_once("ComputeAccess", "dispute", now.to_struct(), reason_hash)

    def resolve(self, leg: LegEntry, to_holder_bps: int) -> TransactionReceipt:
        """Disputed -> Resolved, by the arbiter: the holder's share of the price in ten-thousandths."""
        now = self._now(leg)
        if now.state is LegState.RESOLVED:
            closed = self._leg_events("LegClosed", leg)
            share = sum(e.holder_units + e.fee_units for e in closed if isinstance(e, LegClosed))
            if share != now.price_units * to_holder_bps // 10_000:
                raise ChainError("the dispute was resolved with another share", reason="LEG_NOT_OPEN")
        return self._end(leg, LegState.RESOLVED, "resolve", to_holder_bps)

    def refund_unresolved(self, leg: LegEntry) -> TransactionReceipt:
        """Anyone, past the arbiter's term: price and bond go back to the payer."""
        return self._end(leg, LegState.UNRESOLVED, "refundUnresolved")

    # -- usage log -----------------------------------------------------------------------------------------------

    def append_usage(
        self,
        holder_id: int,
        root: bytes,
        count: int,
        prev_root: bytes,
        first_sequence: int,
        signature: bytes = b"",
    ) -> TransactionReceipt:
        """Appends a batch of usage records.

        Args:
            prev_root: root of the batch before; 32 zero bytes for the first. signature: the operator's.
        """
        if self.chain.usage_root(holder_id, first_sequence, "latest") == root != ZERO_HASH:
            return self._earlier(self._record_events("UsageBatch", holder_id, first_sequence))
        return self._send_once(
            "UsageLog", "append", holder_id, root, count, prev_root, first_sequence, signature
        )

    def call_record(self, holder_id: int, sequence: int) -> TransactionReceipt:
        """Calls for a usage record that its holder does not show; it has 3 days to answer."""
        if self.chain.record_call(holder_id, sequence, "latest").state is not CallState.NONE:
            return self._earlier(self._record_events("RecordCalled", holder_id, sequence))
        return self._send_once("UsageLog", "callRecord", holder_id, sequence)

    def show_record(
        self, holder_id: int, sequence: int, first_sequence: int, record: bytes, proof: list[bytes]
    ) -> TransactionReceipt:
        """Shows a record that was called for; ``proof`` leads to the root of the batch from ``first_sequence`` on."""
        if self.chain.record_call(holder_id, sequence, "latest").state is CallState.ANSWERED:
            return self._earlier(self._record_events("RecordShown", holder_id, sequence))
        return self._send_once("UsageLog", "showRecord", holder_id, sequence, first_sequence, record, proof)

    def record_silence(self, holder_id: int, sequence: int) -> TransactionReceipt:
        """Records that a call was not answered in time."""
        if self.chain.record_call(holder_id, sequence, "latest").state is CallState.SILENT:
            return self._earlier(self._record_events("SilenceRecorded", holder_id, sequence))
        return self._send_once("UsageLog", "recordSilence", holder_id, sequence)

    # -- inside --------------------------------------------------------------------------------------------------

    def _unless(
        self, done: bool, told: tuple[str, ...], key: bytes | None, function: str, *arguments: Any
    ) -> TransactionReceipt:
        """Calls Registry, unless the newest block has it so already; then the newest event of those ``told`` says since when."""
        events = self._told(told, key) if done else []
        return self._earlier(events[-1:]) if events else self._send("Registry", function, *arguments)

    def _apply(
        self, told: tuple[str, str], key: bytes | None, function: str, *arguments: Any
    ) -> TransactionReceipt:
        """Applies what was announced, unless the last that happened is that just this was applied."""
        events = self._told(told, key)[-2:]
        names = tuple(type(event).__name__ for event in events)
        # an announcement says besides from when it holds
        if names == told and astuple(events[0])[3:-1] == astuple(events[1])[3:]:
            return self._earlier(events[1:])
        return self._send("Registry", function, *arguments)

    def _told(self, names: tuple[str, ...], key: bytes | None) -> list[Event]:
        indexed = () if key is None else (key,)
        found = [event for name in names for event in self.chain.find_events("Registry", name, *indexed)]
        return sorted(found, key=lambda event: (event.block_number, event.log_index))

    def _send(self, contract: str, function: str, *arguments: Any) -> TransactionReceipt:
        where, data = self._call(contract, function, *arguments)
        return self.account.send(where, data, function)

    def _send_once(self, contract: str, function: str, *arguments: Any) -> TransactionReceipt:
        """For transactions that can do what they do once only: the same one, after a crash, is gone on with."""
        where, data = self._call(contract, function, *arguments)
        return self.account.send(where, data, function, purpose=f"{function} {keccak(data).hex()}")

    def _call(self, contract: str, function: str, *arguments: Any) -> tuple[str, bytes]:
        where = {
            "Registry": self.chain.registry, "ComputeAccess": self.chain.compute_access, "UsageLog": self.chain.usage_log,
        }[contract]  # fmt: skip
        return where, interface(contract).encode_call(function, *arguments)

    def _end(self, leg: LegEntry, end: LegState, function: str, *arguments: Any) -> TransactionReceipt:
        now = self._now(leg)
        if now.state is end:
            return self._earlier(self._leg_events("LegClosed", leg))
        return self._send_once("ComputeAccess", function, now.to_struct(), *arguments)

    def _now(self, leg: LegEntry) -> LegEntry:
        """The leg as the newest block has it: a transaction is judged there, not at a final block."""
        now = self.chain.leg(leg.job_id, leg.dataset_id, "latest")
        if now is None:
            raise ChainError("the leg is not open on chain", reason="LEG_NOT_OPEN")
        return now

    def _delivered(self, now: LegEntry, receipt: LegReceipt) -> TransactionReceipt:
        if now.receipt_hash != receipt_hash(receipt, self.chain.chain_id, self.chain.compute_access):
            raise ChainError("the leg was delivered with another receipt", reason="LEG_NOT_OPEN")
        return self._earlier(self._leg_events("LegDelivered", now))

    def _leg_events(self, name: str, leg: LegEntry) -> list[Event]:
        return self.chain.find_events("ComputeAccess", name, leg.job_id, _word(leg.dataset_id))

    def _record_events(self, name: str, holder_id: int, sequence: int) -> list[Event]:
        return self.chain.find_events("UsageLog", name, _word(holder_id), _word(sequence))

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


def sign_call(
    chain: Chain, account: LocalAccount, function: str, *arguments: Any, deadline_seconds: int
) -> tuple[bytes, bytes]:
    """Signs a call of Registry that anybody may send with :meth:`Sender.by_signature`; the account needs no coin.

    It counts with the account's present nonce: of two calls that are signed before one of them was sent, one is void.

    Returns:
        Calldata and signature.
    """
    data, signer = interface("Registry").encode_call(function, *arguments), str(account.address)
    nonce = chain.call_nonce(signer)
    return data, sign(
        account, call_hash(signer, data, nonce, deadline_seconds, chain.chain_id, chain.registry)
    )


def _receipt_struct(receipt: LegReceipt) -> tuple[Any, ...]:
    return tuple(int(value) if isinstance(value, int) else value for value in astuple(receipt))


def _topic(value: str) -> bytes:
    return bytes(12) + bytes.fromhex(value[2:])


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")
