"""A development chain with the contracts, fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_world import CAP, ENDPOINT, EPOCH, FINGERPRINT, MONEY, ORDER, TERMS, World
from eth_account import Account

from usufruct.chain import Chain, Sender, deploy
from usufruct.chain.dev_chain import DevChain


@pytest.fixture
def world() -> Iterator[World]:
    with DevChain() as node:
        accounts = [Account.create() for _ in range(6)]
        for account in accounts:
            node.evm.fund(bytes.fromhex(account.address[2:]), 10**18)
        addresses = deploy(node.url, accounts[0], test_token=True)
        chain = Chain.connect(node.url, addresses.compute_access)
        guardian, admin, operator, builder, arbiter, stranger = (
            Sender(chain, account) for account in accounts
        )
        token = addresses.test_token
        assert token is not None
        holder = admin.register_holder(operator.address, admin.address, ENDPOINT, FINGERPRINT)
        operator.take_fencing_epoch(holder, EPOCH, bytes(32))
        datasets = [
            admin.register_dataset(holder, bytes([i]) * 32, token, ORDER, CAP, TERMS) for i in (1, 2, 3)
        ]
        builder.mint_test_token(token, builder.address, 5 * MONEY)
        builder.deposit(token, MONEY)
        yield World(
            node, chain, addresses, guardian, admin, operator, builder, arbiter, stranger, accounts[2], accounts[3],
            accounts[5], token, holder, datasets,
        )  # fmt: skip
