"""The outbox: a resend sends the same bytes, or nothing."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.layout import Kind
from usufruct_server.holder.ledger import AttemptNotCharged, Ledger, UploadChanged, UploadLost
from usufruct_server.holder.ledger.outbox import Writer

JOB, SPEC, VIEW = b"j" * 32, b"s" * 32, b"v" * 32
CHUNKING = Chunking(DEFAULT_PARAMETERS, Kind.UPLOAD, 300_000)
BYTES = CHUNKING.header + bytes(range(256)) * ((DEFAULT_PARAMETERS.upload_bytes(CHUNKING.count) - 32) // 256)
ROOT = Commitment.over(CHUNKING, CHUNKING.read(io.BytesIO(BYTES))).root


def upload(root: bytes = ROOT) -> Writer:
    """Writes an upload, and says that it has this root."""

    def write(file: BinaryIO) -> bytes:
        file.write(BYTES)
        return root

    return write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        opened.register_dataset(7, 1_000, 6)
        opened.reserve(7, JOB, 100, 4, SPEC)
        opened.charge(7, JOB, 0, 0)
        yield opened


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.with_name(path.name + ".outbox").iterdir())


def test_the_same_bytes_come_back_after_a_restart(ledger: Ledger, path: Path) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    assert (stored.size_bytes, stored.view_hash) == (len(BYTES), VIEW)
    ledger.close()
    with Ledger(path) as again:
        found = again.upload(7, JOB, 0, 0)
        assert found == stored
        assert found is not None
        assert found.path.read_bytes() == BYTES
        assert found.commitment(CHUNKING).root == found.root == ROOT


def test_only_this_user_may_read_it(ledger: Ledger) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600


def test_recording_the_same_upload_again_changes_nothing(ledger: Ledger, path: Path) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    assert ledger.record_upload(7, JOB, 0, 0, VIEW, upload()) == stored
    assert files(path) == [stored.path.name]


def test_an_attempt_has_one_upload_under_one_view(ledger: Ledger, path: Path) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    for view, root in ((b"w" * 32, ROOT), (VIEW, b"r" * 32)):
        with pytest.raises(UploadChanged) as refused:
            ledger.record_upload(7, JOB, 0, 0, view, upload(root))
        assert refused.value.reason == "UPLOAD_CHANGED"
    assert files(path) == [stored.path.name]
    assert stored.path.read_bytes() == BYTES


def test_nothing_is_kept_for_an_attempt_that_was_not_charged(ledger: Ledger, path: Path) -> None:
    for round_, attempt in ((0, 1), (1, 0)):
        with pytest.raises(AttemptNotCharged):
            ledger.record_upload(7, JOB, round_, attempt, VIEW, upload())
    assert files(path) == []
    assert ledger.upload(7, JOB, 1, 0) is None


def test_when_the_round_is_over_the_files_go_and_no_other_upload_takes_their_place(
    ledger: Ledger, path: Path
) -> None:
    ledger.charge(7, JOB, 0, 1)
    ledger.charge(7, JOB, 1, 0)
    for round_, attempt in ((0, 0), (0, 1), (1, 0)):
        ledger.record_upload(7, JOB, round_, attempt, VIEW, upload())
    assert ledger.forget_upload(7, JOB, 0) == 2
    assert ledger.forget_upload(7, JOB, 0) == 0
    assert len(files(path)) == 1
    assert ledger.upload(7, JOB, 0, 0) is None
    for root in (ROOT, b"r" * 32):
        with pytest.raises(UploadChanged):
            ledger.record_upload(7, JOB, 0, 0, VIEW, upload(root))
    kept = ledger.upload(7, JOB, 1, 0)
    assert kept is not None
    assert kept.path.read_bytes() == BYTES


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damaged_bytes_are_never_sent(ledger: Ledger, damage: str) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    content = bytearray(BYTES)
    content[-1] ^= 1
    changed = {"flip": bytes(content), "cut": BYTES[:-1], "grow": BYTES + b"\0"}
    if damage == "remove":
        stored.path.unlink()
    else:
        stored.path.write_bytes(changed[damage])
    with pytest.raises(UploadLost) as refused:
        stored.commitment(CHUNKING)
    assert refused.value.reason == "ATTEMPT_LOST"
    if damage == "remove":
        with pytest.raises(UploadLost):
            ledger.upload(7, JOB, 0, 0)


def test_a_source_that_breaks_off_leaves_nothing(ledger: Ledger, path: Path) -> None:
    def breaks_off(file: BinaryIO) -> bytes:
        file.write(b"half")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ledger.record_upload(7, JOB, 0, 0, VIEW, breaks_off)
    assert files(path) == []
    assert ledger.record_upload(7, JOB, 0, 0, VIEW, upload()).path.read_bytes() == BYTES


def test_the_bytes_are_on_the_disk_before_their_name_and_their_name_before_the_row(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        order.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> Path:
        order.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    ledger._connection.set_trace_callback(
        lambda sql: order.append("row") if sql.startswith("INSERT") else None
    )
    ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    assert order == ["sync file", "rename", "sync folder", "row"]


def test_what_a_crash_left_without_a_row_is_swept_and_nothing_else(ledger: Ledger, path: Path) -> None:
    stored = ledger.record_upload(7, JOB, 0, 0, VIEW, upload())
    ledger.close()
    folder = path.with_name(path.name + ".outbox")
    for name in ("a.upload", "b.upload.partial", "note-of-the-operator.txt"):
        (folder / name).write_bytes(b"x")
    Ledger(path).close()
    assert files(path) == sorted([stored.path.name, "note-of-the-operator.txt"])
