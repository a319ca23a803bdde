"""No network of the suite ends without its books being compared (``tests/charged.py``), so no job can be left out."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
COMPARES = re.compile(r"\b(WatchedNetwork|assert_one_integer|compare_books)\(")
DEPLOYS = re.compile(r"(?<!class )\b(deploy|LocalNetwork|WatchedNetwork)\(")

NOBODY_CHARGES = {
    "benchmarks/round_network.py": "no test: it measures",
    "integration/anvil/job_world.py": "statements written by the test, on a chain without holders",
    "integration/anvil/test_deployment_on_a_node.py": "contracts alone",
    "integration/builder/escrow_world.py": "scripted holders, which keep no ledger and lie when a test says so",
    "integration/chain/chain_world.py": "statements written by the test, on a chain without holders",
    "integration/chain/test_deployment.py": "contracts alone",
    "integration/chain/test_statements_on_chain.py": "statements written by the test, on a chain without holders",
}
"""Who puts contracts on a chain without a ledger beside it, and why there is nothing to compare."""


def test_who_deploys_compares() -> None:
    unwatched = set()
    for path in TESTS.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if DEPLOYS.search(text) and not COMPARES.search(text):
            unwatched.add(path.relative_to(TESTS).as_posix())
    assert unwatched == set(NOBODY_CHARGES)
