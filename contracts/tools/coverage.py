"""Which lines and branches of the contracts the tests reach: ``make coverage-contracts``.

forge counts only what it compiled itself, so the fixture deploys this run's own build here, without optimiser and IR,
and not the shipped artefacts. What no test reaches must be explained in the contracts' README, one line each:

    * `Registry.sol`: `the source line` - why no test can reach it
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.node import CONTRACTS, forge, with_node

_TRACE = Path("cache") / "lcov.info"
_EXPLAINED = re.compile(r"^\* `(\w+\.sol)`: `(.+)` [-–—] \S")


@dataclass
class FileCoverage:
    """Line number -> how often it ran; and (line number, times) of every branch."""

    lines: dict[int, int] = field(default_factory=dict)
    branches: list[tuple[int, int]] = field(default_factory=list)

    def missed(self) -> list[int]:
        """Numbers of the lines that no test ran, or of which a branch was never taken."""
        return sorted({n for n, times in [*self.lines.items(), *self.branches] if times == 0})


def read_trace(text: str) -> dict[str, FileCoverage]:
    """Coverage by source path, from an lcov trace file (``geninfo(1)``, section FILES)."""
    files: dict[str, FileCoverage] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            now = files.setdefault(rest, FileCoverage())
        elif kind == "DA":
            number, times = rest.split(",")[:2]
            now.lines[int(number)] = int(times)
        elif kind == "BRDA":
            number, _, _, times = rest.split(",")
            now.branches.append((int(number), 0 if times == "-" else int(times)))
    return files


def explained(readme: str) -> set[tuple[str, str]]:
    """(file name, source line) of every miss that the README explains."""
    return {(found[1], found[2]) for line in readme.splitlines() if (found := _EXPLAINED.match(line))}


def main(arguments: list[str]) -> int:
    """Measures, prints the table and the misses; 1 if one is not explained. Arguments go to ``forge coverage``."""
    command = [forge(), "coverage", "--report", "lcov", "--report-file", str(_TRACE)]
    command += ["--no-match-coverage", "^(test|node_modules)/", *arguments]
    run = subprocess.run(
        command,
        cwd=CONTRACTS,
        env=with_node(USUFRUCT_ARTEFACTS="", FOUNDRY_PROFILE="quick"),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        print(run.stdout[-8000:], run.stderr[-8000:], file=sys.stderr)
        return 1
    files = read_trace((CONTRACTS / _TRACE).read_text())
    print(f"{'file':<24}{'lines':>16}{'branches':>16}")
    for path, coverage in sorted(files.items()):
        reached = sum(1 for times in coverage.lines.values() if times)
        taken = sum(1 for _, times in coverage.branches if times)
        print(
            f"{Path(path).name:<24}{_share(reached, len(coverage.lines))}{_share(taken, len(coverage.branches))}"
        )
    return _report_misses(files)


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 100.0
    return f"{f'{part}/{whole}':>9}{percent:>6.1f}%"


def _report_misses(files: dict[str, FileCoverage]) -> int:
    reasons = explained((CONTRACTS / "README.md").read_text())
    misses: dict[tuple[str, str], int] = {}
    for path, coverage in files.items():
        source = (CONTRACTS / path).read_text().splitlines()
        for number in coverage.missed():
            misses[(Path(path).name, source[number - 1].strip())] = number
    for (name, line), number in sorted(misses.items(), key=lambda item: (item[0][0], item[1])):
        known = "explained in README.md" if (name, line) in reasons else "NOT REACHED, NOT EXPLAINED"
        print(f"{name}:{number}: {line}\n    {known}")
    for name, line in sorted(reasons - misses.keys()):
        print(f"{name}: README.md explains a line that is reached or gone: {line}")
    return 0 if reasons == misses.keys() else 1
