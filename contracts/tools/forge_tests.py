"""forge's tests on the artefacts as compiled now, with a count of what the stateful fuzz did."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

from tools.artefacts import check_artefacts
from tools.node import CONTRACTS, forge, with_node

LEAST_CALLS = 50_000
LEAST_CALLS_LONG = 1_000_000
_CAMPAIGN = re.compile(r"\b(\w+)\(\) \(runs: (\d+), calls: (\d+), reverts: (\d+)\)")


@dataclass(frozen=True)
class StatefulFuzz:
    """What forge says of its stateful fuzzing: every invariant has a campaign of its own.

    Attributes:
        calls: of the handlers, all campaigns together.
        reverts: calls that reverted.
    """

    campaigns: int = 0
    calls: int = 0
    reverts: int = 0

    def with_line(self, line: str) -> StatefulFuzz:
        """Adds the campaign that a line of forge's output reports, if it reports one."""
        found = _CAMPAIGN.search(line)
        if found is None:
            return self
        return StatefulFuzz(self.campaigns + 1, self.calls + int(found[3]), self.reverts + int(found[4]))

    def __str__(self) -> str:
        return f"stateful fuzz: {self.calls:,} calls in {self.campaigns} campaigns, {self.reverts:,} reverted"


def test(arguments: list[str]) -> int:
    """``make test-contracts``: every test, the stateful fuzz in its short form. Arguments go to forge."""
    if check_artefacts() != 0:
        return 1
    return _run(arguments, "default", 0 if arguments else LEAST_CALLS)


def fuzz(arguments: list[str]) -> int:
    """``make fuzz-contracts``: the stateful fuzz alone, in its long form (profile ``long`` of foundry.toml)."""
    if check_artefacts() != 0:
        return 1
    return _run(
        ["--match-test", "^invariant_", *arguments],
        "long",
        0 if arguments else LEAST_CALLS_LONG,
    )


def _run(arguments: list[str], profile: str, least_calls: int) -> int:
    """Runs ``forge test``, shows what it prints, and counts; a campaign that was cut short is a failure."""
    environment = with_node(FOUNDRY_PROFILE=profile)
    environment.pop("USUFRUCT_ARTEFACTS", None)  # the shipped ones, whatever the caller's shell says
    process = subprocess.Popen(
        [forge(), "test", *arguments],
        cwd=CONTRACTS,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    fuzzed = StatefulFuzz()
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        fuzzed = fuzzed.with_line(line)
    status = process.wait()
    print(fuzzed)
    if status == 0 and fuzzed.calls < least_calls:
        print(
            f"at least {least_calls:,} calls are wanted: raise runs or depth in foundry.toml", file=sys.stderr
        )
        return 1
    return status
