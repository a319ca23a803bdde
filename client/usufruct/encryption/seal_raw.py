"""The door to SEAL: numpy coefficients into SEAL objects and out again, through memory-only files.

TenSEAL's ``sealapi`` can only save objects to a path and load them from one. So this module writes *its own*
serialisation header, followed by coefficients it has range-checked, into an anonymous memory file, and lets
SEAL read that. No byte of a SEAL header ever comes from another party (SEAL 4.3, which TenSEAL carries,
predates the hardening of 4.4 against hostile objects).

SEAL's object layout is not a public format. :func:`open_seal` therefore proves it before first use, on
objects SEAL itself has just made, and raises ``SealLayoutChanged`` if one byte is not where it should be.
"""

from __future__ import annotations

import functools
import os
import struct
import tempfile
import weakref
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
import zstandard

from usufruct.encryption.layout import Coefficients
from usufruct.encryption.parameters import EncryptionParameters
from usufruct.encryption.zero_encryption import ZeroEncryption
from usufruct.errors import SealLayoutChanged

_MAGIC = 0xA15E
_OUTER = struct.Struct("<HBBBBHQ")  # magic, header bytes, major, minor, compression, reserved, total bytes
_CIPHERTEXT = struct.Struct(
    "<4QBQQQdQ"
)  # parms_id, is_ntt, size, N, coefficient moduli, scale, correction factor
_PLAINTEXT = struct.Struct("<4QQd")  # parms_id, coefficients, scale
_NOT_COMPRESSED, _ZSTD = 0, 2


