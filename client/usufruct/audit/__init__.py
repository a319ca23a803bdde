"""Audit: collect evidence, judge it, report. Works from a JSON-RPC URL and needs no torch.

The names are looked up when they are used, so that ``usufruct audit --help`` does not load the chain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usufruct.audit.collection import collect as collect
    from usufruct.audit.evidence import Evidence as Evidence
    from usufruct.audit.findings import Finding as Finding
    from usufruct.audit.findings import Place as Place
    from usufruct.audit.findings import Severity as Severity
    from usufruct.audit.reconcile import Judgement as Judgement
    from usufruct.audit.reconcile import judge as judge
    from usufruct.audit.report import verdict as verdict

__all__ = ["Evidence", "Finding", "Judgement", "Place", "Severity", "collect", "judge", "verdict"]

_HOMES = {
    "Evidence": "evidence",
    "Finding": "findings",
    "Judgement": "reconcile",
    "Place": "findings",
    "Severity": "findings",
    "collect": "collection",
    "judge": "reconcile",
    "verdict": "report",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'usufruct.audit' has no attribute {name!r}")
    return getattr(import_module(f"usufruct.audit.{home}"), name)
