"""The holder's durable privacy ledger, outbox and usage log, in one SQLite file with one writer."""

from usufruct_server.holder.ledger.errors import (
    AttemptAlreadyCharged,
    AttemptNotCharged,
    AttemptsExhausted,
    DatasetConflict,
    DatasetNotRegistered,
    LedgerCorrupt,
    LedgerLocked,
    LedgerWriteFailed,
    LegClosed,
    LegUnknown,
    ReservationConflict,
    UploadChanged,
    UploadLost,
    UsageRefused,
)
from usufruct_server.holder.ledger.ledger import Ledger
from usufruct_server.holder.ledger.outbox import StoredUpload
from usufruct_server.holder.ledger.reading import LedgerReader
from usufruct_server.holder.ledger.records import Charge, Kind, LedgerRow, Leg, LegState, UsageBatch

__all__ = [
    "AttemptAlreadyCharged",
    "AttemptNotCharged",
    "AttemptsExhausted",
    "Charge",
    "DatasetConflict",
    "DatasetNotRegistered",
    "Kind",
    "Ledger",
    "LedgerCorrupt",
    "LedgerLocked",
    "LedgerReader",
    "LedgerRow",
    "LedgerWriteFailed",
    "Leg",
    "LegClosed",
    "LegState",
    "LegUnknown",
    "ReservationConflict",
    "StoredUpload",
    "UploadChanged",
    "UploadLost",
    "UsageBatch",
    "UsageRefused",
]
