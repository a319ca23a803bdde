"""What a trainer child may do to the machine. The one place where its walls stand.

This version sets resource limits and ends the child with its parent. A sandbox without network (bubblewrap, seccomp,
Landlock) belongs into :func:`confine`, which runs after the fork and before a byte of the data or of another
party is read; what has to wrap the command line belongs into ``zygote.Zygote._start``.
"""

from __future__ import annotations

import os
import resource
import select
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainerLimits:
    """Limits of one trainer child.

    Attributes:
        address_space_bytes: virtual memory (RLIMIT_AS); PyTorch alone maps about one GiB.
        open_files: file descriptors (RLIMIT_NOFILE).
    """

    address_space_bytes: int = 6 << 30
    open_files: int = 256


def confine(limits: TrainerLimits) -> None:
    """Lowers the limits of this process for good: memory, files, no core dump (it would hold records)."""
    os.umask(0o077)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, limits.address_space_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowered, lowered))


def end_with(descriptor: int) -> None:
    """Ends this process when the other end of the socket ``descriptor`` is closed, so also when the server is killed.

    A thread and not PR_SET_PDEATHSIG: that signal comes when the *thread* that started the child ends, which in a
    server with a pool of threads is not the end of the server.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="end-with-parent", daemon=True).start()


def _watch(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP if hasattr(select, "POLLRDHUP") else 0)
    poll.poll()  # also returns on POLLHUP and POLLERR
    os._exit(0)
