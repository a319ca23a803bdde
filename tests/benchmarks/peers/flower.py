"""Seconds a round of Flower in deployment mode: a SuperLink and three SuperNodes as processes, FedAvg, no TLS.

Apps run in subprocess isolation, Flower's default: a new process for every message to a ClientApp.

    .cache/bench-peers/flower/bin/python tests/benchmarks/peers/flower.py --parameters 100000 --rounds 5 --json
"""

from __future__ import annotations

import json
import shutil
import socket
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from federation import HOLDERS, LOOPBACK, Federation, arguments, free_ports, report

# Flower's own switches: nothing leaves this machine.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def write_app(folder: Path, parameters: int, rounds: int, result: Path) -> None:
    """The app's folder: ``pyproject.toml`` with the run's settings, and ``flower_app.py``."""
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("flower_app.py"), folder)
    settings = {"parameters": parameters, "rounds": rounds, "nodes": HOLDERS, "result": str(result)}
    lines = [
        "[project]",
        'name = "bench-round"',
        'version = "1.0.0"',
        'license = "Apache-2.0"',
        f'dependencies = ["flwr=={version("flwr")}"]',
        "[tool.flwr.app]",
        'publisher = "bench"',
        "[tool.flwr.app.components]",
        'serverapp = "flower_app:server"',
        'clientapp = "flower_app:client"',
        "[tool.flwr.app.config]",
        *(f"{name} = {json.dumps(value)}" for name, value in settings.items()),
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def listening(port: int) -> bool | None:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return None


def measure(parameters: int, rounds: int, timeout_seconds: float) -> list[float]:
    """Run ``rounds`` + 1 rounds; seconds of each but the first, as the ServerApp saw them."""
    with Federation(timeout_seconds) as federation:
        home = federation.workspace / "flwr"
        home.mkdir()
        federation.environment |= QUIET | {"FLWR_HOME": str(home)}
        superlink, *nodes = free_ports(1 + HOLDERS)
        federation.start(
            "superlink",
            [
                "flower-superlink",
                "--insecure",
                f"--host={LOOPBACK}",
                f"--port={superlink}",
                "--disable-runtime-dependency-installation",
            ],
        )
        federation.wait_for("SuperLink", lambda: listening(superlink))
        for index, port in enumerate(nodes):
            federation.start(
                f"supernode-{index + 1}",
                [
                    "flower-supernode",
                    "--insecure",
                    f"--superlink={LOOPBACK}:{superlink}",
                    f"--host={LOOPBACK}",
                    f"--port={port}",
                ],
            )
        for port in nodes:
            federation.wait_for("SuperNodes", lambda port=port: listening(port))

        app, result = federation.workspace / "app", federation.workspace / "result.json"
        write_app(app, parameters, rounds + 1, result)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "bench"\n'
            f'[superlink.bench]\naddress = "{LOOPBACK}:{superlink}"\ninsecure = true\n'
        )
        federation.run("flwr run", ["flwr", "run", str(app), "bench"])
        seconds: list[float] = json.loads(
            federation.wait_for("end of the run", lambda: result.read_text() if result.exists() else None)
        )
        return seconds


def main() -> None:
    options = arguments(__doc__).parse_args()
    seconds = measure(options.parameters, options.rounds, options.timeout_seconds)
    result = {
        "peer": "Flower, deployment mode",
        "version": version("flwr"),
        "parameters": options.parameters,
        "encrypted": False,
        "seconds_per_round": seconds,
    }
    report(result, options.json)


if __name__ == "__main__":
    main()
