"""Judgement: evidence in, findings out. Pure; reads nothing, writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from usufruct.audit.authority_checks import check_authority
from usufruct.audit.books import Books
from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding, Severity
from usufruct.audit.grant_checks import check_grants
from usufruct.audit.receipt_checks import check_receipt
from usufruct.audit.record_checks import check_usage
from usufruct.audit.replay import replay
from usufruct.audit.round_checks import check_rounds
from usufruct.audit.storage_checks import check_storage
from usufruct.audit.time_checks import check_times
from usufruct.audit.usage_log import ReadRecord, check_records, with_shown


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
        books: the events, replayed.
        records: all usage records that could be read, by holder and number.
        findings: all, notes too, in the order of the checks.
    """

    books: Books
    records: tuple[ReadRecord, ...]
    findings: tuple[Finding, ...]

    @property
    def discrepancies(self) -> tuple[Finding, ...]:
        """Findings that stand against the verdict."""
        return tuple(f for f in self.findings if f.severity is Severity.DISCREPANCY)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Findings that do not."""
        return tuple(f for f in self.findings if f.severity is Severity.NOTE)

    @property
    def verified(self) -> bool:
        """Whether nothing differs."""
        return not self.discrepancies


def judge(evidence: Evidence) -> Judgement:
    """Compares everything with everything else that must agree with it.

    *Guarantee*: if :attr:`Judgement.verified`, then at the final block the events lead to the storage of the three
    contracts, by steps that these allow, each in its time; every anchored usage record is the one that was logged; every
    delivered leg committed at least the loss that its receipt's mechanism costs for the attempts charged. Whether the noise was really drawn, on the data
    that the card describes, no log can show.
    """
    books, findings = replay(evidence.events)
    findings.extend(check_times(evidence))
    findings.extend(check_storage(evidence, books))
    findings.extend(check_grants(evidence, books))
    findings.extend(check_authority(evidence, books))
    for leg in books.legs.values():
        findings.extend(check_receipt(evidence, leg, books))
    records: list[ReadRecord] = []
    for holder_id in sorted(set(books.batches) | set(books.holders) | set(evidence.records)):
        shown = {number: event for (holder, number), event in books.shown.items() if holder == holder_id}
        given, differ = with_shown(holder_id, evidence.records.get(holder_id), shown)
        read, found = check_records(
            holder_id, given, books.batches.get(holder_id, []), evidence.block_time_seconds
        )
        records.extend(read)
        findings.extend([*differ, *found])
    findings.extend(check_usage(records, books))
    findings.extend(check_rounds(records, books, evidence.block_times))
    return Judgement(books, tuple(records), tuple(findings))
