"""An attempt up to its charge: whatever fails here is a refusal and costs nothing.

public checks → key and weights read → chain at a final block → weights checked by the trainer → **charge, on disk**
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from usufruct.domain.round_view import RoundOffer
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import EncryptionParameters, parameter_set
from usufruct.encryption.public_key import public_key_from_bytes
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import InvalidInput, Refused, RoundFailed, UsufructError
from usufruct.privacy import value_count
from usufruct.wire.raw import IncomingStream
from usufruct.wire.signatures import verify_offer
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger, LegState, StoredUpload
from usufruct_server.holder.legs import GrantedJob, Legs
from usufruct_server.holder.rounds.attempt_log import AttemptLog
from usufruct_server.holder.rounds.events import RoundRequest
from usufruct_server.holder.rounds.leg_pools import LegPools
from usufruct_server.holder.trainers import Trainers
from usufruct_server.holder.training.block import VALUE_BYTES, SharedBlock
from usufruct_server.holder.training.trainer import Trainer, TrainerFailed
from usufruct_server.holder.usage_log import UsageLog

_SAFETENSORS_BYTES = 1 << 20
"""Room for the header of the weights; the trainer checks it against the graph."""
_log = logging.getLogger("usufruct.holder.rounds")


@dataclass(frozen=True)
class RoundBody:
    """What follows a round's header; its digests have been compared, and the key's coefficients are in range.

    Attributes:
        block: of this attempt alone; its first ``weights_bytes`` bytes are the weights. Close it when the attempt has its
            upload, or is lost.
    """

    public_key: bytes
    block: SharedBlock
    weights_bytes: int


@dataclass(frozen=True)
class Charged:
    """The licence to draw once, and what the draw needs. Stop ``zeros`` when the attempt has ended."""

    trainer: Trainer
    zeros: ZeroPool
    attempts_charged: int


class Opening:
    """Judges and charges attempts. Of one leg one at a time: :meth:`judge` and :meth:`charge` under the leg's lock."""

    def __init__(
        self,
        *,
        store: JobStore,
        ledger: Ledger,
        usage: UsageLog,
        legs: Legs,
        trainers: Trainers,
        pools: LegPools,
        log: AttemptLog,
    ) -> None:
        self._store, self._ledger, self._usage, self._legs = store, ledger, usage, legs
        self._trainers, self._pools, self._log = trainers, pools, log

    def judge(self, job: GrantedJob, offer: RoundOffer) -> StoredUpload | None:
        """The upload of an attempt that was charged before; None for one that may be charged now.

        Raises:
            Refused: LEG_NOT_OPEN, ATTEMPTS_EXHAUSTED.
            RoundFailed: ROUND_VIEW_CHANGED, ATTEMPT_LOST, ROUND_OUT_OF_ORDER.
        """
        leg = self._legs.running(job)
        job_id, dataset_id = job.key
        charged = self._ledger.charged_attempts(dataset_id, job_id)
        known = self._store.attempt(job_id, dataset_id, offer.attempt)
        about = {"round": offer.round, "attempt": offer.attempt}
        if known is not None and known.offer_hash != offer.hash:
            raise RoundFailed(
                "the attempt was begun with another offer", reason="ROUND_VIEW_CHANGED", **about
            )
        if (offer.round, offer.attempt) in charged:
            upload = None
            if not self._usage.has(UsageKind.LOST, dataset_id, job_id, offer.attempt):
                if leg.last_round > offer.round:
                    raise RoundFailed("the attempt's round is over", reason="ROUND_OUT_OF_ORDER", **about)
                upload = self._ledger.upload(dataset_id, job_id, offer.round, offer.attempt)
            if upload is None:
                raise RoundFailed("the attempt was charged and lost", reason="ATTEMPT_LOST", **about)
            return upload
        if charged and offer.attempt <= max(attempt for _, attempt in charged):
            raise RoundFailed("attempt numbers only rise", reason="ROUND_OUT_OF_ORDER", **about)
        if self._ledger.leg(dataset_id, job_id).state is LegState.COMMITTED:
            raise Refused(
                "the leg was closed at its whole reservation, for nothing proves what was charged before this start",
                reason="ATTEMPTS_EXHAUSTED",
                **about,
            )
        # Also by its number: an auditor takes a charge beyond the reserved numbers for a fault of the holder.
        if max(len(charged) + 1, offer.attempt) > job.spec.plan.attempts:
            raise Refused("every reserved attempt has been charged", reason="ATTEMPTS_EXHAUSTED", **about)
        if not leg.last_round <= offer.round <= job.spec.plan.rounds:
            raise RoundFailed("rounds follow one another", reason="ROUND_OUT_OF_ORDER", **about)
        return None

    def charge(self, job: GrantedJob, offer: RoundOffer, body: RoundBody, seconds: float) -> Charged:
        """The last checks, and the charge. From its return on every outcome is an upload or a lost attempt.

        Makers of zeros are at work when it returns: they need the public key and no row.

        Raises:
            UsufructError: what :meth:`Legs.require_trainable` refuses; WEIGHTS_NOT_ALLOWED; the trainer does not answer.
            LedgerError: nothing was charged.
        """
        self._legs.require_trainable(job)
        trainer = self._checked_trainer(job, offer, body, seconds)
        job_id, dataset_id = job.key
        noted = self._store.note_offer(job_id, dataset_id, offer.round, offer.attempt, offer.hash)
        if noted.offer_hash != offer.hash:
            raise RoundFailed(
                "the attempt was begun with another offer",
                reason="ROUND_VIEW_CHANGED",
                attempt=offer.attempt,
            )
        zeros = self._pools.zeros(job)
        parameters = parameter_set(job.spec.encryption.parameters)
        try:
            zeros.start(
                body.public_key,
                parameters.blocks_for(value_count(job.spec)),
            )
            charge = self._ledger.charge(dataset_id, job_id, offer.round, offer.attempt)
        except BaseException:
            zeros.stop()
            raise
        self._log.forget_rounds_before(job_id, dataset_id, offer.round)
        return Charged(trainer, zeros, charge.attempts_charged)

    def _checked_trainer(
        self, job: GrantedJob, offer: RoundOffer, body: RoundBody, seconds: float
    ) -> Trainer:
        """A live trainer that has accepted the weights. One that dies here has drawn nothing, so a second is tried."""
        for _ in range(2):
            try:
                trainer = self._trainers.for_leg(job.spec, job.served)
                trainer.check_weights(body.block, body.weights_bytes, offer.round, offer.attempt, seconds)
                return trainer
            except TrainerFailed as error:
                _log.error(
                    "event=trainer_failed before_charge=true job=%s type=%s",
                    job.key[0].hex(),
                    type(error).__name__,
                )
        raise UsufructError("the trainer does not answer; nothing was charged")


