"""``usufruct``: collects the commands of whatever is installed (entry-point group ``usufruct.commands``)."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points

import typer

from usufruct import __version__
from usufruct.errors import UsufructError

GROUPS = {
    "demo": "Run a whole network on this machine and train over three hospitals.",
    "holder": "For data holders: serve datasets, decide on proposals, see the ledger.",
    "aggregator": "For aggregators: add encrypted updates.",
    "builder": "For model builders: find datasets, train, resume.",
    "audit": "For auditors: list and verify every use.",
    "chain": "Development chain and deployment of the contracts.",
}
EXTRAS = {"builder", "holder", "aggregator", "demo"}


def build_app(chosen: str | None) -> typer.Typer:
    """The command line, with only the chosen group's package loaded: ``--help`` and ``audit`` need no torch."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, help="Train on data that never leave their holders."
    )

    def print_version(asked: bool) -> None:
        if asked:
            typer.echo(__version__)
            raise typer.Exit()

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", is_eager=True, callback=print_version
        ),
    ) -> None:
        pass

    installed = {point.name: point for point in entry_points(group="usufruct.commands")}
    for name in [*(g for g in GROUPS if g in installed), *sorted(set(installed) - set(GROUPS))]:
        group = typer.Typer()
        if name == chosen:
            try:
                group = installed[name].load()
            except ImportError as error:
                extra = name if name in EXTRAS else "demo"
                print(
                    f"Error: `usufruct {name}` needs a package that is not installed ({error.name}). "
                    f"Install it with: pip install 'usufruct[{extra}]'",
                    file=sys.stderr,
                )
                sys.exit(1)
        else:
            group.callback(invoke_without_command=True)(lambda: None)
        app.add_typer(group, name=name, help=GROUPS.get(name))
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs a command. An error is one sentence (one JSON object with ``--json``) and a non-zero exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(build_app(arguments[0] if arguments else None))
    try:
        command(args=arguments, prog_name="usufruct")
    except UsufructError as error:
        if "--json" in arguments:
            print(json.dumps({"error": error.reason, "message": error.message, **error.public_details}))
        else:
            print(f"Error: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
