"""``usufruct holder base-model add|list|remove``: the models that jobs may train adapters for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from usufruct_server.holder.base_models import BaseModels, StoredBaseModel

app = typer.Typer(
    name="base-model",
    help="Base models: what jobs train adapters for and do not change.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The holder's configuration file.")]
_HOLDER_TOML = Path("holder.toml")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A safetensors file of float32 tensors.")],
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Checks a base model, copies it into the holder's folder and prints its digest. A server that runs has it at once."""
    stored = _base_models(config).add(file)
    _print(
        _row(stored),
        f"{stored.digest}\n{stored.tensors} tensors, {stored.parameters} numbers; kept as {stored.path}.",
        as_json,
    )


@app.command(name="list")
def list_(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Lists the base models that are here."""
    stored = _base_models(config).all()
    lines = [f"{each.digest}  {each.tensors} tensors, {each.parameters} numbers" for each in stored]
    _print([_row(each) for each in stored], "\n".join(lines) or "There is none.", as_json)


@app.command()
def remove(
    digest: Annotated[str, typer.Argument(help="sha256:… of the base model.")],
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Forgets a base model: jobs that name it are refused from then on, and no further leg begins with it."""
    from usufruct.graph.base_model import read_digest

    _base_models(config).remove(read_digest(digest))
    _print({"removed": digest}, f"{digest} is removed.", as_json)


def _base_models(config: Path) -> BaseModels:
    from usufruct_server.holder.base_models import BaseModels
    from usufruct_server.holder.config import read_config

    return BaseModels(read_config(config).base_models)


def _row(stored: StoredBaseModel) -> dict[str, Any]:
    return {**asdict(stored), "path": str(stored.path)}


def _print(values: Any, text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
