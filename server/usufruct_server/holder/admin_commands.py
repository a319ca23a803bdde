"""``usufruct holder revoke|retire|earnings|withdraw|payout``: what the admin key does on chain after registering."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usufruct.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from usufruct.chain import Chain, Sender
    from usufruct.domain.grant import SignedGrant
    from usufruct_server.holder.config import HolderConfig

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The holder's configuration file.")]
_HOLDER_TOML = Path("holder.toml")


@app.command()
def revoke(
    everything: Annotated[bool, typer.Option("--all", help="Every grant that was signed up to now.")] = False,
    grant: Annotated[
        str | None, typer.Option(help="One grant: its EIP-712 hash, or the first digits of it.")
    ] = None,
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Withdraws grants on chain: no job is opened on them, and running jobs get no further round."""
    if everything == (grant is not None):
        raise InvalidInput("Say which: --all, or --grant HASH.", field="grant")
    settings, chain, holder_id = _opened(config)
    if grant is None:
        with _admin(settings, chain) as sender:
            sent = sender.revoke_grants(holder_id)
        values: dict[str, Any] = {"revoked": "all", "transaction": "0x" + sent.hash.hex()}
        text = "Every grant that was signed up to now is withdrawn."
    else:
        hash_, signed = _granted(settings, grant)
        with _admin(settings, chain) as sender:
            sent = sender.cancel_grant(signed)
        values = {"revoked": "0x" + hash_.hex(), "transaction": "0x" + sent.hash.hex()}
        text = f"Grant 0x{hash_.hex()} is withdrawn."
    chain.wait_final(sent.block_number, _tell)
    _print(values, f"{text} What was charged before stays charged, and is still paid for.", as_json)


@app.command()
def retire(
    dataset: Annotated[int, typer.Argument(help="Number of the dataset.")],
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Gives a dataset up, for good: no job is opened on it any more. Running jobs end as they would."""
    settings, chain, _ = _opened(config)
    with _admin(settings, chain) as sender:
        sent = sender.retire_dataset(dataset)
    chain.wait_final(sent.block_number, _tell)
    _print(
        {"retired": dataset, "transaction": "0x" + sent.hash.hex()},
        f"Dataset {dataset} is retired. Take it out of {settings.path.name} when its last job has ended.",
        as_json,
    )


@app.command()
def earnings(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Shows what was earned and not withdrawn, by token, and where it would go."""
    settings, chain, holder_id = _opened(config)
    holder = chain.holder(holder_id)
    rows = [
        {"token": token, "units": str(chain.earnings_of(token, holder_id))} for token in _tokens(settings)
    ]
    lines = [f"{row['units']} units of {row['token']}" for row in rows]
    _print(
        {"holder_id": holder_id, "earnings": rows, "payout": holder.payout},
        "\n".join([*lines, f"`usufruct holder withdraw` sends it to {holder.payout}."]),
        as_json,
    )


@app.command()
def withdraw(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Sends everything that was earned to the payout address."""
    settings, chain, holder_id = _opened(config)
    payout = chain.holder(holder_id).payout
    rows: list[dict[str, str]] = []
    with _admin(settings, chain) as sender:
        for token in _tokens(settings):
            units = chain.earnings_of(token, holder_id)
            if units:
                sent = sender.withdraw_earnings(token, holder_id)
                rows.append({"token": token, "units": str(units), "transaction": "0x" + sent.hash.hex()})
    lines = [f"{row['units']} units of {row['token']} sent to {payout}" for row in rows]
    _print(
        {"holder_id": holder_id, "withdrawn": rows, "payout": payout},
        "\n".join(lines) or "There is nothing to withdraw.",
        as_json,
    )


@app.command()
def payout(
    address: Annotated[str | None, typer.Argument(help="The address that earnings are to go to.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make the change that was announced 48 hours ago.")
    ] = False,
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Announces another payout address, which --apply puts in place 48 hours later; alone, shows how it stands."""
    from usufruct.domain import ids

    settings, chain, holder_id = _opened(config)
    wanted = ids.address(address, "address") if address else None
    holder = chain.holder(holder_id)
    announced = holder.next_payout if holder.payout_from_seconds else None
    if apply:
        if announced is None or wanted not in (None, announced):
            raise ConfigError(
                "No such change was announced; announce it first: `usufruct holder payout ADDRESS`."
            )
        with _admin(settings, chain) as sender:
            sent = sender.apply_payout(holder_id)
        chain.wait_final(sent.block_number, _tell)
    elif wanted not in (None, announced or holder.payout):
        with _admin(settings, chain) as sender:
            sent = sender.schedule_payout(holder_id, str(wanted))
        chain.wait_final(sent.block_number, _tell)
    holder = chain.holder(holder_id)
    text = f"Earnings go to {holder.payout}."
    if holder.payout_from_seconds:
        text += (
            f" {holder.next_payout} is announced; from {holder.payout_from_seconds} (UTC seconds) on "
            "`usufruct holder payout --apply` puts it in place."
        )
    _print(
        {
            "payout": holder.payout, "next_payout": holder.next_payout if holder.payout_from_seconds else None,
            "from_seconds": holder.payout_from_seconds or None,
        },
        text, as_json,
    )  # fmt: skip


# -- inside -----------------------------------------------------------------------------------------------------


def _opened(config: Path) -> tuple[HolderConfig, Chain, int]:
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.opening import known_registration, open_chain

    settings = read_config(config)
    return settings, open_chain(settings), known_registration(settings).holder_id


@contextmanager
def _admin(settings: HolderConfig, chain: Chain) -> Iterator[Sender]:
    """The admin key's sender, after what an earlier command has left in its outbox was brought on."""
    from usufruct.chain import Sender
    from usufruct_server.holder.opening import open_admin

    sender = Sender(chain, open_admin(settings), settings.admin_outbox_path)
    try:
        sender.account.settle()
        yield sender
    finally:
        sender.close()


def _tokens(settings: HolderConfig) -> list[str]:
    return sorted({dataset.token for dataset in settings.datasets})


def _granted(settings: HolderConfig, digits: str) -> tuple[bytes, SignedGrant]:
    """The grant of this holder whose hash begins so."""
    from usufruct_server.holder.job_store import JobStore, ProposalStatus

    wanted = digits.lower().removeprefix("0x")
    store = JobStore(settings.jobs_path)
    try:
        found = {
            proposal.document_hash: proposal.signed_grant
            for proposal in store.proposals(ProposalStatus.GRANTED)
            if wanted and proposal.document_hash.hex().startswith(wanted)
        }
    finally:
        store.close()
    if len(found) != 1:
        raise InvalidInput(
            "Several grants begin with these digits; write more of them."
            if found
            else "No grant of this holder has such a hash; `usufruct holder inbox --all` shows them.",
            reason="NOT_FOUND",
            field="grant",
        )
    ((hash_, signed),) = found.items()
    assert signed is not None
    return hash_, signed


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _print(values: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
    sys.stdout.flush()
