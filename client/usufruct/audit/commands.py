"""``usufruct audit``: every use, and whether the books agree. Needs a JSON-RPC URL and nothing of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from usufruct.audit.evidence import Evidence
    from usufruct.chain import Chain

app = typer.Typer(no_args_is_help=True, help="List every use, and verify the books against one another.")

Rpc = Annotated[
    str,
    typer.Option(
        "--rpc",
        envvar="USUFRUCT_RPC",
        help="JSON-RPC URL of the chain; several must agree.",
        show_default=False,
    ),
]
Contract = Annotated[
    str,
    typer.Option(
        "--contract", envvar="USUFRUCT_CONTRACT", help="Address of ComputeAccess.", show_default=False
    ),
]
Records = Annotated[
    Path | None,
    typer.Option(
        "--records", help="Take usage records from this folder (made by `audit fetch`), not from endpoints."
    ),
]
Confirmations = Annotated[
    int | None,
    typer.Option(
        "--confirmations",
        min=0,
        help="Blocks below the newest that count as final, where the chain has no such tag.",
    ),
]
Delta = Annotated[float, typer.Option("--delta", help="Delta at which losses are translated into epsilon.")]
Job = Annotated[str, typer.Option("--job", help="Show only this job: its id or the beginning of it.")]
Dataset = Annotated[int | None, typer.Option("--dataset", help="Show only this dataset.")]
Holder = Annotated[int | None, typer.Option("--holder", help="Show only this holder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@app.command()
def log(
    rpc: Rpc,
    contract: Contract,
    records: Records = None,
    confirmations: Confirmations = None,
    delta: Delta = 1e-5,
    job: Job = "",
    dataset: Dataset = None,
    holder: Holder = None,
    json_: Json = False,
) -> None:
    """Shows every job, leg, grant, loss, payment and refusal. Judges nothing; see `verify`."""
    from usufruct.audit import report, tables
    from usufruct.audit.reconcile import judge
    from usufruct.privacy.conversion import checked_delta

    delta = checked_delta(delta)
    evidence = _collect(rpc, contract, records, confirmations)
    judgement = judge(evidence)
    rows = report.log_as_dict(evidence, judgement, delta, report.Only(job, dataset, holder))
    if json_:
        typer.echo(json.dumps(rows))
        return
    out = tables.console()
    tables.print_log(out, rows, delta)
    tables.print_budgets(out, rows["datasets"], delta)
    if not judgement.verified:
        found = len(judgement.discrepancies)
        typer.echo(
            f"The books do not agree ({found} finding{'s'[: found != 1]}): run `usufruct audit verify`.",
            err=True,
        )


@app.command()
def verify(
    rpc: Rpc,
    contract: Contract,
    records: Records = None,
    confirmations: Confirmations = None,
    delta: Delta = 1e-5,
    job: Job = "",
    dataset: Dataset = None,
    holder: Holder = None,
    json_: Json = False,
) -> None:
    """Checks events against storage, records against roots, recomputes every loss, compares with budgets and payments.

    Ends in a verdict in words. Exits with 1 if anything differs or could not be had. --job, --dataset and --holder limit
    what is shown; all of it is checked, and the verdict is on all of it.
    """
    from usufruct.audit import report, tables
    from usufruct.audit.reconcile import judge
    from usufruct.privacy.conversion import checked_delta

    delta = checked_delta(delta)
    evidence = _collect(rpc, contract, records, confirmations)
    judgement, only = judge(evidence), report.Only(job, dataset, holder)
    if json_:
        typer.echo(json.dumps(report.as_dict(evidence, judgement, delta, only)))
    else:
        out = tables.console()
        tables.print_budgets(out, only.of(report.budgets(evidence, delta)), delta)
        tables.print_verdict(out, judgement, only)
    if not judgement.verified:
        raise typer.Exit(1)


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(help="Where to write the records, one file per holder.")],
    rpc: Rpc,
    contract: Contract,
    confirmations: Confirmations = None,
    holder: Annotated[
        int | None, typer.Option("--holder", help="Keep only the records of this holder.")
    ] = None,
    json_: Json = False,
) -> None:
    """Keeps the holders' usage records in a folder, so that `log` and `verify` work when endpoints are gone."""
    from usufruct.audit.record_files import write_records

    evidence = _collect(rpc, contract, None, confirmations)
    written, failed = {}, {}
    for holder_id, holder_records in sorted(evidence.records.items()):
        if holder not in (None, holder_id):
            continue
        if holder_records.problems:
            failed[holder_id] = holder_records.problems[0].text
        if holder_records.records or not holder_records.problems:
            path = write_records(folder, evidence.chain_id, evidence.usage_log, holder_records)
            written[str(path)] = len(holder_records.records)
    if json_:
        typer.echo(json.dumps({"written": written, "failed": failed}))
    else:
        for name, count in written.items():
            typer.echo(f"{name}: {count} record{'s'[: count != 1]}")
        for holder_id, text in failed.items():
            typer.echo(f"holder {holder_id}: {text}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def call(
    holder: Annotated[int, typer.Argument(help="The holder's number on chain.")],
    record: Annotated[int, typer.Argument(help="The usage record's number in the holder's log.")],
    rpc: Rpc,
    contract: Contract,
    key: Annotated[
        Path, typer.Option("--key", help="Keystore file of an account that pays for the transaction.")
    ],
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="Its first line opens the key; without it you are asked."),
    ] = None,
    record_silence: Annotated[
        bool, typer.Option("--record-silence", help="Record that an earlier call was not answered in time.")
    ] = False,
    confirmations: Confirmations = None,
    json_: Json = False,
) -> None:
    """Calls, on chain, for a record that its holder does not show. It has 3 days; after that its silence can be recorded."""
    from usufruct.audit.report import utc
    from usufruct.chain import Chain, Sender, load_key

    chain = Chain.connect(rpc, contract, confirmations=confirmations)
    sender = Sender(chain, load_key(key, passphrase_file=passphrase_file))
    if record_silence:
        _require_due(chain, holder, record)
        receipt = sender.record_silence(holder, record)
    else:
        receipt = sender.call_record(holder, record)
    chain.wait_final(receipt.block_number, lambda text: typer.echo(text, err=True))
    stands = chain.record_call(holder, record)
    answer = {
        "holder_id": holder, "record": record, "state": stands.state.name, "gas": receipt.gas_used,
        "answer_by_seconds": stands.answer_by_seconds, "transaction": "0x" + receipt.hash.hex(),
    }  # fmt: skip
    if json_:
        typer.echo(json.dumps(answer))
    else:
        until = (
            f", to be answered by {utc(stands.answer_by_seconds)} UTC" if stands.state.name == "OPEN" else ""
        )
        typer.echo(
            f"holder {holder}, record {record}: {stands.state.name.lower()}{until} ({receipt.gas_used} gas)"
        )


