"""Mutation testing of the contracts: ``make mutate-contracts``.

Every mutant is judged once: verdicts are kept in ``cache/mutation/verdicts.jsonl``, so an interrupted run goes on where
it stopped, and after a change only what the change concerns is judged again. Survivors carry their reasons in
``mutants.toml``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from tools.mutants import Mutant
from tools.mutation_bench import HOME, ROOT, Bench, Verdict
from tools.mutation_report import report
from tools.node import install
from tools.test_digests import digest_of_suite, digest_of_tests


def main(arguments: list[str]) -> int:
    """Judges all mutants, or a sample; 1 if too few are killed or a survivor has no reason."""
    parser = argparse.ArgumentParser(prog="make mutate-contracts", description=__doc__)
    parser.add_argument("--sample", type=int, help="judge only this many, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (1)")
    parser.add_argument("--file", help="judge only mutants of this file, e.g. Registry.sol")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (one a core)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    asked = parser.parse_args(arguments)
    install()
    bench = Bench()
    try:
        mutants = [m for m in bench.mutants() if asked.file in (None, m.path.removeprefix("src/"))]
        total = len(mutants)
        if asked.sample is not None and asked.sample < total:
            mutants = random.Random(asked.seed).sample(mutants, asked.sample)
        print(f"{total} mutants, {len(mutants)} to judge; compiling the tests", flush=True)
        bench.check_tests()
        run = _Run(bench, Verdicts())
        verdicts = _all(run, mutants, asked.jobs)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here")
        return 130
    finally:
        bench.close()
    whole = asked.file is None and len(mutants) == total
    return report(verdicts, whole=whole, as_json=asked.json)


def _all(run: _Run, mutants: list[Mutant], jobs: int) -> dict[Mutant, Verdict]:
    """Judges several mutants at once; an interruption waits only for those that are on the bench."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {mutant: pool.submit(run.one, mutant, len(mutants)) for mutant in mutants}
        try:
            return {mutant: future.result() for mutant, future in waiting.items()}
        finally:
            pool.shutdown(cancel_futures=True)


class Verdicts:
    """Verdicts that still hold, by bytecode, in a file that only grows.

    A kill holds while the test file that noticed it, and what that imports, are the same; a survival while all tests are.
    """

    def __init__(self) -> None:
        self._path = HOME / "verdicts.jsonl"
        self._lock = threading.Lock()
        self._tests = digest_of_tests(ROOT)
        self._known: dict[str, Verdict] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            tests = entry.pop("tests")
            verdict = Verdict(**entry)
            if tests == self._digest(verdict):
                self._known[verdict.code] = verdict

    def get(self, code: str) -> Verdict | None:
        """What is known of this bytecode."""
        return self._known.get(code)

    def add(self, verdict: Verdict) -> None:
        """Remembers a verdict, on disk at once."""
        with self._lock, self._path.open("a") as file:
            self._known[verdict.code] = verdict
            file.write(json.dumps({**asdict(verdict), "tests": self._digest(verdict)}) + "\n")

    def _digest(self, verdict: Verdict) -> str:
        if verdict.outcome == "killed" and ".sol:" in verdict.test:
            return digest_of_suite(ROOT, verdict.test.split(":")[0])
        return "" if verdict.outcome == "equivalent" else self._tests


class _Run:
    """Judges mutants and says how far it is."""

    def __init__(self, bench: Bench, verdicts: Verdicts) -> None:
        self._bench = bench
        self._verdicts = verdicts
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._done: dict[str, int] = {"killed": 0, "survived": 0, "equivalent": 0, "invalid": 0}

    def one(self, mutant: Mutant, total: int) -> Verdict:
        built = self._bench.code_of(mutant)
        if built is None:
            verdict = Verdict("invalid")
        else:
            verdict = self._verdicts.get(built[0]) or self._bench.judge(mutant, *built)
            if self._verdicts.get(built[0]) is None:
                self._verdicts.add(verdict)
        with self._lock:
            self._done[verdict.outcome] += 1
            done = sum(self._done.values())
            if sys.stdout.isatty() or done % 50 == 0 or done == total:
                left = (time.monotonic() - self._started) / done * (total - done)
                counts = ", ".join(f"{n} {outcome}" for outcome, n in self._done.items())
                print(
                    f"{done}/{total}: {counts}; about {left / 60:.0f} min left ",
                    end="\r" if sys.stdout.isatty() and done < total else "\n",
                    flush=True,
                )
        return verdict
