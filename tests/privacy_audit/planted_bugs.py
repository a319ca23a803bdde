"""The fifteen mistakes of differentially private training that others have made, each planted in a copy of this tree.

A bug is a change of source text in one or a few places of one thought, so that child processes have it too. The tests named
with it must fail in the broken copy, by their assertions, and pass in an unbroken one. Which audits alarm is reported and
not demanded: no audit of releases can see a wrong conversion or a forgotten ledger.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PARTS = ("client", "server", "tests", "pyproject.toml")
_DPSGD, _PER_SAMPLE, _CHILD = (
    f"server/usufruct_server/holder/training/{name}.py" for name in ("dpsgd", "per_sample", "child")
)
_SHARES, _KEYSTREAM, _CONVERSION = (
    f"client/usufruct/privacy/{name}.py" for name in ("shares", "keystream", "conversion")
)
_LAYERS, _VALIDATION = (f"client/usufruct/graph/{name}.py" for name in ("layers", "validation"))
_LEDGER = "server/usufruct_server/holder/ledger/ledger.py"
_TRAINING_TESTS, _PRIVACY_TESTS = "tests/unit/training", "tests/unit/privacy"


@dataclass(frozen=True)
class Edit:
    """A text of a source file that is there once, and what takes its place."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class PlantedBug:
    """A mistake.

    Attributes:
        name: in words of the threats page.
        edits: what makes the mistake.
        tests: node ids; all of them must catch it.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


BUGS = (
    PlantedBug(
        "half the noise",
        (
            Edit(
                _DPSGD,
                "noised_sum(chunk, plan.noise_multiplier,",
                "noised_sum(chunk, plan.noise_multiplier / 2,",
            ),
            Edit(
                _SHARES, "np.add(steps, table.draw(steps.size),", "np.add(steps, table.draw(steps.size) // 2,"
            ),
        ),
        (
            f"{_TRAINING_TESTS}/test_dpsgd.py::test_a_holder_without_rows_sends_noise_of_the_priced_deviation",
            f"{_TRAINING_TESTS}/test_distributed_trainer.py::test_the_noise_of_the_opened_sum_has_the_planned_variance",
        ),
    ),
    PlantedBug(
        "no noise in every second round",
        (
            Edit(
                _DPSGD,
                "    noised = noised_sum(chunk, plan.noise_multiplier, plan.max_grad_norm, count)\n",
                "    noised_chunk.calls = getattr(noised_chunk, 'calls', 0) + 1\n"
                "    noised = chunk.copy()\n"
                "    if noised_chunk.calls % 2:\n"
                "        noised = noised_sum(chunk, plan.noise_multiplier, plan.max_grad_norm, count)\n",
            ),
            Edit(
                _SHARES,
                "        np.add(steps, table.draw(steps.size), out=share[part])\n    return share\n",
                "        noised = getattr(noised_share, 'calls', 0) % 2 == 0\n"
                "        np.add(steps, table.draw(steps.size) if noised else 0, out=share[part])\n"
                "    noised_share.calls = getattr(noised_share, 'calls', 0) + 1\n"
                "    return share\n",
            ),
        ),
        (
            f"{_TRAINING_TESTS}/test_dpsgd.py::test_every_step_draws_its_own_sample_and_noise",
            f"{_TRAINING_TESTS}/test_distributed_trainer.py::test_the_noise_of_the_opened_sum_has_the_planned_variance",
        ),
    ),
    PlantedBug(
        "no clipping",
        (
            Edit(
                _PER_SAMPLE,
                "    return (clip_norm / norms).clamp_(max=1.0)",
                "    return torch.ones_like(norms)",
            ),
        ),
        (
            f"{_TRAINING_TESTS}/test_per_sample.py::test_large_gradients_are_clipped_to_the_norm_and_small_ones_are_left",
        ),
    ),
    PlantedBug(
        "clipping by micro-batch",
        (
            Edit(
                _PER_SAMPLE,
                "    return (clip_norm / norms).clamp_(max=1.0)",
                "    return (clip_norm / norms.norm().clamp(min=clip_norm)).repeat(len(norms))",
            ),
        ),
        (f"{_TRAINING_TESTS}/test_per_sample.py::test_it_equals_a_loop_over_single_rows",),
    ),
    PlantedBug(
        "shuffled batches, accounted as Poisson samples",
        (
            Edit(
                _DPSGD,
                "sample = np.flatnonzero(poisson_mask(len(data.labels), plan.sample_rate))",
                "sample = np.random.permutation(len(data.labels))[: round(plan.sample_rate * len(data.labels))]",
            ),
        ),
        (f"{_TRAINING_TESTS}/test_dpsgd.py::test_every_step_draws_its_own_sample_and_noise",),
    ),
    PlantedBug(
        "a seed that forks share",
        (
            Edit(
                _KEYSTREAM,
                "_ZEROS: Final = bytes(BLOCK_WORDS * 8)\n",
                "_ZEROS: Final = bytes(BLOCK_WORDS * 8)\n_SEED, _CALLS = os.urandom(32), iter(range(1 << 62))\n",
            ),
            Edit(
                _KEYSTREAM,
                'hmac.digest(os.urandom(32), moment, "sha256")',
                'hmac.digest(_SEED, next(_CALLS).to_bytes(8, "big"), "sha256")',
            ),
        ),
        (f"{_PRIVACY_TESTS}/test_sampling.py::test_nothing_repeats_over_forks_of_one_image",),
    ),
    PlantedBug(
        "division by the batch that was drawn",
        (
            Edit(
                _DPSGD,
                "            total.add(part)\n    return total\n",
                "            total.add(part)\n    clipped_sum.drawn = max(1, len(sample))\n    return total\n",
            ),
            Edit(
                _DPSGD,
                "change = noised_chunk(chunk, plan, clipped_sum.parameters)\n",
                "change = noised_chunk(chunk, plan, clipped_sum.parameters)\n"
                "            change *= plan.nominal_batch_size / clipped_sum.drawn\n",
            ),
        ),
        (f"{_TRAINING_TESTS}/test_dpsgd.py::test_a_step_is_the_noised_clipped_sum_over_the_declared_batch",),
    ),
    PlantedBug(
        "the last micro-batch dropped",
        (
            Edit(
                _DPSGD,
                "for rows in row_at.reshape(-1, size):",
                "for rows in row_at.reshape(-1, size)[:-1]:",
            ),
        ),
        (f"{_TRAINING_TESTS}/test_dpsgd.py::test_the_size_of_micro_batches_changes_nothing",),
    ),
    PlantedBug(
        "BatchNorm left in",
        (
            Edit(
                _LAYERS,
                "    ModuleOperation(nn.ReLU, {}, isolation.elementwise),\n",
                "    ModuleOperation(nn.ReLU, {}, isolation.elementwise),\n"
                '    ModuleOperation(nn.BatchNorm1d, {"num_features": WIDTH}, isolation.elementwise),\n',
            ),
            Edit(_VALIDATION, "    module(rows[:1])  # some", "    # some"),  # a single row has no variance
        ),
        (
            "tests/unit/graph/test_round_trip.py::test_what_cannot_be_trained_is_refused_with_what_to_do[BatchNorm]",
        ),
    ),
    PlantedBug(
        "an unclipped, noiseless metric beside the update",
        (
            Edit(
                _CHILD,
                'send(connection, {"answer": "update", **session.run(header), **_attempt(header)})',
                "rows = torch.from_numpy(session.data.features).double()\n"
                "                mean = float(session.clipped_sum.module(rows).sum() / max(1, len(rows)))\n"
                "                answer = session.run(header)\n"
                '                send(connection, {"answer": "update", **answer, "output": mean, **_attempt(header)})',
            ),
        ),
        (
            f"{_TRAINING_TESTS}/test_trainer.py::test_what_a_child_says_beside_the_update_does_not_follow_the_rows",
        ),
    ),
    PlantedBug(
        "a wrong delta",
        (
            Edit(
                _CONVERSION, "(math.log(delta) + math.log(order))", "(math.log(10 * delta) + math.log(order))"
            ),
        ),
        (f"{_PRIVACY_TESTS}/test_conversion_and_calibration.py::test_the_translation_is_dp_accountings",),
    ),
    PlantedBug(
        "the number of rows leaked by the divisor",
        (
            Edit(
                _DPSGD,
                "change = noised_chunk(chunk, plan, clipped_sum.parameters)\n",
                "change = noised_chunk(chunk, plan, clipped_sum.parameters)\n"
                "            change *= plan.nominal_size / max(1, len(data.labels))\n",
            ),
        ),
        (
            f"{_TRAINING_TESTS}/test_dpsgd.py::test_the_sum_is_divided_by_the_declared_size_and_not_by_the_rows",
        ),
    ),
    PlantedBug(
        "layers clipped each by itself",
        (
            Edit(
                _PER_SAMPLE,
                "yield from part.sums(factors)",
                "yield from part.sums(self._factors(part.squares, part.masses, present, clip_norm))",
            ),
        ),
        (f"{_TRAINING_TESTS}/test_per_sample.py::test_one_row_moves_the_sum_by_at_most_the_clip_norm",),
    ),
    PlantedBug(
        "gradients accumulated over steps",
        (
            Edit(
                _DPSGD,
                "    total = StepSum(clipped_sum.parameters)\n",
                '    total = clipped_sum.__dict__.setdefault("_sum", StepSum(clipped_sum.parameters))\n',
            ),
        ),
        (f"{_TRAINING_TESTS}/test_dpsgd.py::test_several_steps_with_momentum_follow_torchs_sgd",),
    ),
    PlantedBug(
        "an accountant that a restart resets",
        (
            Edit(
                _LEDGER,
                "                verification.verify(self._connection)\n",
                "                verification.verify(self._connection)\n"
                '                self._connection.execute("UPDATE budgets SET reserved_micro = reserved_micro + '
                'spent_micro, spent_micro = 0")\n',
            ),
        ),
        ("tests/unit/ledger/test_ledger_survives_kill.py::test_killed_from_outside_between_two_charges",),
    ),
)


@dataclass(frozen=True)
class Catch:
    """What became of a planted bug.

    Attributes:
        tests: those of its tests that failed, by name.
        missed: those that did not.
        alarms: audits that alarmed.
    """

    bug: PlantedBug
    tests: tuple[str, ...]
    missed: tuple[str, ...]
    alarms: tuple[str, ...]

    @property
    def caught(self) -> bool:
        """Whether every test that names the bug found it."""
        return not self.missed


@contextmanager
def copied_tree(folder: Path) -> Iterator[Path]:
    """A copy of the sources and tests that can be broken."""
    tree = folder / "tree"
    tree.mkdir()
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, tree / part)
    try:
        yield tree
    finally:
        shutil.rmtree(tree)


@contextmanager
def planted(tree: Path, bug: PlantedBug) -> Iterator[None]:
    """The bug in the copy, for a while.

    Raises:
        ValueError: a text that it changes is not there, or more than once.
    """
    before = {edit.path: (tree / edit.path).read_text() for edit in bug.edits}
    try:
        for edit in bug.edits:
            (tree / edit.path).write_text(changed((tree / edit.path).read_text(), edit))
        yield
    finally:
        for path, text in before.items():
            (tree / path).write_text(text)


def changed(text: str, edit: Edit) -> str:
    """The source with the edit.

    Raises:
        ValueError: as above.
    """
    if text.count(edit.old) != 1:
        raise ValueError(f"{edit.path} has {edit.old!r} {text.count(edit.old)} times, not once")
    return text.replace(edit.old, edit.new)


def failing_tests(tree: Path, tests: Sequence[str]) -> set[str]:
    """Which of the tests fail in the tree; of a parametrised one, any case.

    Raises:
        RuntimeError: they cannot be run at all, which would not be a catch.
    """
    run = _in_tree(tree, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "--tb=no", *tests)
    errors = re.findall(r"^ERROR (\S+)", run.stdout, re.MULTILINE)
    if run.returncode not in (0, 1) or errors:
        raise RuntimeError(f"the tests did not run: {run.stdout[-2000:]} {run.stderr[-2000:]}")
    failed = re.findall(r"^FAILED (.+?)(?: - |$)", run.stdout, re.MULTILINE)
    return {test for test in tests if any(name == test or name.startswith(f"{test}[") for name in failed)}


def audit_alarms(tree: Path, family_rate: float) -> tuple[str, ...]:
    """Which audits alarm in the tree, in their quick form.

    Raises:
        RuntimeError: they cannot be run at all, which would not be a catch.
    """
    program = "tests/privacy_audit/audit.py"
    run = _in_tree(tree, program, "--quick", "--json", "--family-rate", str(family_rate))
    *_, last = run.stdout.splitlines() or [""]
    if not last.startswith("{"):
        raise RuntimeError(f"the audits did not run: {run.stdout[-2000:]} {run.stderr[-2000:]}")
    return tuple(json.loads(last)["alarms"])


def catch(tree: Path, bug: PlantedBug, family_rate: float | None) -> Catch:
    """Plants a bug, runs its tests, and the audits if a rate of false alarms is given."""
    with planted(tree, bug):
        failed = failing_tests(tree, bug.tests)
        alarms = () if family_rate is None else audit_alarms(tree, family_rate)
    tests = tuple(test for test in bug.tests if test in failed)
    return Catch(bug, tests, tuple(test for test in bug.tests if test not in failed), alarms)


def _in_tree(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree / "client"), str(tree / "server")]),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file of the same second and length would be taken for the one before
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
