"""Answers auditors who call for a usage record on chain: with the record's exact bytes and its place in the log.

A call that is not answered within three days stands on chain as this holder's silence.
"""

from __future__ import annotations

import logging
from pathlib import Path

from usufruct.chain import CallState, Chain, Sender
from usufruct.chain.event_reader import EventReader
from usufruct.chain.events import RecordCalled
from usufruct.domain.usage_record import leaf, merkle_proof
from usufruct_server.holder.ledger import LedgerReader

_log = logging.getLogger("usufruct.holder.record_calls")


class RecordCalls:
    """Reads the calls for one holder's records, each once, and answers them.

    Args:
        sender: of the operator key.
        checkpoints: file in which the reader remembers how far it has read.
    """

    def __init__(
        self, *, chain: Chain, sender: Sender, ledger: LedgerReader, holder_id: int, checkpoints: Path
    ) -> None:
        self._chain, self._sender, self._ledger, self._holder_id = chain, sender, ledger, holder_id
        self._reader = EventReader(chain.rpc, [chain.usage_log], chain.deployment_block, checkpoints)

    def answer(self) -> None:
        """Answers every call that a final block has and that was not answered yet.

        Raises:
            ChainError: the calls of this reading are read and answered the next time.
        """
        reading = self._reader.read()
        for event in map(self._chain.read_log, reading.found):
            if isinstance(event, RecordCalled) and event.holder_id == self._holder_id:
                self._show(event.sequence)
        self._reader.keep(reading)

    def _show(self, sequence: int) -> None:
        if self._chain.record_call(self._holder_id, sequence).state is CallState.ANSWERED:
            return
        for batch in self._ledger.usage_batches():
            if batch.first_seq <= sequence < batch.first_seq + batch.count:
                records = self._ledger.usage_records(batch.first_seq, batch.count)
                leaves = [leaf(batch.first_seq + index, record) for index, record in enumerate(records)]
                index = sequence - batch.first_seq
                self._sender.show_record(
                    self._holder_id, sequence, batch.first_seq, records[index], merkle_proof(leaves, index)
                )
                _log.warning("event=record_shown sequence=%d", sequence)
                return
        _log.error("event=record_called_and_not_here sequence=%d", sequence)
