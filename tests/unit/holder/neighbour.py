"""A second holder of a job, by hand: registered on chain, with its operator key in our hands and no server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from eth_account.signers.local import LocalAccount
from holder_world import WIDTH, Builder, RoundParts, member, to_sum

from usufruct.domain.round_view import RoundView
from usufruct.domain.training_job import TrainingJobSpec
from usufruct.encryption import DEFAULT_PARAMETERS
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.linear_check import Challenge, CheckValue, check_value
from usufruct.encryption.masks import MaskKey
from usufruct.encryption.update import write_upload
from usufruct.encryption.zero_worker import zeros_made_here
from usufruct.v1 import jobs_pb2, rounds_pb2
from usufruct.wire.aggregation import HolderAggregation
from usufruct.wire.channel import PinnedEndpoint
from usufruct.wire.jobs import spec_to_bytes
from usufruct.wire.signatures import sign_ready


@dataclass(frozen=True)
class Neighbour:
    """The other holder of a job.

    Attributes:
        folder: where its uploads are.
    """

    dataset_id: int
    operator: LocalAccount
    folder: Path

    def member(self, parts: RoundParts, mask: MaskKey) -> rounds_pb2.RosterMember:
        """That it is ready for an offer."""
        signature = sign_ready(self.operator, parts.offer.hash, self.dataset_id, mask.public_bytes)
        return member(self.dataset_id, mask.public_bytes, signature)

    def encrypt(
        self, parts: RoundParts, view: RoundView, mask: MaskKey, values: np.ndarray
    ) -> tuple[Path, Commitment]:
        """Its masked update."""
        path = self.folder / view.hash.hex()
        zeros = zeros_made_here(DEFAULT_PARAMETERS, parts.key.public_key_bytes)
        masks = mask.masks(DEFAULT_PARAMETERS, view.hash, view.mask_keys)
        with path.open("wb") as file:
            commitment = write_upload(
                DEFAULT_PARAMETERS, WIDTH + 1, zeros, masks, lambda start, stop: values[start:stop], file
            )
        return path, commitment

    def send(
        self,
        aggregator: PinnedEndpoint,
        spec: TrainingJobSpec,
        view: RoundView,
        path: Path,
        commitment: Commitment,
    ) -> None:
        """To the aggregator."""
        with HolderAggregation(aggregator, self.operator) as aggregation:
            aggregation.send_upload(to_sum(spec, view), self.dataset_id, path, commitment)


def answer(challenge: Challenge, path: Path, commitment: Commitment) -> CheckValue:
    """What a holder says to a challenge."""
    with path.open("rb") as file:
        return check_value(challenge, commitment.chunking, commitment.chunking.read(file))


def shared_job(
    builder: Builder,
    peer: PinnedEndpoint,
    own: int,
    other: int,
    aggregator: PinnedEndpoint,
    min_cohort: int = 1,
) -> TrainingJobSpec:
    """A job over two datasets that may start with the first alone; its leg there is accepted."""
    spec = builder.spec(own, other, aggregator=aggregator, min_cohort=min_cohort)
    data = spec_to_bytes(spec)
    proposal = builder.propose(peer, own, data, request_id=secrets.token_hex(8))
    assert proposal.state == jobs_pb2.PROPOSAL_STATE_GRANTED, proposal.reason
    builder.open(spec, data, proposal)
    builder.accept(peer, spec.job_id, own)
    return spec
