"""What a test of the chain acts in: a holder with three datasets, a builder with money, and their keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain import Addresses, Chain, LegEntry, Sender, sign_grant
from usufruct.chain.dev_chain import DevChain
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.ids import job_id
from usufruct.domain.leg_receipt import LegReceipt

PRICE = 250_000_000
LOSS = 3_000_000
CAP = 10_000_000
ORDER = 16
SPEC, PURPOSE = keccak(b"spec"), keccak(b"purpose")


@dataclass
class World:
    """Everything a test needs; each account has a sender."""

    node: DevChain
    chain: Chain
    addresses: Addresses
    admin: Sender
    operator: Sender
    builder: Sender
    stranger: Sender
    operator_key: LocalAccount
    builder_key: LocalAccount
    token: str
    holder_id: int
    datasets: list[int]

    def now(self) -> int:
        return self.node.evm.now_seconds()

    def grant(self, dataset: int, **changes: object) -> SignedGrant:
        terms = Grant(
            dataset_id=dataset, grantee=self.builder.address, spec_hash=SPEC, purpose_hash=PURPOSE, token=self.token,
            price_units=PRICE, max_uses=1, loss_per_job_micro=LOSS, loss_total_micro=LOSS,
            not_before_seconds=self.now() - 60, deadline_seconds=self.now() + 3600, revocation_epoch=0,
            salt=secrets.token_bytes(32),
        )  # fmt: skip
        terms = replace(terms, **changes)  # type: ignore[arg-type]
        return sign_grant(self.operator_key, terms, self.chain.chain_id, self.chain.registry)

    def open(self, dataset_ids: list[int], term_seconds: int = 1800, loss: int = LOSS) -> bytes:
        nonce = secrets.token_bytes(32)
        legs = [(self.grant(d, loss_per_job_micro=loss, loss_total_micro=loss), loss) for d in dataset_ids]
        self.builder.open_job(nonce, SPEC, PURPOSE, legs, self.now() + term_seconds, 1)
        return job_id(self.chain.chain_id, self.chain.compute_access, self.builder.address, nonce)

    def leg(self, job: bytes, dataset_id: int) -> LegEntry:
        leg = self.chain.leg(job, dataset_id)
        assert leg is not None
        return leg

    def receipt(self, leg: LegEntry) -> LegReceipt:
        return LegReceipt(
            version=1, accountant_version=1, leg_id=leg.leg_id, job_id=leg.job_id, dataset_id=leg.dataset_id,
            spec_hash=leg.spec_hash, grant_hash=leg.grant_hash, mechanism=1, neighbouring=1, rounding=1, order=ORDER,
            min_honest=0, max_colluding=0, steps_per_attempt=10, attempts_reserved=22, attempts_charged=20,
            rounds_done=20, dimension=39_700, sample_rate_nano=100_000_000, clip_norm_micro=1_000_000,
            noise_multiplier_micro=1_100_000, scale_micro=0, delta_two_micro=0, delta_one_micro=0, share_noise_micro=0,
            loss_micro=leg.loss_reserved_micro, usage_head=b"\x07" * 32, updates_hash=b"\x08" * 32,
            started_seconds=self.now() - 100, ended_seconds=self.now(),
        )  # fmt: skip
