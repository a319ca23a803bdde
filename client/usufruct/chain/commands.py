"""``usufruct chain dev|deploy|check|push|key|fund``."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from usufruct.chain.addresses import Addresses, read_addresses
from usufruct.chain.connection import Chain
from usufruct.chain.deploy import creations
from usufruct.chain.deploy import deploy as deploy_contracts
from usufruct.chain.interface import interface
from usufruct.chain.keys import create_key, key_address, load_key, new_passphrase
from usufruct.chain.pushing import due_steps
from usufruct.chain.rehearsal import PERFORMER, rehearse
from usufruct.chain.rpc import Rpc
from usufruct.chain.sender import Sender
from usufruct.chain.verification import write_bundle
from usufruct.domain.ids import ZERO_ADDRESS, address, from_hex32, to_hex
from usufruct.errors import ConfigError

app = typer.Typer(
    name="chain", help="Development chain, deployment of the contracts, keys.", no_args_is_help=True
)

PLAY_MONEY_WEI = 10**18
"""What `fund` gives each address: one whole coin, enough for years of gas on the development chain."""

RPC_SECONDS = 5.0
DEV_RPC = "http://127.0.0.1:8545"
OUTBOX_FILES = ("", "-wal", "-shm", ".lock")
"""Ends of the names of the files that an outbox consists of."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
RpcUrl = Annotated[
    str,
    typer.Option(
        "--rpc",
        envvar="USUFRUCT_RPC",
        help="The chain's JSON-RPC URL; several that must agree have spaces between.",
    ),
]
Confirmations = Annotated[
    int | None,
    typer.Option(
        min=0, help="Blocks below the newest that are final, for a chain that names no finalized block."
    ),
]
Deployment = Annotated[
    str,
    typer.Argument(
        envvar="USUFRUCT_CONTRACT",
        help="An addresses file, or the address of ComputeAccess.",
        metavar="DEPLOYMENT",
    ),
]
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
    guardian: Annotated[
        str,
        typer.Option(
            help="Who may pause new jobs and registrations and set a fee of at most 5 %: an address; the account that pays "
            "(deployer); or nobody, ever (none).",
            metavar="ADDRESS|none|deployer",
        ),
    ] = "deployer",
    key: Annotated[
        Path | None, typer.Option(help="Key file of the account that pays. A dry run needs none.")
    ] = None,
    rpc: RpcUrl = DEV_RPC,
    out: Annotated[
        Path,
        typer.Option(
            help="Addresses file to write. Beside it, OUT.outbox keeps what was sent until all is final, and the folder "
            "OUT.verification is what block explorers ask for."
        ),
    ] = Path("addresses.json"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Send nothing: show the gas of each contract, and what it costs now."),
    ] = False,
    passphrase_file: PassphraseFile = None,
    confirmations: Confirmations = None,
    test_token: Annotated[bool, typer.Option("--test-token", help="Also deploy a worthless token.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deploys Registry, UsageLog and ComputeAccess, waits until that is final, and writes their addresses.

    Interrupted, it goes on where it was when it is called again with the same key and --out. Where the addresses file is
    there already, it only checks that the code on chain is this version's.
    """
    who = _guardian(guardian, key)
    outbox = out.with_name(out.name + ".outbox")
    if dry_run:
        _rehearse(rpc, who, key, outbox, as_json)
        return
    if out.exists():
        addresses = read_addresses(out)
        if who is not None and addresses.guardian != who:
            raise ConfigError(
                f"{out} is of a deployment with another guardian; choose another --out", path=str(out)
            )
        _check(rpc, addresses, confirmations)
    else:
        if key is None:
            raise ConfigError(
                "name the key file of the account that pays with --key, or try --dry-run", field="key"
            )
        addresses = deploy_contracts(
            rpc,
            load_key(key, passphrase_file=passphrase_file),
            guardian=who,
            test_token=test_token,
            timeout_seconds=RPC_SECONDS,
            confirmations=confirmations,
            outbox=outbox,
            tell=_tell,
        )
        addresses.write(out)
    for name in OUTBOX_FILES:
        outbox.with_name(outbox.name + name).unlink(missing_ok=True)
    write_bundle(addresses, out.with_name(out.name + ".verification"))
    text = (
        f"ComputeAccess is at {addresses.compute_access} on chain {addresses.chain_id}. Its code, and that of Registry and "
        f"UsageLog, is this version's. Addresses are in {out}, and for block explorers in {out}.verification."
    )
    _print(asdict(addresses), text, as_json)


@app.command()
def check(
    deployment: Deployment,
    rpc: RpcUrl = DEV_RPC,
    confirmations: Confirmations = None,
    as_json: AsJson = False,
) -> None:
    """Checks that the code on chain is byte for byte this version's, and shows who may pause it and which fee it takes."""
    path = Path(deployment)
    if path.exists():
        chain = _check(rpc, read_addresses(path), confirmations)
    else:
        chain = _connect(rpc, deployment, confirmations)
    settings, artefact = chain.settings(), interface("ComputeAccess")
    values = {
        "chain_id": chain.chain_id,
        "compute_access": chain.compute_access,
        "registry": chain.registry,
        "usage_log": chain.usage_log,
        "deployment_block": chain.deployment_block,
        **asdict(settings),
        "compiler": artefact.compiler,
        "sources_sha256": artefact.sources_sha256,
    }
    nobody = settings.guardian == ZERO_ADDRESS
    guardian = (
        "nobody can pause it or set a fee" if nobody else f"{settings.guardian} may pause it and set a fee"
    )
    text = (
        f"The code of ComputeAccess {chain.compute_access}, Registry {chain.registry} and UsageLog {chain.usage_log} is this "
        f"version's; {guardian}. The fee is {settings.fee_bps / 100:g} %; new jobs are "
        f"{'stopped' if settings.paused else 'taken'}."
    )
    _print(values, text, as_json)


@app.command()
def push(
    job_id: Annotated[
        str, typer.Argument(help="Id of the job: 0x and 64 hexadecimal digits.", metavar="JOB_ID")
    ],
    deployment: Deployment,
    key: Annotated[
        Path | None,
        typer.Option(help="Key file of the account that pays the gas; anybody's. A dry run needs none."),
    ] = None,
    rpc: RpcUrl = DEV_RPC,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing: show what is due.")] = False,
    passphrase_file: PassphraseFile = None,
    confirmations: Confirmations = None,
    as_json: AsJson = False,
) -> None:
    """Pushes on the legs of a job whose time is over: releases, expires, settles or refunds them, as anyone may."""
    job = from_hex32(job_id, "job_id")
    path = Path(deployment)
    chain = _connect(rpc, read_addresses(path).compute_access if path.exists() else deployment, confirmations)
    steps = list(due_steps(chain, job))
    if steps and not dry_run and key is None:
        raise ConfigError(
            "name the key file of the account that pays with --key, or try --dry-run", field="key"
        )
    sender = None if key is None or dry_run else Sender(chain, load_key(key, passphrase_file=passphrase_file))
    done = []
    for step in steps:
        sent = None if sender is None else step.take(sender)
        done.append(
            {
                "dataset_id": step.leg.dataset_id,
                "step": step.name,
                "state": step.to.name,
                "transaction": None if sent is None else to_hex(sent.hash),
            }
        )
        verb = "is due for" if sent is None else "was sent for"
        _tell(f"{step.name} {verb} the leg of dataset {step.leg.dataset_id}")
    _print({"job_id": job_id, "steps": done}, f"{len(done)} legs." if done else "Nothing is due.", as_json)


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
    ] = DEV_RPC,
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


def _guardian(text: str, key: Path | None) -> str | None:
    """Whom ``--guardian`` names; None: the account that pays, where its address is not known yet."""
    if text == "none":
        return ZERO_ADDRESS
    if text == "deployer":
        return None if key is None else key_address(key)
    return address(text, "guardian")


def _rehearse(rpc_url: str, guardian: str | None, key: Path | None, outbox: Path, as_json: bool) -> None:
    rpc = Rpc(rpc_url, RPC_SECONDS)
    rehearsal = rehearse(rpc, guardian or PERFORMER)
    lines = [f"{contract:14}{gas:>10,} gas" for contract, gas in rehearsal.gas.items()]
    lines.append(
        f"{'together':14}{rehearsal.total_gas:>10,} gas, at present {rehearsal.cost_wei / 10**18:.6f} of the chain's coin"
    )
    values: dict[str, Any] = {
        "chain_id": rpc.chain_id(),
        "gas": rehearsal.gas,
        "total_gas": rehearsal.total_gas,
        "gas_price_wei": str(rehearsal.gas_price_wei),
        "cost_wei": str(rehearsal.cost_wei),
    }
    payer = None if key is None else key_address(key)
    if payer is not None:
        balance_wei = rpc.balance_wei(payer)
        values |= {"payer": payer, "balance_wei": str(balance_wei)}
        lines.append(f"{payer} has {balance_wei / 10**18:.6f}; keep three times the cost in hand.")
    if payer is not None and not outbox.exists():  # else the addresses are those of what was sent already
        planned = creations(payer, rpc.nonce(payer, "pending"), guardian or payer)
        values["addresses"] = {one.contract: one.address for one in planned}
        lines.append("Unless the account sends something else before, the addresses will be:")
        lines += [f"{one.contract:14}{one.address}" for one in planned]
    lines.append("Nothing was sent. On a rollup, a fee for the data comes on top.")
    _print(values, "\n".join(lines), as_json)


def _connect(rpc: str, compute_access: str, confirmations: int | None) -> Chain:
    return Chain.connect(rpc, compute_access, timeout_seconds=RPC_SECONDS, confirmations=confirmations)


def _check(rpc: str, addresses: Addresses, confirmations: int | None) -> Chain:
    """Connects, which compares the code, and compares what the addresses file says besides."""
    chain = _connect(rpc, addresses.compute_access, confirmations)
    found = (chain.chain_id, chain.registry, chain.usage_log, chain.deployment_block)
    if found != (addresses.chain_id, addresses.registry, addresses.usage_log, addresses.deployment_block):
        raise ConfigError(
            "the addresses file names another chain, Registry, UsageLog or block than ComputeAccess does; check the RPC URL, "
            "or write another file with --out"
        )
    return chain


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _print(values: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
