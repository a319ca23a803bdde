"""Adding in step: range by range, as soon as the last holder's chunk of a range is there.

Every upload goes to a spool at its own pace. Whoever brings the last chunk of a range adds that range, and those after it
that are complete by then; the sum has a spool of its own. Beside the spools, the chunks of one range are in memory, whatever
the model's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.encryption.layout import Kind
from usufruct.encryption.sum import add_chunk, check_chunk
from usufruct.errors import InvalidInput, RoundFailed
from usufruct_server.aggregator.spool import Spool, SpoolClosed, Spools


class _Arriving:
    """One member's upload: what it has committed to, and how many chunks of it are in the spool."""

    def __init__(self, commitment: Commitment, spool: Spool) -> None:
        self.commitment, self.spool = commitment, spool
        self.chunks = 0


class Lockstep:
    """The uploads of one roster and their sum. Thread-safe.

    Args:
        uploads: the chunks of every upload.
        members: dataset numbers of the roster, ascending; the order of addition.
        spools: makes room for them.
        on_progress: called after every range that was added and when an upload turns out to be spoilt, with no lock
            of this object held.
    """

    def __init__(
        self, uploads: Chunking, members: Sequence[int], spools: Spools, on_progress: Callable[[], None]
    ) -> None:
        self.uploads, self.sums = uploads, Chunking(uploads.parameters, Kind.SUM, uploads.count)
        self._members, self._spools, self._on_progress = tuple(members), spools, on_progress
        self._lock = threading.Lock()
        self._arriving: dict[int, _Arriving] = {}
        self._sum: Spool | None = None
        self._leaves: list[bytes] = []
        self._adding = self._closed = False
        self._spoilt: int | None = None

    # -- uploads ---------------------------------------------------------------------------------------------

    def begin(self, dataset_id: int, commitment: Commitment) -> None:
        """Make room for a member's upload; the same again changes nothing.

        Raises:
            RoundFailed: ``UPLOAD_CHANGED``: it has committed to another before.
            Refused: ``TOO_LARGE``. SpoolClosed.
        """
        with self._lock:
            if self._closed:
                raise SpoolClosed
            before = self._arriving.get(dataset_id)
            if before is None:
                self._arriving[dataset_id] = _Arriving(commitment, self._spools.make(self.uploads))
            elif before.commitment.root != commitment.root:
                raise RoundFailed(reason="UPLOAD_CHANGED", dataset_id=dataset_id)

    def put(self, dataset_id: int, index: int, chunk: Bytes) -> None:
        """Take chunk ``index`` of an upload that has begun; those before it have been put.

        *Guarantee*: what is added is what the member committed to, in the coefficient range.

        Raises:
            InvalidInput: ``UPLOAD_INVALID``: not the chunk of the commitment; or one that cannot be added, after which
                the round has no sum (:attr:`spoilt`). SpoolClosed.
        """
        arriving = self._arriving[dataset_id]
        if index >= arriving.chunks:
            arriving.commitment.check(index, chunk)
            try:
                check_chunk(self.uploads, index, chunk)
            except InvalidInput:
                self._spoilt = dataset_id
                self._on_progress()
                raise
            arriving.spool.write(index, chunk)  # two streams may write the same bytes to the same place
            with self._lock:
                arriving.chunks = max(arriving.chunks, index + 1)
        self._add_what_is_there()

    def has_whole(self, dataset_id: int) -> bool:
        """Whether every chunk of a member's upload has arrived."""
        arriving = self._arriving.get(dataset_id)
        return arriving is not None and arriving.chunks == self.uploads.chunks

    def commitment(self, dataset_id: int) -> Commitment | None:
        """What a member has committed to; None before its upload has begun."""
        arriving = self._arriving.get(dataset_id)
        return None if arriving is None else arriving.commitment

    def upload_chunk(self, dataset_id: int, index: int) -> bytes:
        """Chunk ``index`` of a whole upload. Raises :class:`SpoolClosed`."""
        return self._arriving[dataset_id].spool.read(index)

    @property
    def spoilt(self) -> int | None:
        """A member that signed an upload which cannot be added: this roster will have no sum."""
        return self._spoilt

    # -- the sum ---------------------------------------------------------------------------------------------

    @property
    def added(self) -> int:
        """Chunks of the sum that can be read."""
        return len(self._leaves)

    @property
    def sum_commitment(self) -> Commitment:
        """Of the whole sum; ask once :attr:`added` is all."""
        return Commitment(self.sums, tuple(self._leaves))

    def sum_chunk(self, index: int) -> bytes:
        """Chunk ``index`` of the sum, below :attr:`added`. Raises :class:`SpoolClosed`."""
        if self._sum is None:
            raise SpoolClosed
        return self._sum.read(index)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            spools = [arriving.spool for arriving in self._arriving.values()]
            spools += [self._sum] if self._sum else []
        for spool in spools:
            spool.close()

    def _add_what_is_there(self) -> None:
        """One thread adds at a time; whoever comes meanwhile leaves its chunk to that thread's next look."""
        while (index := self._take_range()) is not None:
            try:
                chunks = [self._arriving[member].spool.read(index) for member in self._members]
                total = add_chunk(self.uploads, index, chunks)
                self._sum_spool().write(index, total)
                leaf = leaf_of(self.sums, index, total)
            except BaseException:
                with self._lock:
                    self._adding = False
                raise
            with self._lock:
                self._leaves.append(leaf)
                self._adding = False
            self._on_progress()

    def _take_range(self) -> int | None:
        with self._lock:
            if self._adding or len(self._arriving) < len(self._members):
                return None
            index = len(self._leaves)
            if index >= min(arriving.chunks for arriving in self._arriving.values()):
                return None
            self._adding = True
            return index

    def _sum_spool(self) -> Spool:
        """The sum's spool, made when the first range is added."""
        with self._lock:
            if self._closed:
                raise SpoolClosed
            if self._sum is None:
                self._sum = self._spools.make(self.sums)
            return self._sum
