"""Makes this server the only one of its holder, and notices when it no longer is.

Two servers with copies of one state directory would each charge a ledger of their own, and the data would lose what
neither book shows. So a server takes the next *fencing epoch* on chain when it starts, naming the head of its ledger;
the contracts take statements of the newest epoch only, and this server charges and signs nothing once there is a newer
one. A ledger that lacks what the chain has seen of it is an older copy, and is not served at all.

The chain has not seen the charges since that start. Where no witness vouches that the ledger has them (:mod:`.witness`),
every leg that may have been charged is closed at its whole reservation: whatever is missing is in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from usufruct.chain import Chain, HolderEntry, Sender
from usufruct.chain import LegState as ChainLegState
from usufruct.chain.events import LegAccepted
from usufruct.domain.ids import ZERO_HASH
from usufruct.errors import ChainError, ConfigError, LedgerError, Refused
from usufruct_server.holder.ledger import Ledger, LedgerReader, LegState
from usufruct_server.holder.witness import Witness

_TRIES = 5
CLOCK_SECONDS: Final = 60
"""By how much clocks may differ: a machine that sets its clock by others does so in small steps."""
_log = logging.getLogger("usufruct.holder.fencing")


class Fencing:
    """The fencing epoch that this server took. Any thread may use it."""

    def __init__(self, chain: Chain, holder_id: int, epoch: int) -> None:
        self.epoch = epoch
        self._chain, self._holder_id = chain, holder_id
        self._told = threading.Event()

    def require(self, chain: Chain | None = None) -> HolderEntry:
        """The holder as a final block has it, if the epoch is still this server's. Ask before each charge and signature.

        Args:
            chain: as of the final block that is meant; None: the newest.
        Raises:
            Refused: FENCED_OUT. ChainError: the chain cannot be asked.
        """
        entry = (chain or self._chain).holder(self._holder_id)
        # the newest block too: a later server waits until its epoch is final, and by then this one has stopped
        newest = self._chain.holder(self._holder_id, "latest")
        if {entry.fencing_epoch, newest.fencing_epoch} != {self.epoch}:
            if not self._told.is_set():
                self._told.set()
                _log.critical(
                    "event=fenced_out epoch=%d on_chain=%d advice='another server of this holder has taken over: stop this "
                    "one, and never start it from this state directory again'",
                    self.epoch,
                    newest.fencing_epoch,
                )
            raise Refused(
                "another server of this holder has taken over; this one charges and signs nothing any more",
                reason="FENCED_OUT",
            )
        return entry


def take_over(
    chain: Chain,
    sender: Sender,
    holder_id: int,
    ledger: Ledger,
    witness: Witness,
    tell: Callable[[str], None],
) -> Fencing:
    """Takes the next fencing epoch, naming a new row of the ledger, and waits until that is final.

    The row is of this start and no other: a copy of the ledger that was made before does not have it, and is found out. A
    copy that was made since the start before, the witness finds out, or is not there to vouch for any: then open legs
    are closed, once no other server can charge any more and before anything is noted that would vouch for this ledger.

    Args:
        sender: of the operator key. tell: told in words how the wait goes.
    Raises:
        LedgerError: LEDGER_BEHIND_CHAIN.
        ChainError: FENCED_OUT: another server of this holder starts at the same time.
    """
    require_clock(ledger, time.time())
    for _ in range(_TRIES):
        entry = chain.holder(holder_id)
        require_history(chain, entry, ledger)
        proven = witness.vouches(ledger, entry.ledger_head)
        epoch, row = entry.fencing_epoch + 1, ledger.note_start()
        if proven:
            witness.expect(row)
        tell(f"taking fencing epoch {epoch}: no other server of holder {holder_id} may act from then on")
        try:
            taken = sender.take_fencing_epoch(holder_id, epoch, row)
        except ChainError as error:
            if error.reason != "FENCED_OUT":
                raise
            # taken a moment ago, perhaps by this server before it was started anew: look again when that is final
            chain.wait_final(chain.rpc.newest().number, tell)
            continue
        chain.wait_final(taken.block_number, tell)
        entry, mine = chain.holder(holder_id), chain.rpc.receipt(taken.hash)
        require_history(chain, entry, ledger)
        if entry.fencing_epoch == epoch and mine is not None and mine.succeeded:
            if not (proven and witness.vouches(ledger, row)):
                close_open_legs(chain, ledger, tell)
            witness.note(ledger.head()[1])  # with what was closed: a copy that lacks it is not vouched for
            return Fencing(chain, holder_id, epoch)
    raise ChainError(
        "Another server of this holder keeps taking over. Run one, and stop the others.", reason="FENCED_OUT"
    )


def close_open_legs(chain: Chain, ledger: Ledger, tell: Callable[[str], None]) -> None:
    """Commits every leg that is accepted at a final block, and so may have been charged, at its whole reservation.

    Legs that were never accepted cannot have been charged; of those that have ended the chain has the loss.

    Args:
        tell: told in words what was closed.
    """
    for leg in ledger.jobs():
        entry = chain.leg(leg.job_id, leg.dataset_id) if leg.state is LegState.RESERVED else None
        if entry is None or entry.state is not ChainLegState.ACCEPTED:
            continue
        loss_micro = ledger.commit(leg.dataset_id, leg.job_id)
        _log.critical(
            "event=leg_closed_unproven job=%s dataset=%d charged_micro=%d loss_micro=%d",
            leg.job_id.hex(), leg.dataset_id, leg.charged_micro, loss_micro,
        )  # fmt: skip
        tell(
            f"nothing proves that this ledger has every charge of job 0x{leg.job_id.hex()[:8]} on dataset {leg.dataset_id}: the "
            "machine was booted again, or the state directory is a backup or a copy. The leg is closed at its whole "
            "reservation, so that nothing is counted too low; it is delivered and paid as usual, and takes no further round. "
            "If a newer copy of the state directory exists, stop now and put that back; otherwise there is nothing to do."
        )


def require_history(chain: Chain, entry: HolderEntry, ledger: LedgerReader) -> None:
    """Checks at a final block that the ledger has everything of it that the chain has seen.

    Raises:
        LedgerError: LEDGER_BEHIND_CHAIN.
    """
    if entry.ledger_head != ZERO_HASH and not ledger.has_row(entry.ledger_head):
        raise _behind(ledger, "the chain names a row that it does not have")
    following, low = chain.usage_head(entry.holder_id)
    ends = {batch.first_seq + batch.count: batch.root for batch in ledger.usage_batches()}
    block = chain.final_block()[0]
    for dataset_id in ledger.datasets():
        accepted = chain.find_events(
            "ComputeAccess", "LegAccepted", None, dataset_id.to_bytes(32, "big"), block=block
        )
        known = {leg.job_id for leg in ledger.jobs() if leg.dataset_id == dataset_id}
        if any(isinstance(event, LegAccepted) and event.job_id not in known for event in accepted):
            raise _behind(ledger, f"a leg of dataset {dataset_id} was accepted of which it has no row")
    if following and (following not in ends or int.from_bytes(ends[following][-4:], "big") != low):
        raise _behind(
            ledger, f"the chain has {following} usage records of this holder, and it has others or fewer"
        )


def require_clock(ledger: LedgerReader, now_seconds: float) -> None:
    """Checks that the clock was not set back since the ledger's newest row.

    Args:
        now_seconds: UTC.
    Raises:
        ConfigError: it is behind that row by more than :data:`CLOCK_SECONDS`.
    """
    behind_seconds = max((row.time_seconds for row in ledger.rows()), default=0) - int(now_seconds)
    if behind_seconds > CLOCK_SECONDS:
        raise ConfigError(
            f"This machine's clock is {behind_seconds} s behind the newest row of {ledger.path.name}: it was set back, or was "
            "ahead when that was written. Terms of grants and jobs would be kept wrongly. Set it (NTP) and start again; if it "
            "was ahead before, wait until it has caught up."
        )


def _behind(ledger: LedgerReader, why: str) -> LedgerError:
    return LedgerError(
        f"{ledger.path.name} is not the newest ledger of this holder: {why}. Served as it is, it would spend the same "
        "privacy budget twice. Put the newest copy of the state directory back. If there is none, retire the datasets and "
        "register them anew with what is certainly left of their budgets, under another holder number.",
        reason="LEDGER_BEHIND_CHAIN",
        field="ledger",
    )
