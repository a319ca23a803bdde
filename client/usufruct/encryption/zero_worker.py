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
import tenseal.sealapi as sealapi

from usufruct.encryption.keys import public_key_from_bytes
from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters, ParameterLiteral
from usufruct.encryption.seal_raw import Scratch, open_seal

ZeroSource = Callable[[], Coefficients]
"""Gives a fresh encryption of zero at every call, never one twice: coefficients below q, shape [2N].

The array is the caller's to overwrite until the next call.
"""

ORDER = struct.Struct("<HII")
"""Round (modulo 2^16), slots that may be filled on top, bytes of a public key that follow. A key begins a
round at the first slot; neither slots nor a key ends it."""

NOTICE = struct.Struct("<H")
"""The next slot in order is filled for this round."""


def zeros_made_here(parameters: EncryptionParameters, public_key_bytes: bytes) -> ZeroSource:
    """Encryptions of zero under a public key, made in this process when they are asked for.

    Raises:
        InvalidInput: ``PUBLIC_KEY_INVALID``; every coefficient is checked.
    """
    seal = open_seal(parameters)
    coefficients = public_key_from_bytes(parameters, public_key_bytes)
    scratch = Scratch()  # lives as long as the function that is returned
    encryptor = sealapi.Encryptor(seal.context, seal.make_public_key(scratch, coefficients))
    ciphertext = sealapi.Ciphertext()

    def fresh_zero() -> Coefficients:
        encryptor.encrypt_zero(ciphertext)
        return seal.read_ciphertext(scratch, ciphertext)

    return fresh_zero


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
    open_seal(parameters)  # warm before the first key arrives
    credits = slot = round_number = 0
    fresh_zero: ZeroSource | None = None
    while True:
        order = _receive(control, ORDER.size, wait=credits == 0)
        if order:
            round_number, more, key_bytes = ORDER.unpack(order)
            credits += more
            if key_bytes:
                fresh_zero = zeros_made_here(parameters, _receive(control, key_bytes, wait=True))
                credits, slot = more, 0
            elif not more:
                credits, fresh_zero = 0, None
                ring.madvise(mmap.MADV_REMOVE, first * size * 8, slots * size * 8)  # the pages read 0 again
            continue
        if fresh_zero is None:
            raise _Gone
        target = np.frombuffer(ring, dtype=np.uint64, count=size, offset=(first + slot) * size * 8)
        target[:] = fresh_zero()
        del target
        credits, slot = credits - 1, (slot + 1) % slots
        os.write(notices, NOTICE.pack(round_number))


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
