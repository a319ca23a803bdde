"""Images of the ledger's files as a power cut may leave them: the ledger opens and counts everything that was confirmed.

A kill leaves what was written; a power cut leaves any part of it. Between two syncs a disk may write the sectors it was given in any
order, some and not others, and grow a file without them. So around every operation the files are copied, and out of the sectors that
it changed images are made: prefixes, suffixes, all but one, random subsets, one that is garbage, and every cut of the file's end. The
shared-memory index is never in an image: SQLite makes it anew.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger_life import OPERATIONS, check

from usufruct_server.holder.ledger import Ledger

SECTOR = 512
LOG_HEADER_BYTES = 32
CHECKPOINTS = ("charge 0", "charge 1", "commit")
RANDOM_SUBSETS = 12
SEED = 20260

Bytes = bytes | None
"""A file's content; None where there is no file."""


@dataclass(frozen=True)
class Image:
    """The ledger's files at an instant."""

    main: Bytes
    wal: Bytes
    outbox: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Image:
        folder = path.with_name(path.name + ".outbox")
        files = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}
        return cls(_content(path), _content(path.with_name(path.name + "-wal")), files)

    def put(self, path: Path) -> None:
        """Writes the image where there is nothing yet."""
        for name, content in ((path.name, self.main), (path.name + "-wal", self.wal)):
            if content is not None:
                path.with_name(name).write_bytes(content)
        folder = path.with_name(path.name + ".outbox")
        folder.mkdir(mode=0o700)
        for name, content in self.outbox.items():
            (folder / name).write_bytes(content)


def _content(path: Path) -> Bytes:
    return path.read_bytes() if path.exists() else None


def torn(before: Bytes, after: Bytes, chance: random.Random) -> Iterator[Bytes]:
    """What may be on the disk of a file that is being changed from ``before`` to ``after``."""
    old, new = before or b"", after or b""
    size = max(len(old), len(new))
    padded_old, padded_new = old.ljust(size, b"\0"), new.ljust(size, b"\0")
    starts = range(0, size, SECTOR)
    changed = [at for at in starts if padded_old[at : at + SECTOR] != padded_new[at : at + SECTOR]]

    def image(written: list[int], length: int, garbage: int | None = None) -> bytes:
        disk = bytearray(padded_old)
        for at in written:
            disk[at : at + SECTOR] = padded_new[at : at + SECTOR]
        if garbage is not None:
            disk[garbage : garbage + SECTOR] = chance.randbytes(len(disk[garbage : garbage + SECTOR]))
        return bytes(disk[:length])

    for count in range(len(changed) + 1):
        yield image(changed[:count], size)
        yield image(changed[count:], size)
    for left_out in changed:
        yield image([at for at in changed if at != left_out], size)
        yield image(changed, size, garbage=left_out)
    for _ in range(RANDOM_SUBSETS):
        yield image([at for at in changed if chance.random() < 0.5], size)
    for length in range(len(old), size, SECTOR):
        yield image(changed, length)


def torn_log(before: Bytes, after: Bytes, chance: random.Random) -> Iterator[Bytes]:
    """:func:`torn` of a log. Where it begins anew, SQLite syncs its new header before it writes anything over the old frames."""
    if before and after and before[:LOG_HEADER_BYTES] != after[:LOG_HEADER_BYTES]:
        begun = after[:LOG_HEADER_BYTES] + before[LOG_HEADER_BYTES:]
        yield from torn(before, begun, chance)
        before = begun
    yield from torn(before, after, chance)


def images_of_a_life(folder: Path) -> Iterator[tuple[Image, list[str], list[str]]]:
    """Images around every operation, around checkpoints and around the close, with the operations begun and done by then."""
    chance = random.Random(SEED)
    names = [name for name, _ in OPERATIONS]
    path = folder / "ledger.sqlite"
    ledger = Ledger(path)
    for index, (name, operation) in enumerate(OPERATIONS):
        before = Image.of(path)
        operation(ledger)
        after = Image.of(path)
        assert after.main == before.main, "an operation writes to the log only"
        # An upload's file is on the disk before its row, and removed after it.
        outbox = before.outbox | after.outbox
        for wal in torn_log(before.wal, after.wal, chance):
            yield Image(after.main, wal, outbox), names[: index + 1], names[:index]
        yield after, names[: index + 1], names[: index + 1]
        if (
            name in CHECKPOINTS
        ):  # SQLite does so by itself after 1000 pages; the next operation writes from the log's start
            ledger._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            for main in torn(after.main, Image.of(path).main, chance):
                yield Image(main, after.wal, after.outbox), names[: index + 1], names[: index + 1]
    ledger.close()
    closed = Image.of(path)
    assert closed.main != after.main and closed.wal is None, "closing brings the log into the tables"
    for main in torn(after.main, closed.main, chance):
        yield Image(main, after.wal, after.outbox), names, names
    yield Image(closed.main, after.wal, after.outbox), names, names
    yield closed, names, names


def test_no_power_cut_undercounts(tmp_path: Path) -> None:
    (tmp_path / "life").mkdir()
    seen: set[tuple[Bytes, Bytes]] = set()
    for number, (image, begun, done) in enumerate(images_of_a_life(tmp_path / "life")):
        if (image.main, image.wal) in seen and len(begun) > len(done):
            continue
        seen.add((image.main, image.wal))
        folder = tmp_path / str(number)
        folder.mkdir()
        image.put(folder / "ledger.sqlite")
        check(folder / "ledger.sqlite", begun, done)
        shutil.rmtree(folder)
    assert len(seen) > 400
