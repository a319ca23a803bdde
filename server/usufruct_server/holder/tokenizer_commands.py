"""``usufruct holder tokenizer add|list|remove``: the tokenisers that dataset cards name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from usufruct_server.holder.tokenizer_folder import StoredTokenizer, TokenizerFolder

app = typer.Typer(
    name="tokenizer",
    help="Tokenisers: what makes token ids of the texts of a dataset.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The holder's configuration file.")]
_HOLDER_TOML = Path("holder.toml")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A tokenizer.json of the library `tokenizers`.")],
    length: Annotated[int, typer.Option(help="Token ids of a row, for the line that a card needs.")] = 128,
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Checks a tokeniser, copies it into the holder's folder and prints the last step of `preprocessing` for a card."""
    from usufruct.domain.tokens import Tokens

    stored = _folder(config).add(file)
    step = Tokens(length, stored.vocabulary, stored.padding, stored.digest.removeprefix("sha256:")).step
    _print({**_row(stored), "step": step}, f"{step}\nKept as {stored.path}.", as_json)


@app.command(name="list")
def list_(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Lists the tokenisers that are here."""
    stored = _folder(config).all()
    lines = [f"{each.digest}  vocabulary of {each.vocabulary}, padded with {each.padding}" for each in stored]
    _print([_row(each) for each in stored], "\n".join(lines) or "There is none.", as_json)


@app.command()
def remove(
    digest: Annotated[str, typer.Argument(help="sha256:… of the tokeniser.")],
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Forgets a tokeniser: data whose card names it can no longer be used."""
    _folder(config).remove(digest)
    _print({"removed": digest}, f"{digest} is removed.", as_json)


def _folder(config: Path) -> TokenizerFolder:
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.tokenizer_folder import TokenizerFolder

    return TokenizerFolder(read_config(config).tokenizers_dir)


def _row(stored: StoredTokenizer) -> dict[str, Any]:
    return {**asdict(stored), "path": str(stored.path)}


def _print(values: Any, text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
