"""A deployment of the shipped contracts to measure on: accounts, transactions, signatures, the structs of the ABI.

Written against the artefacts alone and not against the Python package's bindings, which estimate, retry and wait.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from tools.artefacts import ARTEFACTS, SHIPPED
from tools.node import CONTRACTS
from usufruct.chain.deploy import created_address
from usufruct.chain.dev_chain import DevChain
from usufruct.chain.interface import Interface

GAS_LIMIT = 25_000_000
COIN_WEI = 10**18
Values = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A transaction in its block: gas used by its receipt, and its events as (name, values)."""

    gas: int
    events: list[tuple[str, Values]]

    def values(self, event: str) -> list[Values]:
        """Values of every event of that name."""
        return [values for name, values in self.events if name == event]


class Node:
    """JSON-RPC of a node on this machine that mines every transaction at once and lets its clock be moved."""

    def __init__(self, address: str, development: bool) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=120)
        self._development = development

    def request(self, method: str, *params: Any) -> Any:
        """The result of a method; ends the program if the node refuses."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise Refused(method, answer["error"])
        return answer["result"]

    def receipt(self, transaction_hash: str) -> dict[str, Any]:
        """The receipt of a transaction that is mined at once, or almost."""
        for _ in range(1000):
            found = self.request("eth_getTransactionReceipt", transaction_hash)
            if found is not None:
                return dict(found)
            time.sleep(0.01)
        raise SystemExit(f"transaction {transaction_hash} was not mined")

    def fund(self, address: str) -> None:
        """Gives an account coin for gas."""
        method = "dev_fund" if self._development else "anvil_setBalance"
        self.request(method, address, hex(1000 * COIN_WEI))

    def wait(self, seconds: int) -> None:
        """Moves the clock and mines a block there."""
        if self._development:
            self.request("dev_increaseTime", hex(seconds))
        else:
            self.request("evm_increaseTime", seconds)
            self.request("evm_mine")

    def now_seconds(self) -> int:
        """Time of the newest block."""
        return int(self.request("eth_getBlockByNumber", "latest", False)["timestamp"], 16)


class Refused(Exception):
    """The node answered with an error; ``data`` is what a contract said, if it was one."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        super().__init__(f"{method}: {error.get('message')}")
        data = error.get("data")
        self.data = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""


