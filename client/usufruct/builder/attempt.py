"""One attempt of one round, as far as it has come in this process: what was offered, who was ready, what was signed.

Whatever is signed or revealed once stays as it is. An attempt that is run again in this process, after a party was out of
reach, is the same attempt: the same offer, the same view, the same challenge. None of it is on disk, as the key is not
either: another process takes the next attempt.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection

from eth_account.signers.local import LocalAccount

from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.linear_check import SEED_BYTES, Challenge
from usufruct.errors import RoundFailed
from usufruct.v1 import rounds_pb2
from usufruct.wire import signatures
from usufruct.wire.aggregation import FetchedSum


class Attempt:
    """One attempt, ready to be sent. Sending it twice is the same attempt: holders answer with identical bytes.

    Not thread-safe; :class:`usufruct.builder.flight.Flight` guards it.
    """

    def __init__(
        self,
        offer: RoundOffer,
        key: RoundKey,
        weights: bytes,
        account: LocalAccount,
    ) -> None:
        self.offer, self.key, self.weights = offer, key, weights
        self._account = account
        self._offer_signature = signatures.sign_offer(account, offer.hash)
        self._ready: dict[int, rounds_pb2.RosterMember] = {}
        self._view: RoundView | None = None
        self._challenge: Challenge | None = None

    @property
    def number(self) -> int:
        """Its number in the whole job."""
        return self.offer.attempt

    @property
    def view(self) -> RoundView | None:
        """What the roster was shown; None until it is fixed."""
        return self._view

    @property
    def fixed_view(self) -> RoundView:
        """The view, once it is fixed."""
        assert self._view is not None
        return self._view

    def header(self, dataset_id: int) -> rounds_pb2.RoundHeader:
        """What one holder is offered."""
        offer = self.offer
        return rounds_pb2.RoundHeader(
            job_id=offer.job_id,
            dataset_id=dataset_id,
            round=offer.round,
            attempt=offer.attempt,
            public_key_bytes=len(self.key.public_key_bytes),
            public_key_digest=offer.public_key_digest,
            weights_bytes=len(self.weights),
            weights_digest=offer.weights_digest,
            offer_signature=self._offer_signature,
        )

    def note_ready(self, dataset_id: int, operator: str, event: rounds_pb2.RoundEvent) -> None:
        """Takes a holder's mask key, if its operator signed it for this offer.

        Raises:
            InvalidInput: BAD_SIGNATURE, or a malformed key.
            RoundFailed: ROSTER_MISMATCH: it named another key before, or another dataset's.
        """
        signatures.verify_ready(self.offer.hash, dataset_id, event.mask_key, event.ready_signature, operator)
        before = self._ready.get(dataset_id)
        if before is not None and before.mask_key != event.mask_key:
            raise RoundFailed(
                "It has named another mask key for this attempt before.",
                reason="ROSTER_MISMATCH",
                dataset_id=dataset_id,
            )
        for other, member in self._ready.items():
            if other != dataset_id and member.mask_key == event.mask_key:
                raise RoundFailed(
                    f"It named the mask key of dataset {other} as its own.",
                    reason="ROSTER_MISMATCH",
                    dataset_id=dataset_id,
                )
        self._ready[dataset_id] = rounds_pb2.RosterMember(
            dataset_id=dataset_id, mask_key=event.mask_key, ready_signature=event.ready_signature
        )

    def fix_view(self, datasets: Collection[int]) -> RoundView:
        """The view over these holders, who have all been ready.

        *Guarantee*: an attempt has one view, ever; two would allow two sums of one update.

        Raises:
            RoundFailed: ROUND_VIEW_CHANGED: it was fixed over others before.
        """
        view = RoundView(
            self.offer, tuple((member, self._ready[member].mask_key) for member in sorted(datasets))
        )
        if self._view is not None and self._view != view:
            raise RoundFailed(
                f"Attempt {self.number} has a view over other holders already.", reason="ROUND_VIEW_CHANGED"
            )
        self._view = view
        return view

    def submit(self) -> rounds_pb2.RoundStep:
        """What every holder of the roster is told: who is in it, and the signed view."""
        view = self.fixed_view
        roster = [self._ready[dataset_id] for dataset_id in view.datasets]
        return rounds_pb2.RoundStep(
            submit=rounds_pb2.Submit(
                roster=roster, view_signature=signatures.sign_view(self._account, view.hash)
            )
        )

    def challenge(self, fetched: FetchedSum) -> Challenge:
        """The attempt's one challenge; its seed is drawn here, now that the sum is fixed.

        *Guarantee*: a seed that somebody may know by now never judges another sum.

        Raises:
            RoundFailed: SUM_INVALID: a challenge about another sum was made before.
        """
        root = fetched.commitment.root
        if self._challenge is None:
            self._challenge = Challenge(secrets.token_bytes(SEED_BYTES), self.fixed_view.hash, root)
        if self._challenge.sum_root != root:
            raise RoundFailed(
                "The aggregator gave another sum than the one it gave of this attempt before; nothing was decrypted. Do "
                "not trust this aggregator.",
                reason="SUM_INVALID",
            )
        return self._challenge
