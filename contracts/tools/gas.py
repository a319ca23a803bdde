"""What each transaction costs, from receipts: ``make gas``."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise

from tools.gas_network import Network, running_node
from tools.gas_scenarios import BATCH, Scenarios

LIMITS = {
    "openJob": 145_000,
    "furtherLeg": 92_000,
    "deliver": 80_000,
    "acknowledge": 60_000,
    "deliverAndAcknowledge": 95_000,
    "usageRecord": 600,
}
"""Most gas, by signature where there is such a form, between used accounts."""
MOST_RUNTIME_BYTES = 22_000
MOST_DRIFT = 0.01
"""The thousandth job may differ from the second by this part."""
ELSEWHERE = (
    ("OpenFL (KoalaYan), a round, as they measured it", 1_241_366),
    ("cryptoFL, a job, about, as they measured it", 800_000),
)
JOBS = 1000


def main(arguments: list[str]) -> int:
    """Measures and prints; 1 if something is above its limit."""
    parser = argparse.ArgumentParser(prog="make gas", description=__doc__)
    parser.add_argument("--anvil", action="store_true", help="on anvil instead of the development chain")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many jobs are opened in a row ({JOBS})")
    parser.add_argument("--json", action="store_true", help="one line of JSON and nothing else")
    asked = parser.parse_args(arguments)
    with running_node(asked.anvil) as node:
        network = Network(node)
        gas = measured(network, asked.jobs)
        sizes, deployment = network.runtime_bytes, network.deployment_gas
    drift = gas[f"openJob#{asked.jobs}"] / gas["openJob#2"]
    faults = [
        f"{name} costs {gas[name]:,}; the limit is {most:,}"
        for name, most in LIMITS.items()
        if gas[name] > most
    ]
    faults += [f"{name} has {size:,} bytes; the limit is {MOST_RUNTIME_BYTES:,}" for name, size in sizes.items()
               if size > MOST_RUNTIME_BYTES]  # fmt: skip
    if abs(drift - 1) > MOST_DRIFT:
        faults.append(f"job {asked.jobs} costs {drift:.4f} times as much as job 2")
    if asked.json:
        ratio = {"jobThousandthRatio": round(drift, 6)} if asked.jobs == JOBS else {}
        print(json.dumps({**gas, "deployment": deployment, "runtimeBytes": sizes, **ratio}))
    else:
        _print_table(gas, sizes, deployment, drift, asked.jobs)
    for fault in faults:
        print(f"above its limit: {fault}", file=sys.stderr)
    return 1 if faults else 0


def measured(network: Network, jobs: int) -> dict[str, float]:
    """Name -> gas of every transaction; those with a limit first."""
    run = Scenarios(network)
    run.set_up()
    run.jobs_in_a_row(jobs)
    run.opening()
    run.delivering()
    run.failing()
    run.usage()
    run.charge_fee(100)
    run.delivering("WithFee")
    run.money()
    run.keys()
    gas: dict[str, float] = dict(run.gas)
    sizes = (("openJob", 1), ("openJob2Legs", 2), ("openJob4Legs", 4), ("openJob8Legs", 8))
    steps = [(gas[b] - gas[a]) / (m - n) for (a, n), (b, m) in pairwise(sizes)]
    gas["furtherLeg"] = round(max(steps))
    gas["usageRecord"] = gas["append"] / BATCH
    return {name: gas[name] for name in (*LIMITS, *(name for name in gas if name not in LIMITS))}


def _print_table(
    gas: dict[str, float], sizes: dict[str, int], deployment: int, drift: float, jobs: int
) -> None:
    print(f"{'transaction':<36}{'gas':>12}{'limit':>12}")
    for name, used in gas.items():
        limit = f"{LIMITS[name]:,}" if name in LIMITS else ""
        print(f"{name:<36}{used:>12,.{0 if used == int(used) else 2}f}{limit:>12}")
    print(f"{'deployment of the three contracts':<36}{deployment:>12,}")
    for what, used in ELSEWHERE:
        print(f"{what:<48}{used:>12,}")
    print(f"job {jobs} / job 2: {drift:.5f} (limit 1 % off)")
    for name, size in sizes.items():
        print(f"{name:<36}{size:>12,} bytes at run time (limit {MOST_RUNTIME_BYTES:,})")
