"""A wrong configuration is refused with file, line and key; a right one means what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from usufruct.domain.query import JobKind
from usufruct.domain.training_job import NoiseMode
from usufruct.errors import ConfigError
from usufruct.privacy import loss_for_epsilon_micro
from usufruct.toml_file import line_of
from usufruct_server.holder.config import read_config

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
GOOD = f"""\
[holder]
name = "St. Example"
listen = "127.0.0.1:7001"
endpoint = "relay.example.org:443"
state_dir = "state"

[chain]
rpc_url = "http://127.0.0.1:8545"
compute_access = "{ADDRESS}"
chain_id = 1337

[keys]
operator = "keys/operator.json"

[policy]
auto_grant = true
max_epsilon_per_job = 3.0

[[datasets]]
card = "one.json"
data = "one.csv"
price_units = "100000000000000000000"
token = "{ADDRESS}"
min_cohort = 3
order = 6
budget_epsilon = 10.0

[[datasets]]
card = "two.json"
data = "two.parquet"
price_units = 5
token = "{ADDRESS}"
min_cohort = 3
order = 16
cap_micro = 1000000
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "holder.toml"
    path.write_text(text)
    return path


def test_a_good_file_means_what_it_says(tmp_path: Path) -> None:
    config = read_config(_write(tmp_path, GOOD))
    assert config.endpoint == "relay.example.org:443"
    assert config.state_dir == tmp_path / "state"
    assert not config.witness_dir.is_relative_to(tmp_path), "what is backed up together is restored together"
    assert config.policy.auto_grant and config.policy.noise_modes == (NoiseMode.LOCAL, NoiseMode.DISTRIBUTED)
    assert config.policy.job_kinds == tuple(JobKind), "a holder that says nothing accepts all of them"
    assert config.policy.unknown_builders == "inbox"
    assert (config.policy.arbiters, config.policy.longest_challenge_seconds) == ((), 7 * 86_400)
    one, two = config.datasets
    assert (one.price_units, one.data) == (10**20, tmp_path / "one.csv")
    assert one.cap_micro == loss_for_epsilon_micro(10.0, 6, 1e-5)
    assert (two.cap_micro, two.order) == (1_000_000, 16)


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ('listen = "127.0.0.1:7001"', "listen = 7001", 3, "listen"),
        ('listen = "127.0.0.1:7001"', 'listen = "127.0.0.1:99999"', 3, "listen"),
        ('listen = "127.0.0.1:7001"', 'listen = "127.0.0.1:7001"\nwitness_dir = "state/w"', 4, "witness_dir"),
        ('name = "St. Example"\n', "", 1, "name"),
        ('rpc_url = "http', 'rpc_url = "ftp', 8, "rpc_url"),
        (f'compute_access = "{ADDRESS}"', 'compute_access = "FILL-IN"', 9, "compute_access"),
        ("chain_id = 1337", "chain_id = true", 10, "chain_id"),
        ("auto_grant = true", 'auto_grant = "yes"', 16, "auto_grant"),
        ("auto_grant = true", "auto_grants = true", 16, "auto_grants"),
        ("auto_grant = true", 'noise_modes = ["none"]', 16, "noise_modes"),
        ("auto_grant = true", 'job_kinds = ["inference"]', 16, "job_kinds"),
        ("auto_grant = true", "job_kinds = []", 16, "job_kinds"),
        ("auto_grant = true", 'co_holders = ["clinic"]', 16, "co_holders"),
        ("auto_grant = true", "co_holders = [0]", 16, "co_holders"),
        ("auto_grant = true", 'unknown_builders = "ask"', 16, "unknown_builders"),
        ("auto_grant = true", "max_loss_per_job_micro = 5", 16, "max_loss_per_job_micro"),
        ("price_units = 5", "price_units = 5\ndisjoint = true", 32, "disjoint"),
        ("auto_grant = true", 'arbiters = ["0x12"]', 16, "arbiters"),
        ("auto_grant = true", "longest_challenge_seconds = 60", 16, "longest_challenge_seconds"),
        (
            "price_units = 5",
            "price_units = 5\nmax_loss_per_grant_micro = 1000001",
            32,
            "max_loss_per_grant_micro",
        ),
        ('data = "two.parquet"', 'data = "two.xlsx"', 30, "data"),
        ("cap_micro = 1000000", "cap_micro = 1000000\nbudget_epsilon = 1.0", 36, "budget_epsilon"),
        ("order = 16", "order = 1", 34, "order"),
        ("budget_epsilon = 10.0", "budget_epsilon = 1.0", 26, "budget_epsilon"),
        ("price_units = 5", "price_units = -5", 31, "price_units"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str
) -> None:
    assert GOOD.count(old) == 1
    path = _write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert key in caught.value.message
    assert caught.value.details["line"] == line


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("order = 16", "order = = 16"))
    with pytest.raises(ConfigError, match=rf"{path}:34: not valid TOML"):
        read_config(path)


def test_an_unknown_table_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD + "\n[polcy]\nauto_grant = true\n")
    with pytest.raises(ConfigError, match=rf"{path}:37: polcy is not known"):
        read_config(path)
    with pytest.raises(ConfigError, match="there is no such file"):
        read_config(tmp_path / "other.toml")


def test_a_key_inside_a_multi_line_text_is_not_taken_for_the_key() -> None:
    text = '[a]\nnote = """\nkey = 1\n[b]\n"""\nkey = 2\n[b]\nkey = 3\n'
    assert line_of(text, "a", "key") == 6
    assert line_of(text, "b", "key") == 8
