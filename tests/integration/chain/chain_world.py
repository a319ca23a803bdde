"""What a test of the chain acts in: a holder with three datasets, a builder with money, an arbiter, and their keys."""

from __future__ import annotations

import secrets
from dataclasses import astuple, dataclass, replace

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain import (
    Addresses,
    Chain,
    DatasetTerms,
    LegEntry,
    LegState,
    Sender,
    acceptance_hash,
    acknowledgement_hash,
    decline_hash,
    deploy,
    failure_hash,
    lower_hash,
    receipt_hash,
    sign,
    sign_grant,
)
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.dev_evm import DevEvm
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.ids import job_id
from usufruct.domain.leg_receipt import ACCOUNTANT_VERSION, RECEIPT_VERSION, LegReceipt

PRICE = 250_000_007
"""Neither its tenth nor any usual fee is whole."""
LOSS = 3_000_000
CAP = 10_000_000
ORDER = 16
MONEY = 20 * PRICE
TERMS = DatasetTerms(PRICE, 1, 5_000_000, 9_000_000, 30 * 86_400, keccak(b"policy"))
SPEC, PURPOSE = keccak(b"spec"), keccak(b"purpose")
ENDPOINT, FINGERPRINT = "127.0.0.1:7000", b"\x01" * 32
ACCEPT_SECONDS, DELIVER_SECONDS, CHALLENGE_SECONDS = 600, 1800, 3600
EPOCH = 1


@dataclass(frozen=True)
class Beginning:
    """A chain on which everything is deployed, registered and paid in.

    Attributes:
        accounts: guardian, admin, operator, builder, arbiter and stranger.
    """

    evm: DevEvm
    accounts: list[LocalAccount]
    addresses: Addresses
    holder_id: int
    datasets: list[int]

    @classmethod
    def make(cls) -> Beginning:
        with DevChain() as node:
            accounts = [Account.create() for _ in range(6)]
            for account in accounts:
                node.evm.fund(bytes.fromhex(account.address[2:]), 10**18)
            addresses = deploy(node.url, accounts[0], test_token=True)
            token = addresses.test_token
            assert token is not None
            chain = Chain.connect(node.url, addresses.compute_access)
            admin, operator, builder = (Sender(chain, account) for account in accounts[1:4])
            holder = admin.register_holder(operator.address, admin.address, ENDPOINT, FINGERPRINT)
            operator.take_fencing_epoch(holder, EPOCH, bytes(32))
            datasets = [
                admin.register_dataset(holder, bytes([i]) * 32, token, ORDER, CAP, TERMS) for i in (1, 2, 3)
            ]
            builder.mint_test_token(token, builder.address, 5 * MONEY)
            builder.deposit(token, MONEY)
            return cls(node.evm, accounts, addresses, holder, datasets)

    def on(self, node: DevChain) -> World:
        """Everybody at a node that serves a copy."""
        chain, token = Chain.connect(node.url, self.addresses.compute_access), self.addresses.test_token
        assert token is not None
        senders = (Sender(chain, account) for account in self.accounts)
        return World(
            node, chain, self.addresses, *senders, self.accounts[2], self.accounts[3], self.accounts[5], token,
            self.holder_id, self.datasets,
        )  # fmt: skip


