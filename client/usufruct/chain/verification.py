"""What a block explorer needs to show that a deployment was compiled from these sources."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from usufruct.chain.addresses import Addresses
from usufruct.chain.deploy import Creation, creations_at
from usufruct.chain.interface import interface
from usufruct.domain.ids import to_hex

STANDARD_INPUT = "standard_input.json"
CONTRACTS = "contracts.json"


def write_bundle(addresses: Addresses, folder: Path) -> None:
    """Writes a deployment's verification bundle.

    ``standard_input.json`` is solc's standard JSON input, for all contracts alike: every source and setting. Each contract
    of ``contracts.json`` is verified with it, by its address, name, compiler version and constructor arguments.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shipped = files("usufruct.chain").joinpath("artefacts", STANDARD_INPUT).read_bytes()
    (folder / STANDARD_INPUT).write_bytes(shipped)
    (folder / CONTRACTS).write_text(json.dumps(_contracts(addresses), indent=1) + "\n", encoding="utf-8")


def _contracts(addresses: Addresses) -> list[dict[str, Any]]:
    created = [
        *creations_at(addresses.usage_log, addresses.registry, addresses.compute_access, addresses.guardian),
        *([Creation("TestToken", addresses.test_token, ())] if addresses.test_token is not None else []),
    ]
    return [
        {
            "address": one.address,
            "contract": f"{interface(one.contract).file}:{one.contract}",
            "compiler": "v" + ".".join(addresses.compiler.split(".")[:4]),
            "standard_input": STANDARD_INPUT,
            "constructor_arguments": to_hex(interface(one.contract).encode_arguments(*one.arguments)),
        }
        for one in created
    ]
