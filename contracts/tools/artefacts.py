"""The compiled artefacts that the Python package ships: written, and compared with what the sources compile to."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

from tools.node import CONTRACTS, install, node

ARTEFACTS = CONTRACTS.parent / "client" / "usufruct" / "chain" / "artefacts"
SHIPPED = ("ComputeAccess", "Registry", "TestToken", "UsageLog")
STANDARD_INPUT = "standard_input.json"
"""solc's standard JSON input: sources and settings, with which anybody can compile the artefacts again."""
EIP170_BYTES = 24_576


def compiled() -> dict[str, str]:
    """File name -> exact text of every artefact, compiled now."""
    install()
    run = subprocess.run(
        [str(node()), "compile.mjs"], cwd=CONTRACTS, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"The contracts do not compile:\n{run.stderr}")
    output = json.loads(run.stdout)
    sources = output["sources"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path}\0{len(sources[path].encode())}\0{sources[path]}".encode())
    artefacts: dict[str, dict[str, Any]] = {}
    for name in SHIPPED:
        contract = output["contracts"][name]
        size = len(contract["runtimeBytecode"]) // 2
        if size > EIP170_BYTES:
            raise SystemExit(f"{name} has {size} bytes; EIP-170 allows {EIP170_BYTES}.")
        artefacts[f"{name}.json"] = {
            "contract": name,
            "file": contract["file"],
            "compiler": output["compiler"],
            "settings": output["settings"],
            "sources_sha256": digest.hexdigest(),
            "runtime_bytes": size,
            "abi": contract["abi"],
            "bytecode": "0x" + contract["bytecode"],
            "runtime_bytecode": "0x" + contract["runtimeBytecode"],
            "immutables": contract["immutables"],
        }
    artefacts[STANDARD_INPUT] = {
        "language": "Solidity",
        "settings": {**output["settings"], "outputSelection": {"*": {"*": ["abi", "evm"]}}},
        "sources": {path: {"content": text} for path, text in sources.items()},
    }
    return {file: json.dumps(a, indent=1, sort_keys=True) + "\n" for file, a in artefacts.items()}


def write_artefacts() -> int:
    """Compiles and writes the artefacts."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for name, text in compiled().items():
        (ARTEFACTS / name).write_text(text)
        if name != STANDARD_INPUT:
            print(f"{name}: {json.loads(text)['runtime_bytes']} bytes at run time")
    return 0


def check_artefacts() -> int:
    """Compiles again and compares byte for byte with what is committed."""
    fresh = compiled()
    there = {path.name for path in ARTEFACTS.glob("*.json")}
    stale = sorted(n for n, text in fresh.items() if n not in there or (ARTEFACTS / n).read_text() != text)
    stale += sorted(there - set(fresh))
    for name in stale:
        print(
            f"{name} is not what the sources compile to; run: python contracts/toolchain.py compile",
            file=sys.stderr,
        )
    return 1 if stale else 0
