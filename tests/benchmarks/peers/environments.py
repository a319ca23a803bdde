"""One virtual environment per peer, below ``.cache/bench-peers/`` of the checkout, at pinned versions.

Both peers are under the Apache License 2.0. They are run, never imported, by this project: their requirements do not
fit into ours. ``pip`` takes the packages from wherever this machine's own configuration points to.

    python tests/benchmarks/peers/environments.py [flare] [flower]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "bench-peers"
INSTALL_SECONDS = 900
STOP_SECONDS = 60


class PeerUnavailable(Exception):
    """A peer cannot be measured here; the message says why. The bench prints it and leaves the peer out."""


@dataclass(frozen=True)
class Peer:
    """A framework: its script and constraints file beside this one (``name.py``, ``name.txt``), and what pip installs."""

    name: str
    title: str
    requirement: str

    @property
    def constraints(self) -> Path:
        return HERE / f"{self.name}.txt"

    @property
    def script(self) -> Path:
        return HERE / f"{self.name}.py"


PEERS = {
    "flare": Peer("flare", "NVIDIA FLARE", "nvflare[HE]"),
    "flower": Peer("flower", "Flower", "flwr"),
}


def python_of(peer: Peer, cache: Path = CACHE) -> Path:
    """The interpreter of ``peer``'s environment, which is made first where it is missing or of other versions.

    Raises:
        PeerUnavailable: no Python 3.11 was found, or the packages cannot be had.
    """
    folder = cache / peer.name
    python = folder / "bin" / "python"
    stamp = folder / "constraints.txt"
    wanted = peer.constraints.read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    base = shutil.which("python3.11")
    if base is None:
        raise PeerUnavailable(f"{peer.title} is left out: its environment needs python3.11 on PATH")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [base, "-m", "venv", str(folder)],
        [*pip, "--constraint", str(peer.constraints), peer.requirement],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise PeerUnavailable(
                f"{peer.title} is left out: installing {peer.requirement} took over {INSTALL_SECONDS} s"
            ) from error
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[0] if errors else f"exit status {done.returncode}"
            raise PeerUnavailable(
                f"{peer.title} is left out: {peer.requirement} cannot be installed ({reason})"
            )
    stamp.write_text(wanted)
    return python


def measure(
    peer: Peer, parameters: int, rounds: int, *options: str, timeout_seconds: float = 900
) -> dict[str, Any]:
    """Run ``rounds`` timed rounds of ``peer`` with ``parameters`` float32 values; its line of JSON.

    Options are those of the peer's script (``--clear`` for FLARE without encryption). Whatever stops this call, Ctrl-C
    included, the script gets SIGTERM and time to stop what it started.

    Raises:
        PeerUnavailable: the environment cannot be made, or the run failed or took more than ``timeout_seconds``.
    """
    command = [str(python_of(peer)), str(peer.script), f"--parameters={parameters}", f"--rounds={rounds}"]
    command += ["--json", f"--timeout-seconds={timeout_seconds:g}", *options]
    # A session of its own: the terminal's Ctrl-C reaches it as our SIGTERM, once.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
    if process.returncode != 0:
        raise PeerUnavailable(f"{peer.title} is left out: its run failed\n{errors[-2000:]}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> int:
    """Make the environments named (all without a name); the exit status says whether all could be had."""
    failed = 0
    for name in sys.argv[1:] or sorted(PEERS):
        try:
            print(os.path.relpath(python_of(PEERS[name])))
        except PeerUnavailable as reason:
            print(reason, file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
