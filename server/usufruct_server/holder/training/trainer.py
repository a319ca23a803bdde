"""The server's end of a trainer child: starts it, tells it what to do, and never waits longer than it said.

Imports no torch. Calls block, so an asynchronous server runs them in a thread; one call at a time on one trainer.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usufruct import errors
from usufruct.errors import RoundFailed, UsufructError
from usufruct.graph.model_graph import ModelGraph
from usufruct_server.holder.training.confinement import TrainerLimits
from usufruct_server.holder.training.messages import (
    ConnectionEnded,
    TrainerTask,
    graph_to_header,
    receive,
    send,
    task_to_header,
)

START_SECONDS = 60.0
"""How long a child may take to import PyTorch on a loaded machine; about 4 s on a quiet one."""


class TrainerFailed(RoundFailed):
    """The child crashed, hung or answered nonsense. It has been killed; start a new one and the next attempt."""

    reason = "TRAINER_FAILED"


class Trainer:
    """One warm child process for one leg of a job.

    Life: ``Trainer.spawn()`` (at once; the child warms up by itself) → :meth:`start` with the leg's task → per round
    :meth:`check_weights`, then the server charges its ledger, then :meth:`run` → :meth:`stop`. Also a context manager.

    After any :class:`TrainerFailed` the child is dead and every later call raises the same.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, scratch: Path) -> None:
        self._process = process
        self._connection = connection
        self._scratch = scratch
        self._lock = threading.Lock()
        self._ready = False

    @classmethod
    def spawn(cls, limits: TrainerLimits | None = None) -> Trainer:
        """Starts a child and returns at once, so that a server can have one warm before it is needed."""
        limits = limits or TrainerLimits()
        ours, theirs = socket.socketpair()
        scratch = Path(tempfile.mkdtemp(prefix="usufruct-trainer-"))  # mode 0700
        try:
            process = subprocess.Popen(
                cls._command(theirs.fileno(), limits),
                env=_environment(scratch),
                cwd=scratch,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the server, which then stops its children
            )
        except BaseException:
            ours.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            theirs.close()
        return cls(process, ours, scratch)

    @staticmethod
    def _command(descriptor: int, limits: TrainerLimits) -> list[str]:
        module = "usufruct_server.holder.training.child"
        figures = [str(descriptor), str(limits.address_space_bytes), str(limits.open_files)]
        return [sys.executable, "-P", "-m", module, *figures]

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.poll() is None

    def wait_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Waits until the child has warmed up.

        Raises:
            TrainerFailed: it did not in time.
        """
        with self._lock:
            self._await_ready(time.monotonic() + timeout_seconds)

    def appraise(
        self,
        graph: ModelGraph,
        micro_batch_size: int,
        loss: str,
        classes: int,
        timeout_seconds: float = START_SECONDS,
    ) -> int:
        """Has the child check a proposed graph and whether the loss fits it; no data are opened.

        A stranger's graph is built here and not in the server: whatever it costs or breaks, it is the child.

        Returns:
            How many parameters the graph has.
        Raises:
            UsufructError: GRAPH_NOT_ALLOWED or SPEC_INVALID.
            TrainerFailed: no answer in time.
        """
        header = {
            "request": "appraise",
            "graph": graph_to_header(graph),
            "micro_batch_size": micro_batch_size,
            "loss": loss,
            "classes": classes,
        }
        answer, _ = self._ask(header, b"", "appraised", timeout_seconds)
        return int(answer["parameters"])

    def start(self, task: TrainerTask, timeout_seconds: float = START_SECONDS) -> None:
        """Gives the child its leg: it checks graph, loss and card, and reads the data. Before any charge.

        Raises:
            UsufructError: with the reason of the refusal, such as GRAPH_NOT_ALLOWED, SPEC_INVALID, DATA_UNREADABLE or
                PERSON_HAS_SEVERAL_ROWS. The child lives on.
            TrainerFailed: it did not answer in time.
        """
        self._ask({"request": "start", "task": task_to_header(task)}, b"", "started", timeout_seconds)

    def check_weights(self, weights: bytes, round: int, attempt: int, timeout_seconds: float) -> None:
        """Checks a round's weights. Call it before the charge, so that bad weights cost no attempt.

        Raises:
            InvalidInput: WEIGHTS_NOT_ALLOWED.
            TrainerFailed: no answer in time.
        """
        header = {"request": "weights", "round": round, "attempt": attempt}
        self._ask(header, weights, "weights", timeout_seconds)

    def run(self, weights: bytes, round: int, attempt: int, timeout_seconds: float) -> NDArray[np.int32]:
        """Trains one round. Draws noise, so charge the ledger first.

        Args:
            weights: the round's, safetensors.
            round, attempt: as charged; the answer must name the same.
            timeout_seconds: afterwards the child is killed.
        Returns:
            The noised, weighted update as codes of ``round_update``, shape (parameters,).
        Raises:
            InvalidInput: WEIGHTS_NOT_ALLOWED; nothing was drawn.
            TrainerFailed: the child crashed or did not answer in time; what was charged stays charged.
        """
        header = {"request": "run", "round": round, "attempt": attempt}
        _, body = self._ask(header, weights, "update", timeout_seconds)
        return np.frombuffer(body, dtype="<i4").astype(np.int32, copy=False)

    def stop(self) -> None:
        """Ends the child and removes its scratch directory. May be called again, from any thread."""
        self._kill()  # first, so that a call that waits in another thread sees the end
        with self._lock:
            self._connection.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- one question, one answer --

    def _ask(
        self, header: dict[str, Any], body: bytes, expected: str, timeout_seconds: float
    ) -> tuple[dict[str, Any], bytearray]:
        deadline_seconds = time.monotonic() + timeout_seconds
        with self._lock:
            self._await_ready(deadline_seconds)
            try:
                send(self._connection, header, body, deadline_seconds)
                answer, payload = receive(self._connection, deadline_seconds)
            except ConnectionEnded as error:
                raise self._failed(f"no answer to {header['request']!r} ({error})") from error
            if answer.get("answer") == "refused":
                raise _refusal(answer)
            same = all(answer.get(key) == header.get(key) for key in ("round", "attempt"))
            if answer.get("answer") != expected or not same:
                raise self._failed(
                    f"{header['request']!r} failed ({answer.get('where', 'unexpected answer')})"
                )
            return answer, payload

    def _await_ready(self, deadline_seconds: float) -> None:
        if self._ready:
            return
        try:
            answer, _ = receive(self._connection, deadline_seconds)
        except ConnectionEnded as error:
            raise self._failed(f"did not become ready ({error})") from error
        if answer.get("answer") != "ready":
            raise self._failed("did not become ready")
        self._ready = True

    def _failed(self, what: str) -> TrainerFailed:
        self._kill()
        self._connection.close()
        return TrainerFailed(
            f"The trainer process {what}; exit status {self._process.returncode}. A new trainer and a new attempt go on."
        )

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def _refusal(answer: dict[str, Any]) -> UsufructError:
    """The child's refusal, as the error it was there."""
    family = getattr(errors, str(answer.get("family")), UsufructError)
    if not (isinstance(family, type) and issubclass(family, UsufructError)):
        family = UsufructError
    error: UsufructError = family(
        str(answer["message"]), reason=str(answer["reason"]), **dict(answer["details"])
    )
    return error


def _environment(scratch: Path) -> dict[str, str]:
    """What the child sees: no proxy, token or key of the server's environment; one thread; no network in libraries."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ
    }
    packages = [path for path in sys.path if path and Path(path).is_dir()]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
