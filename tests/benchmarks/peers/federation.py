"""The processes of one peer's federation: started in a temporary folder, listening on loopback, all stopped at the end.

Frameworks start processes of their own, some in new sessions, so a process group is not enough. This process makes
itself the reaper of its orphans (Linux ``prctl``), hence everything ever started stays its descendant and is stopped
by process id. Only the standard library: it runs in the peers' environments.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOPBACK = "127.0.0.1"
HOLDERS = 3
POLL_SECONDS = 0.2
TERMINATE_SECONDS = 3.0
KILL_SECONDS = 10.0

T = TypeVar("T")


class Federation:
    """A temporary workspace (also the processes' HOME) and the processes that run in it; a context manager."""

    def __init__(self, timeout_seconds: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-peer-", ignore_cleanup_errors=True)
        self.workspace = Path(self._folder.name)
        self._deadline = time.monotonic() + timeout_seconds
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        scripts = Path(sys.executable).parent
        self.environment = {
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.workspace),
            "TMPDIR": str(self.workspace),
            "LANG": "C.UTF-8",
        }

    def __enter__(self) -> Federation:
        signal.signal(signal.SIGTERM, _leave)
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Should the bench itself be killed, this run ends too.
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if kind is not None and issubclass(kind, Exception):
            self._show_logs()
        _stop_descendants()
        self._folder.cleanup()

    def start(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        """Start a process that must stay; its output goes to ``<name>.log`` of the workspace."""
        with (self.workspace / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.workspace,
                env={**self.environment, **(extra or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((name, process))

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run a command to its end.

        Raises:
            RuntimeError: it failed; the message has the end of its output.
        """
        done = subprocess.run(
            command,
            cwd=self.workspace,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, self._deadline - time.monotonic()),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed: {(done.stdout + done.stderr)[-1500:]}")

    def wait_for(self, what: str, look: Callable[[], T | None]) -> T:
        """The first answer of ``look`` that is not None.

        Raises:
            RuntimeError: a started process ended.
            TimeoutError: the time of the whole run is over.
        """
        while True:
            found = look()
            if found is not None:
                return found
            for name, process in self._started:
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {process.returncode} before {what}")
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"no {what} in time")
            time.sleep(POLL_SECONDS)

    def _show_logs(self) -> None:
        for name, _ in self._started:
            lines = (self.workspace / f"{name}.log").read_text(errors="replace").splitlines()
            print(f"--- {name}", *lines[-15:], sep="\n", file=sys.stderr)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _descendants() -> list[int]:
    """Process ids of the living descendants of this process, from /proc; its zombies are reaped on the way."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # "pid (name) state ppid ...": the name may hold spaces and parentheses.
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _stop_descendants() -> None:
    """SIGTERM to every descendant, later SIGKILL, until none is left."""
    start = time.monotonic()
    told: set[int] = set()
    while alive := _descendants():
        elapsed = time.monotonic() - start
        if elapsed > KILL_SECONDS:
            print(f"could not stop processes {alive}", file=sys.stderr)
            return
        for pid in alive:
            with suppress(ProcessLookupError):
                if elapsed > TERMINATE_SECONDS:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in told:
                    told.add(pid)
                    os.kill(pid, signal.SIGTERM)
        time.sleep(POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on, distinct."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options every peer's script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--parameters", type=int, default=10**5, help="float32 values of the model")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; one more comes first")
    parser.add_argument("--timeout-seconds", type=float, default=900, help="of the whole run")
    parser.add_argument("--json", action="store_true", help="one line of JSON last")
    return parser


def report(result: dict[str, Any], as_json: bool) -> None:
    """Print a peer's result; ``seconds_per_round`` leaves the first round out."""
    print(f"{result['peer']} {result['version']}, {result['parameters']} parameters, seconds a round:")
    print(*(f"{seconds:.2f}" for seconds in result["seconds_per_round"]))
    if as_json:
        print(json.dumps(result), flush=True)
