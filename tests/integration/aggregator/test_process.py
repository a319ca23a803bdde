"""The aggregator as a process: it starts, says where it is, stops cleanly, and fails in one clear sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aggregator_world import Network
from typer.testing import CliRunner

from usufruct.errors import ConfigError, PeerKeyMismatch, PeerUnreachable
from usufruct.wire.channel import PinnedEndpoint, pinned_channel
from usufruct_server.aggregator.commands import app
from usufruct_server.aggregator.config import load_config

COMMAND = (sys.executable, "-m", "usufruct.cli", "aggregator")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict]]]:
    """Starts `usufruct aggregator serve --json`; gives the process and its first line."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> tuple[subprocess.Popen[str], dict]:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--json", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return process, json.loads(line)

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outbox")


def spools(process: subprocess.Popen[str]) -> int:
    """How many files without a name a process has open."""
    links = Path(f"/proc/{process.pid}/fd").iterdir()
    return sum(os.readlink(link).endswith("(deleted)") for link in links)


class Remote:
    """A server in another process, as the network fixture wants one."""

    def __init__(self, peer: str) -> None:
        self.peer = PinnedEndpoint.parse(peer)


def test_init_makes_one_key_and_prints_the_address_to_give_away(tmp_path: Path) -> None:
    arguments = ("--listen", "127.0.0.1:7100", "--state-dir", tmp_path / "state")
    first = run("init", *arguments)
    assert first.returncode == 0, first.stderr
    peer = PinnedEndpoint.parse(first.stdout.strip())
    assert peer.endpoint == "127.0.0.1:7100"
    again = json.loads(run("init", *arguments, "--json").stdout)
    assert again == {"created": False, "peer": str(peer), "fingerprint": str(peer).partition("#")[2]}
    assert (tmp_path / "state" / "tls.key").stat().st_mode & 0o777 == 0o600


def configured(folder: Path, state: Path, memory_bytes: int) -> Path:
    """A configuration with so much memory for spools."""
    path = folder / "aggregator.toml"
    path.write_text(
        f'[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "{state}"\nspool_memory_bytes = {memory_bytes}\n'
    )
    return path


