"""Makes encryptions of zero: in the process that wants them, or as a process of its own for
:mod:`usufruct.encryption.zeros`.

``python -m usufruct.encryption.zero_worker`` is started by ``ZeroPool`` only. It reads orders from a socket,
fills slots of a shared memory file one after the other, and writes a notice for every slot into a pipe. It
ends when the socket ends: when the pool is closed, or when the process that had it is gone for any reason.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters, ParameterLiteral
from usufruct.encryption.public_key import public_key_from_bytes
from usufruct.encryption.zero_encryption import BLOCKS_AT_ONCE, ZeroEncryption

ZeroSource = Callable[[], Coefficients]
"""Gives a fresh encryption of zero at every call, never one twice: coefficients below q, shape [2N].

The array is the caller's to overwrite until the next call.
"""

ORDER = struct.Struct("<HII")
"""Round (modulo 2^16), slots that may be filled on top, bytes of a public key that follow. A key begins a
round at the first slot; neither slots nor a key ends it."""

NOTICE = struct.Struct("<H")
"""The next slot in order is filled for this round. Several may come at once."""


def zeros_made_here(parameters: EncryptionParameters, public_key_bytes: bytes) -> ZeroSource:
    """Encryptions of zero under a public key, made in this process when they are asked for.

    Raises:
        InvalidInput: ``PUBLIC_KEY_INVALID``; every coefficient is checked.
    """
    public_key = public_key_from_bytes(parameters, public_key_bytes)
    made: list[ZeroEncryption] = []

    def take() -> Coefficients:
        if not made:  # only now: a maker's preparation takes as long as fifteen blocks
            made.append(ZeroEncryption(parameters, public_key))
        return made[0].take()

    return take


def command_line(
    parameters: EncryptionParameters, memory: int, control: int, notices: int, first: int, slots: int
) -> list[str]:
    """Starts a worker that inherits the three descriptors and fills ``slots`` slots from ``first`` on."""
    literal = json.dumps(asdict(parameters.literal))
    numbers = [str(number) for number in (memory, control, notices, first, slots)]
    # -P: the current directory is no place to look for modules.
    return [sys.executable, "-P", "-m", "usufruct.encryption.zero_worker", literal, *numbers]


class _Gone(Exception):
    """The pool is no more."""


def _serve(
    parameters: EncryptionParameters,
    ring: mmap.mmap,
    control: socket.socket,
    notices: int,
    first: int,
    slots: int,
) -> None:
    size = 2 * parameters.poly_modulus_degree
    credits = slot = used = round_number = 0
    zeros: ZeroEncryption | None = None
    while True:
        order = _receive(control, ORDER.size, wait=credits == 0)
        if order:
            round_number, more, key_bytes = ORDER.unpack(order)
            credits += more
            if key_bytes:
                key = public_key_from_bytes(parameters, _receive(control, key_bytes, wait=True))
                zeros = ZeroEncryption(parameters, key)
                credits, slot = more, 0
            elif not more:
                credits, zeros = 0, None
                # Wiped and not given back: to fault the pages in again costs a third of what filling them does.
                np.frombuffer(ring, np.uint64, used * size, first * size * 8).fill(0)
                used = 0
            continue
        if zeros is None:
            raise _Gone
        step = min(credits, slots - slot, BLOCKS_AT_ONCE)
        target = np.frombuffer(ring, dtype=np.uint64, count=step * size, offset=(first + slot) * size * 8)
        zeros.fill(target.reshape(step, size))
        del target
        used = max(used, slot + step)
        credits, slot = credits - step, (slot + step) % slots
        os.write(notices, NOTICE.pack(round_number) * step)


def _receive(control: socket.socket, length: int, *, wait: bool) -> bytes:
    """``length`` bytes, or none when nothing has come and ``wait`` is false."""
    received = b""
    while len(received) < length:
        try:
            flags = 0 if wait or received else socket.MSG_DONTWAIT
            part = control.recv(length - len(received), flags)
        except BlockingIOError:
            return b""
        if not part:
            raise _Gone
        received += part
    return received


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C ends the pool's process, which ends this
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would put zeros on a disk
    os.nice(19)
    literal = json.loads(sys.argv[1])
    literal["coeff_mod_bit_sizes"] = tuple(literal["coeff_mod_bit_sizes"])
    parameters = EncryptionParameters.checked(ParameterLiteral(**literal))
    memory, control, notices, first, slots = map(int, sys.argv[2:])
    with socket.socket(fileno=control) as orders, mmap.mmap(memory, 0) as ring:
        with contextlib.suppress(_Gone, BrokenPipeError, ConnectionResetError):
            _serve(parameters, ring, orders, notices, first, slots)


if __name__ == "__main__":
    _main()
