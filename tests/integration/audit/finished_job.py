"""A network that has worked: real contracts on the development chain, real ledgers and usage logs, no trainer.

Three holders; a first job with three legs that was delivered and paid, in which one attempt was lost; one that expired
after its deadline; one that was delivered and not yet paid; legs that were cancelled, declined, released, failed at no
loss, disputed (and decided, and not decided in time) and settled in silence; legs that stand open; a loss lowered with
the builder's consent; a sponsor; a fee; a pause; another guardian, admin, operator and payout; a version; a record that
was called for and shown; refusals; money in and out. Everybody's clock is the chain's, which leaps ahead now and then.
"""

from __future__ import annotations

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charged import assert_one_integer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.audit.evidence import HolderRecords, KeptRecord
from usufruct.audit.record_files import write_records
from usufruct.chain import (
    Chain,
    DatasetTerms,
    LegEntry,
    Sender,
    deploy,
    grant_hash,
    receipt_hash,
    sign_acceptance,
    sign_failure,
    sign_grant,
    sign_lower,
    sign_receipt,
    sign_sponsorship,
)
from usufruct.chain.dev_chain import DevChain
from usufruct.domain import ids
from usufruct.domain.grant import Grant, SignedGrant, SignedSponsorship, Sponsorship
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
    updates_hash,
)
from usufruct.domain.usage_record import UsageKind, leaf, merkle_proof
from usufruct.privacy import LocalPlan
from usufruct.v1 import usage_pb2_grpc
from usufruct.wire.tls import SERVER_OPTIONS, generate_identity, start_server
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.fencing import Fencing
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.services.usage import UsageService
from usufruct_server.holder.usage_log import UsageLog

import grpc  # isort: skip

