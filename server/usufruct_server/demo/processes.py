"""Child processes that say when they are ready, keep a log, and are stopped by their own process id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from usufruct.errors import ConfigError

STOP_SECONDS: Final = 8.0
LOG_TAIL_LINES: Final = 12

_DIE_WITH_PARENT: Final = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,15)\n"
    "os.getppid()==int(sys.argv[1]) or os._exit(0)\n"
    "os.execv(sys.argv[2],sys.argv[2:])"
)
"""Asks Linux to end the child with the thread that started it, then becomes the real command under the same process
id: no network is left behind by a starter that was killed."""


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the block has ended, then lets them act."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = {
        number: signal.signal(number, lambda *signalled: held.append(signalled))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0][0])


@dataclass(frozen=True)
class Command:
    """How to start a process.

    Attributes:
        name: for people, and of its log file.
        arguments: of ``python -m usufruct.cli``.
        ready: pattern of the line on its standard output that says it is ready; named groups are what it announces.
        environment: beside this process's own.
    """

    name: str
    arguments: tuple[str, ...]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Process:
    """One child process. Start it, wait for its ready line, stop or kill it, start it again.

    On Linux the child is ended with the *thread* that started it: call :meth:`start` from one that lives as long.
    """

    def __init__(self, command: Command, log: Path) -> None:
        self.command, self.log = command, log
        self._child: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._heard = threading.Event()
        self._announced: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.command.name

    @property
    def pid(self) -> int:
        """Process id of the present child; 0 before the first start."""
        return self._child.pid if self._child is not None else 0

    @property
    def running(self) -> bool:
        """Whether the child has been started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts the child; returns at once. Its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._heard, self._announced = threading.Event(), None
        real = [sys.executable, "-m", "usufruct.cli", *self.command.arguments]
        if sys.platform == "linux":
            real = [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *real]
        # Ctrl-C between the start of a child and the note of its id would leave a child that nobody stops.
        with self.log.open("a", encoding="utf-8") as log, _interrupts_wait():
            self._child = subprocess.Popen(
                real,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.command.environment},
                start_new_session=True,  # Ctrl-C goes to the starter alone, which then stops its children in order
            )
        self._reader = threading.Thread(target=self._read, args=(self._child, self._heard), daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_seconds: float) -> dict[str, str]:
        """Waits for the ready line; returns the named groups of its pattern.

        Raises:
            ConfigError: the child ended, or said nothing in time. Names the log and quotes its last lines.
        """
        assert self._child is not None, "start() comes first"
        if not self._heard.wait(timeout_seconds):
            self.kill()
            raise self._failed(f"was not ready within {timeout_seconds:g} seconds")
        if self._announced is None:
            self.wait_stopped()
            raise self._failed(f"ended with code {self._child.returncode} before it was ready")
        return self._announced

    def ask_to_stop(self) -> None:
        """Sends SIGTERM; returns at once."""
        if self._child is not None and self.running:
            self._child.terminate()

    def wait_stopped(self) -> None:
        """Waits until the child has ended; kills it when it takes too long."""
        if self._child is None:
            return
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._reader is not None:
            self._reader.join(STOP_SECONDS)

    def stop(self) -> None:
        """Asks the child to end, and waits for it."""
        self.ask_to_stop()
        self.wait_stopped()

    def kill(self) -> None:
        """``kill -9``, and waits for the end."""
        if self._child is not None and self.running:
            self._child.kill()
        self.wait_stopped()

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _read(self, child: subprocess.Popen[str], heard: threading.Event) -> None:
        """Copies the child's standard output to the log, and looks for the ready line."""
        assert child.stdout is not None
        with child.stdout, self.log.open("a", encoding="utf-8") as log:
            for line in child.stdout:
                log.write(line)
                log.flush()
                found = re.search(self.command.ready, line) if not heard.is_set() else None
                if found:
                    self._announced = {key: value or "" for key, value in found.groupdict().items()}
                    heard.set()
        heard.set()

    def _failed(self, what: str) -> ConfigError:
        tail = self.log_tail()
        quoted = f" It said last:\n{tail}" if tail else ""
        return ConfigError(f"The process {self.name!r} {what}. Its log is {self.log}.{quoted}")


def stop_all(processes: Sequence[Process]) -> None:
    """Stops processes together: all are asked first, then all are waited for."""
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.wait_stopped()
