"""``usufruct builder``: find datasets, ask for prices, train, resume. Thin: everything is in the SDK."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usufruct.builder.book import JobBook
from usufruct.builder.datasets import Dataset
from usufruct.builder.disputes import acknowledge_leg, dispute_leg
from usufruct.builder.ending import cancel_job
from usufruct.builder.job_file import JobFile, build_model, read_job_file, read_validation_csv
from usufruct.builder.network import Network, connect
from usufruct.builder.results import LegResult, read_leg_result, write_leg_result
from usufruct.builder.resuming import network_of
from usufruct.builder.resuming import resume as resume_job
from usufruct.builder.store import JobStore
from usufruct.domain import ids
from usufruct.errors import InvalidInput

if TYPE_CHECKING:
    from usufruct.builder.job import JobHandle
    from usufruct.builder.proposal import LegStatus
    from usufruct.builder.quote import Quote

app = typer.Typer(no_args_is_help=True, help="For model builders: find datasets, train, resume.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File with the key's passphrase.")]
File = Annotated[Path, typer.Argument(help="Job file (TOML); docs/model_builder.md has an example.")]
Rpc = Annotated[
    str,
    typer.Option(
        envvar="USUFRUCT_RPC", help="JSON-RPC URL of the chain; several that must agree have spaces between."
    ),
]
Contract = Annotated[str, typer.Option(envvar="USUFRUCT_CONTRACT", help="Address of ComputeAccess.")]
Confirmations = Annotated[
    int | None, typer.Option(min=0, help="Blocks that make final, where the chain has no such tag.")
]
JobId = Annotated[str, typer.Argument(help="The job's id, 0x…")]


@app.command()
def datasets(
    rpc: Rpc,
    contract: Contract,
    task: Annotated[str | None, typer.Option(help="Only datasets for this task.")] = None,
    confirmations: Confirmations = None,
    as_json: Json = False,
) -> None:
    """List the datasets on offer: task, price, privacy budget left. Needs no key."""
    found = connect(rpc, contract=contract, confirmations=confirmations).datasets(task=task)
    if as_json:
        for dataset in found:
            _print(_dataset_fields(dataset))
        for gone in found.unreachable:
            _print(asdict(gone))
        return
    for dataset in found:
        typer.echo(
            f"{dataset.id:>5}  {dataset.name}  ({dataset.task})  about {dataset.nominal_size} rows, price "
            f"{dataset.price_units}, epsilon up to {dataset.budget_left_epsilon:.2f} for one job, at least {dataset.min_cohort} "
            f"holders, {dataset.endpoint}"
        )
    for gone in found.unreachable:
        typer.echo(f"{gone.dataset_id:>5}  cannot be listed: {gone.reason} at {gone.endpoint}")
    if not found:
        typer.echo("No dataset for this task.")


@app.command()
def quote(file: File, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Say what a job would cost: price, privacy loss, gas. Asks no holder and changes nothing."""
    job = read_job_file(file)
    offer = _quote(job, *_connect(job, passphrase_file))
    if as_json:
        _print(offer.to_json())
    else:
        typer.echo("\n".join(offer.lines()))