ORDER, PRICE_UNITS, ROUNDS, SPARE = 6, 2_000_000, 4, 2
CAP_MICRO = 6_000_000
CHALLENGE_SECONDS = 3600
FEE_BPS = 100
TERMS = DatasetTerms(PRICE_UNITS, 1, CAP_MICRO // 4, CAP_MICRO // 2, 30 * 86_400, keccak(text="policy"))
PLAN = LocalPlan(
    sample_rate=0.25, max_grad_norm=1.0, noise_multiplier=3.0, local_steps=2, rounds=ROUNDS, spare_attempts=SPARE,
    micro_batch_size=64, nominal_size=200, order=ORDER, delta=1e-5,
)  # fmt: skip
PURPOSE = keccak(text="testing the audit")


@dataclass
class WorkingHolder:
    """One holder with its keys, ledger, usage log, and the public endpoint that serves it."""

    holder_id: int
    dataset_id: int
    operator: Sender
    ledger: Ledger
    usage: UsageLog
    publisher: Publisher
    key: LocalAccount
    server: grpc.Server


@dataclass
class Job:
    """An opened job."""

    job_id: bytes
    spec_hash: bytes
    grants: dict[int, SignedGrant]
    holders: list[WorkingHolder]


class Network:
    """A chain, three holders that serve their usage records, and a builder with money; ``close`` stops them.

    Args:
        honest: whether what was charged will be one integer in all books; ``close`` compares them.
    """

    def __init__(self, folder: Path, *, honest: bool = True) -> None:
        self.folder, self._honest = folder, honest
        self.dev_chain = DevChain().start()
        deployer, self.admin, self.builder_key = self._account(), self._account(), self._account()
        self.arbiter_key = self._account()
        addresses = deploy(self.dev_chain.url, deployer, test_token=True)
        assert addresses.test_token is not None
        self.token = addresses.test_token
        self.chain = Chain.connect(self.dev_chain.url, addresses.compute_access)
        self.compute_access = addresses.compute_access
        self.builder = Sender(self.chain, self.builder_key)
        self.guardian = Sender(self.chain, deployer)
        self.holders = [self._holder(number) for number in (1, 2, 3)]
        self.builder.mint_test_token(self.token, self.builder.address, 100 * PRICE_UNITS)
        self.builder.deposit(self.token, 20 * PRICE_UNITS)

    @property
    def rpc(self) -> str:
        """URL of the chain."""
        return self.dev_chain.url

    def keep_records(self, folder: Path) -> Path:
        """Writes every holder's records as `audit fetch` does."""
        for holder in self.holders:
            data = holder.ledger.usage_records(0, 10_000)
            kept = tuple(KeptRecord(sequence, record) for sequence, record in enumerate(data))
            write_records(folder, self.chain.chain_id, self.chain.usage_log,
                          HolderRecords(holder.holder_id, "ledger", kept, len(kept)))  # fmt: skip
        return folder

    def close(self) -> None:
        """Compares the books of honest holders; stops the servers and the chain, and closes the ledgers."""
        try:
            if self._honest:
                assert_one_integer(self.chain, [holder.ledger.path for holder in self.holders])
        finally:
            self._stop()

    def _stop(self) -> None:
        for holder in self.holders:
            holder.server.stop(None).wait()
            holder.ledger.close()
        self.dev_chain.stop()

    def _account(self) -> LocalAccount:
        account: LocalAccount = Account.create()
        self.dev_chain.evm.fund(bytes.fromhex(account.address[2:]), 10**19)
        return account

    def _holder(self, number: int) -> WorkingHolder:
        admin, key = Sender(self.chain, self.admin), self._account()
        operator = Sender(self.chain, key)
        payout, identity = Account.create().address, generate_identity()
        ledger = Ledger(self.folder / f"holder{number}.sqlite")
        server = grpc.server(ThreadPoolExecutor(2), options=list(SERVER_OPTIONS))
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageService(ledger), server)
        port = start_server(server, identity, "127.0.0.1:0")
        holder_id = admin.register_holder(operator.address, payout, f"127.0.0.1:{port}", identity.fingerprint)
        dataset_id = admin.register_dataset(
            holder_id,
            keccak(text=f"card {number}"),
            self.token,
            ORDER,
            CAP_MICRO,
            TERMS,
        )
        operator.take_fencing_epoch(holder_id, 1, bytes(32))
        ledger.register_dataset(dataset_id, CAP_MICRO, ORDER)
        fencing = Fencing(self.chain, holder_id, 1)
        publisher = Publisher(ledger=ledger, sender=operator, fencing=fencing, holder_id=holder_id)
        return WorkingHolder(
            holder_id, dataset_id, operator, ledger, UsageLog(ledger, clock=self._now), publisher, key, server
        )

    def _now(self) -> float:
        evm = self.dev_chain.evm
        return max(evm.now_seconds(), evm.head.timestamp)

    def refuse(self, holder: WorkingHolder) -> None:
        """Two refusals in the usage log."""
        for reason in ("BUDGET_SHORT", "POLICY_REFUSED"):
            holder.usage.refused(reason, dataset_id=holder.dataset_id, job_id=secrets.token_bytes(32),
                                 builder=self.builder.address, spec_hash=secrets.token_bytes(32))  # fmt: skip

    def open_job(
        self,
        holders: list[WorkingHolder],
        seconds: int = 3600,
        *,
        loss_per_attempt_micro: int = PLAN.loss_per_attempt_micro,
        log_grant: bool = True,
        accept: bool = True,
        min_legs: int | None = None,
        payer: LocalAccount | None = None,
    ) -> Job:
        """Grants and opens a job, reserves in the ledgers, and has it accepted; half as long is for accepting."""
        loss_micro = PLAN.attempts * loss_per_attempt_micro
        nonce, spec_hash = secrets.token_bytes(32), secrets.token_bytes(32)
        job_id = ids.job_id(self.chain.chain_id, self.compute_access, self.builder.address, nonce)
        now = self.chain.block_time_seconds()
        deliver_by = now + seconds
        grants = {}
        for holder in holders:
            grant = Grant(
                holder.dataset_id, self.builder.address, spec_hash, PURPOSE, self.token, PRICE_UNITS, 1,
                loss_micro, loss_micro, 0, deliver_by, 0, secrets.token_bytes(32),
            )  # fmt: skip
            grants[holder.dataset_id] = sign_grant(
                holder.key, grant, self.chain.chain_id, self.chain.registry
            )
        job = Job(job_id, spec_hash, grants, holders)
        for holder in holders if log_grant else ():
            named = grant_hash(grants[holder.dataset_id].grant, self.chain.chain_id, self.chain.registry)
            holder.usage.record(UsageKind.GRANTED, document_hash=named, **self.about(job, holder))
        legs = [(signed, loss_micro) for signed in grants.values()]
        sponsorship = None
        if payer is not None:
            promise = Sponsorship(
                str(payer.address), job_id, spec_hash, self.token, PRICE_UNITS * len(legs), deliver_by
            )
            signed = sign_sponsorship(payer, promise, self.chain.chain_id, self.compute_access)
            sponsorship = SignedSponsorship(promise, signed)
        self.builder.open_job(
            nonce, spec_hash, PURPOSE, legs, accept_by_seconds=now + seconds // 2, deliver_by_seconds=deliver_by,
            challenge_term_seconds=CHALLENGE_SECONDS, min_legs=min_legs or len(legs),
            arbiter=str(self.arbiter_key.address), sponsorship=sponsorship,
        )  # fmt: skip
        for holder in holders:
            holder.ledger.reserve(holder.dataset_id, job_id, loss_per_attempt_micro, PLAN.attempts, spec_hash)
            if accept:
                self.accept(job, holder)
        return job

    def accept(self, job: Job, holder: WorkingHolder) -> None:
        """The holder signs, the builder sends."""
        leg = self.leg(job, holder)
        signed = sign_acceptance(holder.key, leg.stored_hash(), 1, self.chain.chain_id, self.compute_access)
        self.builder.accept(leg, 1, signed)

    def about(self, job: Job, holder: WorkingHolder) -> dict[str, Any]:
        """What every usage record of a leg says."""
        return {"dataset_id": holder.dataset_id, "job_id": job.job_id, "builder": self.builder.address,
                "spec_hash": job.spec_hash}  # fmt: skip

    def run_rounds(self, job: Job, lost_by: WorkingHolder) -> None:
        """Every holder in every round; in round 2 the first attempt is lost by one of them and drawn again by all."""
        attempt = 0
        for round_ in range(1, ROUNDS + 1):
            for again in range(2 if round_ == 2 else 1):
                attempt += 1
                for holder in job.holders:
                    lost = round_ == 2 and again == 0 and holder is lost_by
                    self.charge(job, holder, round_, attempt, lost=lost)

    def charge(
        self,
        job: Job,
        holder: WorkingHolder,
        round_: int,
        attempt: int,
        *,
        lost: bool = False,
        view: bytes = b"",
    ) -> None:
        """One attempt: charged in the ledger, then sent and checked, or lost. ``view`` is another than the other holders'."""
        offer = hashlib.sha256(job.job_id + bytes([round_, attempt])).digest()
        about = {**self.about(job, holder), "round": round_, "attempt": attempt}
        charge = holder.ledger.charge(holder.dataset_id, job.job_id, round_, attempt)
        holder.usage.record(UsageKind.CHARGED, loss_micro=charge.loss_micro, view_hash=offer, **about)
        if lost:
            holder.usage.record(UsageKind.LOST, view_hash=offer, **about)
            return
        sent = {**about, "view_hash": view or keccak(offer), "upload_digest": secrets.token_bytes(32)}
        holder.usage.record(UsageKind.SUBMITTED, **sent)
        holder.usage.record(
            UsageKind.CHECKED, sum_digest=keccak(keccak(offer)), document_hash=secrets.token_bytes(32), **sent
        )

    def leg(self, job: Job, holder: WorkingHolder) -> LegEntry:
        """The leg as it stands on chain."""
        leg = self.chain.leg(job.job_id, holder.dataset_id)
        assert leg is not None
        return leg

    def finish(
        self, job: Job, holder: WorkingHolder, *, by_signature: bool = False, acknowledged: bool = False,
        lower_micro: int | None = None, **lies: Any,
    ) -> None:  # fmt: skip
        """Delivers the leg's receipt; ``lies`` are fields in which it differs from the truth.

        Args:
            acknowledged: by the builder, in the same transaction.
            lower_micro: the builder consents to this loss.
        """
        agreed_micro = lower_micro if self._honest else None  # no ledger takes less than it charged
        committed_micro = holder.ledger.commit(holder.dataset_id, job.job_id, agreed_micro)
        loss_micro = committed_micro if lower_micro is None else lower_micro
        holder.publisher.publish()
        leg = self.leg(job, holder)
        mine = [record for record in map(record_from_bytes, holder.ledger.usage_records(0, 10_000))
                if record.job_id == job.job_id]  # fmt: skip
        receipt = LegReceipt(
            version=RECEIPT_VERSION, accountant_version=ACCOUNTANT_VERSION, fencing_epoch=1, leg_id=leg.leg_id, job_id=job.job_id,
            dataset_id=holder.dataset_id, spec_hash=job.spec_hash, grant_hash=leg.grant_hash,
            mechanism=int(MechanismKind.SUBSAMPLED_GAUSSIAN), neighbouring=int(NeighbouringRelation.ADD_OR_REMOVE_ONE),
            rounding=int(Rounding.AFTER_NOISE), order=ORDER, min_honest=0, max_colluding=0,
            steps_per_attempt=PLAN.local_steps, attempts_reserved=PLAN.attempts,
            attempts_charged=sum(record.kind is UsageKind.CHARGED for record in mine), rounds_done=ROUNDS,
            dimension=40, sample_rate_nano=250_000_000, clip_norm_micro=1_000_000, noise_multiplier_micro=3_000_000,
            scale_micro=0, delta_two_micro=0, delta_one_micro=0, share_noise_micro=0, loss_micro=loss_micro,
            usage_head=holder.publisher.root_with(mine[-1].sequence),
            updates_hash=updates_hash(r.upload_digest for r in mine if r.kind is UsageKind.SUBMITTED),
            started_seconds=mine[0].time_seconds, ended_seconds=mine[-1].time_seconds,
        )  # fmt: skip
        receipt = replace(receipt, **lies)
        place = (self.chain.chain_id, self.compute_access)
        signature = sign_receipt(holder.key, receipt, *place)
        lower = b"" if lower_micro is None else sign_lower(self.builder_key, leg.leg_id, lower_micro, *place)
        if acknowledged:
            self.builder.deliver_and_acknowledge(leg, receipt, signature, lower)
        elif by_signature:
            self.builder.deliver(leg, receipt, signature, lower)
        else:
            holder.operator.deliver(leg, receipt, b"", lower)
        named = receipt_hash(receipt, self.chain.chain_id, self.compute_access)
        holder.usage.record(UsageKind.DELIVERED, loss_micro=loss_micro, round=receipt.rounds_done, document_hash=named,
                            **self.about(job, holder))  # fmt: skip
        holder.publisher.publish()


