"""Publishes the usage log: closes records into batches and appends each batch's Merkle root on chain.

A batch is written into the ledger before its transaction is sent, so that a crash in between sends the same root again.
"""

from __future__ import annotations

import logging
import threading

from usufruct.chain import Sender
from usufruct.domain.usage_record import leaf, merkle_root
from usufruct_server.holder.fencing import Fencing
from usufruct_server.holder.ledger import Ledger, UsageBatch

MOST_RECORDS = 1024
"""Records in one batch."""

_log = logging.getLogger("usufruct.holder.publisher")


class Publisher:
    """Sends usage batches, one after the other. Safe from several threads.

    Args:
        sender: of the operator key.
        fencing: once another server has taken over, this one's records are no longer the holder's.
    """

    def __init__(self, *, ledger: Ledger, sender: Sender, fencing: Fencing, holder_id: int) -> None:
        self._fencing = fencing
        self._ledger, self._sender, self._holder_id = ledger, sender, holder_id
        self._guard = threading.Lock()
        sent = [batch for batch in ledger.usage_batches() if batch.tx_hash is not None]
        self._published = sent[-1].first_seq + sent[-1].count if sent else 0

    def waiting(self) -> int:
        """How many records are not published yet."""
        return self._ledger.usage_count() - self._published

    def publish(self) -> None:
        """Publishes every record there is now. Again: nothing happens.

        Raises:
            Refused: FENCED_OUT.
            ChainError: what is not published stays in the ledger and is sent the next time.
        """
        with self._guard:
            for batch in self._ledger.usage_batches():
                if batch.tx_hash is None:
                    self._send(batch)
            end = self._ledger.usage_count()
            batches = self._ledger.usage_batches()
            first = batches[-1].first_seq + batches[-1].count if batches else 0
            while first < end:
                count = min(MOST_RECORDS, end - first)
                records = self._ledger.usage_records(first, count)
                root = merkle_root([leaf(first + index, record) for index, record in enumerate(records)])
                self._send(self._ledger.append_usage_batch(first, count, root))
                first += count

    def root_with(self, sequence: int) -> bytes:
        """Root of the batch that holds a record; 32 zero bytes when it is in none yet."""
        for batch in reversed(self._ledger.usage_batches()):
            if batch.first_seq <= sequence < batch.first_seq + batch.count:
                return batch.root
        return bytes(32)

    def _send(self, batch: UsageBatch) -> None:
        self._fencing.require()
        receipt = self._sender.append_usage(
            self._holder_id, batch.root, batch.count, batch.previous_root, batch.first_seq
        )
        self._ledger.mark_usage_batch_sent(batch.first_seq, receipt.hash)
        self._published = batch.first_seq + batch.count
        _log.info("event=usage_published first=%d count=%d", batch.first_seq, batch.count)
