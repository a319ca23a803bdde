"""``usufruct builder``: find datasets, ask for prices, train, resume. Thin: everything is in the SDK."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usufruct.builder.datasets import Dataset
from usufruct.builder.job_file import JobFile, build_model, read_job_file, read_validation_csv
from usufruct.builder.network import Network, connect
from usufruct.builder.resuming import resume as resume_job
from usufruct.builder.store import JobStore
from usufruct.errors import InvalidInput

if TYPE_CHECKING:
    from usufruct.builder.job import JobHandle
    from usufruct.builder.proposal import LegStatus

app = typer.Typer(no_args_is_help=True, help="For model builders: find datasets, train, resume.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File with the key's passphrase.")]
File = Annotated[Path, typer.Argument(help="Job file (TOML); docs/model_builder.md has an example.")]
JobId = Annotated[str, typer.Argument(help="The job's id, 0x…")]


@app.command()
def datasets(
    rpc: Annotated[
        str,
        typer.Option(
            envvar="USUFRUCT_RPC",
            help="JSON-RPC URL of the chain; several that must agree have spaces between.",
        ),
    ],
    contract: Annotated[str, typer.Option(envvar="USUFRUCT_CONTRACT", help="Address of ComputeAccess.")],
    task: Annotated[str | None, typer.Option(help="Only datasets for this task.")] = None,
    confirmations: Annotated[
        int | None, typer.Option(min=0, help="Blocks that make final, where the chain has no such tag.")
    ] = None,
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
    network, chosen = _connect(job, passphrase_file)
    offer = network.quote(
        build_model(job, chosen[0].card),
        chosen,
        privacy=job.privacy,
        rounds=job.rounds,
        optimizer=job.optimizer,
        loss=job.loss,
        spare_attempts=job.options.get("spare_attempts"),
    )
    if as_json:
        _print({**asdict(offer), "epsilon": offer.epsilon})
        return
    for leg in offer.legs:
        typer.echo(
            f"dataset {leg.dataset_id} ({leg.name}): price {leg.price_units}, epsilon {leg.epsilon:.3f}"
        )
    for token, units in offer.price_units.items():
        typer.echo(
            f"in all: {units} of {token}, about {offer.gas} gas, noise multiplier {offer.noise_multiplier:.4f}"
        )


@app.command()
def submit(
    file: File,
    output: Annotated[Path, typer.Option(help="Where to write the trained weights (safetensors).")] = Path(
        "model.safetensors"
    ),
    grant_timeout_seconds: Annotated[
        float, typer.Option(help="How long to wait for holders to decide.")
    ] = 600.0,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Propose a job, wait for the grants, open it, run all rounds, write the weights."""
    job = read_job_file(file)
    network, chosen = _connect(job, passphrase_file)
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
    state, record = store.state(), store.record()
    if state.phase == "proposed":
        network = connect(
            record.rpc_url,
            contract=record.compute_access,
            key=record.key_path,
            passphrase_file=passphrase_file,
            confirmations=record.confirmations,
        )
        proposal = network.proposal(job)
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
        paid = "paid" if leg_fields["acknowledged"] else f"not paid: {'; '.join(leg_fields['findings'])}"
        typer.echo(f"dataset {leg_fields['dataset_id']}: {leg_fields['price_units']} {paid}")


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
    """Go on with a job of this machine at its next round."""
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
    output.write_bytes(pack_weights(handle.model))
    fields = {
        "job_id": handle.id,
        "rounds": handle.rounds_done,
        "epsilon": handle.epsilon,
        "paid": handle.paid,
        "gas_used": handle.gas_used,
        "ended_early": handle.ended_early,
        "weights": str(output),
        "findings": [finding for leg in handle.receipts for finding in leg.findings],
    }
    if as_json:
        _print(fields)
    else:
        typer.echo(
            f"done: {fields['rounds']} rounds, epsilon {fields['epsilon']:.3f}, paid {fields['paid']}; weights in {output}"
        )
        for text in [fields["ended_early"], *fields["findings"]]:  # type: ignore[misc]
            if text:
                typer.echo(f"note: {text}")


def _dataset_fields(dataset: Dataset) -> dict[str, Any]:
    fields = asdict(dataset)
    for name in ("card", "card_hash", "fingerprint"):
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
