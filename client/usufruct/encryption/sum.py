"""Adding encrypted updates without any key: integer additions on raw coefficients, numpy only.

:func:`add_chunk` adds one range of all uploads; a party that streams needs no more, and whoever wants to know
whether a chunk of the sum is right calls it again. :class:`Summation` keeps a whole sum in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.layout import (
    Coefficients,
    Header,
    Kind,
    check_header,
    decode_block,
    plane_types,
    read_block,
    split_planes,
)
from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.errors import InvalidInput, RoundFailed


def add_chunk(uploads: Chunking, index: int, chunks: Sequence[Bytes]) -> bytearray:
    """Chunk ``index`` of the sum, from chunk ``index`` of every upload of the roster.

    Adding again the same chunks, in any order, gives the same bytes.

    Args:
        uploads: of what the chunks are; all uploads of a round have the same.
        index: which range.
        chunks: one of each holder, 1 to ``max_holders``; every coefficient is checked to be below q.

    Returns:
        As many bytes as each chunk has, every coefficient below q.

    Raises:
        InvalidInput: ``UPLOAD_INVALID``, with the position in ``chunks`` as ``position``: a wrong length or a
            coefficient out of range.
        RoundFailed: no chunk, or more than the parameters allow.

    Memory: what is returned and one block of coefficients, however many uploads there are. The range check
        costs a look at the top plane: a coefficient whose highest byte is below q's is below q.
    """
    parameters = uploads.parameters
    if not chunks:
        raise RoundFailed("There is no upload to sum.", reason="ROUND_INCOMPLETE")
    if len(chunks) > parameters.max_holders:
        raise RoundFailed(
            f"A sum has at most {parameters.max_holders} uploads.",
            reason="TOO_MANY",
            limit=parameters.max_holders,
        )
    for position, chunk in enumerate(chunks):
        try:
            uploads.require_length(index, chunk)
        except InvalidInput as error:
            raise _at(position, error) from None
    out = bytearray(len(chunks[0]))
    adder = _BlockAdder(parameters)
    with memoryview(out) as view:
        for start in range(0, len(out), parameters.block_bytes):
            end = start + parameters.block_bytes
            adder.clear()
            for position, chunk in enumerate(chunks):
                try:
                    adder.add(memoryview(chunk)[start:end])
                except InvalidInput as error:
                    raise _at(position, error) from None
            with view[start:end] as target:
                split_planes(adder.total(), parameters.bytes_per_coefficient, target)
    return out


def check_chunk(uploads: Chunking, index: int, chunk: Bytes) -> None:
    """Check one chunk of one upload as :func:`add_chunk` does, which then refuses nothing of it.

    Raises:
        InvalidInput: ``UPLOAD_INVALID``: a wrong length, or a coefficient that is not below q.
    """
    uploads.require_length(index, chunk)
    size = uploads.parameters.block_bytes
    with memoryview(chunk) as view:
        for start in range(0, len(view), size):
            _planes(uploads.parameters, view[start : start + size])


def _planes(parameters: EncryptionParameters, block: memoryview) -> list[NDArray]:
    """The planes of a block whose coefficients are below q."""
    planes: list[NDArray] = []
    size, offset = 2 * parameters.poly_modulus_degree, 0
    for dtype in plane_types(parameters.bytes_per_coefficient):
        planes.append(np.frombuffer(block, dtype=dtype, count=size, offset=offset))
        offset += size * dtype.itemsize
    top_bits = 8 * (parameters.bytes_per_coefficient - planes[-1].itemsize)
    if int(planes[-1].max()) >= parameters.coeff_modulus >> top_bits:
        read_block(parameters, block, reason="UPLOAD_INVALID")
    return planes


def _at(position: int, error: InvalidInput) -> InvalidInput:
    return InvalidInput(error.message, reason=error.reason, **{**error.details, "position": position})


class _BlockAdder:
    """Adds blocks plane by plane, each plane in integers of twice its width: room for 2^8 blocks and more."""

    def __init__(self, parameters: EncryptionParameters) -> None:
        self._parameters = parameters
        size = 2 * parameters.poly_modulus_degree
        self._types = plane_types(parameters.bytes_per_coefficient)
        self._sums = [np.empty(size, dtype=f"<u{2 * dtype.itemsize}") for dtype in self._types]
        self._wide = [np.empty_like(total) for total in self._sums]
        self._joined, self._less = (np.empty(size, dtype=np.uint64) for _ in range(2))
        self._blocks = 0

    def clear(self) -> None:
        self._blocks = 0  # the next block that is added overwrites the sums

    def add(self, block: memoryview) -> None:
        for plane, wide, total in zip(_planes(self._parameters, block), self._wide, self._sums, strict=True):
            if self._blocks == 0:
                total[:] = plane
            else:
                wide[:] = plane  # widened first: numpy adds equal types several times faster
                total += wide
        self._blocks += 1

    def total(self) -> Coefficients:
        """The sum modulo q, shape [2N]; overwritten by the next call."""
        total, less = self._joined, self._less
        total[:] = self._sums[-1]
        for dtype, plane in zip(self._types[-2::-1], self._sums[-2::-1], strict=True):
            total <<= np.uint64(8 * dtype.itemsize)
            total += plane
        # 2^8 coefficients below 2^56 fit 64 bits. Halving what the sum may be at most, by taking away q times a
        # power of two where it fits (else it wraps to a larger number), is faster than numpy's division.
        for power in reversed(range((self._blocks - 1).bit_length())):
            np.subtract(total, np.uint64(self._parameters.coeff_modulus << power), out=less)
            np.minimum(total, less, out=total)
        return total


class IncomingUpload:
    """One upload as it arrives in chunks of any size; checked block by block, added only when complete.

    Bytes are kept until :meth:`Summation.commit`, because a sum has no way back and a signature can be
    checked only at the end.
    """

    def __init__(self, parameters: EncryptionParameters, count: int) -> None:
        self._parameters = parameters
        self._header = Header(Kind.UPLOAD, parameters.parameter_id, count)
        self._expected = parameters.upload_bytes(count)
        self._data = bytearray()
        self._checked = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come."""
        return self._expected - len(self._data)

    @property
    def data(self) -> memoryview:
        """What has arrived."""
        return memoryview(self._data).toreadonly()

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next chunk.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``: too long, another header, or a coefficient not below q. The
                upload is of no use afterwards.
        """
        if len(chunk) > self.missing_bytes:
            raise InvalidInput(
                f"The upload is longer than its {self._expected} bytes.",
                reason="UPLOAD_INVALID",
                field="length",
                limit=self._expected,
            )
        self._data += chunk
        if self._checked == 0 and len(self._data) >= HEADER_BYTES:
            check_header(self._data, self._header, reason="UPLOAD_INVALID")
            self._checked = HEADER_BYTES
        while self._checked and len(self._data) - self._checked >= self._parameters.block_bytes:
            end = self._checked + self._parameters.block_bytes
            with memoryview(self._data) as view, view[self._checked : end] as block:
                read_block(self._parameters, block, reason="UPLOAD_INVALID")
            self._checked = end

    def require_complete(self) -> None:
        """Check that every byte has arrived and been checked.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``, when it stopped early.
        """
        if self.missing_bytes:
            raise InvalidInput(
                f"The upload ends {self.missing_bytes} bytes early.", reason="UPLOAD_INVALID", field="length"
            )
        if self._checked != self._expected:
            raise InvalidInput(
                "A block of this upload was refused.", reason="UPLOAD_INVALID", field="coefficient"
            )


class Summation:
    """The running sum of one round's uploads.

    Memory: 8 bytes a coefficient (8 bytes a parameter with the default parameters). Coefficients stay
        unreduced: 256 of them below 2^56 fit 64 bits.

    *Guarantee*: an upload either is added whole or changes nothing.
    """

    def __init__(self, parameters: EncryptionParameters, count: int) -> None:
        self._parameters = parameters
        self._count = count
        shape = (parameters.blocks_for(count), 2 * parameters.poly_modulus_degree)
        self._sum = np.zeros(shape, dtype=np.uint64)
        self._uploads = 0

    @property
    def uploads(self) -> int:
        """How many uploads have been added."""
        return self._uploads

    def incoming(self) -> IncomingUpload:
        """A place for one upload that arrives in chunks; hand it to :meth:`commit` when complete."""
        return IncomingUpload(self._parameters, self._count)

    def add(self, upload: bytes | bytearray | memoryview) -> None:
        """Check and add one whole upload.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``; the sum is unchanged.
            RoundFailed: more uploads than the parameters allow.
        """
        incoming = self.incoming()
        incoming.feed(memoryview(upload))
        self.commit(incoming)

    def commit(self, incoming: IncomingUpload) -> None:
        """Add one complete upload; see :meth:`add` for the errors."""
        if incoming._header != Header(Kind.UPLOAD, self._parameters.parameter_id, self._count):
            raise InvalidInput("The upload is of another sum.", reason="UPLOAD_INVALID", field="count")
        incoming.require_complete()
        if self._uploads >= self._parameters.max_holders:
            raise RoundFailed(
                f"A sum has at most {self._parameters.max_holders} uploads.",
                reason="TOO_MANY",
                limit=self._parameters.max_holders,
            )
        size = self._parameters.block_bytes
        for index, total in enumerate(self._sum):
            start = HEADER_BYTES + index * size
            total += decode_block(self._parameters, incoming.data[start : start + size])
        self._uploads += 1

    def result_bytes(self) -> bytes:
        """The sum modulo q, in the layout of an upload, with its own kind in the header.

        Raises:
            RoundFailed: nothing has been added.
        """
        if self._uploads == 0:
            raise RoundFailed("There is no upload to sum.", reason="ROUND_INCOMPLETE")
        parameters = self._parameters
        out = bytearray(parameters.upload_bytes(self._count))
        out[:HEADER_BYTES] = Header(Kind.SUM, parameters.parameter_id, self._count).to_bytes()
        modulus = np.uint64(parameters.coeff_modulus)
        with memoryview(out) as view:
            for index, total in enumerate(self._sum):
                start = HEADER_BYTES + index * parameters.block_bytes
                with view[start : start + parameters.block_bytes] as block:
                    split_planes(total % modulus, parameters.bytes_per_coefficient, block)
        return bytes(out)
