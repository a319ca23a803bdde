"""``usufruct aggregator``: make a TLS key, then serve."""

from __future__ import annotations

import ctypes
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import typer

from usufruct.errors import ConfigError
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.tls import KEY_FILE, create_identity, load_identity, parse_listen
from usufruct_server.aggregator.config import AggregatorConfig, load_config
from usufruct_server.aggregator.server import AggregatorServer, serve

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""

_KEPT_BYTES = 64 << 20

app = typer.Typer(no_args_is_help=True, help="Add encrypted updates; hold no key.")

_CONFIG = typer.Option(None, "--config", help="TOML file with listen, state_dir and, if you like, limits.")
_LISTEN = typer.Option(None, "--listen", help="Address to bind, host:port. Port 0 takes a free one.")
_STATE = typer.Option(None, "--state-dir", help="Folder of the TLS key.")
_JSON = typer.Option(False, "--json", help="Print one line of JSON.")


@app.command()
def init(
    config: Path | None = _CONFIG,
    listen: str | None = _LISTEN,
    state_dir: Path | None = _STATE,
    as_json: bool = _JSON,
) -> None:
    """Make the TLS key, and print the address to give to builders: host:port#sha256:…"""
    settings = _settings(config, listen, state_dir)
    created = not (settings.state_dir / KEY_FILE).exists()
    identity = create_identity(settings.state_dir) if created else load_identity(settings.state_dir)
    peer = PinnedEndpoint(settings.advertise or settings.listen, identity.fingerprint)
    if as_json:
        _print_json(created=created, peer=str(peer), fingerprint=identity.fingerprint_text)
    else:
        typer.echo(str(peer))


@app.command(name="serve")
def serve_command(
    config: Path | None = _CONFIG,
    listen: str | None = _LISTEN,
    state_dir: Path | None = _STATE,
    as_json: bool = _JSON,
    verbose: bool = typer.Option(False, "--verbose", help="Log every round to standard error."),
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )

    def started(server: AggregatorServer) -> None:
        if as_json:
            _print_json(
                event="serving", peer=str(server.peer), endpoint=server.peer.endpoint, port=server.port
            )
        else:
            typer.echo(f"Serving at {server.peer}  (Ctrl-C stops)")

    _keep_memory()
    serve(_settings(config, listen, state_dir), started)


def _settings(config: Path | None, listen: str | None, state_dir: Path | None) -> AggregatorConfig:
    if config is not None:
        settings = load_config(config)
        if listen is not None:
            settings = replace(settings, listen=listen)
        return settings if state_dir is None else replace(settings, state_dir=state_dir)
    if listen is None or state_dir is None:
        raise ConfigError("Give --config FILE, or both --listen HOST:PORT and --state-dir DIR.")
    parse_listen(listen)
    return AggregatorConfig(listen=listen, state_dir=state_dir)


def _keep_memory() -> None:
    """Where the C library is glibc: lets all threads take memory from two arenas, and keeps what a round needed for the next.

    Each thread's own arena would keep what it once had, so that the chunks of a large round stayed with every thread that
    ever held one (measured at 10^8 parameters: 270 MiB, with two arenas 90). And chunks that are given back to the system are
    faulted in again, page by page, for a tenth of a round's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _print_json(**values: object) -> None:
    print(json.dumps(values), flush=True)
