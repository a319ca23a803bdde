"""Looks whether a dataset's data can be used: readable as the card says, one row a person. In a process of its own,
so that no row ever is in the server's memory: ``python -m usufruct_server.holder.data_check CARD DATA DESCRIPTOR``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from usufruct.domain.dataset_card import read_card
from usufruct.errors import UsufructError
from usufruct_server.holder.training.confinement import end_with

TIMEOUT_SECONDS = 600.0
_DATASETS = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_TORCH": "0"}
"""``datasets`` stays off the network, and does not load torch, which takes seconds, for what never becomes a tensor."""


@dataclass(frozen=True)
class DataFinding:
    """What was found; ``reason`` is "" when the data can be used. ``message`` is for the person at the holder."""

    reason: str
    message: str


class DataCheck:
    """A look that runs; start several at once and wait for each.

    Args:
        card: the finished card's file.
        data: the data file.
    """

    def __init__(self, card: Path, data: Path) -> None:
        packages = os.pathsep.join(path for path in sys.path if path)
        self._life, theirs = socket.socketpair()  # the look ends with this process, however that ends
        module, descriptor = "usufruct_server.holder.data_check", theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(card), str(data), str(descriptor)],
            pass_fds=(descriptor,),
            env={**os.environ, "PYTHONPATH": packages, **_DATASETS},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()

    def wait(self) -> DataFinding:
        """The finding. A look that crashes or takes too long finds the data unreadable."""
        try:
            out, _ = self._process.communicate(timeout=TIMEOUT_SECONDS)
            raw = json.loads(out)
            return DataFinding(str(raw["reason"]), str(raw["message"]))
        except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
            self._process.kill()
            self._process.wait()
            return DataFinding(
                "DATA_UNREADABLE", "The data cannot be read: the look at them did not end well."
            )
        finally:
            self._life.close()


def main(card: Path, data: Path) -> None:
    """Entry point of the process: one line of JSON."""
    from usufruct_server.holder.training.card_data import load_card_data

    finding = DataFinding("", "")
    try:
        load_card_data(data, read_card(card.read_bytes()))
    except UsufructError as error:
        finding = DataFinding(error.reason, error.message)
    except Exception as error:  # its text may quote a row
        finding = DataFinding("DATA_UNREADABLE", f"The data cannot be read ({type(error).__name__}).")
    print(json.dumps({"reason": finding.reason, "message": finding.message}))


if __name__ == "__main__":
    end_with(int(sys.argv[3]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
