"""Generates the Python stubs from protos/, or compares them with what is committed (``--check``)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
COMMITTED = PROTOS.parent / "client" / "usufruct" / "v1"


def generate(target: Path) -> None:
    """Writes the stubs of every proto below ``target``."""
    files = sorted(str(path) for path in PROTOS.glob("usufruct/v1/*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{PROTOS}", *outputs, *files]) != 0:
        sys.exit("protoc failed; see its message above")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed stubs instead of writing them"
    )
    if not parser.parse_args().check:
        generate(COMMITTED.parents[1])
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name: path.read_bytes() for path in (Path(scratch) / "usufruct" / "v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in COMMITTED.glob("*_pb2*")}
    different = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    if different:
        sys.exit(
            f"stubs differ from protos/: {', '.join(different)}. Run `make protos` and commit the result."
        )
    print(f"{len(fresh)} stubs are up to date")


if __name__ == "__main__":
    main()
