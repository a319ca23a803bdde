"""``make bench-round``: whole encrypted rounds between real processes on this machine, stage by stage.

Three holders, an aggregator, a builder and a chain, with TLS, masks, signatures, charges and usage records as in any job;
the training is one DP-SGD step on eight rows. Beside it, in the same run, the same without encryption, and with
``--peers`` NVIDIA FLARE with HE and Flower with a training that adds a constant.

    python tests/benchmarks/rounds.py [--quick] [--large] [--peers] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import clear_round
import growth
import round_network
from peers.environments import PEERS, PeerUnavailable, measure
from round_network import STAGES, Rounds

HOLDERS = 3
SIZES = {"1e5": 10**5, "1e6": 10**6, "1e7": 10**7}
ROUNDS = {"1e5": 20, "1e6": 20, "1e7": 5}
COHORTS = (2, 4, 8, 16, 32)
MIB = 1 << 20


def main() -> None:
    arguments = _arguments()
    names = [name for name in SIZES if not (arguments.quick and name == "1e7")]
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(
        f"{HOLDERS} holders; {figures['cores']} cores, load {figures['load']}; medians of rounds after the first\n",
        flush=True,
    )
    print(
        f"{'parameters':>10} {'round, s':>9} "
        + " ".join(f"{stage:>9}" for stage in STAGES)
        + f" {'clear, s':>9}",
        flush=True,
    )
    measured: dict[str, Rounds] = {}
    for name in names:
        one = measured[name] = _measure(SIZES[name], HOLDERS, ROUNDS[name])
        clear = clear_round.measure(SIZES[name], HOLDERS, ROUNDS[name])
        stages = " ".join(f"{one.stages[stage]:9.3f}" for stage in STAGES)
        print(f"{one.parameters:10,d} {one.seconds:9.3f} {stages} {clear:9.3f}", flush=True)
        figures |= {f"seconds_{name}": round(one.seconds, 4), f"clear_seconds_{name}": round(clear, 4)}
        figures[f"stages_{name}"] = {stage: round(seconds, 4) for stage, seconds in one.stages.items()}
        figures[f"upload_bytes_per_parameter_{name}"] = round(one.upload_bytes / HOLDERS / one.parameters, 3)
    if arguments.large:
        measured["1e8"] = large = _measure(10**8, 2, 1)
        figures["seconds_1e8"] = round(large.seconds, 2)
        print(f"{large.parameters:10,d} {large.seconds:9.1f} (two holders)", flush=True)
    _memory(measured, figures)
    _growth(arguments.quick, figures)
    if arguments.peers:
        _peers(arguments.quick, figures)
    if arguments.json:
        print(json.dumps(figures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Whole encrypted rounds between real processes on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 parameters only")
    parser.add_argument(
        "--large", action="store_true", help="also 10^8 parameters, two holders (needs 16 GiB and minutes)"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="beside NVIDIA FLARE with HE and Flower, each in an environment of its own",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON last")
    return parser.parse_args()


def _measure(parameters: int, holders: int, rounds: int) -> Rounds:
    with tempfile.TemporaryDirectory() as folder:
        return round_network.measure(Path(folder), parameters, holders, rounds)


def _memory(measured: dict[str, Rounds], figures: dict[str, Any]) -> None:
    print(
        "\nmost memory above that at the start, MiB (a holder: with its trainer and zero workers; and as float32 models)"
    )
    for name, one in measured.items():
        above = {party: one.peak_bytes[party] - one.start_bytes[party] for party in one.peak_bytes}
        holder = max(above[party] for party in above if party.startswith("holder"))
        models = holder / (4 * one.parameters)
        print(
            f"{one.parameters:10,d}  aggregator {above['aggregator'] / MIB:6.0f}  builder {above['builder'] / MIB:6.0f}  "
            f"holder {holder / MIB:6.0f} = {models:.1f} models"
        )
        figures[f"memory_mib_{name}"] = {
            "aggregator": round(above["aggregator"] / MIB), "builder": round(above["builder"] / MIB), "holder": round(holder / MIB),
        }  # fmt: skip


def _growth(quick: bool, figures: dict[str, Any]) -> None:
    print("\nCPU seconds of one round at 10^5 parameters, simulated holders:")
    works = growth.measure(10**5, COHORTS, 3 if quick else 7)
    for work in works:
        print(
            f"{work.holders:4d} holders  aggregator {work.aggregator_seconds:.4f}  builder {work.builder_seconds:.4f}"
        )
    first, last = works[0], works[-1]
    figures["growth_holders"] = last.holders / first.holders
    figures["growth_aggregator"] = round(last.aggregator_seconds / first.aggregator_seconds, 2)
    figures["growth_builder"] = round(last.builder_seconds / first.builder_seconds, 2)


def _peers(quick: bool, figures: dict[str, Any]) -> None:
    print("\nother frameworks, medians of rounds after the first (see README.md for what differs)")
    for name in ("1e5", "1e6"):
        for peer, arguments in {"flare": (), "flare_clear": ("--clear",), "flower": ()}.items():
            try:
                found = measure(PEERS[peer.partition("_")[0]], SIZES[name], 4 if quick else 7, *arguments)
            except PeerUnavailable as error:
                print(f"{peer}: {error}", flush=True)
                continue
            seconds = median(found["seconds_per_round"])
            ours = _measure(
                SIZES[name], HOLDERS, ROUNDS[name]
            ).seconds  # again: a shared machine changes by the minute
            ratio = seconds / ours
            print(
                f"{peer:>12} {found['version']:>8} at {name}: {seconds:6.2f} s a round, {ratio:.1f} times ours right after, "
                f"{ours:.3f} s",
                flush=True,
            )
            figures.setdefault(f"seconds_{name}_beside_peers", []).append(round(ours, 4))
            figures[f"{peer}_seconds_{name}"] = round(seconds, 3)
            figures[f"{peer}_ratio_{name}"] = round(ratio, 1)


if __name__ == "__main__":
    sys.exit(main())
