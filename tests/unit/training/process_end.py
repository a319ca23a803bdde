"""Waiting for the end of a process that is nobody's child here."""

from __future__ import annotations

import os
import select


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends in time; waits for the event itself."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
