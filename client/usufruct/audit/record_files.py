"""Usage records kept in a folder: one text file per holder, so that an audit can be repeated when endpoints are gone.

``holder-<number>.records``::

    usufruct usage records 1
    chain 31337
    usage_log 0x5FbDB2315678afecb367f032d93F642f64180aa3
    holder 3
    records 2
    0 <Merkle leaf, 64 hexadecimal digits> <the record's exact bytes, hexadecimal>
    1 …

Lines end with one line feed; digits are lower case. A text has exactly one way to be written, so a file that differs
in one bit is noticed; and the leaf beside each record tells *which* record was changed, where the root on chain alone
would only tell the batch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from usufruct.audit.evidence import HolderRecords, KeptRecord, Problem
from usufruct.domain.usage_record import leaf
from usufruct.errors import AuditError
from usufruct.wire.usage import RECORD_LIMIT_BYTES

MAXIMUM_RECORDS: Final = 2_000_000
MAXIMUM_FILE_BYTES: Final = 1 << 30
MAXIMUM_PROBLEMS: Final = 100
_LINE: Final = re.compile(
    rb"(0|[1-9][0-9]{0,18}) ([0-9a-f]{64}) ((?:[0-9a-f]{2}){1,%d})" % RECORD_LIMIT_BYTES
)


def file_name(holder_id: int) -> str:
    """Name of a holder's file."""
    return f"holder-{holder_id}.records"


def write_records(folder: Path, chain_id: int, usage_log: str, records: HolderRecords) -> Path:
    """Writes one holder's records; an existing file is replaced in one step.

    Raises:
        AuditError: the folder cannot be written.
    """
    header = _header(chain_id, usage_log, records.holder_id, len(records.records))
    lines = [b"%d %s %s\n" % (kept.sequence, leaf(kept.sequence, kept.data).hex().encode(), kept.data.hex().encode())
             for kept in records.records]  # fmt: skip
    path = folder / file_name(records.holder_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(header)
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise AuditError(f"the records cannot be written to {folder}: {error.strerror}") from error
    return path


def read_records(folder: Path, chain_id: int, usage_log: str, holder_id: int) -> HolderRecords:
    """Reads one holder's file. What cannot be read becomes a :class:`Problem`, never an exception: the audit goes on
    with what is left and names the rest."""
    path = folder / file_name(holder_id)
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            return HolderRecords(
                holder_id, path.name, (), 0, (Problem(None, "the file is larger than 1 GiB"),)
            )
        content = path.read_bytes()
    except OSError as error:
        problem = Problem(None, f"the file of this holder cannot be read: {error.strerror}")
        return HolderRecords(holder_id, path.name, (), 0, (problem,))
    lines = content.split(b"\n")
    kept, problems = _read_lines(lines[5:])
    expected = _header(chain_id, usage_log, holder_id, len(kept) + sum(1 for p in problems if p.is_line))
    if content[: len(expected)] != expected:
        problems.insert(
            0, Problem(None, "the head of the file does not name this network, holder and number of records")
        )
    return HolderRecords(
        holder_id,
        path.name,
        tuple(kept),
        kept[-1].sequence + 1 if kept else 0,
        tuple(problems[:MAXIMUM_PROBLEMS]),
    )


def _header(chain_id: int, usage_log: str, holder_id: int, count: int) -> bytes:
    return (
        f"usufruct usage records 1\nchain {chain_id}\nusage_log {usage_log}\nholder {holder_id}\nrecords {count}\n"
    ).encode()


def _read_lines(lines: list[bytes]) -> tuple[list[KeptRecord], list[Problem]]:
    """Records by line. A line that cannot be read is named by the number that must have stood there."""
    kept: list[KeptRecord] = []
    problems: list[Problem] = []
    last = lines.pop() if lines else b""
    if last:
        problems.append(Problem(None, "the last line of the file has no end"))
    if len(lines) > MAXIMUM_RECORDS:
        return [], [Problem(None, f"the file has more than {MAXIMUM_RECORDS} records")]
    for position, line in enumerate(lines):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(Problem(position, "this line of the file cannot be read", is_line=True))
            continue
        sequence, leaf_text, data = match.groups()
        kept.append(
            KeptRecord(int(sequence), bytes.fromhex(data.decode()), bytes.fromhex(leaf_text.decode()))
        )
    return kept, problems
