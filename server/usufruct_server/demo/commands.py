"""``usufruct demo``: a whole network on this machine, one job over it, and what came out."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usufruct.errors import UsufructError

if TYPE_CHECKING:
    from usufruct_server.demo.network import LocalNetwork
    from usufruct_server.demo.report import Report
    from usufruct_server.demo.study import Study

app = typer.Typer(
    add_completion=False, help="Run a whole network on this machine and train over its hospitals."
)

WATCH_SECONDS = 1.0
"""How often a kept network looks whether all its processes are still there."""


@app.callback(invoke_without_command=True)
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Use the four real hospitals in this folder: processed.{cleveland,hungarian,switzerland,va}.data.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the network running afterwards, and say how to connect to it."),
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="STATE",
            help="Empty folder for keys, data, logs and the picture; by default a new one.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON at the end; all else goes to stderr.")
    ] = False,
) -> None:
    """Start a chain, data holders and an aggregator as real processes, train over them, audit it, and show the result."""
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(stderr=as_json, width=None if (sys.stderr if as_json else sys.stdout).isatty() else 120)
    place = Path(tempfile.mkdtemp(prefix="usufruct-demo-")) if directory is None else directory.absolute()
    try:
        _run(_study(data), place, keep, as_json, console, started)
    except KeyboardInterrupt:
        console.print("Interrupted. Every process of the demo has been stopped.")
        raise typer.Exit(130) from None
    except UsufructError as error:
        if error.reason == "INTERRUPTED":
            console.print("Interrupted. Every process of the demo has been stopped.")
            raise typer.Exit(130) from None
        if (place / "logs").is_dir():
            console.print(
                f"The logs of all processes are in {place / 'logs'}", soft_wrap=True, highlight=False
            )
        raise


def _run(study: Study, place: Path, keep: bool, as_json: bool, console: Console, started: float) -> None:
    from usufruct_server.demo import run, summary
    from usufruct_server.demo.network import LocalNetwork

    console.print(f"[bold]{study.title}[/bold]", highlight=False)
    with LocalNetwork(place, run.holder_setups(study), say=lambda text: run.say(console, text)) as network:
        report = run.run(study, network, console, started)
        commands = _next_while_kept(network) if keep else _next(study)
        summary.show(report, console, commands)
        if keep:
            _show_connection(study, network, console)
        if as_json:
            print(json.dumps(report.figures()), flush=True)
        if keep:
            _keep(network, console)
    _exit_if_not_verified(report)


def _study(data: Path | None) -> Study:
    if data is not None:
        from usufruct_server.demo import heart_disease

        return heart_disease.load(data)
    from usufruct_server.demo import breast_cancer

    return breast_cancer.load()


def _exit_if_not_verified(report: Report) -> None:
    if not report.audit.ok:
        raise UsufructError(report.audit.verdict, reason="AUDIT_FAILED")


def _next(study: Study) -> list[str]:
    other = (
        ["usufruct demo                 # three hospitals, breast masses"]
        if study.task == "heart-disease"
        else ["usufruct demo --data DIR      # four real hospitals: the UCI heart disease files in DIR"]
    )
    return [
        "usufruct demo --keep          # the same, and the network stays: connect to it from Python and shell",
        *other,
        "usufruct demo --json          # the figures, for a script",
        "usufruct holder init --help   # serve a table of your own",
    ]


def _next_while_kept(network: LocalNetwork) -> list[str]:
    where = f"--rpc {network.rpc_url} --contract {network.compute_access}"
    first = next(iter(network.places.values()))
    return [
        f"usufruct audit verify {where}",
        f"usufruct audit log {where}",
        f"usufruct builder datasets {where}",
        f"usufruct holder ledger --config {first.config}",
        "in the lines of Python below, ask for epsilon=3 again: too little budget is left, and the job is refused",
    ]


def _show_connection(study: Study, network: LocalNetwork, console: Console) -> None:
    """Lines that work as they stand, in Python and in a shell."""
    console.print("The network is running. In Python:", style="bold")
    console.print(python_lines(study, network), soft_wrap=True, highlight=False, markup=False)
    console.print("In a shell:", style="bold")
    console.print(shell_lines(network), soft_wrap=True, highlight=False, markup=False)
    console.print("To serve a table of your own beside them (docs/data_holder.md):", style="bold")
    console.print(holder_lines(network), soft_wrap=True, highlight=False, markup=False)


def python_lines(study: Study, network: LocalNetwork) -> str:
    """A second job on what is left of the budgets."""
    choice = study.choice
    return f"""
import torch
import usufruct as uf

network = uf.connect("{network.rpc_url}", contract="{network.compute_access}",
                     key="{network.builder_key}")
hospitals = network.datasets(task="{study.task}")
job = network.train(
    torch.nn.Linear({study.width}, 1), hospitals,
    aggregator="{network.aggregator}",
    loss="binary_cross_entropy_with_logits",
    optimizer=uf.SGD(lr={choice.learning_rate}, sample_rate={choice.sample_rate}),
    server_optimizer=uf.ServerSGD(momentum={choice.momentum}),
    privacy=uf.Privacy(epsilon={EPSILON_LEFT}, delta={choice.delta}, max_grad_norm={choice.max_grad_norm}),
    rounds={choice.rounds},
)
for r in job:
    print(r.index, r.epsilon, r.seconds)
torch.save(job.model.state_dict(), "model.pt")
"""


EPSILON_LEFT = 2.5
"""What a second job may still ask for: the budget is epsilon 4 for a lifetime, and losses add, not epsilons."""


def shell_lines(network: LocalNetwork) -> str:
    """The environment of the kept network."""
    lines = [
        f"export USUFRUCT_HOME={network.directory / 'builder' / 'home'}",
        f"export USUFRUCT_RPC={network.rpc_url}",
        f"export USUFRUCT_CONTRACT={network.compute_access}",
        "usufruct audit verify",
        "usufruct builder datasets",
        *(f"usufruct holder inbox --config {place.config}" for place in network.places.values()),
    ]
    return "\n" + "\n".join(lines) + "\n"


def holder_lines(network: LocalNetwork) -> str:
    """How a new data holder joins the kept network; file and addresses are theirs to fill in."""
    where = f"--rpc {network.rpc_url} --contract {network.compute_access}"
    lines = [
        f"usufruct holder init YOUR.csv {where} --chain-id {network.addresses.chain_id} --token {network.token}",
        f"usufruct chain fund OPERATOR ADMIN --rpc {network.rpc_url}   # gas money for the two addresses init prints",
    ]
    return "\n" + "\n".join(lines) + "\n"


def _keep(network: LocalNetwork, console: Console) -> None:
    """Waits for Ctrl-C, and tells when a process ends by itself."""
    console.print("Ctrl-C ends it.", style="bold")
    gone: set[str] = set()
    never = threading.Event()
    try:
        while not never.wait(WATCH_SECONDS):
            for name, process in network.processes.items():
                if not process.running and name not in gone:
                    gone.add(name)
                    console.print(
                        f"The process {name!r} has ended; its log is {process.log}", highlight=False
                    )
    except KeyboardInterrupt:
        console.print("Stopping the network.")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
