"""Judges one mutant: compiled, put in place of the shipped artefacts, and the compiled tests run against it.

Everything happens in a copy of the contracts under ``cache/mutation``, so that the sources may be edited meanwhile.
Mutants are built without optimiser and IR, ten times faster than the artefacts; a mutant that the tests do not notice
is built as shipped too, and if that gives the original's bytecode, it was no change.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.artefacts import SHIPPED
from tools.mutants import Mutant, mutants_of
from tools.node import CONTRACTS, forge, node, with_node

HOME = CONTRACTS / "cache" / "mutation"
TREE = HOME / "tree"
ROOT = TREE / "contracts"
MUTATED = tuple(name for name in SHIPPED if name != "TestToken")
SLOWEST_SECONDS = 600
_COPIED = ("contracts/src", "contracts/test", "tests/vectors", "client/usufruct/chain/artefacts")
_STATEFUL = "^invariant_"

Outcome = Literal["invalid", "equivalent", "killed", "survived"]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        code: hash of the bytecode of all contracts; empty if it does not compile.
        test: ``file:contract.test`` that noticed it.
    """

    outcome: Outcome
    code: str = ""
    test: str = ""


class Compiler:
    """One node process that stays; not for two threads at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(node()), str(CONTRACTS / "tools" / "mutant_compiler.mjs"), str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request of mutant_compiler.mjs, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the compiler's process ended; see above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def copy_tree() -> None:
    """Makes the copy equal to the checkout; what did not change keeps its time, so that forge compiles only the rest."""
    checkout = CONTRACTS.parent
    for folder in _COPIED:
        there = {path.relative_to(TREE) for path in (TREE / folder).rglob("*") if path.is_file()}
        here = {path.relative_to(checkout) for path in (checkout / folder).rglob("*") if path.is_file()}
        for gone in there - here:
            (TREE / gone).unlink()
        for path in here:
            _copy(checkout / path, TREE / path)
    for name in ("foundry.toml", "solc_shim.cjs", "package.json"):
        _copy(CONTRACTS / name, ROOT / name)
    if not (ROOT / "node_modules").exists():
        (ROOT / "node_modules").symlink_to(CONTRACTS / "node_modules", target_is_directory=True)


def _copy(source: Path, target: Path) -> None:
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


class Bench:
    """Judges mutants of the copied sources. Every method may be called from any thread; each thread has its own compiler."""

    def __init__(self) -> None:
        copy_tree()
        self.sources = {f"src/{p.name}": p.read_text() for p in sorted((ROOT / "src").glob("*.sol"))}
        self._here = threading.local()
        self._compilers: list[Compiler] = []
        self._lock = threading.Lock()
        compiler = self._compiler()
        self._trees = compiler.ask(ast=True)
        untouched = next(path for path in self.sources if path.endswith("/Types.sol"))
        whole = {"path": untouched, "source": self.sources[untouched], "contracts": list(SHIPPED)}
        self._plain = compiler.ask(**whole, shipped=False)
        if "error" in self._plain:
            raise SystemExit(
                f"without optimiser and IR the contracts do not compile:\n{self._plain['error']}"
            )
        self._shipped = compiler.ask(**whole, shipped=True)

    def mutants(self) -> list[Mutant]:
        """Mutants of every source that has code of ours in it; interfaces and the test token have none."""
        wanted = [p for p in self.sources if not re.fullmatch(r"src/(I[A-Z]\w*|TestToken)\.sol", p)]
        return [mutant for path in wanted for mutant in mutants_of(path, self.sources[path], self._trees)]

    def code_of(self, mutant: Mutant) -> tuple[str, dict[str, str]] | None:
        """Hash and bytecode of the mutated contracts; None if the mutant does not compile."""
        changed = self._compile(mutant, shipped=False)
        if "error" in changed:
            return None
        code = {**self._plain, **changed}
        return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest(), code

    def judge(self, mutant: Mutant, digest: str, code: dict[str, str]) -> Verdict:
        """Runs the tests, cheap ones first."""
        if code == self._plain:
            return Verdict("equivalent", digest)
        test = self._noticed(code, "--no-match-test", _STATEFUL)
        if test:
            return Verdict("killed", digest, test)
        shipped = self._compile(mutant, shipped=True)
        if {**self._shipped, **shipped} == self._shipped:
            return Verdict("equivalent", digest)
        test = self._noticed(code, "--match-test", _STATEFUL)
        return Verdict("killed", digest, test) if test else Verdict("survived", digest)

    def check_tests(self) -> None:
        """The tests pass on the original and fail on nothing at all; otherwise every verdict would be worthless."""
        failed = self._noticed(self._plain)
        if failed:
            raise SystemExit(f"{failed} fails on the contracts as they are, without optimiser and IR.")
        if not self._noticed(dict.fromkeys(self._plain, "00")):
            raise SystemExit("the tests do not deploy what USUFRUCT_ARTEFACTS names: see test/Fixture.sol")

    def close(self) -> None:
        """Ends the compilers."""
        for compiler in self._compilers:
            compiler.close()

    def _compiler(self) -> Compiler:
        if not hasattr(self._here, "compiler"):
            self._here.compiler = Compiler()
            with self._lock:
                self._compilers.append(self._here.compiler)
                self._here.artefacts = f"cache/mutant-{len(self._compilers)}"
        found: Compiler = self._here.compiler
        return found

    def _compile(self, mutant: Mutant, shipped: bool) -> dict[str, str]:
        # a file named after a contract is in no other one; anything else may be in all
        name = Path(mutant.path).stem
        contracts = [name] if name in MUTATED else list(MUTATED)
        source = mutant.applied(self.sources[mutant.path])
        return self._compiler().ask(path=mutant.path, source=source, contracts=contracts, shipped=shipped)

    def _noticed(self, code: dict[str, str], *which: str) -> str:
        """The first test that fails on the bytecode, ``""`` if none does."""
        self._compiler()
        artefacts = ROOT / self._here.artefacts
        shutil.rmtree(artefacts, ignore_errors=True)
        artefacts.mkdir(parents=True)
        for name, bytecode in code.items():
            (artefacts / f"{name}.json").write_text(json.dumps({"bytecode": "0x" + bytecode}))
        environment = with_node(
            FOUNDRY_PROFILE="quick",
            USUFRUCT_ARTEFACTS=self._here.artefacts,
            # forge would replay on one mutant what it found on another
            FOUNDRY_FUZZ_FAILURE_PERSIST_DIR=f"{self._here.artefacts}/fuzz",
            FOUNDRY_INVARIANT_FAILURE_PERSIST_DIR=f"{self._here.artefacts}/invariant",
        )
        command = [forge(), "test", "--json", "--fail-fast", "--threads", "1", *which]
        try:
            run = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=SLOWEST_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no end within {SLOWEST_SECONDS} s"
        return "" if run.returncode == 0 else _first_failure(run.stdout, run.stderr)


def _first_failure(output: str, errors: str) -> str:
    try:
        suites = json.loads(output)
    except ValueError:
        raise SystemExit(f"forge did not run the tests:\n{output[-2000:]}\n{errors[-2000:]}") from None
    for suite, result in suites.items():
        for test, one in result["test_results"].items():
            if one["status"] == "Failure":
                return f"{suite}.{test.split('(')[0]}"
    raise SystemExit(f"forge failed without a failing test:\n{errors[-2000:]}")
