"""Adding encrypted updates without any key: integer additions on raw coefficients, numpy only."""

from __future__ import annotations

import numpy as np

from usufruct.encryption.layout import Header, Kind, check_header, decode_block, read_block, split_planes
from usufruct.encryption.parameters import HEADER_BYTES, EncryptionParameters
from usufruct.errors import InvalidInput, RoundFailed


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
