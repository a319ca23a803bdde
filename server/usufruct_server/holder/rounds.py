"""One attempt of one round at this holder, in the one order that protects the data.

public checks → chain at a final block → weights checked → **charge, on disk** → train and draw → encrypt → outbox → send

Whatever fails before the charge is a refusal and costs nothing. After the charge there are two outcomes: an upload like
any other, or a lost attempt. The same attempt with the same view sends the same bytes again; nothing is drawn twice.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from eth_account.signers.local import LocalAccount

from usufruct.domain.round_view import RoundView
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import parameter_set
from usufruct.encryption.keys import public_key_from_bytes
from usufruct.encryption.update import encrypt_update
from usufruct.errors import InvalidInput, Refused, RoundFailed, UsufructError
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import send_upload
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.signatures import verify_view
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger, StoredUpload
from usufruct_server.holder.legs import GrantedJob, Legs
from usufruct_server.holder.trainers import LegKey, Trainers
from usufruct_server.holder.training.trainer import Trainer, TrainerFailed
from usufruct_server.holder.usage_log import UsageLog

_FLOAT_BYTES = 4
_SAFETENSORS_BYTES = 1 << 20
"""Room for the header of the weights; the trainer checks it against the graph."""
MOST_ROUNDS = 8
"""Attempts that are worked on at a time; each holds a few copies of its weights."""
_log = logging.getLogger("usufruct.holder.rounds")


class RoundProgress(IntEnum):
    """How far an attempt has come; the numbers are those of ``usufruct.v1.RoundState``."""

    CHARGED = 1
    ENCRYPTED = 2
    SUBMITTED = 3


@dataclass(frozen=True)
class RoundRequest:
    """The header of a round's attempt, as the builder sent it; the weights and the key follow."""

    job_id: bytes
    dataset_id: int
    round: int
    attempt: int
    roster: tuple[int, ...]
    public_key_bytes: int
    public_key_digest: bytes
    weights_bytes: int
    weights_digest: bytes
    view_signature: bytes

    @classmethod
    def from_proto(cls, m: rounds_pb2.RoundHeader) -> RoundRequest:
        """Reads the header; ranges are checked later."""
        return cls(
            m.job_id, m.dataset_id, m.round, m.attempt, tuple(m.roster), m.public_key_bytes, m.public_key_digest,
            m.weights_bytes, m.weights_digest, m.view_signature,
        )  # fmt: skip


@dataclass(frozen=True)
class RoundStatus:
    """What the builder is told about an attempt: nothing that depends on a row."""

    progress: RoundProgress
    view_hash: bytes
    upload_digest: bytes
    upload_bytes: int
    attempts_charged: int