@dataclass
class World:
    """Everything a test needs; each account has a sender. The guardian is the account that deployed."""

    node: DevChain
    chain: Chain
    addresses: Addresses
    guardian: Sender
    admin: Sender
    operator: Sender
    builder: Sender
    arbiter: Sender
    stranger: Sender
    operator_key: LocalAccount
    builder_key: LocalAccount
    stranger_key: LocalAccount
    token: str
    holder_id: int
    datasets: list[int]

    # -- the chain -----------------------------------------------------------------------------------------------

    def now(self) -> int:
        return self.node.evm.now_seconds()

    def wait_until(self, seconds: int) -> None:
        """Moves the chain's clock past a moment."""
        self.node.evm.increase_time(max(0, seconds + 1 - self.now()))

    def deposit_of(self, owner: Sender) -> int:
        return self.chain.deposit_of(self.token, owner.address)

    def budget(self, dataset: int) -> tuple[int, int]:
        """Reserved and spent."""
        entry = self.chain.dataset(dataset)
        return entry.reserved_micro, entry.spent_micro

    # -- opening -------------------------------------------------------------------------------------------------

    def grant(self, dataset: int, **changes: object) -> SignedGrant:
        terms = Grant(
            dataset_id=dataset, grantee=self.builder.address, spec_hash=SPEC, purpose_hash=PURPOSE, token=self.token,
            price_units=PRICE, max_uses=1, loss_per_job_micro=LOSS, loss_total_micro=LOSS,
            not_before_seconds=self.now() - 60, deadline_seconds=self.now() + 3600,
            revocation_epoch=self.chain.holder(self.holder_id).revocation_epoch, salt=secrets.token_bytes(32),
        )  # fmt: skip
        terms = replace(terms, **changes)  # type: ignore[arg-type]
        return sign_grant(self.operator_key, terms, self.chain.chain_id, self.chain.registry)

    def job_of(self, nonce: bytes) -> bytes:
        return job_id(self.chain.chain_id, self.chain.compute_access, self.builder.address, nonce)

    def open_with(self, nonce: bytes, legs: list[tuple[SignedGrant, int]], **changes: object) -> bytes:
        now = self.now()
        terms: dict[str, object] = {
            "accept_by_seconds": now + ACCEPT_SECONDS, "deliver_by_seconds": now + DELIVER_SECONDS,
            "challenge_term_seconds": CHALLENGE_SECONDS, "min_legs": 1, "arbiter": self.arbiter.address, **changes,
        }  # fmt: skip
        self.builder.open_job(nonce, SPEC, PURPOSE, legs, **terms)  # type: ignore[arg-type]
        return self.job_of(nonce)

    def open(self, dataset_ids: list[int], loss: int = LOSS, **changes: object) -> bytes:
        legs = [(self.grant(d, loss_per_job_micro=loss, loss_total_micro=loss), loss) for d in dataset_ids]
        return self.open_with(secrets.token_bytes(32), legs, **changes)

    def leg(self, job: bytes, dataset_id: int) -> LegEntry:
        leg = self.chain.leg(job, dataset_id)
        assert leg is not None
        return leg

    def again(self, leg: LegEntry) -> LegEntry:
        """The leg as it is now."""
        return self.leg(leg.job_id, leg.dataset_id)

    def locked(self, dataset: int | None = None, **changes: object) -> LegEntry:
        """The leg of a fresh job of one leg."""
        dataset = self.datasets[0] if dataset is None else dataset
        return self.leg(self.open([dataset], **changes), dataset)  # type: ignore[arg-type]

    # -- statements ----------------------------------------------------------------------------------------------

    @property
    def domain(self) -> tuple[int, str]:
        return self.chain.chain_id, self.chain.compute_access

    def receipt(self, leg: LegEntry, **changes: object) -> LegReceipt:
        receipt = LegReceipt(
            version=RECEIPT_VERSION, accountant_version=ACCOUNTANT_VERSION, fencing_epoch=EPOCH, leg_id=leg.leg_id,
            job_id=leg.job_id, dataset_id=leg.dataset_id, spec_hash=leg.spec_hash, grant_hash=leg.grant_hash,
            mechanism=1, neighbouring=1, rounding=1, order=ORDER, min_honest=0, max_colluding=0, steps_per_attempt=10,
            attempts_reserved=22, attempts_charged=20, rounds_done=20, dimension=39_700, sample_rate_nano=100_000_000,
            clip_norm_micro=1_000_000, noise_multiplier_micro=1_100_000, scale_micro=0, delta_two_micro=0,
            delta_one_micro=0, share_noise_micro=0, loss_micro=leg.loss_micro, usage_head=b"\x07" * 32,
            updates_hash=b"\x08" * 32, started_seconds=self.now() - 100, ended_seconds=self.now(),
        )  # fmt: skip
        return replace(receipt, **changes)  # type: ignore[arg-type]

    def acceptance(self, leg: LegEntry) -> bytes:
        return sign(self.operator_key, acceptance_hash(leg.stored_hash(), EPOCH, *self.domain))

    def decline(self, leg: LegEntry) -> bytes:
        return sign(self.operator_key, decline_hash(leg.stored_hash(), *self.domain))

    def failure(self, leg: LegEntry, loss: int) -> bytes:
        return sign(self.operator_key, failure_hash(leg.stored_hash(), loss, EPOCH, *self.domain))

    def signed(self, receipt: LegReceipt) -> bytes:
        return sign(self.operator_key, receipt_hash(receipt, *self.domain))

    def lower(self, leg: LegEntry, loss: int) -> bytes:
        return sign(self.builder_key, lower_hash(leg.leg_id, loss, *self.domain))

    def acknowledgement(self, receipt: LegReceipt) -> bytes:
        digest = acknowledgement_hash(receipt.leg_id, receipt_hash(receipt, *self.domain), *self.domain)
        return sign(self.builder_key, digest)

    # -- a leg's life --------------------------------------------------------------------------------------------

    def accepted(self, leg: LegEntry) -> LegEntry:
        self.stranger.accept(leg, EPOCH, self.acceptance(leg))
        return self.again(leg)

    def delivered(self, leg: LegEntry) -> LegEntry:
        receipt = self.receipt(leg)
        self.stranger.deliver(leg, receipt, self.signed(receipt))
        return self.again(leg)

    def leg_in(self, state: LegState) -> LegEntry:
        """A fresh leg that came to ``state`` by the shortest way, sent by strangers wherever that is possible."""
        leg = self.locked()
        match state:
            case LegState.LOCKED:
                return leg
            case LegState.CANCELLED:
                self.builder.cancel(leg)
            case LegState.DECLINED:
                self.stranger.decline(leg, self.decline(leg))
            case LegState.RELEASED:
                self.wait_until(self.now() + ACCEPT_SECONDS)
                self.stranger.release(leg)
            case _:
                return self._accepted_to(self.accepted(leg), state)
        return self.again(leg)

    def _accepted_to(self, leg: LegEntry, state: LegState) -> LegEntry:
        match state:
            case LegState.ACCEPTED:
                return leg
            case LegState.FAILED:
                self.stranger.fail(leg, leg.loss_micro, EPOCH, self.failure(leg, leg.loss_micro))
            case LegState.EXPIRED:
                self.wait_until(leg.deliver_by_seconds)
                self.stranger.expire(leg)
            case _:
                return self._delivered_to(self.delivered(leg), state)
        return self.again(leg)

    def _delivered_to(self, leg: LegEntry, state: LegState) -> LegEntry:
        match state:
            case LegState.DELIVERED:
                return leg
            case LegState.ACKNOWLEDGED:
                self.builder.acknowledge(leg)
            case LegState.SETTLED:
                self.wait_until(leg.until_seconds)
                self.stranger.settle(leg)
            case _:
                self.builder.dispute(leg, keccak(b"reason"))
                leg = self.again(leg)
                if state is LegState.RESOLVED:
                    self.arbiter.resolve(leg, 6_000)
                elif state is LegState.UNRESOLVED:
                    self.wait_until(leg.until_seconds)
                    self.stranger.refund_unresolved(leg)
        return self.again(leg)


def terms_with(**changes: object) -> DatasetTerms:
    """The datasets' terms, changed."""
    return DatasetTerms(*astuple(replace(TERMS, **changes)))  # type: ignore[arg-type]