def checked_offer(request: RoundRequest, job: GrantedJob) -> RoundOffer:
    """The offer that the builder signed; public facts only.

    Raises:
        InvalidInput: a malformed field; BAD_SIGNATURE.
    """
    if not (1 <= request.round < 2**31 and 1 <= request.attempt < 2**31):
        raise InvalidInput("round and attempt count from 1", field="round")
    offer = RoundOffer(
        job.spec.job_id,
        job.spec_hash,
        request.round,
        request.attempt,
        request.public_key_digest,
        request.weights_digest,
    )
    verify_offer(offer.hash, request.offer_signature, job.builder)
    return offer


def read_body(job: GrantedJob, request: RoundRequest, stream: IncomingStream) -> RoundBody:
    """Key and weights; a wrong key must be found before the charge, for afterwards the attempt would be lost.

    The weights go as they come to where the trainer finds them, and what is compared with their digest is what came.

    Raises:
        InvalidInput: TOO_LARGE, MALFORMED, PUBLIC_KEY_INVALID, or bytes that are not those of the header.
    """
    parameters, allowed_weights_bytes = _allowed(job)
    public_key = stream.read(request.public_key_bytes, parameters.public_key_bytes)
    _compare(hashlib.sha256(public_key), request.public_key_digest, "public_key_digest")
    public_key_from_bytes(parameters, public_key)
    block = SharedBlock(max(allowed_weights_bytes, VALUE_BYTES * value_count(job.spec)))
    digest, position = hashlib.sha256(), 0
    try:
        for piece in stream.pieces(request.weights_bytes, allowed_weights_bytes):
            digest.update(piece)
            block.write(position, piece)
            position += len(piece)
        _compare(digest, request.weights_digest, "weights_digest")
    except BaseException:
        block.close()
        raise
    return RoundBody(public_key, block, position)


def _compare(found: hashlib._Hash, said: bytes, field: str) -> None:
    if found.digest() != said:
        raise InvalidInput(f"the bytes are not those of {field}", field=field)


def skip_body(job: GrantedJob, request: RoundRequest, stream: IncomingStream) -> None:
    """Key and weights of an attempt that was charged before: read past, and not kept.

    Raises:
        InvalidInput: TOO_LARGE, MALFORMED.
    """
    parameters, allowed_weights_bytes = _allowed(job)
    for announced, allowed in (
        (request.public_key_bytes, parameters.public_key_bytes),
        (request.weights_bytes, allowed_weights_bytes),
    ):
        for _ in stream.pieces(announced, allowed):
            pass


def _allowed(job: GrantedJob) -> tuple[EncryptionParameters, int]:
    """The job's encryption, and the most bytes that its weights may have."""
    spec = job.spec
    return parameter_set(spec.encryption.parameters), spec.model_parameters * VALUE_BYTES + _SAFETENSORS_BYTES
