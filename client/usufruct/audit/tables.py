"""The report as tables in the terminal. Whatever another party wrote is shown as plain text, never as markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from usufruct.audit import report
from usufruct.audit.reconcile import Judgement

WIDTH_OF_FILES = 170
"""Columns where the output is no terminal."""
MOST_SHOWN = 50


def console() -> Console:
    """For standard output; wide where nothing limits it."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False, soft_wrap=False)


def print_log(out: Console, log: dict[str, Any], delta: float) -> None:
    """The log (:func:`usufruct.audit.report.log_as_dict`): every job, leg, grant, loss, payment and refusal."""
    _table(out, "Jobs", ("job", "builder", "block", "legs", "accepted", "states", "accept by (UTC)"),
           ([_short(j["job_id"]), j["builder"], j["block"], j["legs"], f"{j['accepted']} of {j['min_legs']}",
             ", ".join(f"{n} {state.lower()}" for state, n in j["states"].items()), report.utc(j["accept_by_seconds"])]
            for j in log["jobs"]))  # fmt: skip
    _table(out, f"Legs (loss in 10⁻⁶ nat at the dataset's Rényi order; ε at δ = {delta:g})",
           ("job", "dataset", "holder", "state", "price", "paid", "fee", "refunded", "reserved", "committed", "ε", "attempts",
            "grant", "receipt"),
           ([_short(r["job_id"]), r["dataset_id"], r["holder_id"], r["state"].lower(), r["price_units"], r["paid_units"],
             r["fee_units"], r["refunded_units"], r["loss_reserved_micro"], r["loss_committed_micro"], _figure(r["epsilon"]),
             "" if r["attempts_charged"] is None else f"{r['attempts_charged']} of {r['attempts_reserved']}",
             _short(r["grant_hash"]), _short(r["receipt_hash"] or "")]
            for r in log["legs"]))  # fmt: skip
    _table(out, "Usage records", ("holder", "number", "time (UTC)", "what", "dataset", "job", "builder", "round",
                                  "attempt", "loss", "reason"),
           ([r["holder_id"], r["sequence"], r["time"], r["kind"].lower(), r["dataset_id"], _short(r["job_id"]),
             r["builder"], r["round"] or "", r["attempt"] or "", r["loss_micro"] or "", r["reason"]]
            for r in log["usage"]))  # fmt: skip
    if log["calls"]:
        _table(out, "Records called for on chain", ("holder", "number", "state", "to be shown by (UTC)"),
               ([r["holder_id"], r["sequence"], r["state"].lower() + (", late" if r["was_silent"] else ""),
                 report.utc(r["answer_by_seconds"])] for r in log["calls"]))  # fmt: skip
    _table(out, "Money (units of the token)", ("who", "token", "deposit", "earned", "withdrawn"),
           ([r.get("account", f"holder {r.get('holder_id')}"), r["token"], r.get("deposit_units", ""),
             r.get("earned_units", ""), r.get("withdrawn_units", "")] for r in log["money"]))  # fmt: skip


def print_budgets(out: Console, budgets: Iterable[dict[str, Any]], delta: float) -> None:
    """Each dataset's budget and its translation."""
    _table(out, f"Privacy budgets (10⁻⁶ nat; ε is their translation at δ = {delta:g})",
           ("dataset", "holder", "Rényi order", "cap", "committed", "reserved", "left", "ε committed", "ε of the cap"),
           ([r["dataset_id"], r["holder_id"], r["order"], r["cap_micro"], r["committed_micro"], r["reserved_micro"],
             r["left_micro"], _figure(r["epsilon_committed"]), _figure(r["epsilon_cap"])]
            for r in budgets))  # fmt: skip


def print_verdict(out: Console, judgement: Judgement, only: report.Only) -> None:
    """The findings and notes that are wanted, and the verdict on everything last."""
    for title, found in (("Finding", judgement.discrepancies), ("Note", judgement.notes)):
        findings = only.findings(found)
        for finding in findings[:MOST_SHOWN]:
            out.print(Text(f"{title}: {plain(str(finding))}"), soft_wrap=True)
        if len(findings) > MOST_SHOWN:
            out.print(Text(f"… and {len(findings) - MOST_SHOWN} more; --json shows all."))
    out.print(Text(plain(report.verdict(judgement)), style="bold green" if judgement.verified else "bold red"),
              soft_wrap=True)  # fmt: skip


def plain(text: str) -> str:
    """``text`` without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _table(out: Console, title: str, columns: tuple[str, ...], rows: Iterable[list[Any]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(value))) for value in row))
    out.print(table)


def _short(text: str) -> str:
    return f"{text[:10]}…" if len(text) > 12 else text


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
