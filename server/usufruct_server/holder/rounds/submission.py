"""A roster is agreed on, the update is encrypted for it, and sent.

The view is durable before anything is encrypted, the upload before anything is sent. An attempt has one view and one
upload, ever: so there are no two rosters of one update, and a resend is byte-identical.
"""

from __future__ import annotations

from typing import BinaryIO

from eth_account.signers.local import LocalAccount

from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.domain.training_job import NoiseMode
from usufruct.domain.usage_record import UsageKind
from usufruct.encryption import parameter_set
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.masks import MaskStream
from usufruct.encryption.update import ValueSource, write_upload
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import Refused, RoundFailed
from usufruct.privacy import value_count
from usufruct.v1 import rounds_pb2
from usufruct.wire.aggregation import RoundToSum
from usufruct.wire.signatures import sign_ready, verify_ready, verify_view
from usufruct_server.holder.config import Policy
from usufruct_server.holder.job_store import JobStore
from usufruct_server.holder.ledger import Ledger, StoredUpload
from usufruct_server.holder.legs import GrantedJob
from usufruct_server.holder.policy import counted_holders, least_counted
from usufruct_server.holder.rounds.attempt import Attempt
from usufruct_server.holder.rounds.attempt_log import AttemptLog
from usufruct_server.holder.rounds.events import RoundProgress
from usufruct_server.holder.rounds.leg_pools import LegPools


class Submission:
    """Agrees on views, encrypts and sends.

    Args:
        operator: the key that signs what this holder says.
        policy: whom this holder counts in a roster.
    """

    def __init__(
        self, *, store: JobStore, ledger: Ledger, log: AttemptLog, pools: LegPools, operator: LocalAccount,
        policy: Policy,
    ) -> None:  # fmt: skip
        self._store, self._ledger, self._log, self._pools = store, ledger, log, pools
        self._operator, self._policy = operator, policy

    def tell_ready(self, attempt: Attempt) -> None:
        """Names this holder's mask key, signed for the offer."""
        signature = sign_ready(self._operator, attempt.offer.hash, attempt.job.key[1], attempt.mask_key)
        attempt.tell(RoundProgress.READY, mask_key=attempt.mask_key, ready_signature=signature)

    def agree(self, attempt: Attempt, submit: rounds_pb2.Submit) -> None:
        """Checks the builder's roster, and gives the attempt its view, durably.

        Raises:
            InvalidInput, Refused, RoundFailed: see :func:`checked_view`; PUBLIC_KEY_INVALID for a mask key that is none;
                ROUND_VIEW_CHANGED; ATTEMPT_LOST. Nothing is lost that was not before.
        """
        job, offer = attempt.job, attempt.offer
        view = checked_view(offer, attempt.mask_key, job, submit, self._policy)
        parameters = parameter_set(job.spec.encryption.parameters)

        def keep() -> MaskStream | None:
            job_id, dataset_id = job.key
            masks = None
            if (
                attempt.mask is not None and len(view.roster) > 1
            ):  # alone, there is nobody to share a mask with
                masks = attempt.mask.masks(parameters, view.hash, view.mask_keys)
            noted = self._store.note_view(job_id, dataset_id, offer.attempt, view.hash, attempt.mask_key)
            if noted.view_hash != view.hash:
                raise RoundFailed(
                    "the attempt has another roster", reason="ROUND_VIEW_CHANGED", attempt=offer.attempt
                )
            return masks

        attempt.agree(view, keep)

    def encrypt(
        self,
        attempt: Attempt,
        view: RoundView,
        masks: MaskStream | None,
        zeros: ZeroPool,
        values: ValueSource,
    ) -> tuple[StoredUpload, Commitment]:
        """Encrypts the update into the outbox, chunk by chunk.

        Args:
            values: gives arrays that nobody else can change.
        Returns:
            The upload, which is on the disk, and the commitment to it.
        Raises:
            Refused: COHORT_TOO_SMALL: no masks, and one holder's share of distributed noise protects too little to be opened alone.
        """
        job, encryption = attempt.job, attempt.job.spec.encryption
        if masks is None and job.spec.plan.noise_mode is NoiseMode.DISTRIBUTED:
            raise Refused("distributed noise is never sent without masks", reason="COHORT_TOO_SMALL")
        commitments: list[Commitment] = []

        def write(file: BinaryIO) -> bytes:
            commitments.append(
                write_upload(
                    parameter_set(encryption.parameters), value_count(job.spec), zeros.take, masks,
                    values, file,
                )
            )  # fmt: skip
            return commitments[0].root

        job_id, dataset_id = job.key
        offer = attempt.offer
        stored = self._ledger.record_upload(dataset_id, job_id, offer.round, offer.attempt, view.hash, write)
        return stored, commitments[0]

    def send(
        self, attempt: Attempt, view: RoundView, stored: StoredUpload, commitment: Commitment | None
    ) -> None:
        """Records that a stored upload is let go, and sends it, for the first time or again.

        Args:
            commitment: None for an upload of an earlier process: its file is then compared with what was recorded.
        Raises:
            UsufructError: what the aggregator answered, or it cannot be reached; the same bytes may be sent again.
            RoundFailed: ROUND_VIEW_CHANGED: it was encrypted for another view. LedgerError: ATTEMPT_LOST.
        """
        if stored.view_hash != view.hash:
            raise RoundFailed("the upload is for another roster", reason="ROUND_VIEW_CHANGED")
        to_sum = round_to_sum(attempt.job, view)
        if commitment is None:
            commitment = stored.commitment(to_sum.uploads)
        attempt.tell(
            RoundProgress.ENCRYPTED,
            view_hash=view.hash,
            upload_root=stored.root,
            upload_bytes=stored.size_bytes,
        )
        # Before its first byte leaves: whatever happens then, an update that may be in a sum is never logged as lost.
        self._log.record(
            UsageKind.SUBMITTED, attempt.job, attempt.offer, view_hash=view.hash, upload_digest=stored.root
        )
        self._pools.send(attempt.job, to_sum, stored, commitment, attempt.deadline)
        attempt.tell(RoundProgress.SUBMITTED)


