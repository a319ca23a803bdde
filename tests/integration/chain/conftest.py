"""A development chain with the contracts, fresh for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_world import CAP, ORDER, PRICE, World
from eth_account import Account

from usufruct.chain import Chain, Sender, deploy
from usufruct.chain.dev_chain import DevChain


@pytest.fixture
def world() -> Iterator[World]:
    with DevChain() as node:
        accounts = [Account.create() for _ in range(5)]
        for account in accounts:
            node.evm.fund(bytes.fromhex(account.address[2:]), 10**18)
        addresses = deploy(node.url, accounts[0], test_token=True)
        chain = Chain.connect(node.url, addresses.compute_access)
        admin, operator, builder, stranger = (Sender(chain, account) for account in accounts[1:])
        token = addresses.test_token
        assert token is not None
        holder = admin.register_holder(operator.address, admin.address, "127.0.0.1:7000", b"\x01" * 32)
        datasets = [
            admin.register_dataset(holder, bytes([i]) * 32, token, PRICE, 1, ORDER, CAP, 5_000_000)
            for i in (1, 2, 3)
        ]
        builder.mint_test_token(token, builder.address, 100 * PRICE)
        builder.deposit(token, 20 * PRICE)
        yield World(
            node,
            chain,
            addresses,
            admin,
            operator,
            builder,
            stranger,
            accounts[2],
            accounts[3],
            token,
            holder,
            datasets,
        )
