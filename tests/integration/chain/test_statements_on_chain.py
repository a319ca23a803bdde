"""Solidity and Python hash every signed statement alike: the contracts' views on random values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from usufruct.chain import Chain, deploy, typed_data
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.interface import interface
from usufruct.domain.grant import Grant, Sponsorship
from usufruct.domain.leg_receipt import LegReceipt

Hash = Callable[..., bytes]
STATEMENTS: dict[str, tuple[str, tuple[str, ...], Hash, type | None]] = {
    "hashGrant": ("Registry", typed_data.GRANT_FIELDS, typed_data.grant_hash, Grant),
    "hashCall": ("Registry", typed_data.CALL_FIELDS, typed_data.call_hash, None),
    "hashSponsorship": (
        "ComputeAccess", typed_data.SPONSORSHIP_FIELDS, typed_data.sponsorship_hash, Sponsorship,
    ),
    "hashAcceptance": ("ComputeAccess", typed_data.ACCEPTANCE_FIELDS, typed_data.acceptance_hash, None),
    "hashDecline": ("ComputeAccess", typed_data.DECLINE_FIELDS, typed_data.decline_hash, None),
    "hashFailure": ("ComputeAccess", typed_data.FAILURE_FIELDS, typed_data.failure_hash, None),
    "hashReceipt": ("ComputeAccess", typed_data.RECEIPT_FIELDS, typed_data.receipt_hash, LegReceipt),
    "hashLower": ("ComputeAccess", typed_data.LOWER_FIELDS, typed_data.lower_hash, None),
    "hashAcknowledgement": (
        "ComputeAccess", typed_data.ACKNOWLEDGEMENT_FIELDS, typed_data.acknowledgement_hash, None,
    ),
    "hashBatch": ("UsageLog", typed_data.USAGE_BATCH_FIELDS, typed_data.usage_batch_hash, None),
}  # fmt: skip
"""View -> its contract, the fields, Python's hash of them, and the dataclass that holds them."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with DevChain() as node:
        account = Account.create()
        node.evm.fund(bytes.fromhex(account.address[2:]), 10**18)
        yield Chain.connect(node.url, deploy(node.url, account).compute_access)


def value_of(field: str) -> st.SearchStrategy[Any]:
    """Any value of a field, its least and greatest ones often."""
    kind = field.split(" ")[0]
    if kind == "address":
        return st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
    if kind == "bytes":
        return st.binary(max_size=200)
    if kind == "bytes32":
        return st.binary(min_size=32, max_size=32)
    most = (1 << int(kind.removeprefix("uint"))) - 1
    return st.sampled_from([0, 1, most]) | st.integers(0, most)


@pytest.mark.parametrize("view", sorted(STATEMENTS))
def test_solidity_and_python_hash_alike(chain: Chain, view: str) -> None:
    contract, fields, hash_here, struct = STATEMENTS[view]
    where = {"Registry": chain.registry, "ComputeAccess": chain.compute_access, "UsageLog": chain.usage_log}
    abi = interface(contract)

    @settings(max_examples=40, deadline=None)
    @given(st.tuples(*map(value_of, fields)))
    def check(values: tuple[Any, ...]) -> None:
        # a view of a struct takes it as one argument
        data = abi.encode_call(view, *(values if struct is None else (values,)))
        there = abi.decode_result(view, chain.rpc.call(where[contract], data, "latest"))
        stated = values if struct is None else (struct(*values),)
        assert there == hash_here(*stated, chain.chain_id, where[contract])

    check()


def test_domains_are_the_contracts(chain: Chain) -> None:
    for contract, where, domain in (
        ("Registry", chain.registry, typed_data.registry_domain),
        ("ComputeAccess", chain.compute_access, typed_data.compute_access_domain),
        ("UsageLog", chain.usage_log, typed_data.usage_log_domain),
    ):
        abi = interface(contract)
        there = abi.decode_result(
            "domainSeparator", chain.rpc.call(where, abi.encode_call("domainSeparator"), "latest")
        )
        assert there == domain(chain.chain_id, where)
