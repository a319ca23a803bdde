"""Keys lie on disk encrypted, readable by their owner only, and are never overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from usufruct.chain import create_key, key_address, load_key
from usufruct.errors import ConfigError


def test_a_key_comes_back_with_its_passphrase(tmp_path: Path) -> None:
    made = create_key(tmp_path / "key.json", "correct horse", light=True)
    assert load_key(tmp_path / "key.json", "correct horse").key == made.key
    assert key_address(tmp_path / "key.json") == made.address
    (tmp_path / "pass").write_text("correct horse\n")
    assert load_key(tmp_path / "key.json", passphrase_file=tmp_path / "pass").address == made.address
    assert made.key.hex() not in (tmp_path / "key.json").read_text()


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    create_key(tmp_path / "key.json", "x", light=True)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    create_key(tmp_path / "key.json", "x", light=True)
    before = (tmp_path / "key.json").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(tmp_path / "key.json", "x", light=True)
    assert (tmp_path / "key.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"crypto": {}, "version": 3}'])
def test_what_is_no_key_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(ConfigError, match=r"key\.json") as caught:
        load_key(tmp_path / "key.json", "x")
    assert caught.value.reason == "KEY_INVALID"


def test_a_wrong_passphrase_a_missing_file_and_no_terminal_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(tmp_path / "key.json", "right", light=True)
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        load_key(tmp_path / "key.json", "wrong")
    with pytest.raises(ConfigError, match=r"missing\.json"):
        load_key(tmp_path / "missing.json", "x")
    with pytest.raises(ConfigError, match="no-such-pass"):
        load_key(tmp_path / "key.json", passphrase_file=tmp_path / "no-such-pass")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        with pytest.raises(ConfigError, match="passphrase file"):
            load_key(tmp_path / "key.json")