@pytest.mark.parametrize(("memory_bytes", "files"), [(1, 4), (64 << 20, 0)], ids=["disk", "memory"])
def test_a_round_through_a_real_process(
    serve, tmp_path: Path, outbox: Path, memory_bytes: int, files: int
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    promised = json.loads(run("init", *arguments, "--json").stdout)["fingerprint"]
    process, line = serve("--config", configured(outbox, tmp_path, memory_bytes))
    network = Network(Remote(line["peer"]), outbox)
    assert str(network.peer).endswith(promised) and line["port"] > 0
    r = network.new_round()
    with network.as_builder() as builder:
        builder.open_round(r, 60)
        for d in network.operators:
            network.send(r, d)
        with builder.fetch_sum(r, 10) as fetched:
            assert (network.opened(fetched) == network.total()).all()
        assert spools(process) == files, "three uploads and the sum"
        builder.close_round(r)
        assert spools(process) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tls.crt", "tls.key"]  # nothing else is kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_even_while_a_builder_waits(
    serve, tmp_path: Path, outbox: Path, number: int
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    run("init", *arguments)
    process, line = serve(*arguments)
    network = Network(Remote(line["peer"]), outbox)
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        network.send(r, 3)
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - start < 6
        assert waiting.exception(10).reason in ("INTERRUPTED", "PEER_UNREACHABLE")
    _, errors = process.communicate()
    assert "Traceback" not in errors


def test_a_killed_aggregator_is_noticed_at_once(serve, tmp_path: Path, outbox: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    run("init", *arguments)
    process, line = serve(*arguments)
    network = Network(Remote(line["peer"]), outbox)
    r = network.new_round()
    with network.as_builder() as builder, ThreadPoolExecutor(1) as background:
        builder.open_round(r, 60)
        waiting = background.submit(builder.fetch_sum, r, 30)
        network.send(r, 3)
        start = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        assert isinstance(waiting.exception(10), PeerUnreachable)
        with pytest.raises(PeerUnreachable):
            network.send(r, 5)
        assert time.monotonic() - start < 10


def test_after_a_restart_the_key_is_the_same_and_the_round_is_gone(
    serve, tmp_path: Path, outbox: Path
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    run("init", *arguments)
    process, line = serve("--config", configured(outbox, tmp_path, 1))
    first = Network(Remote(line["peer"]), outbox)
    r = first.new_round()
    with first.as_builder() as builder:
        builder.open_round(r, 60)
        first.send(r, 5)
        assert spools(process) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tls.crt", "tls.key"]  # no upload is left behind
    _, line = serve(*arguments)
    assert PinnedEndpoint.parse(line["peer"]).fingerprint == first.peer.fingerprint
    first.server = Remote(line["peer"])
    with first.as_builder() as builder:
        with pytest.raises(Exception) as failed:
            builder.fetch_sum(r, 5)
        assert failed.value.reason == "ROUND_UNKNOWN"
        builder.open_round(r, 60)
        assert first.send(r, 3) == 1  # what arrived before is forgotten


def test_a_port_in_use_is_one_sentence_and_a_failure(serve, tmp_path: Path) -> None:
    run("init", "--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    _, line = serve("--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    second = run("serve", "--listen", line["endpoint"], "--state-dir", tmp_path)
    assert second.returncode == 1 and second.stdout == ""
    assert second.stderr.startswith("Error: ") and "port is in use" in second.stderr
    assert second.stderr.count("\n") == 1
    as_json = run("serve", "--json", "--listen", line["endpoint"], "--state-dir", tmp_path)
    assert as_json.returncode == 1 and json.loads(as_json.stdout)["error"] == "PORT_IN_USE"


def test_without_a_key_it_says_how_to_make_one(tmp_path: Path) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    assert done.returncode == 1 and "init" in done.stderr and "Traceback" not in done.stderr


def test_without_any_setting_it_says_which_are_needed() -> None:
    done = run("serve")
    assert done.returncode == 1 and "--config" in done.stderr and "Traceback" not in done.stderr


def test_another_key_at_the_same_place_is_not_spoken_to(serve, tmp_path: Path) -> None:
    run("init", "--listen", "127.0.0.1:0", "--state-dir", tmp_path / "one")
    run("init", "--listen", "127.0.0.1:0", "--state-dir", tmp_path / "two")
    _, one = serve("--listen", "127.0.0.1:0", "--state-dir", tmp_path / "one")
    _, two = serve("--listen", "127.0.0.1:0", "--state-dir", tmp_path / "two")
    with pytest.raises(PeerKeyMismatch):
        pinned_channel(one["endpoint"], PinnedEndpoint.parse(two["peer"]).fingerprint)


def test_a_config_file_is_enough(serve, tmp_path: Path) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "state"\nmax_open_rounds = 2\n')
    assert run("init", "--config", config).returncode == 0
    assert (tmp_path / "state" / "tls.key").exists()
    _, line = serve("--config", config)
    assert line["event"] == "serving"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "s"\nlissten = 3\n', 4, "lissten"),
        ('[aggregator]\nlisten = "nowhere"\nstate_dir = "s"\n', 2, "listen"),
        ('[aggregator]\nlisten = "127.0.0.1:0"\n', 1, "state_dir"),
        (
            '[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "s"\n\nmax_open_rounds = "many"\n',
            5,
            "max_open_rounds",
        ),
        (
            '[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "s"\nallowed_builders = ["me"]\n',
            4,
            "allowed_builders",
        ),
        ('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "s"\nadvertise = "http://x"\n', 4, "advertise"),
        ('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = \n', 3, "TOML"),
    ],
)
def test_a_wrong_config_file_is_named_with_line_and_key(
    tmp_path: Path, text: str, line: int, key: str
) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(config)
    assert f"{config}:{line}: " in refused.value.message and key in refused.value.message


def test_a_wrong_config_file_is_one_sentence_and_a_failure(tmp_path: Path) -> None:
    config = tmp_path / "aggregator.toml"
    config.write_text('[aggregator]\nlisten = "127.0.0.1:0"\nstate_dir = "s"\nlissten = 3\n')
    done = run("serve", "--config", config)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"Error: {config}:4: [aggregator] lissten ")


@pytest.mark.parametrize("command", [[], ["init"], ["serve"]])
def test_every_command_has_help(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0 and len(done.output) > 100
