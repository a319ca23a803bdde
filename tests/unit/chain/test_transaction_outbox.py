"""The outbox's file: what is written is there again, and states go only the ways they may."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.outbox import Attempt, Outbox, State

SENDER = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def attempt(number: int) -> Attempt:
    return Attempt(bytes([number]) * 32, b"raw %d" % number, 21_000, 10**9 * number, number, 1_700_000_000)


def receipt(number: int, succeeded: bool = True) -> TransactionReceipt:
    return TransactionReceipt(bytes([number]) * 32, 5, b"\x05" * 32, succeeded, 21_000, 1, None, ())


def test_everything_is_there_again_when_it_is_opened_again(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox", 1337, SENDER)
    first.add("pay", "pay", None, b"data", 7, attempt(1))
    first.add_attempt("pay", attempt(2))
    first.add("log", "append", SENDER, b"", 8, attempt(3))
    first.mark("log", State.MINED, receipt(3, succeeded=False))
    kept = first.open_entries()
    first.close()
    second = Outbox(tmp_path / "outbox", 1337, SENDER)
    assert second.open_entries() == kept
    assert [(entry.nonce, entry.state, len(entry.attempts)) for entry in kept] == [
        (7, State.PENDING, 2),
        (8, State.MINED, 1),
    ]
    assert kept[1].reverted and not kept[0].reverted
    assert [entry.purpose for entry in second.open_entries(8)] == ["log"]


def test_a_nonce_is_taken_once() -> None:
    outbox = Outbox(None, 1337, SENDER)
    assert outbox.next_nonce(3) == 3
    outbox.add("pay", "pay", None, b"", 3, attempt(1))
    assert (outbox.next_nonce(0), outbox.next_nonce(3), outbox.next_nonce(9)) == (4, 4, 9)
    assert outbox.has_used(3) and not outbox.has_used(4)
    with pytest.raises(sqlite3.IntegrityError):
        outbox.add("other", "other", None, b"", 3, attempt(2))
    assert outbox.find("other") is None
    outbox.mark("pay", State.FINAL, receipt(1))
    assert outbox.next_nonce(0) == 4


def test_what_is_final_stays_final_and_needs_no_attempts() -> None:
    outbox = Outbox(None, 1337, SENDER)
    outbox.add("pay", "pay", None, b"", 3, attempt(1))
    outbox.mark("pay", State.FINAL, receipt(1))
    outbox.mark("pay", State.PENDING, None)
    entry = outbox.find("pay")
    assert entry is not None
    assert (entry.state, entry.attempts, entry.receipt) == (State.FINAL, (), receipt(1))
    assert outbox.open_entries() == []


def test_beginning_anew_leaves_nothing_of_the_former_nonce() -> None:
    outbox = Outbox(None, 1337, SENDER)
    outbox.add("pay", "pay", None, b"a", 3, attempt(1))
    outbox.mark("pay", State.MINED, receipt(1, succeeded=False))
    outbox.begin_anew("pay", SENDER, b"b", 4, attempt(2))
    entry = outbox.find("pay")
    assert entry is not None
    assert (entry.nonce, entry.to, entry.data, entry.state) == (4, SENDER, b"b", State.PENDING)
    assert (entry.attempts, entry.receipt) == ((attempt(2),), None)
    assert not outbox.has_used(3)
    outbox.forget("pay")
    assert outbox.find("pay") is None


def test_a_torn_sector_of_one_write_takes_nothing_that_was_written_before(tmp_path: Path) -> None:
    path, before = tmp_path / "outbox", b""
    outbox = Outbox(path, 1337, SENDER)
    for number in range(1, 9):
        outbox.add(f"pay {number}", "pay", None, b"data", number, attempt(number))
        after = path.with_name("outbox-wal").read_bytes()
        changed = next((at for at in range(len(before)) if before[at] != after[at]), len(before))
        begun = changed // 512 * 512
        copy = tmp_path / str(number) / "outbox"
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())
        copy.with_name("outbox-wal").write_bytes(after[:begun] + bytes([0xA5]) * 512 + after[begun + 512 :])
        if number > 1:
            torn = Outbox(copy, 1337, SENDER)
            assert all(torn.find(f"pay {earlier}") is not None for earlier in range(1, number))
            torn.close()
        before = after
    outbox.close()
