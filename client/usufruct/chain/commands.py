"""``usufruct chain dev|deploy|key|fund``."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from usufruct.chain.deploy import deploy as deploy_contracts
from usufruct.chain.keys import create_key, load_key, new_passphrase
from usufruct.chain.rpc import Rpc
from usufruct.domain.ids import address
from usufruct.errors import ConfigError

app = typer.Typer(
    name="chain", help="Development chain, deployment of the contracts, keys.", no_args_is_help=True
)

PLAY_MONEY_WEI = 10**18
"""What `fund` gives each address: one whole coin, enough for years of gas on the development chain."""

RPC_SECONDS = 5.0

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
RpcUrl = Annotated[str, typer.Option("--rpc", help="The chain's JSON-RPC URL.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Its first line opens the key; without it you are asked."),
]


@app.command()
def dev(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0 takes a free one.")
    ] = 8545,
    as_json: AsJson = False,
) -> None:
    """Runs a chain in memory on 127.0.0.1 until it is interrupted. For development: anyone there may mint its coin."""
    try:
        from usufruct.chain.dev_chain import DevChain
        from usufruct.chain.dev_evm import DEV_CHAIN_ID
    except ModuleNotFoundError as error:
        raise ConfigError("the development chain needs py-evm: pip install 'usufruct[demo]'") from error
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with DevChain(port) as chain:
        _print(
            {"rpc_url": chain.url, "chain_id": DEV_CHAIN_ID},
            f"Development chain {DEV_CHAIN_ID} at {chain.url}. Everything is in memory; Ctrl-C ends it.",
            as_json,
        )
        stopped.wait()


@app.command()
def deploy(
    key: Annotated[Path, typer.Option(help="Key file of the account that pays for the deployment.")],
    rpc: RpcUrl = "http://127.0.0.1:8545",
    out: Annotated[Path, typer.Option(help="Addresses file to write.")] = Path("addresses.json"),
    passphrase_file: PassphraseFile = None,
    test_token: Annotated[bool, typer.Option("--test-token", help="Also deploy a worthless token.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deploys Registry, UsageLog and ComputeAccess, and writes their addresses."""
    addresses = deploy_contracts(rpc, load_key(key, passphrase_file=passphrase_file), test_token=test_token)
    addresses.write(out)
    text = f"ComputeAccess is at {addresses.compute_access} on chain {addresses.chain_id}; addresses are in {out}."
    _print(asdict(addresses), text, as_json)


@app.command()
def key(
    path: Annotated[Path, typer.Argument(help="Key file to write; one that exists is never overwritten.")],
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and writes it encrypted."""
    account = create_key(path, new_passphrase(path, passphrase_file))
    text = f"The key of {account.address} is in {path}. Without its passphrase it is lost: keep both."
    _print({"address": account.address, "path": str(path)}, text, as_json)


@app.command()
def fund(
    addresses: Annotated[list[str], typer.Argument(help="Addresses that need gas money.")],
    rpc: Annotated[
        str, typer.Option("--rpc", envvar="USUFRUCT_RPC", help="The development chain's JSON-RPC URL.")
    ] = "http://127.0.0.1:8545",
    as_json: AsJson = False,
) -> None:
    """Mints play money for gas. Works on the development chain only; elsewhere, send the chain's own coin."""
    chain = Rpc(rpc, RPC_SECONDS)
    owners = [address(text, "address") for text in addresses]
    for owner in owners:
        chain.request("dev_fund", owner, hex(PLAY_MONEY_WEI))
    _print(
        {"funded": owners, "wei": str(PLAY_MONEY_WEI)},
        f"Each has one coin more: {', '.join(owners)}.",
        as_json,
    )


def _print(values: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
