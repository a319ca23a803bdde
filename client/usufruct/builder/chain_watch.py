"""Looks at the chain while a round is under way. A round needs no chain until its end, and may take minutes; that the
chain is gone is said within ten seconds all the same."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from usufruct.chain import Chain
from usufruct.errors import ChainError

LOOK_EVERY_SECONDS = 3.0
"""With the chain's own time limit of 5 s, a dead chain is noticed within 8."""

log = logging.getLogger("usufruct.builder")


class ChainWatch:
    """Warns once, in the log, when the chain stops answering; says too when it is back. Use it as a context manager.

    The round goes on: what the holders have charged would be lost if it were given up, and the next step that needs
    the chain fails with the same words.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain, self._ended = chain, threading.Event()

    def _live(self) -> None:
        lost = False
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            try:
                self._chain.block_time_seconds()
            except ChainError as error:
                if not lost and not self._ended.is_set():
                    log.warning("%s This round goes on; nothing further can be begun.", error.message)
                lost = True
            else:
                if lost:
                    log.warning("The chain answers again.")
                lost = False

    def __enter__(self) -> ChainWatch:
        threading.Thread(target=self._live, name="chain watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
