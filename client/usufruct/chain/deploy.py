"""Deploying the contracts, and the addresses file that names a deployment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount
from eth_typing import HexAddress, HexStr
from web3.types import Nonce
from web3.utils.address import get_create_address

from usufruct.chain.account import Account
from usufruct.chain.connection import Chain
from usufruct.chain.interface import interface
from usufruct.chain.rpc import Rpc
from usufruct.domain.ids import address
from usufruct.errors import ChainError, ConfigError


@dataclass(frozen=True)
class Addresses:
    """One deployment. ``test_token`` is None where none was asked for; ``gas_used`` is of all its transactions."""

    chain_id: int
    compute_access: str
    registry: str
    usage_log: str
    deployment_block: int
    gas_used: int
    test_token: str | None = None

    def write(self, path: Path) -> None:
        """Writes the addresses file (JSON)."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_addresses(path: Path) -> Addresses:
    """Reads an addresses file. Raises :class:`ConfigError` naming it if it is none."""
    try:
        return Addresses(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not an addresses file; write one with: usufruct chain deploy", path=str(path)
        ) from error


def deploy(
    rpc_url: str,
    account: LocalAccount,
    *,
    guardian: str | None = None,
    test_token: bool = False,
    timeout_seconds: float = 5.0,
) -> Addresses:
    """Deploys UsageLog, Registry and ComputeAccess, which name each other and can never be changed.

    UsageLog is told Registry's address before it exists, and Registry ComputeAccess's (they follow from the account and
    its nonce); the constructors check that they were told the right ones: a half deployment is of no use to anyone.

    Args:
        guardian: who may pause new business and set a fee; None: this account. The zero address: nobody, ever.
        test_token: also deploy the worthless token of tests and demonstrations.
    Raises:
        ChainError: CHAIN_UNREACHABLE, TRANSACTION_FAILED.
    """
    rpc = Rpc(rpc_url, timeout_seconds)
    chain_id = rpc.chain_id()
    sender = Account(rpc, chain_id, account)
    gas_used = 0

    def create(contract: str, *arguments: object) -> tuple[str, int]:
        nonlocal gas_used
        receipt = sender.send(
            None, interface(contract).encode_creation(*arguments), f"the deployment of {contract}"
        )
        gas_used += receipt.gas_used
        if receipt.contract is None:
            raise ChainError(f"the deployment of {contract} made no contract", reason="TRANSACTION_FAILED")
        return receipt.contract, receipt.block_number

    nonce = rpc.nonce(sender.address, "pending")
    usage_log, _ = create("UsageLog", created_address(sender.address, nonce + 1))
    registry, block = create(
        "Registry", created_address(sender.address, nonce + 2), usage_log, guardian or sender.address
    )
    compute_access, _ = create("ComputeAccess", registry)
    token = create("TestToken")[0] if test_token else None
    chain = Chain(rpc, compute_access)
    return Addresses(chain_id, compute_access, chain.registry, chain.usage_log, block, gas_used, token)


def created_address(account: str, nonce: int) -> str:
    """Address of the contract that ``account`` creates with transaction ``nonce`` (Yellow Paper, section 7)."""
    return str(get_create_address(HexAddress(HexStr(address(account, "account"))), Nonce(nonce)))
