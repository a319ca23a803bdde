"""What a leg keeps warm from its first attempt to its end: makers of encryptions of zero, and the way to its aggregator."""

from __future__ import annotations

import logging
import threading
import time

from eth_account.signers.local import LocalAccount

from usufruct.encryption import parameter_set
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.zeros import ZeroPool
from usufruct.errors import PeerError
from usufruct.privacy import value_count
from usufruct.wire.aggregation import HolderAggregation, RoundToSum
from usufruct.wire.channel import PinnedEndpoint
from usufruct_server.holder.ledger import StoredUpload
from usufruct_server.holder.legs import GrantedJob
from usufruct_server.holder.trainers import LegKey

_log = logging.getLogger("usufruct.holder.rounds")
LEAST_SEND_SECONDS = 1.0
"""An upload that is stored is offered to the aggregator at least so long, however late it is."""


class LegPools:
    """Safe from several threads; one leg's attempts come one after the other.

    Args:
        operator: the key that signs uploads.
    """

    def __init__(self, operator: LocalAccount) -> None:
        self._operator = operator
        self._guard = threading.Lock()
        self._zeros: dict[LegKey, ZeroPool] = {}
        self._aggregations: dict[LegKey, HolderAggregation] = {}

    def zeros(self, job: GrantedJob) -> ZeroPool:
        """The leg's pool. Start it for an attempt, and stop it when the attempt has ended, however it did."""
        with self._guard:
            if job.key not in self._zeros:
                self._zeros[job.key] = ZeroPool(parameter_set(job.spec.encryption.parameters))
            return self._zeros[job.key]

    def begin_ahead(self, job: GrantedJob, next_public_key: bytes) -> None:
        """Has zeros made for an attempt that is still to come, in the time that this one leaves; empty for none.

        Args:
            next_public_key: what is no key is ignored. If the next attempt has another, what was made is forgotten.
        """
        with self._guard:
            zeros = self._zeros.get(job.key)
        if zeros is None or not next_public_key:  # none: the leg has ended
            return
        try:
            zeros.start(
                next_public_key,
                parameter_set(job.spec.encryption.parameters).blocks_for(value_count(job.spec)),
            )
        except Exception as error:  # nobody needs them yet: the update that is there goes first
            _log.warning(
                "event=zeros_not_ahead job=%s dataset=%d type=%s",
                job.key[0].hex(),
                job.key[1],
                type(error).__name__,
            )
            zeros.stop()

    def send(
        self,
        job: GrantedJob,
        to_sum: RoundToSum,
        stored: StoredUpload,
        commitment: Commitment,
        deadline: float,
    ) -> None:
        """Sends a stored upload; the same again is harmless, so a connection that breaks is made anew, once.

        Args:
            deadline: on the monotonic clock.
        Raises:
            UsufructError: PEER_UNREACHABLE, after which the next attempt connects anew; or what the aggregator answered.
        """
        for last in (False, True):
            seconds = max(LEAST_SEND_SECONDS, deadline - time.monotonic())
            try:
                self._aggregation(job).send_upload(to_sum, job.key[1], stored.path, commitment, seconds)
                return
            except PeerError as error:
                with self._guard:
                    broken = self._aggregations.pop(job.key, None)
                if broken is not None:
                    broken.close()
                if last:
                    raise
                _log.warning(
                    "event=upload_broken job=%s dataset=%d reason=%s again=true",
                    job.key[0].hex(), job.key[1], error.reason,
                )  # fmt: skip

    def end(self, key: LegKey) -> None:
        """Ends what a leg had; harmless when it had nothing."""
        with self._guard:
            zeros, aggregation = self._zeros.pop(key, None), self._aggregations.pop(key, None)
        if zeros is not None:
            zeros.close()
        if aggregation is not None:
            aggregation.close()

    def close(self) -> None:
        """Ends what all legs had."""
        with self._guard:
            keys = {*self._zeros, *self._aggregations}
        for key in keys:
            self.end(key)

    def _aggregation(self, job: GrantedJob) -> HolderAggregation:
        with self._guard:
            known = self._aggregations.get(job.key)
        if known is None:
            aggregator = job.spec.aggregator
            known = HolderAggregation(
                PinnedEndpoint(aggregator.endpoint, aggregator.fingerprint), self._operator
            )
            with self._guard:
                self._aggregations[job.key] = known
        return known
