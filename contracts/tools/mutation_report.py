"""The table of a mutation run, and its survivors beside the reasons in ``mutants.toml``."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.mutants import Mutant
from tools.mutation_bench import HOME, Verdict
from tools.node import CONTRACTS

LEAST_KILLED_PERCENT = 90.0
REASONS = CONTRACTS / "mutants.toml"
UNEXPLAINED = HOME / "unexplained.toml"
Name = tuple[str, str, str]
"""File, source line, mutation: survives edits elsewhere in the file."""


@dataclass
class Tally:
    """Counts of one file. Mutants with one bytecode are one mutant; ``valid`` ones compile and change something."""

    mutants: int = 0
    valid: int = 0
    killed: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.killed / self.valid if self.valid else 100.0

    def row(self, name: str) -> str:
        survived = self.valid - self.killed
        return (
            f"{name:<24}{self.mutants:>9}{self.valid:>9}{self.killed:>9}{survived:>10}{self.percent:>8.1f}%"
        )


def report(verdicts: dict[Mutant, Verdict], whole: bool, as_json: bool) -> int:
    """Prints the table and the survivors; 1 if too few were killed or, over the whole, a survivor has no reason."""
    tallies, survivors = tally(verdicts)
    reasons = read_reasons(REASONS)
    named = {name_of(mutant): mutant for mutant in survivors}
    unexplained = [mutant for name, mutant in named.items() if name not in reasons]
    print(f"\n{'file':<24}{'mutants':>9}{'valid':>9}{'killed':>9}{'survived':>10}{'killed':>9}")
    for name, one in tallies.items():
        print(one.row(name))
    if survivors:
        print("\nsurvivors")
    for mutant in survivors:
        print(f"{mutant.path.removeprefix('src/')}:{mutant.line}: {mutant.operator}: {mutant.mutation}")
        print(f"    {reasons.get(name_of(mutant), 'NO REASON in mutants.toml')}")
    stale = sorted(reasons.keys() - named.keys()) if whole else []
    for file, line, mutation in stale:
        print(f"mutants.toml explains what is gone or killed: {file}: {line}: {mutation}")
    UNEXPLAINED.write_text("".join(_entry(mutant) for mutant in unexplained))
    if unexplained:
        print(f"entries to complete and move to mutants.toml: {UNEXPLAINED.relative_to(CONTRACTS.parent)}")
    total = tallies["all"]
    if as_json:
        summary = {"mutants": total.mutants, "valid": total.valid, "killed": total.killed}
        print(json.dumps({**summary, "percent": round(total.percent, 2), "unexplained": len(unexplained)}))
    return 1 if total.percent < LEAST_KILLED_PERCENT or (whole and (unexplained or stale)) else 0


def tally(verdicts: dict[Mutant, Verdict]) -> tuple[dict[str, Tally], list[Mutant]]:
    """Counts by file and of all, and the survivors, by place."""
    tallies = {path.removeprefix("src/"): Tally() for path in sorted({m.path for m in verdicts})}
    whole = tallies["all"] = Tally()
    survivors: list[Mutant] = []
    seen: set[str] = set()
    for mutant, verdict in sorted(verdicts.items(), key=lambda item: (item[0].path, item[0].start)):
        for one in (tallies[mutant.path.removeprefix("src/")], whole):
            one.mutants += 1
            if verdict.outcome in ("killed", "survived") and verdict.code not in seen:
                one.valid += 1
                one.killed += verdict.outcome == "killed"
        if verdict.outcome == "survived" and verdict.code not in seen:
            survivors.append(mutant)
        seen.add(verdict.code)
    return tallies, survivors


def name_of(mutant: Mutant) -> Name:
    """What mutants.toml calls the mutant."""
    return mutant.path.removeprefix("src/"), mutant.line_text, mutant.mutation


def read_reasons(path: Path) -> dict[Name, str]:
    """Why each known survivor is left alive."""
    if not path.exists():
        return {}
    entries = tomllib.loads(path.read_text()).get("survivor", [])
    return {(e["file"], e["line"], e["mutation"]): e["reason"] for e in entries if e["reason"]}


def _entry(mutant: Mutant) -> str:
    file, line, mutation = name_of(mutant)
    fields = {"file": file, "line": line, "mutation": mutation, "reason": ""}
    # a JSON string is a TOML string
    return (
        "[[survivor]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()) + "\n"
    )
