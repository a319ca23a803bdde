"""The process that has PyTorch loaded and nothing else, and from which every trainer child is forked.

Loading takes seconds and 200 MiB; a fork takes milliseconds and shares them. No data, graph or key ever comes into this
process: a child is forked with an empty scratch directory and one end of a socket, and is told everything over that.
Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from usufruct_server.holder.training.confinement import TrainerLimits
from usufruct_server.holder.training.trainer import Trainer

PROGRAM: Final = "import gc; gc.disable(); from usufruct_server.holder.training.child import main; main()"
"""Nothing of what is loaded is ever garbage: looking for some, again and again, takes a quarter of the time."""

KEPT_MEMORY: Final = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""For glibc: what a step gives back is kept for the next. To have it faulted in again, page by page, takes a quarter of a
small model's step."""


class Zygote:
    """Forks trainer children. Started at once, restarted if it should have died. Safe from several threads.

    A child ends when its socket closes, so also when this server is killed; :meth:`close` ends the zygote.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._closed = False
        self._children = 0
        self._scratch = Path(tempfile.mkdtemp(prefix="usufruct-zygote-"))  # mode 0700
        self._start()

    def spawn(self, limits: TrainerLimits | None = None) -> Trainer:
        """A child of its own; returns at once, also while PyTorch is still being loaded."""
        limits = limits or TrainerLimits()
        ours, theirs = socket.socketpair()
        scratch = Path(tempfile.mkdtemp(prefix="usufruct-trainer-"))
        try:
            with self._guard:
                self._children += 1
                number = self._children
                order = {
                    "fork": number,
                    "scratch": str(scratch),
                    "address_space_bytes": limits.address_space_bytes,
                    "open_files": limits.open_files,
                }
                if self._process.poll() is not None and not self._closed:
                    self._start()
                self._send(order, theirs)
                process = self._process
        except BaseException:
            ours.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            theirs.close()
        return Trainer(ours, scratch, lambda: self._end(number, process))

    @property
    def pid(self) -> int:
        """Process id of the zygote."""
        return self._process.pid

    def close(self) -> None:
        """Ends the zygote; children that run are their trainers' to stop."""
        with self._guard:
            self._closed = True
            self._control.close()
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno())],
                env=_environment(self._scratch),
                cwd=self._scratch,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the server, which then stops its children
            )
        finally:
            theirs.close()

    def _end(self, number: int, of: subprocess.Popen[bytes]) -> bool:
        """Has a child killed. False where the process that forked it is gone: the child then ends by its socket."""
        with self._guard:
            return of is self._process and not self._closed and self._send({"end": number})

    def _send(self, order: dict[str, object], connection: socket.socket | None = None) -> bool:
        """Hands over an order; False where nobody is there to take it."""
        line = json.dumps(order).encode() + b"\n"
        try:
            socket.send_fds(self._control, [line], [connection.fileno()] if connection else [])
        except OSError:
            return False
        return True


def _environment(scratch: Path) -> dict[str, str]:
    """What the process sees: no proxy, token or key of the server's environment; one thread; no network in libraries."""
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
        "OPENBLAS_NUM_THREADS": "1",
        **KEPT_MEMORY,
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # what forks has one thread
    }