@app.command()
def submit(
    file: File,
    output: Annotated[Path, typer.Option(help="Where to write the trained weights (safetensors).")] = Path(
        "model.safetensors"
    ),
    grant_timeout_seconds: Annotated[
        float, typer.Option(help="How long to wait for holders to decide.")
    ] = 600.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask at a terminal.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Say what a job costs, propose it, wait for the grants, open it, run all rounds, write the weights or say the answer."""
    job = read_job_file(file)
    network, chosen = _connect(job, passphrase_file)
    offer = _quote(job, network, chosen)
    if as_json:
        _print({"quote": offer.to_json()})
    else:
        typer.echo("\n".join(offer.lines()))
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm("Propose and open this job?", abort=True, err=True)
    card = chosen[0].card
    handle = network.train(
        build_model(job, card),
        chosen,
        aggregator=job.aggregator,
        loss=job.loss,
        optimizer=job.optimizer,
        privacy=job.privacy,
        rounds=job.rounds,
        validation=read_validation_csv(job.validation, card) if job.validation else None,
        grant_timeout_seconds=grant_timeout_seconds,
        question=job.question,
        **job.options,
    )
    _run(handle, output, as_json)


@app.command()
def watch(
    job: JobId,
    timeout_seconds: Annotated[
        float, typer.Option(help="How long to wait for undecided holders; 0 asks once.")
    ] = 0.0,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Show how a job of this machine stands: holders' answers, rounds, epsilon, payments."""
    store = JobStore.find(job)
    state = store.state()
    if state.phase == "proposed":
        proposal = network_of(store, passphrase_file=passphrase_file).proposal(job)
        status = proposal.wait(timeout_seconds) if timeout_seconds > 0 else proposal.status()
        for leg in status:
            _print(_leg_fields(leg)) if as_json else typer.echo(_leg_line(leg))
        return
    fields: dict[str, Any] = {
        "job_id": job,
        "phase": state.phase,
        "rounds_done": state.rounds_done,
        "attempts_used": state.next_attempt - 1,
        "epsilon": state.history[-1]["epsilon"] if state.history else 0.0,
        "gas_used": state.gas_used,
        "ended_early": state.ended_early,
        "legs": list(state.legs.values()),
    }
    if as_json:
        _print(fields)
        return
    typer.echo(
        f"{state.phase}: {state.rounds_done} rounds, {fields['attempts_used']} attempts, epsilon {fields['epsilon']:.3f}"
    )
    for leg_fields in state.legs.values():
        typer.echo(_result_line(read_leg_result(leg_fields)))


@app.command()
def cancel(job: JobId, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Call a job off: what is locked comes back, what has been charged is delivered and paid. Repeat it at will."""
    store = JobStore.find(job)
    network = network_of(store, passphrase_file=passphrase_file)
    book = JobBook(network, store)
    try:
        departure = cancel_job(book, lambda text: typer.echo(text, err=True))
    finally:
        book.unlock()
    if as_json:
        _print(departure.to_json())
        return
    for leg in (*departure.results, *departure.pending):
        typer.echo(str(leg))
    for token, units in departure.refunded_units.items():
        typer.echo(
            f"back in the deposit: {units} of {token}; `usufruct builder withdraw` moves it to the wallet"
        )


@app.command()
def dispute(
    job: JobId,
    dataset: Annotated[int, typer.Argument(help="Number of the dataset whose leg is disputed.")],
    reason: Annotated[str, typer.Option(help="Statement for the arbiter; only its hash goes on chain.")],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Have the job's arbiter decide about a delivered leg. Takes a bond, a tenth of its price, from the deposit."""
    store = JobStore.find(job)
    book = JobBook(network_of(store, passphrase_file=passphrase_file), store)
    try:
        disputed = dispute_leg(book, dataset, reason, lambda text: typer.echo(text, err=True))
    finally:
        book.unlock()
    if as_json:
        _print({**asdict(disputed), "reason_hash": ids.to_hex(disputed.reason_hash)})
    else:
        typer.echo(
            f"disputed: bond {disputed.bond_units}, arbiter {disputed.arbiter}, who has until {disputed.until_seconds} (UTC "
            f"seconds); show it the statement, whose hash is {ids.to_hex(disputed.reason_hash)}"
        )


@app.command()
def acknowledge(
    job: JobId,
    dataset: Annotated[int, typer.Argument(help="Number of the dataset whose leg is paid.")],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Pay a delivered leg whatever its findings."""
    store = JobStore.find(job)
    book = JobBook(network_of(store, passphrase_file=passphrase_file), store)
    try:
        result = acknowledge_leg(book, dataset, lambda text: typer.echo(text, err=True))
    finally:
        book.unlock()
    if as_json:
        _print(write_leg_result(result))
    else:
        typer.echo(_result_line(result))


@app.command()
def withdraw(
    units: Annotated[int, typer.Argument(min=1, help="How much, in the token's smallest unit.")],
    rpc: Rpc,
    contract: Contract,
    key: Annotated[Path, typer.Option(envvar="USUFRUCT_KEY", help="The builder's key file.")],
    token: Annotated[str | None, typer.Option(help="Address of the token, where there are several.")] = None,
    confirmations: Confirmations = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Move money from the deposit back to the wallet."""
    network = connect(
        rpc, contract=contract, key=key, passphrase_file=passphrase_file, confirmations=confirmations
    )
    network.withdraw(units, token)
    left = network.balance()
    if as_json:
        _print({"withdrawn": units, "deposits": left.deposits, "wallet": left.wallet})
    else:
        for address, deposited in left.deposits.items():
            typer.echo(f"{address}: {deposited} deposited, {left.wallet[address]} in the wallet")


@app.command()
def resume(
    job: JobId,
    output: Annotated[Path, typer.Option(help="Where to write the trained weights (safetensors).")] = Path(
        "model.safetensors"
    ),
    rpc: Annotated[str | None, typer.Option(help="JSON-RPC endpoint, where it is another one now.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key file, where it is another one now.")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Go on with a job of this machine where it was: acceptance, rounds, delivery, or getting back what can come back."""
    _run(resume_job(job, rpc_url=rpc, key=key, passphrase_file=passphrase_file), output, as_json)


def _connect(job: JobFile, passphrase_file: Path | None) -> tuple[Network, list[Dataset]]:
    network = connect(
        job.rpc,
        contract=job.contract,
        key=job.key,
        passphrase_file=passphrase_file or job.passphrase_file,
        confirmations=job.confirmations,
    )
    chosen = network.datasets(task=job.task, ids=job.datasets)
    if not chosen:
        raise InvalidInput(
            "No dataset is on offer for this job file; `usufruct builder datasets` lists what there is.",
            field="data",
        )
    return network, list(chosen)


def _quote(job: JobFile, network: Network, chosen: list[Dataset]) -> Quote:
    return network.quote(
        build_model(job, chosen[0].card),
        chosen,
        privacy=job.privacy,
        rounds=job.rounds,
        optimizer=job.optimizer,
        loss=job.loss,
        question=job.question,
        **job.options,
    )


def _run(handle: JobHandle, output: Path, as_json: bool) -> None:
    from usufruct.graph import pack_weights

    typer.echo(f"job {handle.id}", err=True)
    for result in handle:
        if as_json:
            _print(asdict(result))
        else:
            loss = "" if result.validation_loss is None else f"  validation loss {result.validation_loss:.4f}"
            accuracy = (
                "" if result.validation_accuracy is None else f"  accuracy {result.validation_accuracy:.4f}"
            )
            typer.echo(f"round {result.index}  epsilon {result.epsilon:.3f}{loss}{accuracy}")
    found = handle.result
    trained = bool(handle.rounds_done) and handle.spec.query is None
    if trained:
        output.write_bytes(pack_weights(handle.model))
    fields = {
        "job_id": handle.id,
        "phase": "finished" if handle.finished else "cancelled" if handle.cancelled else "under way",
        "rounds": handle.rounds_done,
        "epsilon": max((leg.epsilon for leg in handle.legs), default=0.0),
        "paid": handle.paid,
        "refunded": handle.refunded,
        "gas_used": handle.gas_used,
        "ended_early": handle.ended_early,
        "weights": str(output) if trained else "",
        "result": None if found is None else found.to_json(),
        "legs": [write_leg_result(leg) for leg in handle.legs],
        "findings": [finding for leg in handle.receipts for finding in leg.findings],
    }
    if as_json:
        _print(fields)
        return
    if found is not None:
        typer.echo(str(found))
    where = f"; weights in {output}" if trained else ""
    typer.echo(
        f"{fields['phase']}: {fields['rounds']} rounds, epsilon {fields['epsilon']:.3f} spent, paid {fields['paid']}, back "
        f"{fields['refunded']}{where}"
    )
    if handle.ended_early:
        typer.echo(f"note: {handle.ended_early}")
    for leg in handle.legs:
        typer.echo(_result_line(leg))


def _result_line(leg: LegResult) -> str:
    return f"{leg}{''.join(f'; finding: {finding}' for finding in leg.findings)}"


def _dataset_fields(dataset: Dataset) -> dict[str, Any]:
    fields = asdict(dataset)
    for name in ("card", "card_hash", "policy", "fingerprint"):
        del fields[name]
    return {
        **fields,
        "name": dataset.name,
        "task": dataset.task,
        "nominal_size": dataset.nominal_size,
        "epsilon_left": dataset.budget_left_epsilon,
    }


def _leg_fields(leg: LegStatus) -> dict[str, Any]:
    return {name: getattr(leg, name) for name in ("dataset_id", "endpoint", "state", "reason", "text")}


def _leg_line(leg: LegStatus) -> str:
    return f"dataset {leg.dataset_id} at {leg.endpoint}: {leg.state.lower()}{' – ' + leg.text if leg.text else ''}"


def _print(fields: dict[str, Any]) -> None:
    typer.echo(json.dumps(fields, default=str))
