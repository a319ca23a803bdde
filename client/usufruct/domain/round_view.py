"""What a builder shows to the holders of a round's attempt: the offer first, then the view with its roster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from usufruct.domain import ids
from usufruct.errors import InvalidInput

MASK_KEY_BYTES = 32


@dataclass(frozen=True)
class RoundOffer:
    """What every holder of the job is shown alike before anybody knows who will be in the roster.

    Attributes:
        job_id, spec_hash: 32 bytes.
        round: number of the round, from 1.
        attempt: number of the attempt in the whole job, from 1.
        public_key_digest, weights_digest: SHA-256 of the exact bytes sent, 32 bytes.

    Raises:
        InvalidInput: a field is out of its range.
    """

    job_id: bytes
    spec_hash: bytes
    round: int
    attempt: int
    public_key_digest: bytes
    weights_digest: bytes

    def __post_init__(self) -> None:
        for name in ("job_id", "spec_hash", "public_key_digest", "weights_digest"):
            ids.hash32(getattr(self, name), name)
        for name in ("round", "attempt"):
            if not 1 <= getattr(self, name) < 1 << 32:
                raise InvalidInput(f"{name} counts from 1 and fits 32 bits.", field=name)

    @cached_property
    def hash(self) -> bytes:
        """32 bytes. Source: Keccak-256 over the ABI encoding of all fields, with a tag for the purpose."""
        return keccak(
            encode(
                ["string", "bytes32", "bytes32", "uint32", "uint32", "bytes32", "bytes32"],
                [
                    "usufruct round offer v1",
                    self.job_id,
                    self.spec_hash,
                    self.round,
                    self.attempt,
                    self.public_key_digest,
                    self.weights_digest,
                ],
            )
        )

    @property
    def rotation_seed(self) -> bytes:
        """32 bytes that all holders of the attempt and its builder know: the seed of the rotation's signs (`distributed`
        noise). Source: Keccak-256 over the ABI encoding of a tag and :attr:`hash`."""
        return keccak(encode(["string", "bytes32"], ["usufruct rotation v1", self.hash]))


@dataclass(frozen=True)
class RoundView:
    """H(spec, round, attempt, weights, public key, roster) of soundness rule 15: what every holder of the roster
    must see alike.

    Attributes:
        offer: what they were shown before.
        roster: (dataset number, its X25519 public key for this attempt), ascending.

    Raises:
        InvalidInput: ``ROSTER_MISMATCH``: an empty roster, one out of order, with a dataset or a mask key twice, or
            with a key that is not 32 bytes.
    """

    offer: RoundOffer
    roster: tuple[tuple[int, bytes], ...]

    def __post_init__(self) -> None:
        numbers = list(self.datasets)
        if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < 1 << 64:
            raise InvalidInput(
                "The roster lists each dataset once, in ascending order.",
                reason="ROSTER_MISMATCH",
                field="roster",
            )
        keys = set(self.mask_keys.values())
        if len(keys) != len(numbers) or any(len(key) != MASK_KEY_BYTES for key in keys):
            raise InvalidInput(
                "Every dataset of a roster has a mask key of its own, 32 bytes.",
                reason="ROSTER_MISMATCH",
                field="mask_key",
            )

    @property
    def datasets(self) -> tuple[int, ...]:
        """The roster's dataset numbers, ascending."""
        return tuple(dataset_id for dataset_id, _ in self.roster)

    @property
    def mask_keys(self) -> dict[int, bytes]:
        """Dataset number -> mask key, for :meth:`usufruct.encryption.masks.MaskKey.masks`."""
        return dict(self.roster)

    @cached_property
    def hash(self) -> bytes:
        """32 bytes. Source: Keccak-256 over the ABI encoding of the offer's hash and the roster, with a tag for the
        purpose.
        """
        return keccak(
            encode(
                ["string", "bytes32", "uint64[]", "bytes32[]"],
                ["usufruct round view v2", self.offer.hash, list(self.datasets), [k for _, k in self.roster]],
            )
        )
