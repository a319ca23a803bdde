"""What a builder sees of a round and of a leg."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RoundResult:
    """One round that counted.

    Attributes:
        index: number of the round, from 1.
        attempt: number of the attempt that succeeded, counted through the whole job, from 1.
        epsilon: largest binding epsilon of all datasets, for what their holders have charged so far.
        validation_loss, validation_accuracy: on the builder's own validation data; None where there is none (accuracy
            also for a loss that is no classification).
        seconds: wall time of the round, attempts that were lost included.
        upload_bytes: ciphertext bytes that the holders sent to the aggregator.
        download_bytes: bytes that this builder sent to the holders and fetched from the aggregator.
    """

    index: int
    attempt: int
    epsilon: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True)
class LegResult:
    """One dataset's part of a finished job, as its receipt on chain states it and this builder checked it.

    Attributes:
        loss_micro: privacy loss committed, 10^-6 nat at the dataset's order.
        epsilon: the binding figure for it, at the job's delta.
        price_units: what was paid.
        receipt_hash: EIP-712 hash of the receipt, 32 bytes.
        findings: what the receipt says otherwise than this builder saw; empty when all is well. A leg with findings
            is not acknowledged, so it is not paid by this program.
        acknowledged: whether the payment has been released.
    """

    dataset_id: int
    endpoint: str
    loss_micro: int
    epsilon: float
    price_units: int
    receipt_hash: bytes
    findings: tuple[str, ...]
    acknowledged: bool
