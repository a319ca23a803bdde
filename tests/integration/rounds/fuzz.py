"""The long form of this folder's two properties: `make fuzz-rounds ARGS="--manipulations 20000 --examples 1000 --seed 7"`."""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from pathlib import Path

from hostile_campaign import Campaign, a_chunk_a_block
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from round_machine import RoundMachine


def main() -> None:
    """Tampers, then runs the state machine; ends with an error where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manipulations", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=500, help="runs of the state machine")
    parser.add_argument("--steps", type=int, default=50, help="most steps of a run")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    asked = parser.parse_args()
    logging.disable()
    print(f"seed {asked.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, a_chunk_a_block():
        with Campaign(Path(folder), asked.seed) as campaign:
            tally = campaign.run(asked.manipulations)
    print(
        f"{sum(tally.found.values())} manipulations of {len(tally.found)} kinds, all found before the key was used;"
    )
    print(
        f"{tally.opened} attempts opened to the right sum, {tally.spoilt} were given up: {time.monotonic() - began:.0f} s"
    )
    for reason, count in tally.reasons.most_common():
        print(f"  {count:8} {reason}")
    began = time.monotonic()
    form = settings(
        max_examples=asked.examples, stateful_step_count=asked.steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    seed(asked.seed)(RoundMachine)
    run_state_machine_as_test(RoundMachine, settings=form)
    print(
        f"{asked.examples} runs of the state machine: {time.monotonic() - began:.0f} s; what was refused in them:"
    )
    for reason, count in RoundMachine.refusals.most_common():
        print(f"  {count:8} {reason}")


if __name__ == "__main__":
    main()
