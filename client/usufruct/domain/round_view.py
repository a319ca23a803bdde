"""The view of a round: what every holder of the roster must see alike."""

from __future__ import annotations

from dataclasses import dataclass

from eth_abi.abi import encode
from eth_utils.crypto import keccak


@dataclass(frozen=True)
class RoundView:
    """H(spec, round, attempt, weights, public key, roster) of soundness rule 15.

    Attributes:
        job_id, spec_hash: 32 bytes.
        round: number of the round, from 1.
        attempt: number of the attempt in the whole job, from 1.
        public_key_digest, weights_digest: SHA-256 of the exact bytes sent, 32 bytes.
        roster: dataset numbers, ascending.
    """

    job_id: bytes
    spec_hash: bytes
    round: int
    attempt: int
    public_key_digest: bytes
    weights_digest: bytes
    roster: tuple[int, ...]

    @property
    def hash(self) -> bytes:
        """32 bytes. Source: Keccak-256 over the ABI encoding of all fields, with a tag for the purpose."""
        return keccak(
            encode(
                ["string", "bytes32", "bytes32", "uint32", "uint32", "bytes32", "bytes32", "uint64[]"],
                [
                    "usufruct round view v1",
                    self.job_id,
                    self.spec_hash,
                    self.round,
                    self.attempt,
                    self.public_key_digest,
                    self.weights_digest,
                    list(self.roster),
                ],
            )
        )
