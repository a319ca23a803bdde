"""One encrypted round with everybody in it, for tests: holders, their masks and files, the sum, the builder."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from usufruct.encryption.chunks import Bytes, Chunking
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.layout import Kind
from usufruct.encryption.linear_check import Challenge, CheckedSum, CheckValue, check_sum, check_value
from usufruct.encryption.masks import MaskKey
from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters
from usufruct.encryption.sum import add_chunk
from usufruct.encryption.update import write_upload
from usufruct.encryption.zero_worker import zeros_made_here

P = DEFAULT_PARAMETERS
JOB = bytes(range(32))


def mask_keys(datasets: list[int]) -> dict[int, MaskKey]:
    return {dataset: MaskKey(JOB, dataset) for dataset in datasets}


def public(keys: dict[int, MaskKey]) -> dict[int, bytes]:
    return {dataset: key.public_bytes for dataset, key in keys.items()}


@dataclass
class EncryptedRound:
    """What every party of one round attempt has."""

    parameters: EncryptionParameters
    view: bytes
    key: RoundKey
    updates: dict[int, np.ndarray]
    outboxes: dict[int, bytes]
    commitments: dict[int, Commitment]

    @classmethod
    def of(
        cls,
        datasets: list[int],
        count: int,
        *,
        view: bytes = b"v" * 32,
        views: dict[int, bytes] | None = None,
        keys: dict[int, MaskKey] | None = None,
        key: RoundKey | None = None,
        masked: bool = True,
        seed: int = 1,
    ) -> EncryptedRound:
        rng = np.random.default_rng(seed)
        keys = keys or mask_keys(datasets)
        key = key or RoundKey.generate(P)
        updates, outboxes, commitments = {}, {}, {}
        for dataset in datasets:
            values = rng.integers(0, P.max_value + 1, count)
            masks = keys[dataset].masks(P, (views or {}).get(dataset, view), public(keys)) if masked else None
            file = io.BytesIO()
            zeros = zeros_made_here(P, key.public_key_bytes)
            commitments[dataset] = write_upload(
                P, count, zeros, masks, lambda start, stop, values=values: values[start:stop], file
            )
            updates[dataset], outboxes[dataset] = values, file.getvalue()
        return cls(P, view, key, updates, outboxes, commitments)

    @property
    def uploads(self) -> Chunking:
        return next(iter(self.commitments.values())).chunking

    @property
    def sums(self) -> Chunking:
        return Chunking(self.parameters, Kind.SUM, self.uploads.count)

    def chunks(self, dataset: int) -> list[bytes]:
        return list(self.uploads.read(io.BytesIO(self.outboxes[dataset])))

    def sum_chunks(self) -> list[Bytes]:
        """What an honest aggregator makes of the uploads."""
        by_holder = [self.chunks(dataset) for dataset in self.outboxes]
        return [
            add_chunk(self.uploads, index, part) for index, part in enumerate(zip(*by_holder, strict=True))
        ]

    def challenge(self, total: Commitment, seed: bytes = b"s" * 32) -> Challenge:
        return Challenge(seed, self.view, total.root)

    def answers(self, challenge: Challenge) -> dict[int, CheckValue]:
        """What every holder computes from its own outbox."""
        return {
            dataset: check_value(challenge, self.uploads, self.chunks(dataset)) for dataset in self.outboxes
        }

    def check(self, sum_chunks: list[Bytes], seed: bytes = b"s" * 32) -> CheckedSum:
        """The builder's side, from the delivery of the sum to the end of the check."""
        total = Commitment.over(self.sums, sum_chunks)
        challenge = self.challenge(total, seed)
        return check_sum(challenge, total, sum_chunks, lambda: self.answers(challenge))

    def open(self, sum_chunks: list[Bytes]) -> np.ndarray:
        return np.concatenate(list(self.key.open_sum(self.check(sum_chunks), sum_chunks)))
