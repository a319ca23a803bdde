"""What a test of transactions acts in: a worthless token on a real node, and a key that mints it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anvil_node import AnvilNode
from eth_account import Account as Keys
from eth_account.signers.local import LocalAccount

from usufruct.chain.account import Account, SendPolicy
from usufruct.chain.interface import interface
from usufruct.chain.rpc import Rpc

QUICK = SendPolicy(
    mined_seconds=20,
    replace_seconds=0.3,
    rebroadcast_seconds=0.05,
    final_seconds=20,
    most_fee_per_gas_wei=10**12,
)
"""Times of a test; the fees of a chain whose tip is 1 gwei."""
PATIENT = SendPolicy(mined_seconds=20, replace_seconds=600, rebroadcast_seconds=0.05, final_seconds=20)
"""The same, but nothing is ever replaced."""


@dataclass
class TokenWorld:
    """A token at ``token`` and a key with coin for gas. All tokens that exist were minted by ``key``."""

    node: AnvilNode
    key: LocalAccount
    token: str
    chain_id: int

    @classmethod
    def on(cls, node: AnvilNode) -> TokenWorld:
        key, deployer = Keys.create(), Keys.create()
        for account in (key, deployer):
            node.fund(account.address)
        chain_id = node.rpc.chain_id()
        receipt = Account(node.rpc, chain_id, deployer).send(
            None, interface("TestToken").encode_creation(), "a token"
        )
        assert receipt.contract is not None
        node.mine(70)  # no reorganisation of a test takes the token or the coin away
        return cls(node, key, receipt.contract, chain_id)

    def account(
        self, outbox: Path | None = None, policy: SendPolicy = QUICK, rpc: Rpc | None = None
    ) -> Account:
        return Account(rpc or self.node.rpc, self.chain_id, self.key, outbox, policy)

    def mint(self, units: int, to: str | None = None) -> bytes:
        """Calldata."""
        return interface("TestToken").encode_call("mint", to or self.key.address, units)

    def balance(self, owner: str | None = None) -> int:
        data = interface("TestToken").encode_call("balanceOf", owner or self.key.address)
        answer = self.node.rpc.call(self.token, data, "latest")
        return int(interface("TestToken").decode_result("balanceOf", answer))

    def sent(self) -> int:
        """How many transactions of the key are mined."""
        return self.node.rpc.nonce(self.key.address, "latest")

    def foreign(self, nonce: int, data: bytes, tip_wei: int = 100 * 10**9) -> bytes:
        """A transaction of the same key by a program that knows nothing of the outbox; returns its hash."""
        fields = {
            "chainId": self.chain_id, "nonce": nonce, "to": self.token, "value": 0, "data": data, "gas": 200_000,
            "type": 2, "maxFeePerGas": tip_wei + 10**10, "maxPriorityFeePerGas": tip_wei,
        }  # fmt: skip
        signed = self.key.sign_transaction(fields)
        self.node.rpc.send_raw(bytes(signed.raw_transaction))
        return bytes(signed.hash)
