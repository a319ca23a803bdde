"""The whole life of one job with two legs, step by step; each step may be asked for any number of times.

What is signed is signed once, before the first step that needs it, and is used again whatever the chain does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eth_account import Account as Keys
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from job_world import (
    CAP_MICRO,
    CHALLENGE_SECONDS,
    DAY_SECONDS,
    EPOCH,
    FINAL_BLOCKS,
    LOSS_MICRO,
    ORDER,
    PRICE_UNITS,
    PURPOSE_HASH,
    SPEC_HASH,
    TERMS,
    JobWorld,
    Keyring,
)
from token_world import PATIENT

from usufruct.chain import (
    LegEntry,
    LegState,
    Sender,
    bond_units,
    grant_hash,
    sign_acceptance,
    sign_grant,
    sign_receipt,
)
from usufruct.chain.account import SendPolicy
from usufruct.chain.interface import interface
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.ids import ZERO_HASH, job_id
from usufruct.domain.leg_receipt import ACCOUNTANT_VERSION, RECEIPT_VERSION, LegReceipt
from usufruct.domain.usage_record import leaf, merkle_root
from usufruct.errors import ChainError

MONEY_UNITS = 3 * PRICE_UNITS
RECORDS = ([b"one", b"two", b"three"], [b"four", b"five"])
"""Two batches of a usage log."""
TO_HOLDER_BPS = 6_000


@dataclass(frozen=True)
class Step:
    """Something that one party does."""

    name: str
    party: str
    do: Callable[[], object]


class Life:
    """One job of a holder of its own; ``ending`` says how its second leg ends.

    Args:
        ending: "acknowledged", "settled", or "resolved" by an arbiter.
        folder: of the outboxes; None keeps them in memory.
    """

    def __init__(
        self, world: JobWorld, ending: str = "settled", folder: Path | None = None, policy: SendPolicy = PATIENT
    ) -> None:  # fmt: skip
        self.world, self.ending, self.folder, self.policy = world, ending, folder, policy
        self.keys = Keyring.funded(world.node)
        world.node.mine(FINAL_BLOCKS)
        self.parties = {name: self._sender(name) for name in ("admin", "operator", "builder", "arbiter")}
        self.payout = str(Keys.create().address)
        self.first_block = world.node.height() + 1
        self.nonce, self.begun_seconds = secrets.token_bytes(32), world.now()
        self.holder_id, self.datasets = 0, [0, 0]
        self.steps = [
            Step("register the holder", "admin", self._register_holder),
            Step("register a dataset", "admin", lambda: self._register_dataset(0)),
            Step("register another dataset", "admin", lambda: self._register_dataset(1)),
            Step("take the fencing epoch", "operator", self._take_epoch),
            Step("mint", "builder", self._mint),
            Step("deposit", "builder", self._deposit),
            Step("open", "builder", self._open),
            Step("accept a leg", "builder", lambda: self._accept(0)),
            Step("accept another leg", "builder", lambda: self._accept(1)),
            Step("log usage", "operator", lambda: self._log_usage(0)),
            Step("deliver", "operator", self._deliver),
            Step("deliver and acknowledge", "builder", self._deliver_and_acknowledge),
            Step("log more usage", "operator", lambda: self._log_usage(1)),
            *self._last_steps(),
            Step("withdraw earnings", "admin", self._withdraw_earnings),
            Step("withdraw the rest", "builder", self._withdraw),
        ]

    def restart(self, party: str) -> None:
        """Another process of this party goes on from its outbox."""
        self.parties[party].close()
        self.parties[party] = self._sender(party)

    def close(self) -> None:
        for sender in self.parties.values():
            sender.close()

    # -- what was signed -----------------------------------------------------------------------------------------

    @cached_property
    def grants(self) -> list[SignedGrant]:
        """For both datasets."""
        chain = self.world.chain
        grants = [
            Grant(
                dataset, self.keys.builder.address, SPEC_HASH, PURPOSE_HASH, self.world.token, PRICE_UNITS, 1, LOSS_MICRO,
                LOSS_MICRO, 0, self.begun_seconds + 10 * DAY_SECONDS, 0, secrets.token_bytes(32),
            )
            for dataset in self.datasets
        ]  # fmt: skip
        return [sign_grant(self.keys.operator, grant, chain.chain_id, chain.registry) for grant in grants]

    @cached_property
    def legs(self) -> list[LegEntry]:
        """Both legs as they were opened."""
        legs = [self.leg(index) for index in (0, 1)]
        assert all(leg.state is LegState.LOCKED for leg in legs)
        return legs

    @cached_property
    def acceptances(self) -> list[bytes]:
        """Over the legs as they were opened."""
        return [
            sign_acceptance(self.keys.operator, leg.stored_hash(), EPOCH, *self.world.place)
            for leg in self.legs
        ]

    @cached_property
    def receipts(self) -> list[LegReceipt]:
        """Of both legs."""
        return [self._receipt(index) for index in (0, 1)]

    def _receipt(self, index: int) -> LegReceipt:
        leg, chain = self.legs[index], self.world.chain
        named = grant_hash(self.grants[index].grant, chain.chain_id, chain.registry)
        return LegReceipt(
            version=RECEIPT_VERSION, accountant_version=ACCOUNTANT_VERSION, fencing_epoch=EPOCH, leg_id=leg.leg_id,
            job_id=leg.job_id, dataset_id=leg.dataset_id, spec_hash=SPEC_HASH, grant_hash=named, mechanism=1,
            neighbouring=1, rounding=1, order=ORDER, min_honest=0, max_colluding=0, steps_per_attempt=10,
            attempts_reserved=4, attempts_charged=4, rounds_done=4, dimension=40, sample_rate_nano=100_000_000,
            clip_norm_micro=1_000_000, noise_multiplier_micro=3_000_000, scale_micro=0, delta_two_micro=0,
            delta_one_micro=0, share_noise_micro=0, loss_micro=LOSS_MICRO, usage_head=self.roots[0],
            updates_hash=ZERO_HASH, started_seconds=self.begun_seconds, ended_seconds=self.begun_seconds + 1,
        )  # fmt: skip

    def sign(self) -> None:
        """Signs all that can be signed by now."""
        if all(self.datasets) and self.grants and self.world.chain.job(self.job_id, "latest") is not None:
            assert self.acceptances
            assert self.receipts

    # -- steps ---------------------------------------------------------------------------------------------------

    def run(self, last: int, gaps: Sequence[int] = ()) -> None:
        """The first ``last`` steps in their order, with so many empty blocks after each."""
        for number, step in enumerate(self.steps[:last]):
            step.do()
            self.world.node.mine(gaps[number] if number < len(gaps) else 0)

    def _sender(self, party: str) -> Sender:
        key: LocalAccount = getattr(self.keys, party)
        return self.world.sender(key, self.folder and self.folder / f"{key.address}.outbox", self.policy)

    def _register_holder(self) -> None:
        fingerprint = keccak(text=self.payout)
        self.holder_id = self.parties["admin"].register_holder(
            self.keys.operator.address, self.payout, "127.0.0.1:7000", fingerprint
        )

    def _register_dataset(self, index: int) -> None:
        self.datasets[index] = self.parties["admin"].register_dataset(
            self.holder_id, keccak(text=f"card {index}"), self.world.token, ORDER, CAP_MICRO, TERMS
        )

    def _take_epoch(self) -> None:
        data = interface("Registry").encode_call("takeFencingEpoch", self.holder_id, EPOCH, keccak(b"ledger"))
        purpose = f"epoch of holder {self.holder_id}"
        self.parties["operator"].account.send(self.world.chain.registry, data, "takeFencingEpoch", purpose)

    def _mint(self) -> None:
        data = interface("TestToken").encode_call("mint", self.keys.builder.address, MONEY_UNITS)
        self.parties["builder"].account.send(self.world.token, data, "mint", "mint")

    def _deposit(self) -> None:
        self.parties["builder"].deposit(self.world.token, MONEY_UNITS, "a job")

    def _open(self) -> None:
        self.parties["builder"].open_job(
            self.nonce, SPEC_HASH, PURPOSE_HASH, [(grant, LOSS_MICRO) for grant in self.grants],
            accept_by_seconds=self.begun_seconds + DAY_SECONDS, deliver_by_seconds=self.begun_seconds + 2 * DAY_SECONDS,
            challenge_term_seconds=CHALLENGE_SECONDS, min_legs=2, arbiter=self.keys.arbiter.address,
        )  # fmt: skip

    def _accept(self, index: int) -> None:
        self.parties["builder"].accept(self.legs[index], EPOCH, self.acceptances[index])

    def _log_usage(self, batch: int) -> None:
        first = sum(len(records) for records in RECORDS[:batch])
        self.parties["operator"].append_usage(
            self.holder_id, self.roots[batch], len(RECORDS[batch]), ([ZERO_HASH, *self.roots])[batch], first
        )

    def _deliver(self) -> None:
        self.parties["operator"].deliver(self.legs[1], self.receipts[1])

    def deliver_as_builder(self, index: int) -> None:
        """Hands in a receipt that the holder has signed."""
        self.parties["builder"].deliver(self.legs[index], self.receipts[index], self._signed(index))

    def _deliver_and_acknowledge(self) -> None:
        self.parties["builder"].deliver_and_acknowledge(self.legs[0], self.receipts[0], self._signed(0))

    def _signed(self, index: int) -> bytes:
        return sign_receipt(self.keys.operator, self.receipts[index], *self.world.place)

    def _last_steps(self) -> list[Step]:
        match self.ending:
            case "acknowledged":
                return [
                    Step("acknowledge", "builder", lambda: self.parties["builder"].acknowledge(self.legs[1]))
                ]
            case "settled":
                return [Step("settle", "operator", self._settle)]
            case _:
                return [
                    Step(
                        "dispute", "builder", lambda: self.parties["builder"].dispute(self.legs[1], ZERO_HASH)
                    ),
                    Step(
                        "resolve",
                        "arbiter",
                        lambda: self.parties["arbiter"].resolve(self.legs[1], TO_HOLDER_BPS),
                    ),
                ]

    def _settle(self) -> None:
        leg = self.world.chain.leg(self.job_id, self.datasets[1], "latest")
        if leg is not None and leg.state is LegState.DELIVERED:
            self.world.pass_until(leg.until_seconds)
        self.parties["operator"].settle(self.legs[1])

    def _withdraw_earnings(self) -> None:
        """What is in the outbox first, and then what is left."""
        admin = self.parties["admin"]
        admin.account.settle()
        if self.earned():
            try:
                admin.withdraw_earnings(self.world.token, self.holder_id)
            except ChainError as error:
                if "NothingToWithdraw" not in str(
                    error
                ):  # what was in the outbox may have been mined just now
                    raise

    def _withdraw(self) -> None:
        self.parties["builder"].withdraw(self.world.token, self.left_units, purpose="what a job left over")

    # -- how it stands -------------------------------------------------------------------------------------------

    @property
    def job_id(self) -> bytes:
        return job_id(*self.world.place, self.keys.builder.address, self.nonce)

    def leg(self, index: int) -> LegEntry:
        """At the newest block."""
        leg = self.world.chain.leg(self.job_id, self.datasets[index], "latest")
        assert leg is not None
        return leg

    def earned(self) -> int:
        """Not withdrawn, at the newest block."""
        chain = self.world.chain
        return int(
            chain._view("ComputeAccess", "earningsOf", self.world.token, self.holder_id, block="latest")
        )

    @property
    def roots(self) -> list[bytes]:
        """Of both batches of usage records."""
        return [merkle_root(self.leaves(batch)) for batch in (0, 1)]

    def leaves(self, batch: int) -> list[bytes]:
        """Of a batch of usage records."""
        first = sum(len(records) for records in RECORDS[:batch])
        return [leaf(first + index, record) for index, record in enumerate(RECORDS[batch])]

    @property
    def owed_units(self) -> int:
        """What the holder has earned: both prices, or one, the arbiter's share of the other, and the bond."""
        if self.ending != "resolved":
            return 2 * PRICE_UNITS
        return PRICE_UNITS + PRICE_UNITS * TO_HOLDER_BPS // 10_000 + bond_units(PRICE_UNITS)

    @property
    def left_units(self) -> int:
        """What the builder has in the end."""
        return MONEY_UNITS - self.owed_units
