"""Deploying the contracts, so that an interrupted deployment goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.chain.account import Account
from usufruct.chain.addresses import Addresses
from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain
from usufruct.chain.interface import interface
from usufruct.chain.rpc import Rpc
from usufruct.domain.ids import address
from usufruct.errors import ChainError

MOST_BEGINNINGS = 3
"""How often a deployment is begun anew because the account sent something else in between."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Creation:
    """A contract of a deployment, its address, and its constructor's arguments."""

    contract: str
    address: str
    arguments: tuple[Any, ...]


class _Overtaken(Exception):
    """The account has sent something else in between: what was deployed so far names addresses that will never be."""


def creations(creator: str, first_nonce: int, guardian: str) -> tuple[Creation, ...]:
    """The three contracts, which name each other and can never be changed, in the order of their creation.

    UsageLog is told Registry's address before it exists, and Registry ComputeAccess's: they follow from who creates them
    and with which nonce. The constructors check that they were told the right ones: half a deployment is of no use.
    """
    usage_log, registry, compute_access = (created_address(creator, first_nonce + i) for i in range(3))
    return creations_at(usage_log, registry, compute_access, guardian)


def creations_at(usage_log: str, registry: str, compute_access: str, guardian: str) -> tuple[Creation, ...]:
    """The three contracts at these addresses."""
    return (
        Creation("UsageLog", usage_log, (registry,)),
        Creation("Registry", registry, (compute_access, usage_log, guardian)),
        Creation("ComputeAccess", compute_access, (registry,)),
    )


def deploy(
    rpc_url: str | Sequence[str],
    account: LocalAccount,
    *,
    guardian: str | None = None,
    test_token: bool = False,
    timeout_seconds: float = 5.0,
    confirmations: int | None = None,
    outbox: Path | None = None,
    tell: Tell = lambda text: None,
) -> Addresses:
    """Deploys UsageLog, Registry and ComputeAccess, and waits until that is final.

    Args:
        guardian: who may pause new business and set a fee; None: this account. The zero address: nobody, ever.
        test_token: also deploy the worthless token of tests and demonstrations.
        confirmations: None: final is what the chain calls so; a number: that many blocks below the newest.
        outbox: file that a later call goes on from if this one is interrupted; None: a crash loses what was deployed.
        tell: called with a line for people whenever there is progress.
    Raises:
        ChainError: CHAIN_UNREACHABLE, CHAIN_DISAGREES, TRANSACTION_FAILED. With an outbox, call again with the same values.
    """
    rpc = Rpc(rpc_url, timeout_seconds, confirmations)
    sender = Account(rpc, rpc.chain_id(), account, outbox)
    try:
        receipts = _create_all(sender, guardian or sender.address, tell)
        if test_token:
            data = interface("TestToken").encode_creation()
            receipts["TestToken"] = _create(sender, "TestToken", data, "TestToken", tell)
    finally:
        sender.close()
    created = {contract: receipt.contract for contract, receipt in receipts.items()}
    chain = Chain(rpc, str(created["ComputeAccess"]))
    artefact = interface("ComputeAccess")
    return Addresses(
        chain_id=chain.chain_id,
        compute_access=chain.compute_access,
        registry=chain.registry,
        usage_log=chain.usage_log,
        deployment_block=chain.deployment_block,
        guardian=chain.settings().guardian,
        compiler=artefact.compiler,
        sources_sha256=artefact.sources_sha256,
        gas_used=sum(receipt.gas_used for receipt in receipts.values()),
        test_token=created.get("TestToken"),
    )


def created_address(account: str, nonce: int) -> str:
    """Address of the contract that ``account`` creates with transaction ``nonce`` (Yellow Paper, section 7)."""
    creator = bytes.fromhex(address(account, "account")[2:])
    return address("0x" + keccak(rlp.encode([creator, nonce]))[-20:].hex(), "account")


def _create_all(sender: Account, guardian: str, tell: Tell) -> dict[str, TransactionReceipt]:
    """Receipts of the three creations, all final."""
    for beginning in range(MOST_BEGINNINGS):
        try:
            return _go_on(sender, guardian, beginning, tell)
        except _Overtaken:
            tell(
                "the account has sent something else in between, so that the addresses do not fit: beginning anew"
            )
    raise ChainError(
        f"{sender.address} keeps sending other transactions in between; deploy from an account of its own, or with another "
        "outbox",
        reason="TRANSACTION_FAILED",
    )


def _go_on(sender: Account, guardian: str, beginning: int, tell: Tell) -> dict[str, TransactionReceipt]:
    first = sender.sent(f"UsageLog {beginning}")
    nonce = sender.rpc.nonce(sender.address, "pending") if first is None else first.nonce
    planned = creations(sender.address, nonce, guardian)
    purposes = {one.contract: f"{one.contract} {beginning}" for one in planned}
    for number, one in enumerate(planned):
        data = interface(one.contract).encode_creation(*one.arguments)
        there = sender.sent(purposes[one.contract])
        at = sender.rpc.nonce(sender.address, "pending") if there is None else there.nonce
        if at != nonce + number or (there is not None and there.data != data):
            raise _Overtaken
        try:
            _send(sender, one.contract, data, purposes[one.contract], tell)
        except ChainError as error:
            if error.details.get("contract_reason") == "WrongDeployment()":
                raise _Overtaken from error
            raise
    receipts = {one.contract: sender.wait_final(purposes[one.contract], tell) for one in planned}
    if any(receipts[one.contract].contract != one.address for one in planned):
        raise _Overtaken
    return receipts


def _create(sender: Account, contract: str, data: bytes, purpose: str, tell: Tell) -> TransactionReceipt:
    _send(sender, contract, data, purpose, tell)
    return sender.wait_final(purpose, tell)


def _send(sender: Account, contract: str, data: bytes, purpose: str, tell: Tell) -> None:
    receipt = sender.send(None, data, f"the deployment of {contract}", purpose)
    tell(f"{contract} is at {receipt.contract}, in block {receipt.block_number}, for {receipt.gas_used} gas")
