"""``usufruct holder …``: for the people at a data holder."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usufruct.errors import CATALOGUE, ConfigError, InvalidInput
from usufruct_server.holder import admin_commands, base_model_commands, tokenizer_commands

if TYPE_CHECKING:
    from usufruct_server.holder.job_store import JobStore

app = typer.Typer(
    name="holder", help="For data holders: serve datasets, decide on proposals.", no_args_is_help=True
)
app.add_typer(admin_commands.app)
app.add_typer(base_model_commands.app)
app.add_typer(tokenizer_commands.app)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The holder's configuration file.")]
_HOLDER_TOML = Path("holder.toml")


@app.command()
def init(
    data: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet file to draft a dataset card for.")
    ] = None,
    directory: Annotated[Path, typer.Option(help="Where to write.")] = Path("."),
    name: Annotated[str, typer.Option(help="The holder's name.")] = "My hospital",
    listen: Annotated[str, typer.Option(help="host:port that the server will bind.")] = "127.0.0.1:7001",
    endpoint: Annotated[str | None, typer.Option(help="host:port where builders will reach it.")] = None,
    rpc: Annotated[str, typer.Option(help="The chain's JSON-RPC URL.")] = "http://127.0.0.1:8545",
    contract: Annotated[str | None, typer.Option(help="Address of ComputeAccess.")] = None,
    chain_id: Annotated[int | None, typer.Option(help="The chain's number.")] = None,
    token: Annotated[str | None, typer.Option(help="Address of the token that prices are in.")] = None,
    generate_passphrases: Annotated[
        bool,
        typer.Option(
            "--generate-passphrases", help="Random passphrases in files of mode 0600; nothing is asked."
        ),
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Its first line becomes both keys' passphrase.")
    ] = None,
    light: Annotated[
        bool, typer.Option("--light", help="Weak key derivation, for demonstrations only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Makes keys, a TLS identity, and drafts of configuration and dataset card (names and kinds of columns only)."""
    from usufruct.chain.keys import new_passphrase
    from usufruct_server.holder.setup_files import Answers, write_files

    passphrases = None
    if not generate_passphrases:
        if passphrase_file is None and not sys.stdin.isatty():
            raise ConfigError(
                "Keys need a passphrase: run this at a terminal, or add --generate-passphrases or --passphrase-file.",
                reason="KEY_INVALID",
            )
        operator = new_passphrase(directory / "keys" / "operator.json", passphrase_file)
        admin = operator if passphrase_file else new_passphrase(directory / "keys" / "admin.json")
        passphrases = (operator, admin)
    answers = Answers(name, listen, endpoint, rpc, contract, chain_id, token)
    made = write_files(directory, data, answers, passphrases, light=light)
    _print(
        {
            "config": str(made.config), "card": str(made.card), "operator": made.operator, "admin": made.admin,
            "fingerprint": made.identity.fingerprint_text,
        },
        f"Wrote {made.config} and {made.card}.\n"
        f"Operator {made.operator}, admin {made.admin}, TLS key {made.identity.fingerprint_text}.\n"
        "Next: fill in every FILL-IN in both files, from what is known about the columns, never from the rows. Then\n"
        "`usufruct holder register`, `usufruct holder doctor`, `usufruct holder serve`.",
        as_json,
    )  # fmt: skip


