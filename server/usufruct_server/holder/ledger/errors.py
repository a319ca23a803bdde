"""What the ledger refuses with. It fails closed: after any of these, nothing was charged that was not
before."""

from __future__ import annotations

from usufruct.errors import LedgerError


class LedgerCorrupt(LedgerError):
    """The file does not verify: a row was altered, removed or added by another program."""

    reason = "LEDGER_CORRUPT"


class LedgerLocked(LedgerError):
    """Another process, or another part of this one, has the ledger open."""

    reason = "LEDGER_LOCKED"


class LedgerWriteFailed(LedgerError):
    """The disk or SQLite failed during a write. The ledger takes no further write until it is opened
    again."""

    reason = "INTERNAL"


class DatasetConflict(LedgerError):
    """The dataset is registered here with another order, or with a lower cap."""

    reason = "CONFIG_INVALID"


class DatasetNotRegistered(LedgerError):
    """The ledger has no budget for this dataset."""

    reason = "DATASET_UNKNOWN"


class LegUnknown(LedgerError):
    """Nothing is reserved for this job on this dataset."""

    reason = "JOB_UNKNOWN"


class LegClosed(LedgerError):
    """The leg was committed or released; nothing can be charged to it."""

    reason = "LEG_NOT_OPEN"


class ReservationConflict(LedgerError):
    """The leg was reserved before with other figures or another spec."""

    reason = "WRONG_SPEC"


class AttemptAlreadyCharged(LedgerError):
    """This attempt was charged before. If its upload is in the outbox, send that; never draw again under
    it."""

    reason = "ATTEMPT_ALREADY_CHARGED"


class AttemptsExhausted(LedgerError):
    """Every attempt that was reserved has been charged."""

    reason = "ATTEMPTS_EXHAUSTED"


class AttemptNotCharged(LedgerError):
    """An upload was to be kept for an attempt that nobody charged."""

    reason = "INTERNAL"


class UploadChanged(LedgerError):
    """The attempt has another upload, or another view, or its round is over."""

    reason = "UPLOAD_CHANGED"


class UploadLost(LedgerError):
    """The upload's file is gone or damaged. The attempt stays charged; the next attempt draws anew."""

    reason = "ATTEMPT_LOST"


class UsageRefused(LedgerError):
    """A usage record or batch does not follow the one before it."""

    reason = "INTERNAL"