def _require_due(chain: Chain, holder: int, record: int) -> None:
    """Silence can be recorded of a call that was made, and that its holder had the time to answer."""
    from usufruct.audit.report import utc
    from usufruct.chain import CallState
    from usufruct.errors import AuditError

    stands = chain.record_call(holder, record)
    if stands.state in (CallState.NONE, CallState.ANSWERED):
        why = "was not called for" if stands.state is CallState.NONE else "was shown on chain"
        raise AuditError(
            f"record {record} of holder {holder} {why}: there is no silence to record", field="record"
        )
    if stands.state is CallState.OPEN and chain.block_time_seconds() <= stands.answer_by_seconds:
        raise AuditError(
            f"holder {holder} has until {utc(stands.answer_by_seconds)} UTC to show record {record}; ask again after that",
            field="record",
        )


def _collect(rpc: str, contract: str, records: Path | None, confirmations: int | None) -> Evidence:
    """Collects, and says on a terminal what is being read."""
    from rich.console import Console

    from usufruct.audit.collection import collect

    errors = Console(stderr=True)
    if not errors.is_terminal:
        return collect(rpc, contract, records, confirmations=confirmations)
    with errors.status("connecting to the chain") as status:
        return collect(rpc, contract, records, confirmations=confirmations, progress=status.update)
