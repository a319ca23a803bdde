"""Audit: collect evidence, judge it, report. Works from a JSON-RPC URL and needs no torch."""

from usufruct.audit.collect import collect
from usufruct.audit.evidence import CallFacts, Evidence, HolderRecords, KeptRecord, Storage
from usufruct.audit.findings import Finding, Place, Severity
from usufruct.audit.reconcile import Judgement, judge

__all__ = [
    "CallFacts",
    "Evidence",
    "Finding",
    "HolderRecords",
    "Judgement",
    "KeptRecord",
    "Place",
    "Severity",
    "Storage",
    "collect",
    "judge",
]
