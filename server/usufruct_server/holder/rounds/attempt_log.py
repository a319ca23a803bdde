"""What of an attempt is durable: usage records, and how it stands after a restart."""

from __future__ import annotations

from typing import Any

from usufruct.domain.round_view import RoundOffer
from usufruct.domain.usage_record import UsageKind
from usufruct.errors import InvalidInput, RoundFailed, UsufructError
from usufruct_server.holder.job_store import JobStore, StoredAttempt
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.legs import GrantedJob
from usufruct_server.holder.rounds.events import RoundProgress, RoundStatus
from usufruct_server.holder.usage_log import UsageLog


class AttemptLog:
    """Writes and reads the records of attempts. The ledger says what was charged, this what became of it."""

    def __init__(self, store: JobStore, ledger: Ledger, usage: UsageLog) -> None:
        self._store, self._ledger, self._usage = store, ledger, usage

    def record(self, kind: UsageKind, job: GrantedJob, offer: RoundOffer, **facts: Any) -> None:
        """One usage record of an attempt, durably and once. Charged and lost attempts are recorded by their offer."""
        facts.setdefault("view_hash", offer.hash)
        self._usage.record(
            kind, dataset_id=job.key[1], job_id=job.key[0], builder=job.builder, spec_hash=job.spec_hash,
            round=offer.round, attempt=offer.attempt, **facts,
        )  # fmt: skip

    def recover(self) -> None:
        """After a start: attempts that were charged and whose upload is not in the outbox are lost."""
        for leg in self._ledger.jobs():
            for round_, attempt in self._ledger.charged_attempts(leg.dataset_id, leg.job_id):
                self._settle(leg.dataset_id, leg.job_id, round_, attempt, keep_stored=True)

    def settle(self, job_id: bytes, dataset_id: int) -> None:
        """At the end of a leg: every charged attempt is sent, or lost; no upload is kept any longer."""
        charged = self._ledger.charged_attempts(dataset_id, job_id)
        for round_, attempt in charged:
            self._settle(dataset_id, job_id, round_, attempt, keep_stored=False)
        for round_ in {round_ for round_, _ in charged}:
            self._ledger.forget_upload(dataset_id, job_id, round_)

    def forget_rounds_before(self, job_id: bytes, dataset_id: int, round_: int) -> None:
        """The uploads of earlier rounds are not sent any more."""
        for earlier in {number for number, _ in self._ledger.charged_attempts(dataset_id, job_id)}:
            if earlier < round_:
                self._ledger.forget_upload(dataset_id, job_id, earlier)

    def status(self, job_id: bytes, dataset_id: int, attempt: int) -> RoundStatus:
        """How far an attempt has come that nobody works on.

        Raises:
            InvalidInput: NOT_FOUND when it was never charged. RoundFailed: ATTEMPT_LOST.
        """
        known = self._store.attempt(job_id, dataset_id, attempt)
        charged = self._ledger.charged_attempts(dataset_id, job_id)
        if known is None or (known.round, attempt) not in charged:
            raise InvalidInput("this attempt was never charged", reason="NOT_FOUND", attempt=attempt)
        if self._usage.has(UsageKind.LOST, dataset_id, job_id, attempt):
            raise RoundFailed("the attempt was lost", reason="ATTEMPT_LOST", attempt=attempt)
        upload = self._ledger.upload(dataset_id, job_id, known.round, attempt)
        sent = self._usage.has(UsageKind.SUBMITTED, dataset_id, job_id, attempt)
        status = RoundStatus(RoundProgress.CHARGED, known.offer_hash, len(charged))
        if upload is None:
            return _with(status, RoundProgress.SUBMITTED, known) if sent else status
        progress = RoundProgress.SUBMITTED if sent else RoundProgress.ENCRYPTED
        return _with(status, progress, known, upload_root=upload.root, upload_bytes=upload.size_bytes)

    def _settle(
        self, dataset_id: int, job_id: bytes, round_: int, attempt: int, *, keep_stored: bool
    ) -> None:
        """Completes the usage log of one charged attempt: CHARGED, and LOST where nothing was or can be sent."""
        proposal = self._store.proposal(job_id, dataset_id)
        leg = self._ledger.leg(dataset_id, job_id)
        known = self._store.attempt(job_id, dataset_id, attempt)
        about: dict[str, Any] = {
            "dataset_id": dataset_id, "job_id": job_id, "builder": proposal.builder if proposal else "",
            "spec_hash": leg.spec_hash, "round": round_, "attempt": attempt,
            "view_hash": known.offer_hash if known else b"",
        }  # fmt: skip
        self._usage.record(UsageKind.CHARGED, loss_micro=leg.loss_per_attempt_micro, **about)
        if self._usage.has(UsageKind.SUBMITTED, dataset_id, job_id, attempt):
            return
        try:
            stored = self._ledger.upload(dataset_id, job_id, round_, attempt)
        except UsufructError:
            stored = None
        if stored is None or not keep_stored:
            self._usage.record(UsageKind.LOST, **about)


def _with(status: RoundStatus, progress: RoundProgress, known: StoredAttempt, **facts: Any) -> RoundStatus:
    return RoundStatus(
        progress,
        status.offer_hash,
        status.attempts_charged,
        mask_key=known.mask_key,
        view_hash=known.view_hash,
        **facts,
    )
