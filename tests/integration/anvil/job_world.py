"""What a test of jobs acts in: the contracts and a worthless token on a real node, and who takes part in a job."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anvil_node import AnvilNode
from eth_account import Account as Keys
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from token_world import PATIENT

from usufruct.chain import Chain, DatasetTerms, Sender, deploy
from usufruct.chain.account import Account, SendPolicy
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.interface import interface

PRICE_UNITS = 250_000_007
LOSS_MICRO = 3_000_000
CAP_MICRO = 10_000_000
ORDER = 16
EPOCH = 1
DAY_SECONDS = 86_400
CHALLENGE_SECONDS = 3600
FINAL_BLOCKS = 64
"""A block that has so many above it is final, and no reorganisation of a test takes it away."""
TERMS = DatasetTerms(PRICE_UNITS, 1, LOSS_MICRO, LOSS_MICRO, 30 * DAY_SECONDS, keccak(b"policy"))
SPEC_HASH, PURPOSE_HASH = keccak(b"spec"), keccak(b"purpose")


@dataclass(frozen=True)
class Keyring:
    """One key for everybody in a job, each with coin."""

    admin: LocalAccount
    operator: LocalAccount
    builder: LocalAccount
    arbiter: LocalAccount

    @classmethod
    def funded(cls, node: AnvilNode) -> Keyring:
        keys = cls(*(Keys.create() for _ in range(4)))
        for key in (keys.admin, keys.operator, keys.builder, keys.arbiter):
            node.fund(key.address)
        return keys


@dataclass
class JobWorld:
    """The contracts, final, and a token that anybody mints."""

    node: AnvilNode
    chain: Chain
    token: str

    @classmethod
    def on(cls, node: AnvilNode) -> JobWorld:
        deployer = Keys.create()
        node.fund(deployer.address)
        addresses = deploy(node.url, deployer, test_token=True, confirmations=0)
        assert addresses.test_token is not None
        node.mine(FINAL_BLOCKS)
        return cls(node, Chain.connect(node.url, addresses.compute_access), addresses.test_token)

    @property
    def place(self) -> tuple[int, str]:
        """What a statement about a leg is signed for."""
        return self.chain.chain_id, self.chain.compute_access

    def connected(self, *urls: str, confirmations: int | None = None) -> Chain:
        """Another connection to the same contracts, through other endpoints if some are named."""
        return Chain.connect(
            list(urls) or self.node.url, self.chain.compute_access, confirmations=confirmations
        )

    def sender(
        self, key: LocalAccount, outbox: Path | None = None, policy: SendPolicy = PATIENT, chain: Chain | None = None
    ) -> Sender:  # fmt: skip
        """Of this key; its outbox in memory if no file is named."""
        sender = Sender(chain or self.chain, key)
        sender.account = Account(sender.chain.rpc, sender.chain.chain_id, key, outbox, policy)
        return sender

    def now(self) -> int:
        """Time of the newest block."""
        return self.node.rpc.newest().time_seconds

    def pass_until(self, seconds: int) -> None:
        """Lets the chain's clock pass a moment, if it has not yet."""
        left = seconds + 1 - self.now()
        if left > 0:
            self.node.request("evm_increaseTime", left)
            self.node.mine()

    def token_balance(self, owner: str) -> int:
        """At the newest block."""
        data = interface("TestToken").encode_call("balanceOf", owner)
        return int.from_bytes(self.node.rpc.call(self.token, data, "latest"), "big")

    def newest_transactions(self, blocks: int) -> list[bytes]:
        """Raw, of the newest blocks, in their order."""
        last, raw = self.node.height(), []
        for number in range(last - blocks + 1, last + 1):
            block = self.node.rpc.block(number)
            assert block is not None
            raw += [
                self.node.request("eth_getRawTransactionByHash", "0x" + h.hex()) for h in block.transactions
            ]
        return [bytes.fromhex(one[2:]) for one in raw]

    def reorganise(self, blocks: int, put_back: Sequence[bytes] = ()) -> None:
        """Replaces the newest blocks by empty ones, and gives the node transactions for its pool.

        Transactions that cannot be mined on the new branch are mined without effect, or wait, or are refused.
        """
        self.node.reorg(blocks)
        for raw in put_back:
            with contextlib.suppress(RpcRefused):
                self.node.rpc.send_raw(raw)
