"""A real Ethereum node (anvil) for tests: started, stopped and killed as a process, and told to change its chain."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

from usufruct.chain.rpc import Rpc

PACKAGES = Path(__file__).parents[3] / "contracts" / "node_modules" / "@foundry-rs"
ONE_COIN = 10**18
MOST_STATES = 1_000_000
"""Kept in memory, all of them: what anvil 1.7 has moved to the disk is empty after a reorganisation."""


def binary() -> str | None:
    """The anvil that `make setup` installs with the contract toolchain, or one in the path; None if there is none."""
    packaged = sorted(PACKAGES.glob("anvil-*/bin/anvil*"))
    return str(packaged[0]) if packaged else shutil.which("anvil")


class AnvilNode:
    """One node on a free port of 127.0.0.1. Blocks are mined for each transaction, unless mining is held.

    Args:
        state: file that the chain is written to when the node stops, and read from when it starts.
        finality: the finalized block is about this many below the newest; an even number.
    """

    def __init__(self, state: Path | None = None, finality: int = 64, port: int = 0) -> None:
        found = binary()
        assert found is not None, "tests with this node are skipped where there is no anvil"
        command = [
            found, "--host", "127.0.0.1", "--port", str(port), "--slots-in-an-epoch", str(finality // 2),
            "--preserve-historical-states", "--prune-history", str(MOST_STATES), "--accounts", "1",
        ]  # fmt: skip
        if state is not None:
            command += ["--state", str(state)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        self.url = ""
        for line in self.process.stdout:
            if line.startswith("Listening on "):
                self.url = f"http://{line.split()[-1]}"
                break
        assert self.url, "anvil did not start"
        self._reader = threading.Thread(target=self._read_on, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        self.rpc = Rpc(self.url, 30.0)

    def request(self, method: str, *params: Any) -> Any:
        return self.rpc.request(method, *params)

    def fund(self, address: str, wei: int = 1000 * ONE_COIN) -> None:
        self.request("anvil_setBalance", address, hex(wei))

    def mine(self, blocks: int = 1) -> None:
        if blocks:
            self.request("anvil_mine", hex(blocks))

    def hold(self, held: bool = True) -> None:
        """Whether transactions wait until :meth:`mine` is called."""
        self.request("evm_setAutomine", not held)

    def reorg(self, depth: int) -> None:
        """Replaces the newest ``depth`` blocks with empty ones; their transactions are nowhere any more."""
        self.request("anvil_reorg", depth, [])

    def drop(self, transaction_hash: bytes) -> None:
        """Takes a waiting transaction out of the pool."""
        self.request("anvil_dropTransaction", "0x" + transaction_hash.hex())

    def drop_all(self) -> None:
        """Empties the pool."""
        self.request("anvil_dropAllTransactions")

    def height(self) -> int:
        return self.rpc.newest().number

    def stop(self) -> None:
        """Ends the node as an operator does; it writes its state file."""
        self._end(self.process.terminate)

    def kill(self) -> None:
        """Ends the node as a power cut does."""
        self._end(self.process.kill)

    def _end(self, how: Any) -> None:
        if self.process.poll() is None:
            how()
        self.process.wait(timeout=30)
        self._reader.join()

    @staticmethod
    def _read_on(said: IO[str]) -> None:
        """A node whose output nobody reads stops when the pipe is full."""
        with said:
            for _ in said:
                pass

    def __enter__(self) -> AnvilNode:
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()
