"""Encryptions of zero, made by spare processes while the model trains; each is used once.

An encryption of zero under the round's public key is most of the work of an encryption and needs no value, so
it can be made in advance. It is also the one-time randomness of an upload: whoever saw it could read the
message off the upload. So it lives in an anonymous memory file shared with the makers, never in a named file,
and its slot is wiped when the next one is taken.

The makers (:mod:`usufruct.encryption.zero_worker`) are fresh processes that import numpy and AES only,
live as long as the pool, run at the lowest priority, and end when this process ends, however it ends.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.zero_worker import NOTICE, ORDER, ZeroSource, command_line, zeros_made_here
from usufruct.errors import ConfigError

_LOG = logging.getLogger("usufruct.encryption")

MAX_SLOTS = 8192
"""Most slots of one worker: its notices then always fit the pipe, so it never waits for a reader."""


@dataclass
class _Worker:
    """One maker and its part of the ring, ``first`` and on, which it fills in order and starts over."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    notices: int
    first: int
    owed: int = 0  # slots it may fill and has not told of
    ready: int = 0  # slots filled and not taken
    oldest: int = 0  # the next to take


class ZeroPool:
    """A bounded pool of encryptions of zero for one job. One round at a time; not thread-safe.

    Memory: at most ``ring_mib`` MiB, shared with the workers and taken as the ring fills. A full ring stops
    them. An empty one stops nobody: :meth:`take` then makes the block itself, beside them. A worker that died
    is replaced at the next round.

    *Guarantee*: no block is given twice or under another key than the round's; this package writes none to a
    disk (turn swap off). Every process has key streams of its own, under keys from the operating system
    (:class:`usufruct.encryption.zero_encryption.ZeroEncryption`). A pool is for one process: a fork must not use it.
    """

    def __init__(self, parameters: EncryptionParameters, *, workers: int = 1, ring_mib: int = 64) -> None:
        if not hasattr(os, "memfd_create"):
            workers = 0  # without anonymous memory files every block is made when it is taken
        self._parameters = parameters
        self._slot_bytes = 16 * parameters.poly_modulus_degree
        self._slots = min(MAX_SLOTS, (ring_mib << 20) // self._slot_bytes // max(1, workers))
        if workers < 0 or self._slots < 1:
            raise ConfigError(
                f"A ring of {ring_mib} MiB has no slot of {self._slot_bytes} bytes for each of {workers} workers.",
                field="ring_mib",
            )
        self._workers: list[_Worker | None] = [None] * workers
        self._round = self._left = 0
        self._make_here: ZeroSource | None = None
        self._ahead: tuple[bytes, int] | None = None
        self._held: Coefficients | None = None
        if workers:
            size = workers * self._slots * self._slot_bytes
            self._file = os.memfd_create("usufruct-zeros", os.MFD_CLOEXEC)
            os.ftruncate(self._file, size)
            self._ring = mmap.mmap(self._file, size)
            self._start_missing()

    @property
    def worker_processes(self) -> tuple[int, ...]:
        """Ids of the worker processes, as far as it is known that they live."""
        return tuple(worker.process.pid for worker in self._alive)

    def start(self, public_key_bytes: bytes, blocks: int) -> None:
        """Begin a round: forget what is left of the last, let the workers make ``blocks`` under this key.

        The same again, before a block was taken, changes nothing: so a round may be begun before it is certain to come.

        Raises:
            InvalidInput: ``PUBLIC_KEY_INVALID``; the pool then has no round.
        """
        if self._ahead == (public_key_bytes, blocks) and len(self._alive) == len(self._workers):
            return
        self.stop()
        self._make_here = zeros_made_here(self._parameters, public_key_bytes)
        self._start_missing()
        self._left, self._ahead = blocks, (public_key_bytes, blocks)
        self._order_more(1, public_key_bytes)

    def take(self) -> Coefficients:
        """A fresh encryption of zero under the round's key, shape [2N]; a :data:`ZeroSource`.

        It is the caller's to overwrite until the next call of this object, which wipes it. A caller may take
        more than it announced.

        Raises:
            ValueError: no round has been started.
        """
        if self._make_here is None:
            raise ValueError("a pool gives zeros between start and stop")
        self._ahead = None
        self._wipe_held()
        best = max(self._alive, key=lambda worker: worker.ready, default=None)
        if best is None or not best.ready:
            self._hear()
            best = max(self._alive, key=lambda worker: worker.ready, default=None)
        self._left = max(0, self._left - 1)
        if best is None or not best.ready:
            return self._make_here()
        start = (best.first + best.oldest) * self._slot_bytes
        self._held = np.frombuffer(self._ring, dtype=np.uint64, count=self._slot_bytes // 8, offset=start)
        best.oldest, best.ready = (best.oldest + 1) % self._slots, best.ready - 1
        self._order_more(1 + self._slots // 8)
        return self._held

    def stop(self) -> None:
        """End the round: the workers stop and wipe the ring. They stay warm for the next."""
        self._ahead = None
        self._wipe_held()
        if self._make_here is not None:
            self._make_here, self._left = None, 0
            self._round = (self._round + 1) % (1 << 16)  # notices still to come are of the round before
            for worker in self._alive:
                worker.owed = worker.ready = worker.oldest = 0
                self._tell(worker, ORDER.pack(self._round, 0, 0))
        self._hear()

    def close(self) -> None:
        """End the workers and forget everything."""
        self.stop()
        for worker in self._alive:
            self._end(worker)
        if self._workers:
            self._ring.madvise(mmap.MADV_REMOVE)  # gives the pages back; who still has a view reads zeros
            os.close(self._file)
            self._workers = []

    def __enter__(self) -> ZeroPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the workers -----------------------------------------------------------------------------------------

    @property
    def _alive(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker is not None]

    def _start_missing(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker is None:
                self._workers[index] = self._spawn(index * self._slots)

    def _spawn(self, first: int) -> _Worker:
        control, its_control = socket.socketpair()
        notices, its_notices = os.pipe()
        with its_control:
            inherited = (self._file, its_control.fileno(), its_notices)
            process = subprocess.Popen(  # a new interpreter, never a fork of this one
                command_line(self._parameters, *inherited, first, self._slots),
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        os.close(its_notices)
        os.set_blocking(notices, False)
        control.setblocking(False)
        return _Worker(process, control, notices, first)

    def _order_more(self, least: int, public_key_bytes: bytes = b"") -> None:
        """Let the workers fill what the round still needs, where at least ``least`` slots are free."""
        alive = self._alive
        missing = self._left - sum(worker.owed + worker.ready for worker in alive)
        for position, worker in enumerate(alive):
            # the slot that the caller holds counts as used, whoever's it is
            free = self._slots - worker.owed - worker.ready - (self._held is not None)
            share = max(0, min(free, -(-missing // (len(alive) - position))))
            if public_key_bytes or (share > 0 and free >= least):
                worker.owed += share
                missing -= share
                order = ORDER.pack(self._round, share, len(public_key_bytes))
                self._tell(worker, order + public_key_bytes)

    def _tell(self, worker: _Worker, order: bytes) -> None:
        try:
            sent = worker.control.send(order)
        except OSError:  # gone, or it reads nothing
            sent = 0
        if sent != len(order):
            self._lose(worker)

    def _hear(self) -> None:
        """Count the notices that have come; notice workers that are gone."""
        for worker in self._alive:
            try:
                notices = os.read(worker.notices, NOTICE.size * 2 * MAX_SLOTS)
            except BlockingIOError:
                continue
            if not notices:
                self._lose(worker)
            filled = sum(round_number == self._round for (round_number,) in NOTICE.iter_unpack(notices))
            worker.ready += filled
            worker.owed -= filled

    def _lose(self, worker: _Worker) -> None:
        self._end(worker)
        _LOG.warning(
            "a process that makes encryptions of zero ended (status %s); they are made without it until the next round",
            worker.process.returncode,
        )

    def _end(self, worker: _Worker) -> None:
        self._workers[self._workers.index(worker)] = None
        worker.control.close()
        os.close(worker.notices)
        worker.process.kill()
        worker.process.wait()

    def _wipe_held(self) -> None:
        if self._held is not None:
            self._held.fill(0)
            self._held = None