@app.command()
def register(
    config: Config = _HOLDER_TOML,
    payout: Annotated[
        str | None, typer.Option(help="Address that earnings go to; the admin's unless named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Registers holder and datasets on chain with the admin key. Again: only what has changed."""
    from usufruct.domain.ids import address
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.opening import open_admin, open_chain
    from usufruct_server.holder.register import register as register_on_chain

    settings = read_config(config)
    steps: list[str] = []
    done = register_on_chain(
        settings,
        open_chain(settings),
        open_admin(settings),
        address(payout, "payout") if payout else None,
        steps.append,
    )
    lines = [f"- {step}" for step in steps] or ["Nothing to do: all is registered."]
    numbers = sorted(done.datasets.values())
    _print(
        {"holder_id": done.holder_id, "datasets": done.datasets, "steps": steps},
        "\n".join([*lines, f"Holder {done.holder_id}, datasets {numbers}."]),
        as_json,
    )


@app.command()
def doctor(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Checks keys, balances, clock, TLS, chain, disk, data and card; exits non-zero when anything is wrong."""
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.doctor import Doctor

    findings = []
    for finding in Doctor(read_config(config)).findings():
        findings.append(finding)
        if not as_json:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check}: {finding.text}")
    if as_json:
        typer.echo(json.dumps({"ok": all(f.ok for f in findings), "checks": [vars(f) for f in findings]}))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def serve(
    config: Config = _HOLDER_TOML,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serves the datasets until it is interrupted."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, stream=sys.stderr,
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
    )  # fmt: skip
    for chatty in ("urllib3", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.opening import open_operator
    from usufruct_server.holder.server import HolderServer
    from usufruct_server.holder.server import serve as serve_until_asked

    settings = read_config(config)
    server = HolderServer(settings, open_operator(settings), lambda text: typer.echo(text, err=True))

    def ready(port: int) -> None:
        fingerprint = server.identity.fingerprint_text
        numbers = [dataset.dataset_id for dataset in server.catalogue.all()]
        _print(
            {
                "event": "serving", "endpoint": settings.endpoint, "fingerprint": fingerprint, "port": port,
                "datasets": numbers,
            },
            f"{settings.name} serves datasets {numbers} at {settings.endpoint}#{fingerprint}. Ctrl-C ends it.",
            as_json,
        )  # fmt: skip

    serve_until_asked(server, ready)


@app.command()
def datasets(config: Config = _HOLDER_TOML, as_json: AsJson = False) -> None:
    """Lists the datasets with what is left of their budgets."""
    from usufruct_server.holder.catalogue import load_card
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.ledger import LedgerReader
    from usufruct_server.holder.registration import read_registration

    settings = read_config(config)
    known = read_registration(
        settings.registration_path, settings.chain.chain_id, settings.chain.compute_access
    )
    budgets = {}
    if settings.ledger_path.exists():
        with LedgerReader(settings.ledger_path) as ledger:
            budgets = ledger.datasets()
    rows: list[dict[str, Any]] = []
    for entry in settings.datasets:
        card = load_card(entry.card)
        number = entry.dataset_id or (known.dataset_id(card.hash) if known else None)
        budget = budgets.get(number) if number is not None else None
        rows.append(
            {
                "dataset_id": number, "name": card.card.name, "task": card.card.task, "card_hash": "0x" + card.hash.hex(),
                "price_units": str(entry.price_units), "order": entry.order, "cap_micro": entry.cap_micro,
                "reserved_micro": budget.reserved_micro if budget else 0, "spent_micro": budget.spent_micro if budget else 0,
            }
        )  # fmt: skip
    text = "\n".join(
        f"{row['dataset_id'] or 'not registered'}  {row['name']} ({row['task']}): of {row['cap_micro'] / 1e6:.3f} nat at order "
        f"{row['order']}, {row['reserved_micro'] / 1e6:.3f} reserved, {row['spent_micro'] / 1e6:.3f} spent"
        for row in rows
    )
    _print({"datasets": rows}, text or "No datasets are configured.", as_json)


@app.command()
def inbox(
    config: Config = _HOLDER_TOML,
    everything: Annotated[bool, typer.Option("--all", help="Decided proposals too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lists the proposals that wait for a decision."""
    from usufruct.domain.training_job import NoiseMode
    from usufruct.privacy import distributed_plan_of, epsilon
    from usufruct_server.holder.job_store import ProposalStatus

    store = _store(config)
    rows: list[dict[str, Any]] = []
    for proposal in store.proposals(None if everything else ProposalStatus.PENDING):
        spec = proposal.spec
        terms, loss = spec.leg(proposal.dataset_id), spec.reservation_micro(proposal.dataset_id)
        distributed = spec.plan.noise_mode is NoiseMode.DISTRIBUTED
        rows.append(
            {
                "job_id": "0x" + proposal.job_id.hex(), "dataset_id": proposal.dataset_id, "builder": proposal.builder,
                "state": proposal.state.value, "decision": proposal.decision, "reason": proposal.reason,
                "purpose": spec.purpose, "kind": spec.kind, "rounds": spec.plan.rounds, "spare_attempts": spec.plan.spare_attempts,
                "loss_micro": loss, "epsilon": round(epsilon(loss, terms.order, spec.plan.delta_pico / 1e12), 4),
                "noise": spec.plan.noise_mode.name.lower(),
                "promise": distributed_plan_of(spec, proposal.dataset_id).promise if distributed else "",
                "price_units": str(terms.price_units), "holders": len(spec.legs),
                "deliver_by_seconds": spec.deliver_by_seconds,
                "grant_hash": "0x" + proposal.document_hash.hex() if proposal.document_hash else None,
            }
        )  # fmt: skip
    text = "\n".join(
        f"{row['job_id']} dataset {row['dataset_id']}: {row['builder']} asks for {row['rounds']} rounds of {row['kind']} over {row['holders']} "
        f"holders, epsilon {row['epsilon']:.2f}, for {row['price_units']} units. Purpose: {row['purpose'] or '(none given)'}"
        + (f" Distributed noise: {row['promise']}." if row["promise"] else "")
        + (
            ""
            if row["state"] == "pending" and not row["decision"]
            else f" [{row['state']} {row['decision']}{row['reason']}{row['grant_hash'] or ''}]"
        )
        for row in rows
    )
    _print({"proposals": rows}, text or "The inbox is empty.", as_json)


JobArgument = Annotated[str, typer.Argument(help="Job id, or the first digits of it.")]
DatasetArgument = Annotated[int | None, typer.Argument(help="Dataset number, where a job is about several.")]


@app.command()
def grant(
    job: JobArgument, dataset: DatasetArgument = None, config: Config = _HOLDER_TOML, as_json: AsJson = False
) -> None:
    """Decides for a proposal in the inbox. The server signs the grant, if limits and budget still allow it."""
    _decide(job, dataset, config, "grant", "", as_json)


@app.command()
def refuse(
    job: JobArgument,
    dataset: DatasetArgument = None,
    reason: Annotated[
        str, typer.Option(help="For this holder's own records; the builder does not see it.")
    ] = "",
    config: Config = _HOLDER_TOML,
    as_json: AsJson = False,
) -> None:
    """Decides against a proposal in the inbox."""
    _decide(job, dataset, config, "refuse", reason, as_json)


@app.command()
def ledger(
    config: Config = _HOLDER_TOML,
    export: Annotated[
        Path | None, typer.Option(help="Write every row as a line of JSON into this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verifies the privacy ledger and shows what was reserved and spent."""
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.ledger import LedgerReader

    settings = read_config(config)
    if not settings.ledger_path.exists():
        raise ConfigError(
            f"{settings.ledger_path} is not there yet; the first `usufruct holder serve` makes it."
        )
    with LedgerReader(settings.ledger_path) as book:
        count, head = book.head()
        budgets = {
            number: {
                "cap_micro": b.cap_micro,
                "reserved_micro": b.reserved_micro,
                "spent_micro": b.spent_micro,
            }
            for number, b in book.datasets().items()
        }
        legs = [
            {
                "job_id": "0x" + leg.job_id.hex(), "dataset_id": leg.dataset_id, "state": leg.state.value,
                "attempts": leg.attempts, "charged": leg.charged, "reservation_micro": leg.reservation_micro,
            }
            for leg in book.jobs()
        ]  # fmt: skip
        if export is not None:
            try:
                with export.open("x", encoding="utf-8") as file:
                    book.export_json_lines(file)
            except OSError as error:
                raise ConfigError(f"{export} cannot be written: {error.strerror}.") from error
    lines = [f"{count} rows, all verified; head 0x{head.hex()}"]
    lines += [
        f"dataset {number}: {b['spent_micro'] / 1e6:.6f} nat spent, {b['reserved_micro'] / 1e6:.6f} reserved, "
        f"of {b['cap_micro'] / 1e6:.6f}"
        for number, b in budgets.items()
    ]
    lines += [
        f"job {leg['job_id']} dataset {leg['dataset_id']}: {leg['state']}, {leg['charged']} of {leg['attempts']} attempts charged"
        for leg in legs
    ]
    _print(
        {"rows": count, "head": "0x" + head.hex(), "datasets": budgets, "legs": legs},
        "\n".join(lines),
        as_json,
    )


# -- inside -----------------------------------------------------------------------------------------------------


def _store(config: Path) -> JobStore:
    from usufruct_server.holder.config import read_config
    from usufruct_server.holder.job_store import JobStore

    settings = read_config(config)
    if not settings.jobs_path.exists():
        raise ConfigError(
            f"{settings.jobs_path} is not there yet; the first `usufruct holder serve` makes it."
        )
    return JobStore(settings.jobs_path)


def _decide(job: str, dataset: int | None, config: Path, decision: str, note: str, as_json: bool) -> None:
    from usufruct_server.holder.job_store import ProposalStatus

    store = _store(config)
    wanted = job.lower().removeprefix("0x")
    found = [
        proposal
        for proposal in store.proposals(ProposalStatus.PENDING)
        if wanted and proposal.job_id.hex().startswith(wanted) and dataset in (None, proposal.dataset_id)
    ]
    if not found:
        raise InvalidInput(
            "No such proposal waits in the inbox; see `usufruct holder inbox`.", reason="NOT_FOUND"
        )
    if len({proposal.job_id for proposal in found}) > 1:
        raise InvalidInput("Several jobs begin with these digits; write more of them.", field="job")
    for proposal in found:
        store.decide(proposal.job_id, proposal.dataset_id, decision, note)
    numbers = [proposal.dataset_id for proposal in found]
    what = (
        "The server signs the grant when the builder next asks, if limits and budget still allow it."
        if decision == "grant"
        else f"The builder is told: {CATALOGUE['REFUSED_BY_HOLDER'].text}"
    )
    _print(
        {"job_id": "0x" + found[0].job_id.hex(), "datasets": numbers, "decision": decision},
        f"Noted for job 0x{found[0].job_id.hex()}, datasets {numbers}. {what}",
        as_json,
    )


def _print(values: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else text)
    sys.stdout.flush()