@contextmanager
def running_node(anvil: bool) -> Iterator[Node]:
    """The development chain (py-evm, cancun), or anvil with its own newest rules, on a free port of 127.0.0.1."""
    if not anvil:
        with DevChain() as chain:
            yield Node(chain.url.removeprefix("http://"), development=True)
        return
    packaged = sorted((CONTRACTS / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil*"))
    found = str(packaged[0]) if packaged else shutil.which("anvil")
    if found is None:
        raise SystemExit("anvil is not packaged for this machine; install Foundry and put anvil in the path.")
    process = subprocess.Popen([found, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(
            (line.split()[-1] for line in process.stdout if line.startswith("Listening on ")), None
        )
        if address is None:
            raise SystemExit("anvil did not start.")
        # it writes about every transaction, and would stop at a full pipe
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield Node(address, development=False)
    finally:
        process.terminate()
        process.wait()


class Network:
    """The contracts on a node, and the accounts that use them.

    Attributes:
        runtime_bytes: contract -> size of its code on the chain.
        deployment_gas: of the three contracts.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._chain_id = int(node.request("eth_chainId"), 16)
        artefacts = {name: json.loads((ARTEFACTS / f"{name}.json").read_text()) for name in SHIPPED}
        self._interfaces = {name: Interface(artefact) for name, artefact in artefacts.items()}
        self._functions = {
            (name, part["name"]): part
            for name, artefact in artefacts.items()
            for part in artefact["abi"]
            if part["type"] == "function"
        }
        self._errors = [interface.decode_error for interface in self._interfaces.values()]
        self._nonces: dict[str, int] = {}
        self.guardian, self.admin, self.operator, self.builder, self.payout, self.relay, self.other = (
            self._account() for _ in range(7)
        )
        self.addresses: dict[str, str] = {}
        self.deployment_gas = self._deploy()
        self.runtime_bytes = {
            name: len(node.request("eth_getCode", self.addresses[name], "latest")) // 2 - 1
            for name in ("Registry", "ComputeAccess", "UsageLog")
        }

    def send(self, sender: LocalAccount, contract: str, function: str, *arguments: Any) -> Sent:
        """Sends a transaction. Ends the program with what the contract said if it reverts: nothing here is meant to."""
        data = self._interfaces[contract].encode_call(function, *arguments)
        return self._send(sender, self.addresses[contract], data, f"{contract}.{function}")[0]

    def view(self, contract: str, function: str, *arguments: Any) -> Any:
        """The result of a view at the newest block."""
        data = self._interfaces[contract].encode_call(function, *arguments)
        call = {"to": self.addresses[contract], "data": "0x" + data.hex()}
        result = self.node.request("eth_call", call, "latest")
        return self._interfaces[contract].decode_result(function, bytes.fromhex(result[2:]))

    def calldata(self, contract: str, function: str, *arguments: Any) -> bytes:
        """Calldata of a call, for one that is signed and sent by another."""
        return self._interfaces[contract].encode_call(function, *arguments)

    def sign(self, account: LocalAccount, contract: str, function: str, *arguments: Any) -> bytes:
        """The account's signature of the EIP-712 hash that a view of the contract gives."""
        return bytes(account.unsafe_sign_hash(self.view(contract, function, *arguments)).signature)

    def struct(self, contract: str, function: str, index: int, values: Values) -> tuple[Any, ...]:
        """The struct that a function takes as argument ``index``; every field must be given, and no other."""
        names = [part["name"] for part in self._functions[contract, function]["inputs"][index]["components"]]
        if set(names) != set(values):
            raise SystemExit(
                f"tools/gas.py and {contract}.{function} differ in {sorted(set(names) ^ set(values))}"
            )
        return tuple(values[name] for name in names)

    def fields(self, contract: str, function: str, index: int, struct: tuple[Any, ...]) -> Values:
        """A struct's fields by name: the opposite of :meth:`struct`."""
        parts = self._functions[contract, function]["inputs"][index]["components"]
        return dict(zip((part["name"] for part in parts), struct, strict=True))

    def _account(self) -> LocalAccount:
        account: LocalAccount = Account.create(secrets.token_bytes(32))
        self.node.fund(account.address)
        return account

    def _deploy(self) -> int:
        deployer = self._account()
        usage_log, registry, compute_access = (created_address(deployer.address, nonce) for nonce in range(3))
        gas = 0
        for name, arguments in (
            ("UsageLog", (registry,)),
            ("Registry", (compute_access, usage_log, self.guardian.address)),
            ("ComputeAccess", (registry,)),
        ):
            gas += self._create(deployer, name, *arguments)
        self._create(deployer, "TestToken")
        return gas

    def _create(self, deployer: LocalAccount, name: str, *arguments: Any) -> int:
        data = self._interfaces[name].encode_creation(*arguments)
        sent, contract = self._send(deployer, None, data, name)
        self.addresses[name] = to_checksum_address(contract)
        return sent.gas

    def _send(self, sender: LocalAccount, to: str | None, data: bytes, what: str) -> tuple[Sent, str]:
        nonce = self._nonces.get(sender.address, 0)
        transaction: Any = {
            "type": 2, "chainId": self._chain_id, "nonce": nonce, "to": to or b"", "value": 0, "data": data,
            "gas": GAS_LIMIT, "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 1,
        }  # fmt: skip
        raw = bytes(sender.sign_transaction(transaction).raw_transaction)
        receipt = self.node.receipt(self.node.request("eth_sendRawTransaction", "0x" + raw.hex()))
        self._nonces[sender.address] = nonce + 1
        if int(receipt["status"], 16) != 1:
            raise SystemExit(f"{what} reverted: {self._revert(sender, to, data)}")
        events = [event for log in receipt["logs"] if (event := self._event(log)) is not None]
        return Sent(int(receipt["gasUsed"], 16), events), receipt["contractAddress"]

    def _event(self, log: dict[str, Any]) -> tuple[str, Values] | None:
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        for name, interface in self._interfaces.items():
            if log["address"].lower() == self.addresses.get(name, "").lower():
                return interface.decode_log(topics, bytes.fromhex(log["data"][2:]))
        return None

    def _revert(self, sender: LocalAccount, to: str | None, data: bytes) -> object:
        call = {"from": sender.address, "data": "0x" + data.hex(), **({"to": to} if to else {})}
        try:
            self.node.request("eth_call", call, "latest")
        except Refused as refused:
            found = [said for decode in self._errors if (said := decode(refused.data)) is not None]
            return found[0] if found else refused
        return "with no reason"
