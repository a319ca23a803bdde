"""Files of kept records: what is written comes back, and one bit off is noticed and named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from logs import HOLDER_ID, NOW_SECONDS, batches, records

from usufruct.audit.evidence import HolderRecords
from usufruct.audit.findings import Finding, Severity
from usufruct.audit.record_files import MAXIMUM_PROBLEMS, file_name, read_records, write_records
from usufruct.audit.usage_log import check_records

CHAIN_ID, USAGE_LOG = 31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3"
COUNT = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_records(tmp_path, CHAIN_ID, USAGE_LOG, records(COUNT, leaves=False))


def read(path: Path) -> HolderRecords:
    return read_records(path.parent, CHAIN_ID, USAGE_LOG, HOLDER_ID)


def findings(path: Path) -> list[Finding]:
    found = check_records(HOLDER_ID, read(path), batches(COUNT), NOW_SECONDS)[1]
    return [f for f in found if f.severity is Severity.DISCREPANCY]


def test_what_is_written_comes_back_with_its_leaves(path: Path) -> None:
    assert path.name == file_name(HOLDER_ID)
    assert read(path).records == records(COUNT).records
    assert read(path).problems == ()
    assert findings(path) == []


def test_every_bit_that_is_off_is_found_and_its_record_named(path: Path) -> None:
    honest = path.read_bytes()
    lines = honest.split(b"\n")
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    rng = random.Random(1)
    bits = [*range(8 * starts[5]), *(rng.randrange(8 * starts[5], 8 * len(honest)) for _ in range(400))]
    for bit in bits:
        changed = bytearray(honest)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found = findings(path)
        assert found, f"bit {bit} of the file"
        line = max(n for n, start in enumerate(starts) if start <= bit // 8)
        if line >= 5:
            assert line - 5 in {f.place.record for f in found}, f"bit {bit} is in record {line - 5}"


@pytest.mark.parametrize("end", [0, 10, 200, 1000, -1, -2])
def test_a_file_cut_short_is_found(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])
    assert findings(path)


def test_a_record_less_is_found_though_the_number_in_the_head_fits(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    del lines[5 + 3]
    path.write_bytes(b"\n".join(lines).replace(b"records 6", b"records 5"))
    assert [(f.kind, f.place.record) for f in findings(path)] == [("record-missing", 3)]


def test_a_file_of_another_network_or_holder_is_found(path: Path) -> None:
    assert read_records(path.parent, CHAIN_ID + 1, USAGE_LOG, HOLDER_ID).problems
    path.rename(path.with_name(file_name(4)))
    assert read_records(path.parent, CHAIN_ID, USAGE_LOG, 4).problems
    assert "cannot be read" in read_records(path.parent, CHAIN_ID, USAGE_LOG, HOLDER_ID).problems[0].text


def test_a_hostile_file_makes_a_bounded_number_of_findings(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x\n" * 10_000)
    assert len(read(path).problems) <= MAXIMUM_PROBLEMS
