"""What a deployment would take, by running it on the chain's own machine without sending anything.

One ``eth_call`` without a recipient runs creation code that creates the contracts one after the other, each with the
others' addresses, and returns the gas that each took. Nothing is kept. A chain that lacks an instruction which the
contracts need, or whose limits they exceed, refuses here and not after the first of them was paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

from usufruct.chain.deploy import created_address, creations
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.interface import interface
from usufruct.chain.reverts import refusal
from usufruct.chain.rpc import Rpc
from usufruct.errors import ChainError

PERFORMER = "0x000000000000000000000000000000000000dEaD"
"""From whom the rehearsal is: an address that nobody has the key of, so that its next nonce is 0 on every chain."""
_TRANSACTION_GAS, _ZERO_BYTE_GAS, _OTHER_BYTE_GAS = 21_000, 4, 16
_RESULTS = 0xC000
"""Where in memory the results are gathered: above any creation code, which EIP-3860 ends at 49,152 bytes."""
_STEP_BYTES, _END_BYTES = 34, 18

GAS, CODECOPY, CREATE, ISZERO, JUMPI, JUMPDEST, SWAP1, SUB, MSTORE, RETURN, REVERT, RETURNDATASIZE, RETURNDATACOPY = (
    bytes([code]) for code in (0x5A, 0x39, 0xF0, 0x15, 0x57, 0x5B, 0x90, 0x03, 0x52, 0xF3, 0xFD, 0x3D, 0x3E)
)  # fmt: skip


@dataclass(frozen=True)
class Rehearsal:
    """What a deployment takes.

    Attributes:
        gas: contract -> gas of the transaction that creates it, within a hundredth. On a rollup, a fee for its data comes
            on top.
        gas_price_wei: what the chain asks per gas at present.
    """

    gas: dict[str, int]
    gas_price_wei: int

    @property
    def total_gas(self) -> int:
        """Of all transactions."""
        return sum(self.gas.values())

    @property
    def cost_wei(self) -> int:
        """At the present price."""
        return self.total_gas * self.gas_price_wei


def rehearse(rpc: Rpc, guardian: str) -> Rehearsal:
    """Rehearses a deployment at the newest block.

    Raises:
        ChainError: TRANSACTION_FAILED: the contracts cannot be deployed on this chain, with what the node said.
    """
    planned = creations(created_address(PERFORMER, 0), 1, guardian)
    data = [interface(one.contract).encode_creation(*one.arguments) for one in planned]
    try:
        answer = rpc.call(None, _performance(data), "latest", sender=PERFORMER)
    except RpcRefused as error:
        if error.data:
            raise refusal("a rehearsal of the deployment", error.data) from error
        raise ChainError(
            f"these contracts cannot be deployed on this chain; it needs at least the rules of Ethereum's Cancun. It says: "
            f"{error.message}",
            reason="TRANSACTION_FAILED",
        ) from error
    if len(answer) != 32 * len(planned):
        raise ChainError(f"the node at {rpc.place} does not run creation code in eth_call; use another node")
    taken = [int.from_bytes(answer[at : at + 32], "big") for at in range(0, len(answer), 32)]
    base = rpc.newest().base_fee_wei
    return Rehearsal(
        {
            one.contract: _transaction_gas(code) + gas
            for one, code, gas in zip(planned, data, taken, strict=True)
        },
        rpc.gas_price_wei() if base is None else base + rpc.tip_wei(),
    )


def _transaction_gas(data: bytes) -> int:
    """What a transaction takes before anything is run."""
    zeros = data.count(0)
    return _TRANSACTION_GAS + zeros * _ZERO_BYTE_GAS + (len(data) - zeros) * _OTHER_BYTE_GAS


def _performance(codes: list[bytes]) -> bytes:
    """Creation code that creates all ``codes`` and returns the gas that each took, 32 bytes each, or reverts as they do."""
    failure = len(codes) * _STEP_BYTES + _END_BYTES - 11
    at = len(codes) * _STEP_BYTES + _END_BYTES
    steps = b""
    for number, code in enumerate(codes):
        size = _push(len(code), 3)
        steps += GAS + size + _push(at, 3) + _push(0) + CODECOPY  # into memory from 0 on
        steps += size + _push(0) + _push(0) + CREATE + ISZERO + _push(failure, 2) + JUMPI
        steps += GAS + SWAP1 + SUB + _push(_RESULTS + 32 * number, 3) + MSTORE
        at += len(code)
    steps += _push(32 * len(codes)) + _push(_RESULTS, 3) + RETURN
    steps += (
        JUMPDEST + RETURNDATASIZE + _push(0) + _push(0) + RETURNDATACOPY + RETURNDATASIZE + _push(0) + REVERT
    )
    return steps + b"".join(codes)


def _push(value: int, size: int = 1) -> bytes:
    return bytes([0x5F + size]) + value.to_bytes(size, "big")