class FinishedNetwork(Network):
    """The network of this file's first lines, at work's end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.guardian.schedule_fee(FEE_BPS)
        self.dev_chain.evm.increase_time(7 * 86_400 + 1)
        self.guardian.apply_fee()
        one, two, three = self.holders
        first = self.open_job(self.holders, 7200)
        self.refuse(two)
        self.run_rounds(first, lost_by=two)
        self.finish(first, one)
        self.finish(first, two, acknowledged=True)
        self.finish(first, three, by_signature=True)
        for holder in (one, three):
            self.builder.acknowledge(self.leg(first, holder))
        self._lowered_and_sponsored(three)
        self._not_trained(one, two)
        disputed = self._run(two)
        self.builder.dispute(self.leg(disputed, two), keccak(text="why"))
        Sender(self.chain, self.arbiter_key).resolve(self.leg(disputed, two), 6_000)
        silent = self._run(one)
        self.dev_chain.evm.increase_time(CHALLENGE_SECONDS + 1)
        self.builder.settle(self.leg(silent, one))
        unresolved = self._run(three)
        self.builder.dispute(self.leg(unresolved, three), keccak(text="why"))
        self.dev_chain.evm.increase_time(7 * 86_400 + 1)
        self.builder.refund_unresolved(self.leg(unresolved, three))
        expired = self.open_job([one], 600)
        self.charge(expired, one, 1, 1, lost=True)
        self.dev_chain.evm.increase_time(601)
        self.builder.expire(self.leg(expired, one))
        self._run(three)
        self.builder.withdraw_earnings(self.token, two.holder_id)
        self.builder.withdraw_earnings(self.token, 0)
        self.builder.withdraw(self.token, 3 * PRICE_UNITS)
        for holder in self.holders:
            holder.publisher.publish()
        self._called_and_shown(two)
        self._new_terms_and_version(two)
        self._offices(three)
        self._left_open(one, three)

    def _run(self, holder: WorkingHolder) -> Job:
        """A job of one leg, delivered and not yet paid."""
        job = self.open_job([holder], 7200)
        for round_ in range(1, ROUNDS + 1):
            self.charge(job, holder, round_, round_)
        self.finish(job, holder)
        return job

    def _lowered_and_sponsored(self, holder: WorkingHolder) -> None:
        payer = self._account()
        self.builder.mint_test_token(self.token, str(payer.address), PRICE_UNITS)
        Sender(self.chain, payer).deposit(self.token, PRICE_UNITS)
        job = self.open_job([holder], 7200, payer=payer)
        for round_ in range(1, ROUNDS + 1):
            self.charge(job, holder, round_, round_)
        self.finish(job, holder, acknowledged=True, lower_micro=ROUNDS * PLAN.loss_per_attempt_micro)

    def _not_trained(self, one: WorkingHolder, two: WorkingHolder) -> None:
        place = (self.chain.chain_id, self.compute_access)
        cancelled = self.open_job([one], 600, accept=False)
        self.builder.cancel(self.leg(cancelled, one))
        declined = self.open_job([two], 600, accept=False)
        two.operator.decline(self.leg(declined, two))
        failed = self.open_job([one], 600)
        leg = self.leg(failed, one)
        statement = sign_failure(one.key, leg.stored_hash(), 0, 1, *place)
        self.builder.fail(leg, 0, 1, statement, sign_lower(self.builder_key, leg.leg_id, 0, *place))
        alone = self.open_job([one, two], 600, accept=False)
        self.accept(alone, one)
        self.dev_chain.evm.increase_time(301)
        for holder in (one, two):
            self.builder.release(self.leg(alone, holder))
        for job, holder in ((cancelled, one), (declined, two), (failed, one), (alone, one), (alone, two)):
            holder.ledger.release(holder.dataset_id, job.job_id)

    def _called_and_shown(self, holder: WorkingHolder) -> None:
        batch = holder.ledger.usage_batches()[0]
        records = holder.ledger.usage_records(batch.first_seq, batch.count)
        leaves = [leaf(batch.first_seq + index, record) for index, record in enumerate(records)]
        self.builder.call_record(holder.holder_id, batch.first_seq)
        proof = merkle_proof(leaves, 0)
        holder.operator.show_record(holder.holder_id, batch.first_seq, batch.first_seq, records[0], proof)

    def _new_terms_and_version(self, holder: WorkingHolder) -> None:
        admin = Sender(self.chain, self.admin)
        admin.set_terms(holder.dataset_id, replace(TERMS, price_units=PRICE_UNITS + 1))
        admin.set_cap(holder.dataset_id, CAP_MICRO + 1)
        admin.schedule_payout(holder.holder_id, str(self.arbiter_key.address))
        self.dev_chain.evm.increase_time(48 * 3600 + 1)
        admin.apply_cap(holder.dataset_id)
        admin.apply_payout(holder.holder_id)
        admin.register_dataset(
            holder.holder_id, keccak(text="card 4"), self.token, ORDER, CAP_MICRO, TERMS,
            previous_id=holder.dataset_id,
        )  # fmt: skip
        holder.operator.revoke_grants(holder.holder_id)
        holder.operator.take_fencing_epoch(holder.holder_id, 2, keccak(text="ledger"))
        admin.set_operator(holder.holder_id, str(self.arbiter_key.address))

    def _offices(self, holder: WorkingHolder) -> None:
        """Another guardian, who pauses; another admin, who moves the server away and back, and lowers the budget."""
        guardian, admin = self._account(), self._account()
        self.guardian.offer_guardian(str(guardian.address))
        following = Sender(self.chain, guardian)
        following.accept_guardian()
        following.set_paused(True)
        following.set_paused(False)
        Sender(self.chain, self.admin).offer_admin(holder.holder_id, str(admin.address))
        taking_over = Sender(self.chain, admin)
        taking_over.accept_admin(holder.holder_id)
        entry = self.chain.holder(holder.holder_id)
        for endpoint in ("127.0.0.1:1", entry.endpoint):
            taking_over.update_endpoint(holder.holder_id, endpoint, entry.fingerprint)
        taking_over.set_cap(holder.dataset_id, CAP_MICRO - 1)
        unused = Grant(
            holder.dataset_id, self.builder.address, bytes(32), PURPOSE, self.token, PRICE_UNITS, 1, 1, 1, 0,
            self.chain.block_time_seconds() + 600, 0, secrets.token_bytes(32),
        )  # fmt: skip
        signed = sign_grant(holder.key, unused, self.chain.chain_id, self.chain.registry)
        holder.operator.cancel_grant(signed)

    def _left_open(self, one: WorkingHolder, two: WorkingHolder) -> None:
        """A leg that is locked, one that is accepted, one that is disputed."""
        disputed = self._run(one)
        self.builder.dispute(self.leg(disputed, one), keccak(text="why"))
        waiting = self.open_job([one, two], 7200, accept=False)
        self.accept(waiting, two)
        for holder in (one, two):
            holder.publisher.publish()
