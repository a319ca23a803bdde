"""A network that has worked: real contracts on the development chain, real ledgers and usage logs, no trainer.

Three holders; a first job with three legs that was delivered and paid, in which one attempt was lost; a second one with
one leg that was refunded after its deadline; a third one that was delivered and not yet paid; refusals; money in and out.
"""

from __future__ import annotations

import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.audit.evidence import HolderRecords, KeptRecord
from usufruct.audit.record_files import write_records
from usufruct.chain import Chain, LegEntry, Sender, deploy, grant_hash, receipt_hash, sign_grant, sign_receipt
from usufruct.chain.dev_chain import DevChain
from usufruct.domain import ids
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
    updates_hash,
)
from usufruct.domain.usage_record import UsageKind
from usufruct.privacy import LocalPlan
from usufruct.v1 import usage_pb2_grpc
from usufruct.wire.tls import SERVER_OPTIONS, generate_identity, start_server
from usufruct.wire.usage import record_from_bytes
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.publisher import Publisher
from usufruct_server.holder.services.usage import UsageService
from usufruct_server.holder.usage_log import UsageLog

import grpc  # isort: skip

ORDER, PRICE_UNITS, ROUNDS, SPARE = 6, 2_000_000, 4, 2
CAP_MICRO = 3_500_000
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
    """A chain, three holders that serve their usage records, and a builder with money; ``close`` stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dev_chain = DevChain().start()
        deployer, self.admin, self.builder_key = self._account(), self._account(), self._account()
        addresses = deploy(self.dev_chain.url, deployer, test_token=True)
        assert addresses.test_token is not None
        self.token = addresses.test_token
        self.chain = Chain.connect(self.dev_chain.url, addresses.compute_access)
        self.compute_access = addresses.compute_access
        self.builder = Sender(self.chain, self.builder_key)
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
        """Stops the servers and the chain, and closes the ledgers."""
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
            PRICE_UNITS,
            1,
            ORDER,
            CAP_MICRO,
            CAP_MICRO // 2,
        )
        ledger.register_dataset(dataset_id, CAP_MICRO, ORDER)
        publisher = Publisher(ledger=ledger, sender=operator, holder_id=holder_id)
        return WorkingHolder(
            holder_id, dataset_id, operator, ledger, UsageLog(ledger), publisher, key, server
        )

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
    ) -> Job:
        """Grants and opens a job, and reserves in the ledgers."""
        loss_micro = PLAN.attempts * loss_per_attempt_micro
        nonce, spec_hash = secrets.token_bytes(32), secrets.token_bytes(32)
        job_id = ids.job_id(self.chain.chain_id, self.compute_access, self.builder.address, nonce)
        deliver_by = self.chain.block_time_seconds() + seconds
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
        self.builder.open_job(nonce, spec_hash, PURPOSE, legs, deliver_by, len(legs))
        for holder in holders:
            holder.ledger.reserve(holder.dataset_id, job_id, loss_per_attempt_micro, PLAN.attempts, spec_hash)
        return job

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
        self, job: Job, holder: WorkingHolder, round_: int, attempt: int, *, lost: bool = False
    ) -> None:
        """One attempt: charged in the ledger, then sent or lost."""
        view = hashlib.sha256(job.job_id + bytes([round_, attempt])).digest()
        about = {**self.about(job, holder), "round": round_, "attempt": attempt, "view_hash": view}
        charge = holder.ledger.charge(holder.dataset_id, job.job_id, round_, attempt)
        holder.usage.record(UsageKind.CHARGED, loss_micro=charge.loss_micro, **about)
        if lost:
            holder.usage.record(UsageKind.LOST, **about)
        else:
            holder.usage.record(UsageKind.SUBMITTED, upload_digest=secrets.token_bytes(32), **about)

    def leg(self, job: Job, holder: WorkingHolder) -> LegEntry:
        """The leg as it stands on chain."""
        leg = self.chain.leg(job.job_id, holder.dataset_id)
        assert leg is not None
        return leg

    def finish(self, job: Job, holder: WorkingHolder, *, by_signature: bool = False, **lies: Any) -> None:
        """Delivers the leg's receipt; ``lies`` are fields in which it differs from the truth."""
        loss_micro = holder.ledger.commit(holder.dataset_id, job.job_id)
        holder.publisher.publish()
        leg = self.leg(job, holder)
        mine = [record for record in map(record_from_bytes, holder.ledger.usage_records(0, 10_000))
                if record.job_id == job.job_id]  # fmt: skip
        receipt = LegReceipt(
            version=RECEIPT_VERSION, accountant_version=ACCOUNTANT_VERSION, leg_id=leg.leg_id, job_id=job.job_id,
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
        if by_signature:
            signature = sign_receipt(holder.key, receipt, self.chain.chain_id, self.compute_access)
            self.builder.deliver(leg, receipt, signature)
        else:
            holder.operator.deliver(leg, receipt)
        named = receipt_hash(receipt, self.chain.chain_id, self.compute_access)
        holder.usage.record(UsageKind.DELIVERED, loss_micro=loss_micro, round=receipt.rounds_done, document_hash=named,
                            **self.about(job, holder))  # fmt: skip
        holder.publisher.publish()


class FinishedNetwork(Network):
    """The network of this file's first lines, at work's end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        first = self.open_job(self.holders, 3600)
        self.refuse(self.holders[1])
        self.run_rounds(first, lost_by=self.holders[1])
        for holder in self.holders:
            self.finish(first, holder, by_signature=holder is self.holders[2])
            self.builder.acknowledge(self.leg(first, holder))
        second = self.open_job(self.holders[:1], 600)
        self.charge(second, self.holders[0], 1, 1, lost=True)
        self.dev_chain.evm.increase_time(601)
        self.builder.refund_expired(self.leg(second, self.holders[0]))
        third = self.open_job(self.holders[2:], 3600)
        for round_ in range(1, ROUNDS + 1):
            self.charge(third, self.holders[2], round_, round_)
        self.finish(third, self.holders[2])
        self.builder.withdraw_earnings(self.token, self.holders[1].holder_id)
        self.builder.withdraw(self.token, 3 * PRICE_UNITS)
        for holder in self.holders:
            holder.publisher.publish()