class _Running:
    """An attempt that is being worked on; several streams may watch it."""

    def __init__(self, view_hash: bytes) -> None:
        self.view_hash = view_hash
        self._changed = threading.Condition()
        self._seen: list[RoundStatus] = []
        self._error: UsufructError | None = None
        self._ended = False

    def tell(self, status: RoundStatus) -> None:
        with self._changed:
            self._seen.append(status)
            self._changed.notify_all()

    def end(self, error: UsufructError | None) -> None:
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_seconds)

    def watch(self) -> Iterator[RoundStatus]:
        position = 0
        while fresh := self._after(position):
            yield from fresh
            position += len(fresh)
        if self._error is not None:
            raise self._error

    def _after(self, position: int) -> list[RoundStatus]:
        """What was told after the first ``position``; empty once the attempt has ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._seen) > position or self._ended)
            return self._seen[position:]


class RoundRunner:
    """Runs attempts. What was charged is finished even when the builder's stream breaks.

    Args:
        operator: the key that signs uploads.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        usage: UsageLog,
        legs: Legs,
        trainers: Trainers,
        operator: LocalAccount,
        send: Callable[..., int] = send_upload,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._ledger, self._usage, self._legs = store, ledger, usage, legs
        self._trainers, self._operator, self._send, self._clock = trainers, operator, send, clock
        self._guard = threading.Lock()
        self._running: dict[tuple[bytes, int], _Running] = {}
        self._threads: set[threading.Thread] = set()

    def run(
        self, caller: str, request: RoundRequest, read: Callable[[int, int], bytes]
    ) -> Iterator[RoundStatus]:
        """One attempt, as a stream of how far it has come.

        Args:
            read: gives the next bytes of the builder's stream: (announced, allowed) -> bytes.
        Raises:
            UsufructError: a refusal before the charge; ATTEMPT_LOST or TRAINER_FAILED after it; an error of the
                aggregator, after which the same request sends the same bytes again.
        """
        try:
            running = self._take_up(caller, request, read)
        except UsufructError as error:
            self._usage.refused(
                error.reason, dataset_id=request.dataset_id, job_id=request.job_id, builder=caller, round=request.round,
                attempt=request.attempt,
            )  # fmt: skip
            raise
        yield from running.watch()

    def status(self, caller: str, job_id: bytes, dataset_id: int, attempt: int) -> RoundStatus:
        """How far an attempt has come, for a builder that lost the stream.

        Raises:
            InvalidInput: JOB_UNKNOWN, or NOT_FOUND when the attempt was never charged. Refused: NOT_YOURS.
            RoundFailed: ATTEMPT_LOST.
        """
        self._legs.find(caller, job_id, dataset_id)
        known = self._store.view_of(job_id, dataset_id, attempt)
        charged = self._ledger.charged_attempts(dataset_id, job_id)
        if known is None or (known[0], attempt) not in charged:
            raise InvalidInput("this attempt was never charged", reason="NOT_FOUND", attempt=attempt)
        if self._usage.has(UsageKind.LOST, dataset_id, job_id, attempt):
            raise RoundFailed("the attempt was lost", reason="ATTEMPT_LOST", attempt=attempt)
        upload = self._ledger.upload(dataset_id, job_id, known[0], attempt)
        sent = self._usage.has(UsageKind.SUBMITTED, dataset_id, job_id, attempt)
        if upload is None:
            progress = RoundProgress.SUBMITTED if sent else RoundProgress.CHARGED
            return RoundStatus(progress, known[1], b"", 0, len(charged))
        progress = RoundProgress.SUBMITTED if sent else RoundProgress.ENCRYPTED
        return RoundStatus(progress, known[1], upload.digest, upload.size_bytes, len(charged))

    def recover(self) -> None:
        """After a start: attempts that were charged and whose upload is not in the outbox are lost."""
        for leg in self._ledger.jobs():
            for round_, attempt in self._ledger.charged_attempts(leg.dataset_id, leg.job_id):
                self.settle_attempt(leg.dataset_id, leg.job_id, round_, attempt, keep_stored=True)

    def settle_attempt(
        self, dataset_id: int, job_id: bytes, round_: int, attempt: int, *, keep_stored: bool
    ) -> None:
        """Completes the usage log of one charged attempt: CHARGED, and LOST where nothing was or can be sent.

        Args:
            keep_stored: whether an upload that waits in the outbox may still be sent.
        """
        proposal = self._store.proposal(job_id, dataset_id)
        leg = self._ledger.leg(dataset_id, job_id)
        about: dict[str, Any] = {
            "dataset_id": dataset_id, "job_id": job_id, "builder": proposal.builder if proposal else "",
            "spec_hash": leg.spec_hash, "round": round_, "attempt": attempt,
            "view_hash": (self._store.view_of(job_id, dataset_id, attempt) or (0, b""))[1],
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

    def close(self, timeout_seconds: float) -> None:
        """Waits for attempts that are being worked on: what was charged should reach the outbox."""
        deadline = time.monotonic() + timeout_seconds
        with self._guard:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wait_idle(self, key: LegKey, timeout_seconds: float) -> None:
        """Waits until no attempt of the leg is being worked on.

        Raises:
            RoundFailed: ROUND_OUT_OF_ORDER, when one still is after that time.
        """
        with self._guard:
            running = self._running.get(key)
        if running is not None and not running.wait(timeout_seconds):
            raise RoundFailed("an attempt of this leg is still being worked on", reason="ROUND_OUT_OF_ORDER")

    # -- before the charge --------------------------------------------------------------------------------------

    def _take_up(self, caller: str, request: RoundRequest, read: Callable[[int, int], bytes]) -> _Running:
        """The attempt that the request is about: one that is being worked on, or a new one."""
        job = self._legs.granted(caller, request.job_id, request.dataset_id)
        view = checked_view(request, job)
        with self._legs.lock(job.key):
            with self._guard:
                running = self._running.get(job.key)
                if running is None and len(self._running) >= MOST_ROUNDS:
                    raise Refused(
                        "too many rounds run here at the moment", reason="TOO_MANY", limit=MOST_ROUNDS
                    )
            if running is not None and running.view_hash == view.hash:
                return running
            self.wait_idle(job.key, float(job.spec.round_timeout_seconds))
            return self._begin(job, request, view, read)

    def _begin(
        self, job: GrantedJob, request: RoundRequest, view: RoundView, read: Callable[[int, int], bytes]
    ) -> _Running:
        """All checks, then the charge; then a thread of its own does the rest. Called with the leg's lock held."""
        leg = self._legs.running(job)
        stored = self._known_attempt(job, request, view, leg.last_round)
        if stored is not None:
            return self._launch(job, view, lambda running: self._resend(running, job, view, stored))
        if not leg.last_round <= request.round <= job.spec.plan.rounds:
            raise RoundFailed(
                "rounds follow one another",
                reason="ROUND_OUT_OF_ORDER",
                round=request.round,
                attempt=request.attempt,
            )
        parameters = parameter_set(job.spec.encryption.parameters)
        public_key = read(request.public_key_bytes, parameters.public_key_bytes)
        allowed = job.spec.encryption.parameter_count * _FLOAT_BYTES + _SAFETENSORS_BYTES
        weights = read(request.weights_bytes, allowed)
        _check_digest(public_key, request.public_key_digest, "public_key_digest")
        _check_digest(weights, request.weights_digest, "weights_digest")
        _check_public_key(job, public_key)
        self._legs.require_trainable(job)
        seconds = float(job.spec.round_timeout_seconds)
        trainer = self._checked_trainer(job, request, weights, seconds)
        job_id, dataset_id = job.key
        if (
            self._store.note_attempt(job_id, dataset_id, request.round, request.attempt, view.hash)
            != view.hash
        ):
            raise RoundFailed(
                "the attempt was begun with another view",
                reason="ROUND_VIEW_CHANGED",
                attempt=request.attempt,
            )
        charge = self._ledger.charge(dataset_id, job_id, request.round, request.attempt)
        # From here on noise may be drawn once, and every outcome is an upload or a lost attempt.
        return self._launch(
            job,
            view,
            lambda running: self._train(
                running, job, view, trainer, public_key, weights, charge.attempts_charged
            ),
        )

    def _checked_trainer(
        self, job: GrantedJob, request: RoundRequest, weights: bytes, seconds: float
    ) -> Trainer:
        """A live trainer that has accepted the weights. One that dies here has drawn nothing, so a second is tried."""
        for _ in range(2):
            try:
                trainer = self._trainers.for_leg(job.spec, job.served)
                trainer.check_weights(weights, request.round, request.attempt, seconds)
                return trainer
            except TrainerFailed as error:
                _log.error(
                    "event=trainer_failed before_charge=true job=%s type=%s",
                    job.key[0].hex(),
                    type(error).__name__,
                )
        raise UsufructError("the trainer does not answer; nothing was charged")

    def _known_attempt(
        self, job: GrantedJob, request: RoundRequest, view: RoundView, leg_round: int
    ) -> StoredUpload | None:
        """The upload of an attempt that was charged before; None for a new attempt.

        Raises:
            RoundFailed: ROUND_VIEW_CHANGED, ATTEMPT_LOST, ROUND_OUT_OF_ORDER.
        """
        job_id, dataset_id = job.key
        charged = self._ledger.charged_attempts(dataset_id, job_id)
        mine = [round_ for round_, attempt in charged if attempt == request.attempt]
        known = self._store.view_of(job_id, dataset_id, request.attempt)
        about = {"round": request.round, "attempt": request.attempt}
        if mine:
            if known is None or known[1] != view.hash:
                raise RoundFailed(
                    "the attempt was charged for another view", reason="ROUND_VIEW_CHANGED", **about
                )
            upload = None
            if not self._usage.has(UsageKind.LOST, dataset_id, job_id, request.attempt):
                if leg_round > request.round:
                    raise RoundFailed("the attempt's round is over", reason="ROUND_OUT_OF_ORDER", **about)
                upload = self._ledger.upload(dataset_id, job_id, mine[0], request.attempt)
            if upload is None:
                raise RoundFailed("the attempt was charged and lost", reason="ATTEMPT_LOST", **about)
            return upload
        if charged and request.attempt <= max(attempt for _, attempt in charged):
            raise RoundFailed("attempt numbers only rise", reason="ROUND_OUT_OF_ORDER", **about)
        # Also by its number: an auditor takes a charge beyond the reserved numbers for a fault of the holder.
        if max(len(charged) + 1, request.attempt) > job.spec.plan.attempts:
            raise Refused("every reserved attempt has been charged", reason="ATTEMPTS_EXHAUSTED", **about)
        if known is not None and known[1] != view.hash:
            raise RoundFailed("the attempt was begun with another view", reason="ROUND_VIEW_CHANGED", **about)
        return None

    # -- after the charge ---------------------------------------------------------------------------------------

    def _launch(self, job: GrantedJob, view: RoundView, work: Callable[[_Running], None]) -> _Running:
        running = _Running(view.hash)
        with self._guard:
            self._running[job.key] = running

        def finish() -> None:
            error: UsufructError | None = None
            try:
                work(running)
            except UsufructError as failure:
                error = failure
            except Exception as failure:  # its text may hold data: the type and nothing else
                _log.error(
                    "event=round_failed job=%s dataset=%d type=%s",
                    job.key[0].hex(),
                    job.key[1],
                    type(failure).__name__,
                )
                error = UsufructError()
            with self._guard:
                self._running.pop(job.key, None)
                self._threads.discard(thread)
            running.end(error)

        thread = threading.Thread(target=finish, name="round", daemon=True)
        with self._guard:
            self._threads.add(thread)
        thread.start()
        return running

    def _train(
        self, running: _Running, job: GrantedJob, view: RoundView, trainer: Trainer, public_key: bytes, weights: bytes,
        attempts_charged: int,
    ) -> None:  # fmt: skip
        job_id, dataset_id = job.key
        try:
            self._record(
                UsageKind.CHARGED, job, view, loss_micro=job.spec.leg(dataset_id).loss_per_attempt_micro
            )
            running.tell(RoundStatus(RoundProgress.CHARGED, view.hash, b"", 0, attempts_charged))
            self._store.update_leg(job_id, dataset_id, last_round=view.round)
            values = trainer.run(weights, view.round, view.attempt, float(job.spec.round_timeout_seconds))
            if values.size != job.spec.encryption.parameter_count:
                raise RoundFailed(
                    "the trainer answered with another number of values", reason="TRAINER_FAILED"
                )
            payload = encrypt_update(parameter_set(job.spec.encryption.parameters), public_key, values)
            stored = self._ledger.record_upload(
                dataset_id, job_id, view.round, view.attempt, view.hash, payload
            )
        except Exception as error:
            _log.error(
                "event=attempt_lost job=%s dataset=%d attempt=%d type=%s",
                job_id.hex(), dataset_id, view.attempt, type(error).__name__,
            )  # fmt: skip
            self._record(UsageKind.LOST, job, view)
            reason = "TRAINER_FAILED" if getattr(error, "reason", "") == "TRAINER_FAILED" else "ATTEMPT_LOST"
            raise RoundFailed(
                "the attempt was charged and lost", reason=reason, attempt=view.attempt
            ) from None
        self._resend(running, job, view, stored)

    def _resend(self, running: _Running, job: GrantedJob, view: RoundView, stored: StoredUpload) -> None:
        job_id, dataset_id = job.key
        charged = self._ledger.leg(dataset_id, job_id).charged
        status = RoundStatus(RoundProgress.ENCRYPTED, view.hash, stored.digest, stored.size_bytes, charged)
        running.tell(status)
        aggregator = job.spec.aggregator
        self._send(
            PinnedEndpoint(aggregator.endpoint, aggregator.fingerprint), self._operator, job_id=job_id, round=view.round,
            attempt=view.attempt, dataset_id=dataset_id, view_hash=view.hash,
            operators={member: job.spec.leg(member).operator for member in view.roster}, upload=stored.read(),
            timeout_seconds=float(job.spec.round_timeout_seconds),
        )  # fmt: skip
        self._record(UsageKind.SUBMITTED, job, view, upload_digest=stored.digest)
        if view.round > 1:
            self._ledger.forget_upload(dataset_id, job_id, view.round - 1)
        running.tell(replace(status, progress=RoundProgress.SUBMITTED))

    def _record(
        self,
        kind: UsageKind,
        job: GrantedJob,
        view: RoundView,
        *,
        loss_micro: int = 0,
        upload_digest: bytes = b"",
    ) -> None:
        self._usage.record(
            kind, dataset_id=job.key[1], job_id=job.key[0], builder=job.builder, spec_hash=job.spec_hash, round=view.round,
            attempt=view.attempt, loss_micro=loss_micro, view_hash=view.hash, upload_digest=upload_digest,
        )  # fmt: skip


def checked_view(request: RoundRequest, job: GrantedJob) -> RoundView:
    """The view that the builder signed, checked against the job; public facts only.

    Raises:
        InvalidInput: a malformed field; BAD_SIGNATURE.
        Refused: ROSTER_MISMATCH, COHORT_TOO_SMALL.
    """
    spec, dataset_id = job.spec, job.served.dataset_id
    if not (1 <= request.round < 2**31 and 1 <= request.attempt < 2**31):
        raise InvalidInput("round and attempt count from 1", field="round")
    if len(request.public_key_digest) != 32 or len(request.weights_digest) != 32:
        raise InvalidInput("digests are 32 bytes", field="weights_digest")
    members = {terms.dataset_id for terms in spec.legs}
    roster = request.roster
    if list(roster) != sorted(set(roster)) or not members.issuperset(roster) or dataset_id not in roster:
        raise Refused(
            "the roster is not of this job's legs, or is without this one", reason="ROSTER_MISMATCH"
        )
    minimum = max(spec.min_cohort, job.served.config.min_cohort)
    if len(roster) < minimum:
        raise Refused(
            "the roster is smaller than the minimum cohort",
            reason="COHORT_TOO_SMALL",
            holders=len(roster),
            minimum=minimum,
        )
    view = RoundView(
        spec.job_id,
        job.spec_hash,
        request.round,
        request.attempt,
        request.public_key_digest,
        request.weights_digest,
        roster,
    )
    verify_view(view.hash, request.view_signature, job.builder)
    return view


def _check_digest(data: bytes, digest: bytes, field: str) -> None:
    if hashlib.sha256(data).digest() != digest:
        raise InvalidInput(f"the bytes are not those of {field}", field=field)


def _check_public_key(job: GrantedJob, public_key: bytes) -> None:
    """A wrong key must be found before the charge: afterwards the attempt would be lost."""
    public_key_from_bytes(parameter_set(job.spec.encryption.parameters), public_key)
