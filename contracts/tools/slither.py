"""Slither over the contracts, in an environment of its own: ``make slither``.

Slither is AGPL: it is run here and is no dependency of anything. A finding that is meant carries its reason beside the
code, and slither is told to be quiet about that one line only:

    // the registry is ours and calls nothing
    // slither-disable-next-line reentrancy-no-eth
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from tools.node import CONTRACTS, install, with_node

_PINNED = CONTRACTS / "tools" / "slither.txt"
_HOME = CONTRACTS / "cache" / "slither"
_SERIOUS = ("High", "Medium")


def main(arguments: list[str]) -> int:
    """Prints what slither finds of high and medium impact, and suppressions without a reason; 1 if there is any."""
    install()
    findings = _findings(arguments)
    for finding in findings:
        where = finding["elements"][0]["source_mapping"] if finding["elements"] else {}
        line = where.get("lines", [0])[0]
        print(
            f"{where.get('filename_relative', 'src')}:{line}: {finding['impact'].lower()}: {finding['check']}"
        )
        print("    " + finding["description"].strip().replace("\n", "\n    "))
    unexplained = [
        line for path in sorted((CONTRACTS / "src").glob("*.sol")) for line in without_reason(path)
    ]
    for place in unexplained:
        print(f"{place}: a suppression needs its reason in the comment line above")
    explained = sum(path.read_text().count("slither-disable") for path in (CONTRACTS / "src").glob("*.sol"))
    print(
        f"slither: {len(findings)} findings of high or medium impact, {explained} suppressed beside the code, "
        f"{len(unexplained)} of them without a reason"
    )
    return 1 if findings or unexplained else 0


def without_reason(path: Path) -> list[str]:
    """``file:line`` of every suppression that no comment line stands above."""
    lines = path.read_text().splitlines()
    return [
        f"{path.name}:{number + 1}"
        for number, line in enumerate(lines)
        if "slither-disable" in line
        and (number == 0 or not lines[number - 1].strip().startswith("//") or "slither" in lines[number - 1])
    ]


def _findings(arguments: list[str]) -> list[dict[str, Any]]:
    report = _HOME / "report.json"
    report.unlink(missing_ok=True)
    command = [str(_installed()), ".", "--filter-paths", "node_modules|test/", "--json", str(report)]
    run = subprocess.run(
        [*command, *arguments],
        cwd=CONTRACTS,
        env=with_node(FOUNDRY_OUT=str(_HOME / "out"), FOUNDRY_CACHE_PATH=str(_HOME / "forge")),
        capture_output=True,
        text=True,
        check=False,
    )
    result: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {"success": False}
    if not result["success"]:
        raise SystemExit(f"slither did not run:\n{run.stderr[-4000:]}")
    found = [d for d in result["results"].get("detectors", []) if d["impact"] in _SERIOUS]
    return sorted(found, key=lambda d: (_SERIOUS.index(d["impact"]), d["check"], d["description"]))


def _installed() -> Path:
    """The slither executable, installed now if it is not there in the pinned version."""
    pinned = hashlib.sha256(_PINNED.read_bytes()).hexdigest()
    environment, stamp = _HOME / "venv", _HOME / "installed"
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    if not stamp.exists() or stamp.read_text() != pinned:
        print("installing slither into contracts/cache/slither", flush=True)
        venv.create(environment, clear=True, with_pip=True)
        command = [str(scripts / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*command, "-r", str(_PINNED)], check=False).returncode != 0:
            raise SystemExit("slither could not be installed; see above.")
        stamp.write_text(pinned)
    return scripts / "slither"