class Scratch:
    """A file for SEAL to save to and load from that never touches a disk.

    An anonymous memory file where Linux has them, else a file in /dev/shm, else one in a private 0700
    directory. Not for use by two threads or across a fork: make one per operation.
    """

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        descriptor = -1
        if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
            try:
                descriptor = os.memfd_create("usufruct", os.MFD_CLOEXEC)
                self.path = f"/proc/self/fd/{descriptor}"
            except OSError:
                descriptor = -1
        if descriptor < 0:
            shared_memory = "/dev/shm"  # noqa: S108 - a fresh 0700 directory is made inside
            inside = shared_memory if os.access(shared_memory, os.W_OK) else None
            self._directory = tempfile.TemporaryDirectory(prefix="usufruct-", dir=inside)
            self.path = os.path.join(self._directory.name, "object")
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._descriptor = descriptor
        self._decompressor = zstandard.ZstdDecompressor()  # 9 us to make
        self._close_descriptor = weakref.finalize(self, os.close, descriptor)

    def write(self, *parts: bytes | memoryview) -> None:
        """Replace the content by ``parts``."""
        os.ftruncate(self._descriptor, 0)
        offset = 0
        for part in parts:
            offset += os.pwrite(self._descriptor, part, offset)
        if offset != sum(memoryview(part).nbytes for part in parts):
            raise OSError("the scratch file could not be written whole")

    def read(self) -> bytes:
        """The whole content."""
        size = os.fstat(self._descriptor).st_size
        data = os.pread(self._descriptor, size, 0)
        if len(data) != size:
            raise OSError("the scratch file could not be read whole")
        return data

    def decompress(self, data: bytes | memoryview, most: int) -> bytes:
        """Undo the compression of an object of ours; ``most`` is the room it gets if it does not state its size.

        Raises:
            SealLayoutChanged: it is not compressed so.
        """
        try:
            return self._decompressor.decompress(data, max_output_size=most)
        except zstandard.ZstdError:
            raise SealLayoutChanged("A SEAL object is not compressed as this version knows.") from None

    def close(self) -> None:
        """Forget the content."""
        self._close_descriptor()
        if self._directory is not None:
            self._directory.cleanup()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Seal:
    """A SEAL context whose object layout has been proved. Get one with :func:`open_seal`."""

    def __init__(self, parameters: EncryptionParameters) -> None:
        self.parameters = parameters
        security_bits, special = parameters.literal.security_bits, parameters.special_modulus
        primes = [parameters.coeff_modulus, special]
        self.context = _context(self._n, primes, parameters.plain_modulus, security_bits)
        self._special_context = _context(self._n, [special], 2, security_bits)
        self._version = (0, 0)
        self._self_test()

    # -- SEAL object -> numpy --------------------------------------------------------------------------------

    def read_ciphertext(self, scratch: Scratch, ciphertext: Any) -> Coefficients:
        """Coefficients of a fresh two-part ciphertext of ours, shape [2N]: c0, then c1."""
        return self._payload(scratch, ciphertext, self._ciphertext_prefix(self.context), 2 * self._n)

    def read_public_key(self, scratch: Scratch, public_key: Any) -> Coefficients:
        """Our public key (b, a) modulo q p as :mod:`usufruct.encryption.public_key` has it, shape [2, 2, N]: of
        each polynomial the quotients and the remainders of its coefficients by the special prime p.

        SEAL keeps a key as values at the roots of X^N + 1 modulo q and modulo p, and transforms them itself.
        """
        values = self._payload(scratch, public_key, self._key_prefix, 4 * self._n).reshape(2, 2, self._n)
        modulo_q = self._from_values(scratch, self.context, values[:, 0])
        remainder = self._from_values(scratch, self._special_context, values[:, 1])
        # k' = (k - k'') / p modulo q. Doubles know the multiple of q that is nearest to the product to within 2^6, so
        # what 64 bits keep of the rest is the rest, below 2^63 in size.
        q = self.parameters.coeff_modulus
        inverse = pow(self.parameters.special_modulus, -1, q)
        difference = modulo_q.astype(np.int64) - remainder.astype(np.int64)
        multiple = np.rint(difference * (inverse / q)).astype(np.int64) * q
        quotient = (difference * inverse - multiple) % q
        return np.stack([quotient.astype(np.uint64), remainder], axis=1)

    def read_plaintext(self, scratch: Scratch, plaintext: Any) -> Coefficients:
        """Coefficients of a plaintext of ours, shape [N], with the leading zeros that SEAL leaves out."""
        used = plaintext.coeff_count()
        if not 0 <= used <= self._n:
            raise SealLayoutChanged("A SEAL plaintext has more coefficients than its ring.")
        message = np.zeros(self._n, dtype=np.uint64)
        message[:used] = self._payload(scratch, plaintext, self._plaintext_prefix(used), used)
        return message

    # -- numpy -> SEAL object --------------------------------------------------------------------------------

    def make_ciphertext(self, scratch: Scratch, coefficients: Coefficients) -> Any:
        """A SEAL ciphertext of ``coefficients``, shape [2N], each below q (checked by the caller)."""
        return self._load(scratch, self.context, self._ciphertext_prefix(self.context), coefficients)

    # -- the layout ------------------------------------------------------------------------------------------

    @property
    def _n(self) -> int:
        return self.parameters.poly_modulus_degree

    def _outer(self, payload_bytes: int) -> bytes:
        total = _OUTER.size + payload_bytes
        return _OUTER.pack(_MAGIC, _OUTER.size, *self._version, _NOT_COMPRESSED, 0, total)

    @property
    def _key_prefix(self) -> bytes:
        return self._prefix(self.context.key_parms_id(), moduli=2, values=True)

    def _ciphertext_prefix(self, context: Any, *, values: bool = False) -> bytes:
        return self._prefix(context.first_parms_id(), moduli=1, values=values)

    def _prefix(self, parms_id: list[int], *, moduli: int, values: bool) -> bytes:
        numbers = 2 * moduli * self._n
        fixed = _CIPHERTEXT.pack(*parms_id, int(values), 2, self._n, moduli, 1.0, 1)
        return fixed + self._outer(8 + 8 * numbers) + struct.pack("<Q", numbers)

    def _plaintext_prefix(self, used: int) -> bytes:
        return _PLAINTEXT.pack(0, 0, 0, 0, used, 1.0) + self._outer(8 + 8 * used) + struct.pack("<Q", used)

    def _load(self, scratch: Scratch, context: Any, prefix: bytes, coefficients: Coefficients) -> Any:
        body = np.ascontiguousarray(coefficients, dtype="<u8").reshape(-1)
        scratch.write(self._outer(len(prefix) + body.nbytes), prefix, body.data.cast("B"))
        ciphertext = sealapi.Ciphertext()
        ciphertext.load(context, scratch.path)
        return ciphertext

    def _from_values(self, scratch: Scratch, context: Any, values: Coefficients) -> Coefficients:
        """The coefficients, shape [2, N], of two polynomials that SEAL has as values modulo the prime of ``context``."""
        at_roots = self._load(scratch, context, self._ciphertext_prefix(context, values=True), values)
        polynomials = sealapi.Ciphertext()
        sealapi.Evaluator(context).transform_from_ntt(at_roots, polynomials)
        prefix = self._ciphertext_prefix(context)
        return self._payload(scratch, polynomials, prefix, 2 * self._n).reshape(2, self._n)

    def _payload(self, scratch: Scratch, seal_object: Any, prefix: bytes, numbers: int) -> Coefficients:
        expected = len(prefix) + 8 * numbers
        seal_object.save(scratch.path)
        saved = scratch.read()
        if len(saved) < _OUTER.size:
            raise SealLayoutChanged("A SEAL object is shorter than its header.")
        magic, header_bytes, major, minor, compression, _, total = _OUTER.unpack_from(saved)
        if (magic, header_bytes, total) != (_MAGIC, _OUTER.size, len(saved)):
            raise SealLayoutChanged("A SEAL object starts with another header.")
        if (major, minor) != self._version:
            raise SealLayoutChanged(f"SEAL {major}.{minor} wrote an object where {self._version} was proved.")
        payload = memoryview(saved)[_OUTER.size :]
        if compression == _ZSTD:
            payload = memoryview(scratch.decompress(payload, expected))
        elif compression != _NOT_COMPRESSED:
            raise SealLayoutChanged(
                f"A SEAL object is compressed by method {compression}, which is not known here."
            )
        if len(payload) != expected or payload[: len(prefix)] != prefix:
            raise SealLayoutChanged("A SEAL object has another length or prefix than this version knows.")
        return np.frombuffer(payload, dtype="<u8", offset=len(prefix)).astype(np.uint64)

    def _self_test(self) -> None:
        """Prove the layout by known answers: SEAL's key, our encryption under it, its decryption."""
        rng = np.random.default_rng(0)  # a fixed message; nothing secret
        with Scratch() as scratch:
            generator = sealapi.KeyGenerator(self.context)
            public_key = sealapi.PublicKey()
            generator.create_public_key(public_key)
            public_key.save(scratch.path)
            saved = scratch.read()
            if len(saved) < _OUTER.size:
                raise SealLayoutChanged("A SEAL object is shorter than its header.")
            self._version = (saved[3], saved[4])
            coefficients = np.empty((1, 2 * self._n), dtype=np.uint64)
            ZeroEncryption(self.parameters, self.read_public_key(scratch, public_key)).fill(coefficients)
            coefficients = coefficients[0]
            message = rng.integers(0, self.parameters.plain_modulus, self._n, dtype=np.uint64)
            coefficients[: self._n] += message * np.uint64(self.parameters.scale)
            coefficients %= np.uint64(self.parameters.coeff_modulus)
            decryptor, plaintext = (
                sealapi.Decryptor(self.context, generator.secret_key()),
                sealapi.Plaintext(),
            )
            decryptor.decrypt(self.make_ciphertext(scratch, coefficients), plaintext)
            if not np.array_equal(self.read_plaintext(scratch, plaintext), message):
                raise SealLayoutChanged("A known message did not come back from SEAL.")


_SECURITY_LEVELS = {128: sealapi.SEC_LEVEL_TYPE.TC128, 192: sealapi.SEC_LEVEL_TYPE.TC192}


def _context(n: int, primes: list[int], plain_modulus: int, security_bits: int) -> Any:
    """A SEAL context at ``security_bits``, which SEAL checks itself by its own table."""
    literal = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    literal.set_poly_modulus_degree(n)
    literal.set_coeff_modulus([sealapi.Modulus(prime) for prime in primes])
    literal.set_plain_modulus(plain_modulus)
    context = sealapi.SEALContext(literal, True, _SECURITY_LEVELS[security_bits])
    if not context.parameters_set():
        raise SealLayoutChanged(f"SEAL refuses the parameters: {context.parameters_error_message()}.")
    return context


@functools.lru_cache(maxsize=4)
def open_seal(parameters: EncryptionParameters) -> Seal:
    """The proved SEAL context of ``parameters`` (17 ms to make, so made once a process; it holds no secret).

    Raises:
        SealLayoutChanged: this TenSEAL lays its objects out otherwise, or refuses the parameters.
    """
    return Seal(parameters)
