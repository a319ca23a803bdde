"""Reading events so that they are of one chain, also while the chain changes.

:func:`read_logs` reads a closed range once. :class:`EventReader` follows the chain: it remembers the hashes of blocks it
has read (*checkpoints*), and when one of them is no longer the chain's, it goes back to the last that is, says which
events have vanished, and reads again from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from usufruct.chain.answers import Block, Log, read_data, read_log
from usufruct.chain.endpoint import RpcRefused
from usufruct.chain.rpc import Rpc
from usufruct.domain.ids import to_hex
from usufruct.errors import ChainError, ConfigError

LOG_BLOCKS = 10_000
"""Blocks asked for at once; public nodes refuse wider ranges. Halved where a node still refuses."""
KEPT_BLOCKS = 512
"""How far back a reader can follow a reorganisation; Ethereum's final blocks are about 64 to 96 behind the newest."""
_TRIES = 5
_FORMAT = 1


def read_logs(
    rpc: Rpc, addresses: list[str], topics: Sequence[bytes | None], first: int, last: int
) -> tuple[Log, ...]:
    """All events of a range of blocks, in the chain's order.

    *Guarantee*: the block at ``last``, and with it every block before, was the same before and after reading.

    Raises:
        ChainError: there is no block ``last``; CHAIN_DISAGREES: the chain changes faster than it can be read.
    """
    if first > last:
        return ()
    for _ in range(_TRIES):
        before = rpc.block(last)
        if before is None:
            raise ChainError(f"the chain at {rpc.place} has no block {last} any more; try again in a while")
        found = tuple(log for part in _parts(rpc, addresses, topics, first, last) for log in part)
        if rpc.block(last) == before and not any(
            log.block_number == last and log.block_hash != before.hash for log in found
        ):
            return found
    raise ChainError(
        f"the blocks of the chain at {rpc.place} change faster than its events can be read; ask for final ones",
        reason="CHAIN_DISAGREES",
    )


def _parts(
    rpc: Rpc, addresses: list[str], topics: Sequence[bytes | None], first: int, last: int
) -> Iterator[tuple[Log, ...]]:
    width = LOG_BLOCKS
    while first <= last:
        until = min(last, first + width - 1)
        try:
            logs = rpc.logs(addresses, topics, first, until)
        except RpcRefused:
            if width == 1:
                raise
            width = max(1, width // 2)
            continue
        yield logs
        first = until + 1


@dataclass(frozen=True)
class Reading:
    """What has changed since the last reading.

    Attributes:
        vanished: events that were told of and are not on the chain any more, newest first: to be undone in that order.
        found: events that are new, oldest first.
        first_block, block: from where, and up to which, was read.
    """

    vanished: tuple[Log, ...]
    found: tuple[Log, ...]
    first_block: int
    block: Block


class EventReader:
    """Follows the events of some contracts, from a block on.

    A reading counts once it is :meth:`kept <keep>`: whoever is killed in between is told the same again.

    Args:
        first_block: no event is older; the deployment's.
        path: where checkpoints are kept, so that a later process goes on; None keeps them in memory.
    Raises:
        ConfigError: what is at ``path`` is not this reader's.
    """

    def __init__(self, rpc: Rpc, addresses: list[str], first_block: int, path: Path | None = None) -> None:
        self._rpc, self._addresses, self._first, self._path = rpc, sorted(addresses), first_block, path
        self._checkpoints: list[tuple[int, bytes]] = []
        self._recent: list[Log] = []
        if path is not None and path.exists():
            self._load(path)

    @property
    def next_block(self) -> int:
        """The first block that was not read yet."""
        return self._checkpoints[-1][0] + 1 if self._checkpoints else self._first

    def read(self, *, final: bool = True) -> Reading:
        """Reads on, to the newest final block or to the newest one.

        Raises:
            ChainError: the chain cannot be asked, or went back further than :data:`KEPT_BLOCKS`.
        """
        for _ in range(_TRIES):
            head = self._rpc.final_block() if final else self._rpc.newest()
            common = self._common()
            start = self._first if common is None else common + 1
            found = read_logs(self._rpc, self._addresses, [], start, head.number)
            # the checkpoint before and the head after hold at one time, so the range between is of one chain
            if self._common() == common and self._rpc.block(head.number) == head:
                known = [log for log in self._recent if log.block_number >= start]
                return Reading(
                    vanished=tuple(log for log in reversed(known) if log not in found),
                    found=tuple(log for log in found if log not in known),
                    first_block=start,
                    block=head,
                )
        raise ChainError(
            f"the blocks of the chain at {self._rpc.place} change faster than its events can be read",
            reason="CHAIN_DISAGREES",
        )

    def keep(self, reading: Reading) -> None:
        """Makes a reading count; flushed before it returns. Readings are kept in their order, each once."""
        gone, head = set(reading.vanished), reading.block
        oldest = head.number - KEPT_BLOCKS
        recent = [*(log for log in self._recent if log not in gone), *reading.found]
        marks = {number: digest for number, digest in self._checkpoints if number < reading.first_block}
        marks |= {log.block_number: log.block_hash for log in recent}
        marks[head.number] = head.hash
        self._recent = [log for log in recent if log.block_number > oldest]
        # the newest of the old ones stays, as the place to go back to
        older = [number for number in sorted(marks) if number <= oldest][-1:]
        kept = [*older, *(number for number in sorted(marks) if number > oldest)]
        self._checkpoints = [(number, marks[number]) for number in kept]
        if self._path is not None:
            self._save(self._path)

    # -- inside --------------------------------------------------------------------------------------------------

    def _common(self) -> int | None:
        """The newest checkpoint that is still on the chain; None if nothing was read, or nothing of it is left."""
        for number, digest in reversed(self._checkpoints):
            block = self._rpc.block(number)
            if block is not None and block.hash == digest:
                return number
        if self._checkpoints and self._checkpoints[0][0] <= self._checkpoints[-1][0] - KEPT_BLOCKS:
            raise ChainError(
                f"the chain at {self._rpc.place} went back by more than {KEPT_BLOCKS} blocks; use another node, or read "
                "everything anew",
                reason="CHAIN_DISAGREES",
            )
        return None

    def _save(self, path: Path) -> None:
        value = {
            "format": _FORMAT,
            "addresses": self._addresses,
            "first_block": self._first,
            "checkpoints": [[number, to_hex(digest)] for number, digest in self._checkpoints],
            "recent": [log.to_json() for log in self._recent],
        }
        beside = path.with_name(path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)
        os.close(folder)

    def _load(self, path: Path) -> None:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            same = (value["format"], value["addresses"], value["first_block"])
            if same != (_FORMAT, self._addresses, self._first):
                raise ValueError("of another reader")
            self._checkpoints = [
                (int(number), read_data(digest, 32)) for number, digest in value["checkpoints"]
            ]
            self._recent = [read_log(log) for log in value["recent"]]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path.name} does not hold the checkpoints of these contracts; remove it, and all is read anew"
            ) from error