def checked_view(
    offer: RoundOffer, mask_key: bytes, job: GrantedJob, submit: rounds_pb2.Submit, policy: Policy
) -> RoundView:
    """The view that the builder signed, checked against the job; public facts only.

    *Guarantee*: every member of its roster is a leg of this job whose operator was shown this very offer, this holder is
    in it with its own mask key, and it is no smaller than the spec asks for. At least as many holders as the dataset's
    minimum cohort, and as ``min_honest + max_colluding``, are this one and those that its policy names.

    Raises:
        InvalidInput: BAD_SIGNATURE, ROSTER_MISMATCH, or a malformed field.
        Refused: ROSTER_MISMATCH, COHORT_TOO_SMALL.
    """
    members = {terms.dataset_id for terms in job.spec.legs}
    if len(submit.roster) > len(members):
        raise Refused("the roster is larger than the job", reason="ROSTER_MISMATCH", limit=len(members))
    view = RoundView(offer, tuple((member.dataset_id, member.mask_key) for member in submit.roster))
    if not members.issuperset(view.datasets) or view.mask_keys.get(job.served.dataset_id) != mask_key:
        raise Refused(
            "the roster is not of this job's legs, or is without this one and its mask key",
            reason="ROSTER_MISMATCH",
        )
    if len(view.roster) < job.spec.min_cohort:
        raise Refused(
            "the roster is smaller than the minimum cohort",
            reason="COHORT_TOO_SMALL",
            holders=len(view.roster),
            minimum=job.spec.min_cohort,
        )
    own = job.spec.leg(job.served.dataset_id).holder_id
    counted = counted_holders(job.spec, view.datasets, policy, own)
    least = least_counted(job.spec, job.served.config.min_cohort)
    if counted < least:
        raise Refused(
            "too few holders of the roster are named in [policy] co_holders",
            reason="COHORT_TOO_SMALL",
            holders=counted,
            minimum=least,
        )
    verify_view(view.hash, submit.view_signature, job.builder)
    for member in submit.roster:
        operator = job.spec.leg(member.dataset_id).operator
        verify_ready(offer.hash, member.dataset_id, member.mask_key, member.ready_signature, operator)
    return view


def round_to_sum(job: GrantedJob, view: RoundView) -> RoundToSum:
    """What is summed under this view, as every party of the round knows it."""
    encryption, offer = job.spec.encryption, view.offer
    return RoundToSum(
        offer.job_id, offer.round, offer.attempt, view.hash,
        {member: job.spec.leg(member).operator for member in view.datasets}, value_count(job.spec),
        parameter_set(encryption.parameters),
    )  # fmt: skip
