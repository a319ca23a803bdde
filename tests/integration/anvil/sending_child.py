"""Sends one transaction, and is killed (SIGKILL, by itself) at the step that it is told.

Arguments: JSON with url, key, token, data, outbox, step, purpose, and the policy's replace_seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_account import Account as Keys

from usufruct.chain.account import Account, SendPolicy
from usufruct.chain.outbox import Outbox
from usufruct.chain.rpc import Rpc


def die(*unused: Any, **also: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(kind: type, method: str) -> None:
    """Dies instead of the method's first call."""
    setattr(kind, method, die)


def after(kind: type, method: str) -> None:
    """Dies once the method has been called."""
    real: Callable[..., Any] = getattr(kind, method)

    def then_die(*arguments: Any) -> None:
        real(*arguments)
        die()

    setattr(kind, method, then_die)


STEPS: dict[str, Callable[[], None]] = {
    "signed, not written": lambda: before(Outbox, "add"),
    "written, not broadcast": lambda: after(Outbox, "add"),
    "broadcast": lambda: after(Rpc, "send_raw"),
    "mined, not recorded": lambda: before(Outbox, "mark"),
    "recorded": lambda: after(Outbox, "mark"),
    "replacement signed, not written": lambda: before(Outbox, "add_attempt"),
    "replacement written, not broadcast": lambda: after(Outbox, "add_attempt"),
    "another nonce signed, not written": lambda: before(Outbox, "begin_anew"),
    "another nonce written, not broadcast": lambda: after(Outbox, "begin_anew"),
}


def main() -> None:
    told = json.loads(sys.argv[1])
    rpc = Rpc(told["url"], 30.0)
    policy = SendPolicy(20, told["replace_seconds"], 0.05, 20, 10**12)
    account = Account(rpc, rpc.chain_id(), Keys.from_key(told["key"]), Path(told["outbox"]), policy)
    STEPS[told["step"]]()
    account.send(told["token"], bytes.fromhex(told["data"]), "mint", told["purpose"])


if __name__ == "__main__":
    main()
