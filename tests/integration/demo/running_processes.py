"""Which processes run, seen from outside."""

from __future__ import annotations

from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def processes_of(directory: Path) -> set[int]:
    """Processes whose command line names ``directory``."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(directory).encode() in (entry / "cmdline").read_bytes() and alive(int(entry.name)):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found
