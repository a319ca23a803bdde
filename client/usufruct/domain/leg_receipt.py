"""The holder's signed statement of a leg: all that recomputing its privacy loss needs (soundness rule 20)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from eth_utils.crypto import keccak

RECEIPT_VERSION = 2
ACCOUNTANT_VERSION = 1


class MechanismKind(IntEnum):
    """Which mechanism a receipt prices."""

    SUBSAMPLED_GAUSSIAN = 1
    """Poisson-subsampled Gaussian, full noise at the holder (``local``)."""
    SUBSAMPLED_SKELLAM = 2
    """Poisson-subsampled Skellam noise in integer shares over several holders (``distributed``)."""


class NeighbouringRelation(IntEnum):
    """Which datasets count as neighbours."""

    ADD_OR_REMOVE_ONE = 1


class Rounding(IntEnum):
    """How noised updates become integers."""

    AFTER_NOISE = 1
    """Rounded and clamped after full local noise: post-processing, no effect on the loss."""
    DITHERED_BEFORE_NOISE = 2
    """Rotated, rounded with a fresh uniform dither and clamped, all before the integer noise: inside the sensitivities."""


@dataclass(frozen=True)
class LegReceipt:
    """The EIP-712 struct ``LegReceipt`` of ``ComputeAccess``, field by field and in its order; zero where unused.

    Attributes:
        version, accountant_version: of this struct and of the accounting formulas.
        fencing_epoch: the holder's at signing; the chain refuses a statement of an earlier one.
        leg_id, job_id, spec_hash, grant_hash: 32 bytes each.
        dataset_id: the dataset's number on chain.
        mechanism, neighbouring, rounding: see the enums above.
        order: Rényi order α of the dataset's budget.
        min_honest, max_colluding: h and c of the distributed mode; 0 in local mode.
        steps_per_attempt: DP-SGD steps in one attempt.
        attempts_reserved, attempts_charged, rounds_done: how often noise was paid for, drawn, and opened.
        dimension: number of parameters, before any padding.
        sample_rate_nano: q in 10^-9.
        clip_norm_micro: C in 10^-6.
        noise_multiplier_micro: σ in 10^-6 (Gaussian); 0 in distributed mode.
        scale_micro, delta_two_micro, delta_one_micro, share_noise_micro: s, Δ₂, Δ₁ and the variance of one holder's
            share of the noise in 10^-6; distributed mode only.
        loss_micro: privacy loss committed, 10^-6 nat.
        usage_head: Merkle root of the last usage batch that this leg's records are in.
        updates_hash: Keccak-256 chain over the digests of the encrypted updates.
        started_seconds, ended_seconds: UTC.
    """

    version: int
    accountant_version: int
    fencing_epoch: int
    leg_id: bytes
    job_id: bytes
    dataset_id: int
    spec_hash: bytes
    grant_hash: bytes
    mechanism: int
    neighbouring: int
    rounding: int
    order: int
    min_honest: int
    max_colluding: int
    steps_per_attempt: int
    attempts_reserved: int
    attempts_charged: int
    rounds_done: int
    dimension: int
    sample_rate_nano: int
    clip_norm_micro: int
    noise_multiplier_micro: int
    scale_micro: int
    delta_two_micro: int
    delta_one_micro: int
    share_noise_micro: int
    loss_micro: int
    usage_head: bytes
    updates_hash: bytes
    started_seconds: int
    ended_seconds: int


def updates_hash(digests: Iterable[bytes]) -> bytes:
    """What :attr:`LegReceipt.updates_hash` is: 32 zero bytes, then for each digest h = keccak256(h ‖ digest).

    Args:
        digests: SHA-256 of each encrypted update that was sent, 32 bytes each, in the order of the leg's SUBMITTED
            usage records.
    """
    chained = bytes(32)
    for digest in digests:
        chained = keccak(chained + digest)
    return chained
