"""What a builder keeps of a job on disk, so that a crash at any instant loses at most the round that was running.

``$USUFRUCT_HOME`` (or ``~/.usufruct``) ``/jobs/0x<job id>/``:

| file | what | changes |
|---|---|---|
| `spec.bin` | the exact bytes whose hash the grants name | never |
| `job.json` | RPC URL, contract, path of the key (no secret), names of the model's parameters | never |
| `state.json` | phase, what the job is opened with, next attempt, rounds done, which weights, how legs ended | replaced atomically |
| `weights-<n>.safetensors` | weights after round n, under the model's own names; of a query after its round, the sum | written once |
| `optimizer-<n>.safetensors` | what the server optimiser remembers after round n, if anything | written once |
| `outbox.sqlite` | the job's transactions (``chain.outbox``) | |
| `dispute-<dataset>.txt` | the statement whose hash a dispute names | written once |
| `lock` | held by the process that drives the job | |

``state.json`` is the commit point: a weights file is complete and flushed before the state names it, the next
attempt's number is flushed before any holder hears of it, and what a job is opened with before it is sent. So no attempt
number is ever used for two different rounds, and money is locked once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from usufruct.domain import ids
from usufruct.errors import ConfigError, InvalidInput

STORE_VERSION = 2
PHASES = ("proposed", "opening", "accepting", "open", "finishing", "cancelling", "finished", "cancelled")
"""``opening``: the transaction may be under way; ``accepting``: open on chain, nobody trains yet; ``open``: rounds may run;
``cancelling``: legs are on their ways out. The last two are ends."""


@dataclass(frozen=True)
class JobRecord:
    """What never changes about a job. ``parameter_names``: (name in the graph, name in the builder's model).

    ``frozen_digest``: of the model's frozen parameters, ``sha256:…``; empty where it has none.
    ``server_optimizer``: of ``server_optimizer.write_server_optimizer``; plain averaging when empty. ``card``: of a query, a
    dataset card by which its figures are read.
    """

    rpc_url: str
    compute_access: str
    key_path: str
    builder: str
    parameter_names: tuple[tuple[str, str], ...]
    confirmations: int | None = None
    frozen_digest: str = ""
    server_optimizer: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
    version: int = STORE_VERSION


@dataclass(frozen=True)
class JobState:
    """How far a job has come.

    Attributes:
        phase: one of :data:`PHASES`.
        escrow: fields of ``EscrowTerms``, as they were chosen.
        opening: fields of ``opening.Opening``; empty until the phase is ``opening``.
        roster: datasets whose legs were accepted and take part in rounds; empty before.
        refusals: by dataset number, why its leg takes no part: a reason of the catalogue.
        next_attempt: the first attempt number that no holder has ever been sent, from 1.
        rounds_done: rounds whose sum has been applied to the weights.
        weights_file: name of the checkpoint after ``rounds_done`` rounds.
        attempts_charged: by dataset number, what its holder last said.
        history: one entry per round, fields of ``RoundResult``.
        legs: by dataset number, fields of ``LegResult``, once the leg has ended or is delivered.
        gas: what this builder's transactions took, by what they did.
        ended_early: why there were fewer rounds than planned; empty otherwise.
    """

    phase: str
    next_attempt: int
    rounds_done: int
    weights_file: str
    escrow: Mapping[str, Any] = field(default_factory=dict)
    opening: Mapping[str, Any] = field(default_factory=dict)
    roster: tuple[int, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    attempts_charged: Mapping[str, int] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    legs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gas: Mapping[str, int] = field(default_factory=dict)
    ended_early: str = ""

    @property
    def gas_used(self) -> int:
        """Of all transactions of the job so far."""
        return sum(self.gas.values())


def home() -> Path:
    """Where a builder's state lives: ``$USUFRUCT_HOME`` or ``~/.usufruct``."""
    return Path(os.environ.get("USUFRUCT_HOME") or Path.home() / ".usufruct").expanduser()


class JobStore:
    """One job's directory. Reading needs nothing; driving the job needs :meth:`lock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock_file: IO[str] | None = None

    @classmethod
    def create(
        cls,
        job_id: bytes,
        spec_bytes: bytes,
        record: JobRecord,
        weights: bytes,
        escrow: Mapping[str, Any],
    ) -> JobStore:
        """Makes the directory of a new job, with its first weights and attempt 1 still unused; takes the lock."""
        directory = home() / "jobs" / ids.to_hex(job_id)
        directory.mkdir(parents=True, exist_ok=False, mode=0o700)
        store = cls(directory)
        store.lock()
        write_durably(directory / "spec.bin", spec_bytes)
        write_durably(directory / "job.json", _json(asdict(record)))
        write_durably(directory / weights_name(0), weights)
        store.save(JobState("proposed", 1, 0, weights_name(0), escrow))
        return store

    @classmethod
    def find(cls, job: str | bytes) -> JobStore:
        """The directory of a job of this machine.

        Raises:
            InvalidInput: JOB_UNKNOWN, saying where it was looked for.
        """
        job_id = ids.from_hex32(job, "job_id") if isinstance(job, str) else ids.hash32(job, "job_id")
        directory = home() / "jobs" / ids.to_hex(job_id)
        if not (directory / "state.json").is_file():
            raise InvalidInput(
                f"No job {ids.to_hex(job_id)} in {directory.parent}. Set USUFRUCT_HOME to where it was started.",
                reason="JOB_UNKNOWN",
                job_id=ids.to_hex(job_id),
            )
        return cls(directory)

    # -- the lock ---------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Makes this process the one that drives the job, until :meth:`unlock` or its end (also a crash).

        Raises:
            ConfigError: another process has it.
        """
        if self._lock_file is not None:
            return
        lock_file = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock_file.close()
            raise ConfigError(
                f"Another process is driving job {self.directory.name}. Wait for it, or stop it first.",
                reason="LEDGER_LOCKED",
                job_id=self.directory.name,
            ) from error
        self._lock_file = lock_file

    @property
    def locked(self) -> bool:
        """Whether this process drives the job."""
        return self._lock_file is not None

    def unlock(self) -> None:
        """Lets another process drive the job."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def discard(self) -> None:
        """Removes the directory of a proposal that was never opened."""
        shutil.rmtree(self.directory)
        self.unlock()

    # -- reading ----------------------------------------------------------------------------------------------

    def spec_bytes(self) -> bytes:
        """The exact bytes of the spec."""
        return (self.directory / "spec.bin").read_bytes()

    def record(self) -> JobRecord:
        """What never changes about the job."""
        raw = self._read("job.json")
        raw["parameter_names"] = tuple((graph, own) for graph, own in raw["parameter_names"])
        return JobRecord(**raw)

    def state(self) -> JobState:
        """How far the job has come."""
        raw = self._read("state.json")
        raw["history"], raw["roster"] = tuple(raw["history"]), tuple(raw["roster"])
        return JobState(**raw)

    def weights(self, state: JobState) -> bytes:
        """The checkpoint that ``state`` names, as safetensors."""
        return (self.directory / state.weights_file).read_bytes()

    def optimizer(self, state: JobState) -> bytes:
        """What the server optimiser remembers beside that checkpoint; empty if nothing."""
        path = self.directory / optimizer_name(state.rounds_done)
        return path.read_bytes() if path.exists() else b""

    # -- writing ----------------------------------------------------------------------------------------------

    def save(self, state: JobState) -> None:
        """Replaces the state; when this returns, it survives a crash."""
        if self._lock_file is None:
            raise ConfigError(
                f"Job {self.directory.name} is not locked by this process.", reason="LEDGER_LOCKED"
            )
        write_durably(self.directory / "state.json", _json(asdict(state)))

    def take_attempt(self, state: JobState) -> tuple[int, JobState]:
        """Uses up the next attempt number. The number may be sent once this has returned, and never again."""
        after = replace(state, next_attempt=state.next_attempt + 1)
        self.save(after)
        return state.next_attempt, after

    def save_round(self, state: JobState, weights: bytes, optimizer: bytes = b"") -> JobState:
        """Makes ``weights`` the checkpoint of ``state.rounds_done``, with what the optimiser remembers; the ones before are
        removed afterwards."""
        before = state.weights_file
        after = replace(state, weights_file=weights_name(state.rounds_done))
        write_durably(self.directory / after.weights_file, weights)
        if optimizer:
            write_durably(self.directory / optimizer_name(after.rounds_done), optimizer)
        self.save(after)
        if before != after.weights_file:
            (self.directory / before).unlink(missing_ok=True)
            (self.directory / optimizer_name(after.rounds_done - 1)).unlink(missing_ok=True)
        return after

    def _read(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        try:
            raw = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read; the job's directory is damaged.") from error
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} is not a JSON object; the job's directory is damaged.")
        if raw.pop("version", STORE_VERSION) != STORE_VERSION:
            raise ConfigError(
                f"{path} was written by another version of usufruct.", reason="UNSUPPORTED_VERSION"
            )
        return raw


def optimizer_name(rounds_done: int) -> str:
    """File of what the server optimiser remembers after so many rounds."""
    return f"optimizer-{rounds_done}.safetensors"


def weights_name(rounds_done: int) -> str:
    """File name of the weights after that many rounds."""
    return f"weights-{rounds_done}.safetensors"


def write_durably(path: Path, data: bytes) -> None:
    """Replaces ``path`` as a whole: a crash leaves the old bytes or the new ones. Flushed to the disk on return."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
