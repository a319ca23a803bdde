"""How much memory processes and their children have resident, watched while something runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

EVERY_SECONDS = 0.1
"""Looking costs milliseconds of the process that measures rounds as well."""


class Watch:
    """Watches until it is left. Pages that processes share are divided among them; an anonymous memory file counts once
    with the processes that have it, mapped or not.

    Args:
        processes: by name, the first process of each; its children and theirs count with it.
    """

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = dict(processes)
        self.start_bytes = {name: resident_bytes(pid) for name, pid in processes.items()}
        self.peak_bytes = dict(self.start_bytes)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        for name, pid in self._processes.items():
            self.peak_bytes[name] = max(self.peak_bytes[name], resident_bytes(pid))


def resident_bytes(pid: int) -> int:
    """Memory of a process and all that descend from it, bytes; 0 once it has ended.

    Of this process, only its own: those that it watches descend from it.
    """
    family = [pid] if pid == os.getpid() else _family(pid)
    files = {file for one in family for file in _memory_files(one)}
    return sum(_own_bytes(one) for one in family) + sum(size for _, size in files)


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _own_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    kib = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return kib["Pss:"] - kib["Pss_Shmem:"] << 10


def _memory_files(pid: int) -> list[tuple[int, int]]:
    """The memory files that a process has open: number and bytes that are there of each."""
    found = []
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.readlink(descriptor).startswith("/memfd:"):
                    status = descriptor.stat()
                    found.append((status.st_ino, 512 * status.st_blocks))
    except OSError:
        pass
    return found
