"""``make audit-privacy``: the shipped trainer, audited through its public interface; and the audits and tests, by planted bugs.

    python tests/privacy_audit/audit.py [--quick] [--family-rate 0.05] [--json]

Ends with an error where an audit alarms or a bug is not caught. Every finding's level is the family rate over the number of
random findings (Bonferroni), so that a correct trainer is accused of anything with at most that probability.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audits import CLAIMS, MODES, Auditor, Finding
from canaries import Canaries
from planted_bugs import BUGS, Catch, catch, copied_tree, failing_tests

from usufruct.errors import UsufructError
from usufruct_server.holder.training.zygote import Zygote

RANDOM_FINDINGS = len(MODES) * (2 * len(CLAIMS) + 7)
"""Per mode: one run and two runs at each claim; variance, law and repeats of the noise; size and spread of the sample; two
attacks that reconstruct."""
ATTACKS = 10
"""On opened sums, of each kind and mode."""
BUGS_FAMILY_RATE = 0.01
"""Of the audits of each broken copy. (At much less the audit in one run sees nothing: its bound adds some delta a canary.)"""


def main() -> int:
    """Returns 0 where nothing alarmed and every bug was caught."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples, no reconstruction and no planted bugs"
    )
    parser.add_argument("--family-rate", type=float, default=0.05, help="of false alarms, over all audits")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    asked = parser.parse_args()
    level, began = asked.family_rate / RANDOM_FINDINGS, time.monotonic()
    print(
        f"{RANDOM_FINDINGS} random findings at a level of {level:.2g} each: a family-wise false-alarm rate of "
        f"{asked.family_rate:g} at most\n",
        flush=True,
    )
    findings = []
    for finding in audit(level, asked.quick):
        findings.append(finding)
        print(
            f"{'ALARM' if finding.alarm else 'ok':5}  {finding.audit:50} {finding.seen}  ({finding.bound})",
            flush=True,
        )
    assert sum(finding.level > 0 for finding in findings) <= RANDOM_FINDINGS
    alarms = [finding.audit for finding in findings if finding.alarm]
    print(f"\n{len(findings)} findings, {len(alarms)} alarms: {time.monotonic() - began:.0f} s", flush=True)
    if alarms:
        print(
            "Run it again: a correct trainer is accused in two runs one after the other with the square of that rate."
        )
    catches = [] if asked.quick else [*plant()]
    missed = [one.bug.name for one in catches if not one.caught]
    if asked.json:
        print(json.dumps(figures(asked.family_rate, findings, alarms, catches)))
    return 1 if alarms or missed else 0


def audit(level: float, quick: bool) -> Iterator[Finding]:
    """Every audit, one after the other. A trainer that stops at what every plan may ask of it is a finding too."""
    zygote, restarted = Zygote(), Zygote()
    samples, rounds, count = (10**6, 40, 2000) if quick else (10**7, 200, 5000)
    try:
        with tempfile.TemporaryDirectory() as folder:
            auditor = Auditor(zygote, Path(folder), level, Canaries.of(count))
            for mode in MODES:
                yield from _carried_out(f"noise, {mode}", lambda: auditor.noise(mode, samples))  # noqa: B023
                yield from _carried_out(f"repeats, {mode}", lambda: [auditor.repeats(mode, restarted)])  # noqa: B023
                yield from _carried_out(f"sampling, {mode}", lambda: auditor.sampling(mode, rounds))  # noqa: B023
                for epsilon in CLAIMS:
                    for audited in (auditor.one_run, auditor.two_run):
                        name = f"{audited.__name__}, {mode}, epsilon {epsilon:g}"
                        yield from _carried_out(name, lambda: [audited(mode, epsilon)])  # noqa: B023
                if not quick:
                    yield from auditor.reconstruction(mode, ATTACKS)
    finally:
        zygote.close()
        restarted.close()


def _carried_out(audit: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from findings()
    except UsufructError as error:
        yield Finding(audit, f"the trainer stops ({error.reason})", "it does not", True, 0.0)


def plant() -> Iterator[Catch]:
    """Each bug in turn, in a copy of the tree.

    Raises:
        RuntimeError: a test that is to catch a bug fails without it, too.
    """
    with tempfile.TemporaryDirectory() as folder, copied_tree(Path(folder)) as tree:
        tests = sorted({test for bug in BUGS for test in bug.tests})
        if failed := failing_tests(tree, tests):
            raise RuntimeError(f"fails without any bug: {', '.join(failed)}")
        print(f"\n{len(BUGS)} planted bugs; without one, their {len(tests)} tests pass\n", flush=True)
        for bug in BUGS:
            found = catch(tree, bug, BUGS_FAMILY_RATE)
            print(f"{'caught' if found.caught else 'MISSED'}  {bug.name}", flush=True)
            for test in found.tests:
                print(f"          test   {test}")
            for alarm in found.alarms:
                print(f"          audit  {alarm}")
            yield found


def figures(
    family_rate: float, findings: list[Finding], alarms: list[str], catches: list[Catch]
) -> dict[str, Any]:
    """What the line of JSON says."""
    return {
        "family_rate": family_rate,
        "findings": [asdict(finding) for finding in findings],
        "alarms": alarms,
        "bugs": {
            one.bug.name: {"caught": one.caught, "tests": one.tests, "audits": one.alarms} for one in catches
        },
    }


if __name__ == "__main__":
    sys.exit(main())
