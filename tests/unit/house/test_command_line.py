"""Every command has help, takes --json and fails in one sentence; the library is light to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[3]
POINTS = {point.name: point for point in entry_points(group="usufruct.commands")}


def commands() -> list[tuple[str, ...]]:
    """Every command of every group, as words after `usufruct`."""

    def below(words: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner = getattr(command_of(words), "commands", {})
        return [each for name in sorted(inner) for each in below((*words, name))] or [words]

    return [words for name in sorted(POINTS) for words in below((name,))]


def command_of(words: tuple[str, ...]) -> Any:
    """The command or group of these words."""
    command: Any = typer.main.get_command(POINTS[words[0]].load())
    for word in words[1:]:
        command = command.commands[word]
    return command


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "usufruct.cli", *words],
        capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "120", **environment},
    )  # fmt: skip


def test_all_roles_have_their_group() -> None:
    assert set(POINTS) == {"demo", "holder", "aggregator", "builder", "audit", "chain"}
    expected = {
        ("holder", "init"), ("holder", "doctor"), ("holder", "serve"), ("holder", "inbox"), ("holder", "grant"),
        ("holder", "refuse"), ("holder", "ledger"), ("holder", "datasets"), ("aggregator", "serve"), ("builder", "datasets"),
        ("holder", "base-model", "add"), ("holder", "tokenizer", "add"), ("builder", "quote"), ("builder", "submit"), ("builder", "watch"), ("builder", "resume"), ("audit", "log"),
        ("audit", "verify"), ("chain", "dev"), ("chain", "deploy"),
    }  # fmt: skip
    assert expected <= set(commands())


def test_every_command_has_help_for_itself_and_for_each_option_and_takes_json() -> None:
    for words in commands():
        command = command_of(words)
        assert command.help, f"{words} has no help"
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        assert all(option.help for option in options if option.name != "help"), words
        assert any("--json" in option.opts for option in options), f"{words} has no --json"


@pytest.mark.parametrize("words", [(), ("audit",), ("chain",)])
def test_help_is_printed_and_torch_is_not_loaded(words: tuple[str, ...]) -> None:
    done = run(*words, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr[-500:]
    assert "Usage" in done.stdout
    assert not any(line.rsplit("|", 1)[-1].strip() == "torch" for line in done.stderr.splitlines())


def test_an_unknown_command_is_refused_without_a_traceback() -> None:
    done = run("frobnicate")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_an_error_is_one_sentence_or_one_json_object(tmp_path: Path) -> None:
    missing = str(tmp_path / "holder.toml")
    plain = run("holder", "serve", "--config", missing)
    assert plain.returncode == 1
    assert plain.stderr.startswith("Error: ")
    assert "Traceback" not in plain.stderr
    as_json = run("holder", "serve", "--config", missing, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout.splitlines()[-1])["error"] == "CONFIG_INVALID"


def test_importing_the_library_loads_neither_torch_nor_the_chain_nor_grpc() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import usufruct; spent = time.perf_counter() - start;"
        "heavy = {'torch', 'tenseal', 'eth_account', 'grpc', 'numpy', 'opacus'} & set(sys.modules);"
        "print(spent); sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_audit_runs_where_torch_and_the_servers_extras_are_not_installed() -> None:
    absent = [
        "torch",
        "tenseal",
        "opacus",
        "safetensors",
        "datasets",
        "zstandard",
        "sklearn",
        "matplotlib",
        "eth",
    ]
    code = (
        "import sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "from usufruct.cli import main\n"
        "main(['audit', 'verify', '--rpc', 'http://127.0.0.1:9', '--contract', '0x' + '11' * 20])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: "), done.stderr
    assert "Traceback" not in done.stderr
