"""The addresses file: which contracts make up a deployment, and what they were made of."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from usufruct.domain.ids import address
from usufruct.errors import ConfigError, UsufructError


@dataclass(frozen=True)
class Addresses:
    """One deployment.

    Attributes:
        deployment_block: no event of the contracts is older.
        guardian: as it was deployed; the zero address: nobody, ever. It may have handed its role on since.
        compiler, sources_sha256: of the artefacts that were deployed.
        gas_used: of all its transactions.
        test_token: None where none was asked for.
    """

    chain_id: int
    compute_access: str
    registry: str
    usage_log: str
    deployment_block: int
    guardian: str
    compiler: str
    sources_sha256: str
    gas_used: int
    test_token: str | None = None

    def write(self, path: Path) -> None:
        """Writes the addresses file (JSON): whole or not at all."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)  # all of it is public
        beside.replace(path)


def read_addresses(path: Path) -> Addresses:
    """Reads an addresses file. Raises :class:`ConfigError` naming it if it is none."""
    try:
        found = Addresses(**json.loads(path.read_text(encoding="utf-8")))
        for name in ("compute_access", "registry", "usage_log", "guardian"):
            address(getattr(found, name), name)
        if not isinstance(found.chain_id, int) or not isinstance(found.deployment_block, int):
            raise TypeError("a number is no number")
    except (OSError, ValueError, TypeError, UsufructError) as error:
        raise ConfigError(
            f"{path} is not an addresses file; write one with: usufruct chain deploy", path=str(path)
        ) from error
    return found
