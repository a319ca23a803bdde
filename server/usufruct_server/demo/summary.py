"""The demo's last words: what came out, what it cost, and what to try next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from usufruct_server.demo.report import Report

BLOCK_NOTE_BYTES = 20.0
"""Above this many bytes a parameter, a word on why: a small model leaves most of a ciphertext empty."""


def show(report: Report, console: Console, commands: Sequence[str]) -> None:
    """Prints the summary. ``commands`` are what to try next."""
    console.print()
    console.print(
        Panel(
            _result_line(report), title="The result", title_align="left", border_style="cyan", padding=(0, 1)
        )
    )
    for part in (_accuracy(report), _hospitals(report), _costs(report), _audit(report)):
        console.print()
        console.print(part)
    console.print()
    console.print("Learning curve:", style="bold", end=" ")
    console.print(str(report.picture), soft_wrap=True, highlight=False)
    console.print()
    console.print("What to try next", style="bold")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)
    console.print()


def _result_line(report: Report) -> str:
    return (
        f"{len(report.legs)} hospitals trained [bold]{report.model}[/bold] together in {report.rounds} rounds, and no "
        f"record left its hospital.\nTest accuracy [bold]{report.test.accuracy:.3f}[/bold] at epsilon "
        f"[bold]{report.epsilon:.2f}[/bold], delta {report.delta:g}, for each of them. {report.wall_seconds:.0f} seconds in all."
    )


def _accuracy(report: Report) -> Table:
    table = _table("How good is it?", "trained on", "privacy", "test accuracy", "test AUC")
    table.add_row("all hospitals, with Usufruct", f"epsilon {report.epsilon:.2f}", f"[bold]{report.test.accuracy:.3f}[/bold]",
                  f"[bold]{report.test.auc:.3f}[/bold]")  # fmt: skip
    table.add_row(
        "all rows in one place (baseline)",
        "none",
        f"{report.pooled.test.accuracy:.3f}",
        f"{report.pooled.test.auc:.3f}",
    )
    table.add_row(
        "one hospital alone, mean (baseline)",
        "same epsilon",
        f"{report.alone_accuracy:.3f}",
        f"{report.alone_auc:.3f}",
    )
    table.caption = (
        "Baselines are computed in this process, which made the hospitals; on a real network nobody could."
    )
    return table


def _hospitals(report: Report) -> Table:
    table = _table(
        "Per hospital",
        "hospital",
        "rows (declared)",
        "epsilon",
        "privacy loss",
        "alone: accuracy",
        "AUC",
        "was paid",
    )
    for leg in report.legs:
        table.add_row(
            f"{leg.hospital} (dataset {leg.dataset_id})",
            f"{leg.nominal_size}",
            f"{leg.epsilon:.3f}",
            f"{leg.loss_micro / 1e6:.6f} nat",
            f"{leg.alone.test.accuracy:.3f}",
            f"{leg.alone.test.auc:.3f}",
            f"{leg.paid_units / 10**report.decimals:,.2f} {report.symbol}",
        )
    order = report.legs[0].order
    table.caption = (
        f"Epsilon is the binding figure: Rényi loss at order {order}, translated once, at delta {report.delta:g}. It holds "
        f"against builder, aggregator and up to {report.max_colluding} of the other hospitals together.\n"
        f"Against everyone else together, for all that was reserved: {report.against_everyone}."
    )
    return table


def _costs(report: Report) -> Table:
    table = Table(
        title="What it cost",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    per_parameter = report.upload_bytes_per_parameter
    note = (
        " (a ciphertext carries 8192 values; this model fills part of one)"
        if per_parameter > BLOCK_NOTE_BYTES
        else ""
    )
    table.add_row(
        "upload",
        f"{per_parameter:,.2f} bytes a parameter, hospital and round{note}; {report.upload_bytes / 1e6:.2f} MB in all",
    )
    table.add_row("time", f"{report.seconds_per_round:.2f} s a round (median)")
    table.add_row(
        "gas", f"{report.gas_job:,} for the job; {report.gas_setup:,} before it, to deploy and register"
    )
    table.add_row(
        "paid",
        f"{report.paid_total:,.2f} {report.symbol}, released by the builder against {len(report.legs)} receipts",
    )
    table.add_row("job", report.job_id)
    return table


def _audit(report: Report) -> Panel:
    audit = report.audit
    counted = ", ".join(f"{count} {kind.lower()}" for kind, count in audit.records.items())
    lines = [
        f"[bold]{escape(audit.verdict)}[/bold]",
        f"Usage log: {counted}." if counted else "The usage log is empty.",
    ]
    lines += [f"- {escape(finding)}" for finding in audit.findings]
    return Panel(
        "\n".join(lines),
        title="The audit",
        title_align="left",
        border_style="green" if audit.ok else "red",
        padding=(0, 1),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", header_style="dim")
    return table
