"""What the operator key signs. Nothing is signed by a server that is not its holder's newest."""

from __future__ import annotations

from eth_account.signers.local import LocalAccount

from usufruct.chain import Chain, LegEntry, sign_acceptance, sign_failure, sign_grant, sign_receipt
from usufruct.domain.grant import Grant, SignedGrant
from usufruct.domain.leg_receipt import LegReceipt
from usufruct_server.holder.fencing import Fencing


class Statements:
    """The operator's signatures. Each method raises :class:`Refused` FENCED_OUT once another server has taken over.

    Args:
        operator: the hot key.
    """

    def __init__(self, operator: LocalAccount, chain: Chain, fencing: Fencing) -> None:
        self.operator = str(operator.address)
        self.fencing = fencing
        self._key, self._chain = operator, chain

    @property
    def epoch(self) -> int:
        """The fencing epoch that the signatures name."""
        return self.fencing.epoch

    def grant(self, grant: Grant) -> SignedGrant:
        """Permission for a job."""
        self.fencing.require()
        return sign_grant(self._key, grant, self._chain.chain_id, self._chain.registry)

    def acceptance(self, leg: LegEntry) -> bytes:
        """This holder will train: about the leg exactly as the chain has it, price and deadlines included."""
        self.fencing.require()
        return sign_acceptance(self._key, leg.stored_hash(), self.epoch, *self._place)

    def lossless_failure(self, leg: LegEntry) -> bytes:
        """This holder gives an accepted leg up, having spent nothing."""
        self.fencing.require()
        return sign_failure(self._key, leg.stored_hash(), 0, self.epoch, *self._place)

    def receipt(self, receipt: LegReceipt) -> bytes:
        """What a leg has spent, and on what."""
        self.fencing.require()
        return sign_receipt(self._key, receipt, *self._place)

    @property
    def _place(self) -> tuple[int, str]:
        return self._chain.chain_id, self._chain.compute_access
