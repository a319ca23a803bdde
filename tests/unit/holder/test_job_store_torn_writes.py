"""A power cut in the middle of one write to the job store takes nothing that was written before: no view is forgotten."""

from __future__ import annotations

from pathlib import Path

from usufruct_server.holder.job_store import JobStore

JOB, SECTOR = b"j" * 32, 512


def test_a_torn_sector_of_one_write_forgets_no_offer_and_no_view(tmp_path: Path) -> None:
    path, before = tmp_path / "jobs.sqlite", b""
    store = JobStore(path)
    for attempt in range(1, 9):
        store.note_offer(JOB, 7, attempt, attempt, bytes([attempt]) * 32)
        store.note_view(JOB, 7, attempt, bytes([100 + attempt]) * 32, b"m" * 32)
        after = path.with_name("jobs.sqlite-wal").read_bytes()
        changed = next((at for at in range(len(before)) if before[at] != after[at]), len(before))
        begun = changed // SECTOR * SECTOR
        copy = tmp_path / str(attempt) / "jobs.sqlite"
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
        copy.with_name("jobs.sqlite-wal").write_bytes(
            after[:begun] + bytes([0xA5]) * SECTOR + after[begun + SECTOR :]
        )
        torn = JobStore(copy)
        for earlier in range(1, attempt):
            known = torn.attempt(JOB, 7, earlier)
            assert known is not None
            assert (known.offer_hash, known.view_hash) == (bytes([earlier]) * 32, bytes([100 + earlier]) * 32)
        torn.close()
        before = after
    store.close()
