"""The holder's part of the linear check: it says something about its own upload that lets the builder prove the sum."""

from __future__ import annotations

from dataclasses import replace

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.domain.usage_record import UsageKind
from usufruct.encryption.linear_check import Challenge, LinearCheck
from usufruct.errors import Refused, RoundFailed
from usufruct.v1 import rounds_pb2
from usufruct.wire.signatures import sign_check, verify_uploads
from usufruct_server.holder.ledger import Ledger
from usufruct_server.holder.legs import Legs
from usufruct_server.holder.rounds.attempt import Attempt
from usufruct_server.holder.rounds.attempt_log import AttemptLog
from usufruct_server.holder.rounds.events import RoundProgress, RoundStatus
from usufruct_server.holder.rounds.submission import round_to_sum
from usufruct_server.holder.usage_log import UsageLog


class Checking:
    """Answers challenges about uploads that were sent.

    *Guarantee*: an attempt answers one challenge, ever; which one is in the usage log, on disk, before the answer leaves.
    Several answers about one upload would be so many linear equations of it.
    """

    def __init__(
        self, *, ledger: Ledger, usage: UsageLog, legs: Legs, log: AttemptLog, operator: LocalAccount
    ) -> None:
        self._ledger, self._usage, self._legs, self._log = ledger, usage, legs, log
        self._operator = operator

    def answer(self, attempt: Attempt, check: rounds_pb2.Check) -> RoundStatus:
        """The signed values; the same challenge again gets the same answer.

        Args:
            attempt: one that was submitted.
        Raises:
            InvalidInput: a malformed challenge; BAD_SIGNATURE.
            Refused: LEG_NOT_OPEN. RoundFailed: ROSTER_MISMATCH; CHECK_CHANGED. LedgerError: ATTEMPT_LOST.
        """
        job, offer, view = attempt.job, attempt.offer, attempt.view
        job_id, dataset_id = job.key
        if view is None:
            raise RoundFailed("nothing of the attempt was sent", reason="ROUND_OUT_OF_ORDER")
        challenge = Challenge(check.seed, view.hash, check.sum_root)
        to_sum = round_to_sum(job, view)
        roots = verify_uploads(check.uploads, **to_sum.names)
        with self._legs.lock(job.key):
            self._legs.running(job)
            stored = self._ledger.upload(dataset_id, job_id, offer.round, offer.attempt)
            if stored is None:
                raise RoundFailed("the attempt's round is over", reason="ROUND_OUT_OF_ORDER")
            if roots[dataset_id] != stored.root:
                raise Refused("the sum claims another upload of this holder", reason="ROSTER_MISMATCH")
            asked = challenge.sum_root, keccak(challenge.seed)
            if self._usage.answered(dataset_id, job_id, offer.attempt) not in (None, asked):
                raise RoundFailed(
                    "another challenge of the attempt was answered",
                    reason="CHECK_CHANGED",
                    attempt=offer.attempt,
                )
            self._log.record(
                UsageKind.CHECKED, job, offer, view_hash=view.hash, upload_digest=stored.root,
                sum_digest=challenge.sum_root, document_hash=asked[1],
            )  # fmt: skip
        linear_check = LinearCheck(challenge, to_sum.uploads)
        stored.commitment(
            to_sum.uploads, linear_check.add
        )  # a damaged file would give values that accuse the aggregator
        values = linear_check.result()
        signature = sign_check(
            self._operator, view_hash=view.hash, sum_root=challenge.sum_root, seed=challenge.seed,
            dataset_id=dataset_id, values=values,
        )  # fmt: skip
        return replace(
            attempt.status, progress=RoundProgress.CHECKED, check_values=values, check_signature=signature
        )
