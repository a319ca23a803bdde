"""What an audit finds: a discrepancy, said in words, with the place where it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from usufruct.chain import Event
from usufruct.domain.ids import to_hex


class Severity(StrEnum):
    """Whether a finding stands against the verdict."""

    DISCREPANCY = "discrepancy"
    """Two books differ, or evidence is missing or unreadable: not verified."""
    NOTE = "note"
    """An auditor should know it, but nothing differs."""


@dataclass(frozen=True)
class Place:
    """Where a finding is. Only what is known is set.

    Attributes:
        holder_id, dataset_id: numbers on chain.
        job_id: 32 bytes.
        record: number of the usage record in the holder's log.
        last_record: with ``record``, the end of a range, when it cannot be told which record of a batch it is.
        transaction: 32 bytes, hash of the transaction whose event it is.
        account: address, for deposits.
    """

    holder_id: int | None = None
    dataset_id: int | None = None
    job_id: bytes | None = None
    record: int | None = None
    last_record: int | None = None
    transaction: bytes | None = None
    account: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.holder_id is not None:
            parts.append(f"holder {self.holder_id}")
        if self.record is not None and self.last_record is not None:
            parts.append(f"records {self.record} to {self.last_record}")
        elif self.record is not None:
            parts.append(f"record {self.record}")
        if self.dataset_id is not None:
            parts.append(f"dataset {self.dataset_id}")
        if self.job_id is not None:
            parts.append(f"job {to_hex(self.job_id)}")
        if self.account is not None:
            parts.append(f"account {self.account}")
        if self.transaction is not None:
            parts.append(f"transaction {to_hex(self.transaction)}")
        return ", ".join(parts) or "network"

    def as_dict(self) -> dict[str, Any]:
        """The parts that are set; bytes as ``0x…`` text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: to_hex(value) if isinstance(value, bytes) else value
            for key, value in values.items()
            if value is not None
        }


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: fixed short name of the check that found it, such as ``record-root``; the folder's README lists them.
        place: where it is.
        text: what is wrong, in one sentence.
        severity: whether it stands against the verdict.
    """

    kind: str
    place: Place
    text: str
    severity: Severity = Severity.DISCREPANCY

    def __str__(self) -> str:
        return f"{self.place}: {self.text} ({self.kind})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity.value,
            "where": self.place.as_dict(),
            "text": self.text,
        }


def impossible(event: Event, text: str, kind: str = "event-impossible") -> Finding:
    """The contracts cannot have emitted this event here: a rule of theirs forbids it."""
    place = replace(
        at(event),
        holder_id=getattr(event, "holder_id", None),
        dataset_id=getattr(event, "dataset_id", None),
        job_id=getattr(event, "job_id", None),
    )
    return Finding(kind, place, f"{type(event).__name__}: {text}")


def at(event: Event) -> Place:
    """The transaction of an event."""
    return Place(transaction=event.transaction_hash)
